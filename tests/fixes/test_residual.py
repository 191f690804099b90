"""Skip connections around one or many layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradwatch.fixes.residual import residual_path
from gradwatch.layer import Layer

from .nets import mlp, run_torch


def first_gradient(model: nn.Module) -> float:
    model.zero_grad()
    model(torch.randn(16, 64)).square().sum().backward()
    weights = [parameter for name, parameter in model.named_parameters() if name.endswith("weight")]
    return (weights[0].grad.norm() / weights[-1].grad.norm()).item()


def test_the_gradient_reaches_the_first_of_thirty_sigmoid_layers():
    subject = mlp([f"hidden_{index}" for index in range(30)])
    before = first_gradient(subject.model)
    subject.run(residual_path(subject.layers))
    assert before < 1e-12
    assert first_gradient(subject.model) > 1e-3


def test_thirty_branches_leave_the_output_in_the_size_of_the_input():
    subject = mlp([f"hidden_{index}" for index in range(30)], nn.Tanh)
    setattr(subject.model, "the head", nn.Identity())
    subject.run(residual_path(subject.layers))
    x = torch.randn(64, 64)
    assert 0.5 < subject.model(x).std().item() < 3.0


def test_a_layer_that_changes_the_shape_works_as_before():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU())
    x = torch.randn(2, 3, 9, 9)
    before = model(x)
    layer = Layer("0", "Conv2d", activation="relu", activation_module="1")
    run_torch(residual_path([layer]), model=model)
    torch.testing.assert_close(model(x), before)


def test_a_layer_without_activation_is_skipped_whole():
    model = nn.Sequential(nn.Linear(8, 8))
    x = torch.randn(4, 8)
    expected = x + model(x)
    run_torch(residual_path([Layer("0", "Linear", fan_in=8, fan_out=8)]), model=model)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("module", [None, "act"], ids=["function", "shared module"])
def test_an_activation_that_is_no_module_of_its_own_makes_the_change_one_for_forward(module):
    layers = [
        Layer(f"fc{index}", "Linear", activation="tanh", activation_module=module)
        for index in range(2)
    ]
    code = residual_path(layers).snippets["torch"]
    assert "# In forward, for each of 'fc0', 'fc1': x = x + 2**-0.5 * activation(layer(x))" in code
    assert "class" not in code


@pytest.mark.parametrize("kind", ["LSTM", "Embedding", "MultiheadAttention"])
def test_a_layer_that_does_not_map_x_to_its_like_gets_no_skip(kind):
    assert "Residual" not in residual_path([Layer("layer", kind)]).snippets["torch"]
