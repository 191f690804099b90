"""Activations as modules, shared modules, and calls inside `forward`."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from gradwatch.fixes.activation import leaky_relu, relu_with_he
from gradwatch.layer import Layer

from .nets import mlp, run_torch


class SharedActivation(nn.Module):
    """One module after both layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        self.act = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Two layers, each with the activation."""
        return self.act(self.body[1](self.act(self.body[0](x))))


def after(name: str, activation: str | None, module: str | None = None) -> Layer:
    sizes = {"fan_in": 8, "fan_out": 8}
    return Layer(name, "Linear", activation=activation, activation_module=module, **sizes)


def comments(code: str) -> str:
    lines = [line.lstrip("# ") for line in code.splitlines() if line.startswith("#")]
    return re.sub(r"\s+", " ", " ".join(lines))


def test_an_activation_that_layers_share_is_replaced_once():
    model = SharedActivation()
    layers = [after("body.0", "sigmoid", "act"), after("body.1", "sigmoid", "act")]
    fix = relu_with_he(layers)
    run_torch(fix, model=model)
    assert isinstance(model.act, nn.ReLU)
    assert fix.snippets["torch"].count("'act'") == 1


def test_a_nested_activation_is_replaced_where_it_stands():
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)))
    run_torch(relu_with_he([after("0.0", "tanh", "0.1")]), model=model)
    assert [type(module) for module in model[0]] == [nn.Linear, nn.ReLU, nn.Linear]


@pytest.mark.parametrize(
    ("activation", "spelling"),
    [("sigmoid", "torch.sigmoid(...)"), ("tanh", "torch.tanh(...)"), ("softsign", "F.softsign")],
)
def test_a_call_in_forward_is_named_with_the_layers_before_it(activation, spelling):
    layers = [after("fc1", activation), after("fc2", activation)]
    code = relu_with_he(layers).snippets["torch"]
    assert f"In forward: F.relu(...) instead of {spelling}" in comments(code)
    assert "after 'fc1', 'fc2'." in comments(code)
    assert "setattr" not in code


def test_modules_and_calls_are_told_apart():
    subject = mlp(["fc1"])
    layers = (*subject.layers, after("the head", "tanh"))
    code = relu_with_he(layers).snippets["torch"]
    run_torch(relu_with_he(layers), model=subject.model)
    assert isinstance(subject.model.get_submodule("act fc1"), nn.ReLU)
    assert "after 'the head'." in comments(code)


@pytest.mark.parametrize("activation", ["relu", "gelu", "softmax", None])
def test_an_activation_that_does_not_saturate_is_left_alone(activation):
    layers = [after("0", activation, "1"), after("2", "sigmoid", "3")]
    model = nn.Sequential(nn.Linear(8, 8), nn.Softmax(-1), nn.Linear(8, 8), nn.Sigmoid())
    run_torch(relu_with_he(layers), model=model)
    assert [type(model[1]), type(model[3])] == [nn.Softmax, nn.ReLU]


def test_an_activation_that_is_leaky_already_is_left_alone():
    model = nn.Sequential(nn.Linear(8, 8), nn.PReLU(), nn.Linear(8, 8), nn.ReLU6())
    layers = [after("0", "prelu", "1"), after("2", "relu6", "3")]
    run_torch(leaky_relu(layers), model=model)
    assert [type(model[1]), type(model[3])] == [nn.PReLU, nn.LeakyReLU]


def test_a_dead_layer_gets_a_gradient_again_behind_a_leaky_relu():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    nn.init.constant_(model[0].bias, -50.0)
    x = torch.randn(16, 8)
    (dead,) = torch.autograd.grad(model(x).sum(), [model[0].weight])
    run_torch(leaky_relu([after("0", "relu", "1")]), model=model)
    (alive,) = torch.autograd.grad(model(x).sum(), [model[0].weight])
    assert (dead.any().item(), alive.any().item()) == (False, True)
