"""Skip connections around one or many layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch.fixes.residual import residual_path
from gradwatch.layer import Layer

from .nets import mlp, run_torch


def gradient_of_input(model: nn.Module) -> float:
    x = torch.randn(16, 64, requires_grad=True)
    y = model(x)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    return (gradient.norm() / y.norm()).item()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, *, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(16, 64)).square().mean().backward()
        optimizer.step()


def test_the_gradient_reaches_the_first_of_thirty_sigmoid_layers():
    subject = mlp([f"hidden_{index}" for index in range(30)])
    before = gradient_of_input(subject.model)
    subject.run(residual_path(subject.layers))
    assert before < 1e-12
    assert gradient_of_input(subject.model) > 0.1


def test_a_branch_that_starts_at_nothing_comes_in_as_it_learns():
    subject = mlp([f"hidden_{index}" for index in range(8)], nn.ReLU)
    first = subject.model.get_submodule("hidden_0")
    before = first.weight.clone()
    subject.run(residual_path(subject.layers))
    train(subject.model, torch.optim.SGD(subject.model.parameters(), lr=0.05), steps=2)
    assert not first.weight.equal(before)


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
    assert not model[0].scale.requires_grad


def test_a_layer_that_is_known_to_change_the_width_is_left_alone_by_name():
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU())
    layers = [
        Layer("0", "Linear", fan_in=8, fan_out=4, activation="relu", activation_module="1"),
        Layer("2", "Linear", fan_in=4, fan_out=4, activation="relu", activation_module="3"),
    ]
    fix = residual_path(layers)
    run_torch(fix, model=model)
    assert isinstance(model[0], nn.Linear)
    assert type(model[2]).__name__ == "Residual"
    assert "# Another width, and so no skip: '0'." in fix.snippets["torch"]


def test_a_net_with_skips_is_healthy_to_gradwatch():
    subject = mlp([f"hidden_{index}" for index in range(8)], nn.ReLU)
    subject.run(residual_path(subject.layers))
    optimizer = torch.optim.SGD(subject.model.parameters(), lr=0.05)
    with gradwatch.watch(subject.model, optimizer, budget=None, verbose=0) as watch:
        train(subject.model, optimizer, steps=40)
    assert [finding for finding in watch.findings if finding.severity != "notice"] == []


def test_a_layer_without_activation_is_skipped_whole():
    model = nn.Sequential(nn.Linear(8, 8))
    x = torch.randn(4, 8)
    expected = x + 0.5 * model(x)
    run_torch(residual_path([Layer("0", "Linear", fan_in=8, fan_out=8)]), model=model)
    nn.init.constant_(model[0].scale, 0.5)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("module", [None, "act"], ids=["function", "shared module"])
def test_an_activation_that_is_no_module_of_its_own_makes_the_change_one_for_forward(module):
    layers = [
        Layer(f"fc{index}", "Linear", activation="tanh", activation_module=module)
        for index in range(2)
    ]
    code = residual_path(layers).snippets["torch"]
    assert "# In forward, for each of 'fc0', 'fc1': x = x + scale * activation(layer(x))" in code
    assert "class" not in code


@pytest.mark.parametrize("kind", ["LSTM", "Embedding", "MultiheadAttention"])
def test_a_layer_that_does_not_map_x_to_its_like_gets_no_skip(kind):
    assert "Residual" not in residual_path([Layer("layer", kind)]).snippets["torch"]
