"""Recurrent layers: sequences and cells, with and without gates, and recurrences by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradwatch.fixes.recurrent import gated_cell, open_forget_gate, orthogonal_recurrent
from gradwatch.layer import Layer

from .nets import run_torch


def recurrent(kind: str) -> Layer:
    return Layer("layer", kind, fan_in=8, fan_out=16, recurrent=True)


def first_step_gradient(layer: nn.RNNBase) -> float:
    x = torch.randn(1, 40, 8, requires_grad=True)
    layer(x)[0][:, -1].sum().backward()
    norms = x.grad[0].norm(dim=-1)
    return (norms[0] / norms.max()).item()


def test_a_gru_takes_and_returns_what_the_plain_layer_did():
    old = nn.RNN(8, 16, num_layers=2, bidirectional=True, batch_first=True, dropout=0.1)
    model = nn.ModuleDict({"layer": old})
    run_torch(gated_cell([recurrent("RNN")]), model=model)
    x, state = torch.randn(3, 5, 8), torch.randn(4, 3, 16)
    shapes = [[part.shape for part in layer(x, state)] for layer in (old, model["layer"])]
    assert shapes[0] == shapes[1]
    assert model["layer"].dropout == 0.1


def test_a_cell_becomes_a_gru_cell():
    model = nn.ModuleDict({"layer": nn.RNNCell(8, 16, bias=False)})
    run_torch(gated_cell([recurrent("RNNCell")]), model=model)
    assert isinstance(model["layer"], nn.GRUCell)
    assert not model["layer"].bias
    assert model["layer"](torch.randn(3, 8), torch.randn(3, 16)).shape == (3, 16)


def test_a_layer_with_gates_is_not_replaced():
    model = nn.ModuleDict({"layer": nn.LSTM(8, 16)})
    run_torch(gated_cell([recurrent("LSTM")]), model=model)
    assert isinstance(model["layer"], nn.LSTM)


def test_a_recurrence_by_hand_is_named_in_a_comment():
    code = gated_cell([recurrent("Linear")]).snippets["torch"]
    assert "# In place of 'layer' and the update of the state around it: nn.GRUCell" in code


def test_the_gradient_reaches_the_first_step_through_a_gated_cell():
    torch.manual_seed(0)
    model = nn.ModuleDict({"layer": nn.RNN(8, 16, batch_first=True)})
    before = first_step_gradient(model["layer"])
    run_torch(gated_cell([recurrent("RNN")]), model=model)
    assert before < 1e-6
    assert first_step_gradient(model["layer"]) > 1e-2


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_the_gradient_reaches_the_first_step_through_open_gates(kind):
    torch.manual_seed(0)
    layer = getattr(nn, kind)(8, 16, batch_first=True)
    before = first_step_gradient(layer)
    run_torch(open_forget_gate([recurrent(kind)]), model=nn.ModuleDict({"layer": layer}))
    assert before < 1e-3
    assert first_step_gradient(layer) > 1e-2


@pytest.mark.parametrize(
    ("kind", "gates"), [("LSTM", 4), ("LSTMCell", 4), ("GRU", 3), ("GRUCell", 3)]
)
def test_only_the_gate_that_keeps_the_state_is_opened(kind, gates):
    module = getattr(nn, kind)(8, 16)
    for parameter in module.parameters():
        nn.init.constant_(parameter, 7.0)
    run_torch(open_forget_gate([recurrent(kind)]), model=nn.ModuleDict({"layer": module}))
    biases = [parameter for name, parameter in module.named_parameters() if "bias" in name]
    expected = [3.0 if gate == 1 else 14.0 for gate in range(gates)]
    assert sum(biases).view(gates, 16)[:, 0].tolist() == expected
    assert all(
        parameter.eq(7.0).all() for name, parameter in module.named_parameters() if "weight" in name
    )


def test_a_layer_without_gates_has_none_to_open():
    code = open_forget_gate([recurrent("RNN")]).snippets["torch"]
    assert code == "# No gates to open in 'layer': replace by a GRU or LSTM.\n"


def test_a_recurrence_by_hand_gets_an_orthogonal_weight():
    module = nn.Linear(16, 16)
    run_torch(orthogonal_recurrent([recurrent("Linear")]), model=nn.ModuleDict({"layer": module}))
    product = module.weight @ module.weight.T
    torch.testing.assert_close(product, torch.eye(16), rtol=0, atol=1e-5)


def test_the_input_weights_stay_as_they_are():
    module = nn.LSTM(8, 16)
    before = module.weight_ih_l0.clone()
    run_torch(orthogonal_recurrent([recurrent("LSTM")]), model=nn.ModuleDict({"layer": module}))
    assert module.weight_ih_l0.equal(before)
