"""Initialisation per kind of layer and per activation, on the real modules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gradwatch.fixes.activation import relu_with_he
from gradwatch.fixes.initialisation import (
    break_symmetry,
    matching_initialisation,
    zero_bias,
)
from gradwatch.layer import Layer

from .effects import std_is
from .nets import run_torch


class Bilinear(nn.Module):
    """A module that gradwatch does not know: a matrix, a bias, a gain and a position table."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.ones(128, 64))
        self.bias = nn.Parameter(torch.ones(128))
        self.gain = nn.Parameter(torch.ones(128))


def initialised(module: nn.Module, layer: Layer) -> nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.constant_(parameter, 7.0)
    model = nn.ModuleDict({layer.name: module})
    return run_torch(matching_initialisation([layer]), model=model)["model"][layer.name]


def follows(activation: str | None, kind: str = "Linear", *, fan_in: int = 64) -> Layer:
    return Layer("layer", kind, fan_in=fan_in, fan_out=128, activation=activation)


@pytest.mark.parametrize(
    ("activation", "std"),
    [
        ("relu", math.sqrt(2 / 64)),
        ("gelu", math.sqrt(2 / 64)),
        ("hardswish", math.sqrt(2 / 64)),
        ("tanh", 5 / 3 * math.sqrt(2 / (64 + 128))),
        ("sigmoid", 4 * math.sqrt(2 / (64 + 128))),
        (None, math.sqrt(1 / 64)),
        ("softmax", math.sqrt(1 / 64)),
        ("an unknown one", math.sqrt(1 / 64)),
    ],
)
def test_a_linear_layer_gets_the_variance_that_its_activation_needs(activation, std):
    module = initialised(nn.Linear(64, 128), follows(activation))
    assert module.weight.std().item() == std_is(std)
    assert module.weight.mean().abs() < 0.1 * std
    assert not module.bias.any()


def test_a_square_layer_without_activation_becomes_orthogonal():
    layer = Layer("layer", "Linear", fan_in=64, fan_out=64)
    weight = initialised(nn.Linear(64, 64), layer).weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(64), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "fan_in"),
    [
        (nn.Conv1d(16, 64, 5), 16 * 5),
        (nn.Conv2d(16, 64, 3), 16 * 9),
        (nn.Conv3d(4, 64, 3), 4 * 27),
        (nn.Conv2d(32, 64, 3, groups=4), 8 * 9),
        (nn.ConvTranspose1d(32, 64, 5), 32 * 5),
        (nn.ConvTranspose2d(32, 16, 3), 32 * 9),
        (nn.ConvTranspose2d(32, 16, 4, stride=2), 32 * 16 / 4),
        (nn.ConvTranspose2d(32, 64, 3, groups=4), 8 * 9),
        (nn.ConvTranspose3d(8, 16, 4, stride=(1, 2, 2)), 8 * 64 / 4),
    ],
    ids=lambda value: repr(value) if isinstance(value, nn.Module) else None,
)
def test_a_convolution_gets_the_variance_of_what_one_output_sums_over(module, fan_in):
    weight = initialised(module, follows("relu", type(module).__name__)).weight
    assert weight.std().item() == std_is(math.sqrt(2 / fan_in))


def test_a_transposed_convolution_keeps_the_size_of_its_signal():
    module = nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1)
    module = initialised(module, follows("relu", "ConvTranspose2d"))
    x = torch.randn(8, 64, 16, 16).relu()
    y = module(x)[:, :, 2:-2, 2:-2].relu()
    assert (y.square().mean() / x.square().mean()).item() == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize("kind", ["Linear", "Conv2d", "ConvTranspose2d", "LSTM", "GRU", "RNN"])
def test_a_layer_without_bias_is_initialised_too(kind):
    sizes = (64, 128, 3) if kind.startswith("Conv") else (64, 128)
    module = initialised(getattr(nn, kind)(*sizes, bias=False), follows("relu", kind))
    assert [parameter.std().item() > 0.01 for parameter in module.parameters()] == [True] * len(
        list(module.parameters())
    )


def test_an_embedding_keeps_its_padding_row_at_zero():
    module = initialised(nn.Embedding(100, 64, padding_idx=3), follows(None, "Embedding"))
    assert not module.weight[3].any()
    assert module.weight[4:].std().item() == std_is(1.0)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"])
def test_every_gate_of_a_recurrent_layer_becomes_orthogonal(kind):
    options = {} if kind.endswith("Cell") else {"num_layers": 2, "bidirectional": True}
    module = initialised(getattr(nn, kind)(64, 64, **options), follows(None, kind))
    states = [
        parameter for name, parameter in module.named_parameters() if name.startswith("weight_hh")
    ]
    gates = torch.cat(states).split(64)
    expected = torch.eye(64).expand(len(gates), 64, 64)
    products = torch.stack([gate @ gate.T for gate in gates])
    torch.testing.assert_close(products, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["LSTM", "LSTMCell"])
def test_an_lstm_starts_with_its_forget_gate_at_one_and_every_other_bias_at_zero(kind):
    module = initialised(getattr(nn, kind)(64, 32), follows(None, kind))
    biases = [parameter for name, parameter in module.named_parameters() if "bias" in name]
    expected = torch.zeros(128)
    expected[32:64] = 1.0
    assert sum(biases).equal(expected)


@pytest.mark.parametrize("keys", [64, 48], ids=["packed", "separate"])
def test_attention_is_initialised_whole(keys):
    module = nn.MultiheadAttention(64, 4, kdim=keys, vdim=keys)
    module = initialised(module, follows(None, "MultiheadAttention"))
    weights = {name: value for name, value in module.named_parameters() if value.ndim == 2}
    assert {name: value.std().item() for name, value in weights.items()} == {
        name: std_is(math.sqrt(1 / value.shape[1])) for name, value in weights.items()
    }
    assert not module.in_proj_bias.any()
    assert not module.out_proj.bias.any()


@pytest.mark.parametrize("norm", [nn.LayerNorm([4, 4]), nn.BatchNorm1d(4), nn.GroupNorm(2, 4)])
def test_a_normalisation_keeps_its_gain(norm):
    module = initialised(norm, Layer("layer", type(norm).__name__, weighted=False))
    assert module.weight.eq(7.0).all()
    assert not module.bias.any()


def test_an_unknown_module_gets_its_matrices_drawn_and_its_gain_left_alone():
    module = initialised(Bilinear(), follows("relu", "Bilinear"))
    assert module.matrix.std().item() == std_is(math.sqrt(2 / 64))
    assert not module.bias.any()
    assert module.gain.eq(7.0).all()


def test_an_unknown_module_leaves_the_modules_below_it_alone():
    outer = Bilinear()
    outer.inner = nn.Linear(4, 4)
    module = initialised(outer, follows("relu", "Bilinear"))
    assert module.inner.weight.eq(7.0).all()


def test_layers_of_many_kinds_are_initialised_in_one_go():
    model = nn.ModuleDict(
        {"conv": nn.Conv2d(3, 8, 3), "lstm": nn.LSTM(8, 8), "head": nn.Linear(8, 2)}
    )
    layers = [
        Layer("conv", "Conv2d", activation="relu"),
        Layer("lstm", "LSTM"),
        Layer("head", "Linear", fan_in=8, fan_out=2),
    ]
    before = {name: value.clone() for name, value in model.named_parameters() if value.ndim > 1}
    run_torch(matching_initialisation(layers), model=model)
    assert [model.get_parameter(name).equal(value) for name, value in before.items()] == [False] * 4


def test_the_title_names_the_schemes():
    layers = [follows("relu"), follows("sigmoid")]
    assert "He, Xavier with gain 4" in matching_initialisation(layers).title


@pytest.mark.parametrize("module", [nn.MultiheadAttention(8, 2), nn.GRU(8, 8), nn.Conv1d(8, 8, 3)])
def test_zero_bias_reaches_every_bias_of_a_layer_and_no_weight(module):
    for parameter in module.parameters():
        nn.init.constant_(parameter, 7.0)
    layer = Layer("layer", type(module).__name__)
    run_torch(zero_bias([layer]), model=nn.ModuleDict({"layer": module}))
    assert {("bias" in name, value.any().item()) for name, value in module.named_parameters()} == {
        (True, False),
        (False, True),
    }


def test_zero_bias_leaves_the_forget_gate_of_an_lstm_open():
    module = nn.LSTM(8, 8)
    run_torch(zero_bias([Layer("layer", "LSTM")]), model=nn.ModuleDict({"layer": module}))
    assert (module.bias_ih_l0 + module.bias_hh_l0).view(4, 8)[:, 0].tolist() == [0, 1, 0, 0]


def test_units_that_were_equal_get_different_gradients():
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    layers = [
        Layer("0", "Linear", fan_in=8, fan_out=16, activation="tanh", activation_module="1"),
        Layer("2", "Linear", fan_in=16, fan_out=1),
    ]
    run_torch(break_symmetry(layers), model=model)
    model(torch.randn(32, 8)).sum().backward()
    assert torch.unique(model[0].weight.grad, dim=0).shape == (16, 8)


def test_a_recurrent_layer_beside_saturating_ones_keeps_its_tanh():
    model = nn.ModuleDict({"rnn": nn.RNN(8, 8), "fc": nn.Linear(8, 8), "act": nn.Tanh()})
    layers = [
        Layer("rnn", "RNN", recurrent=True),
        Layer("fc", "Linear", fan_in=8, fan_out=8, activation="tanh", activation_module="act"),
    ]
    run_torch(relu_with_he(layers), model=model)
    assert model["rnn"].nonlinearity == "tanh"
    assert isinstance(model["act"], nn.ReLU)
