"""To which layer an activation belongs, and where its units are."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradwatch

from .observed import activations, by_name, norm, observe


class SideBySide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 8), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        self.after = torch.relu(x), torch.tanh(x)
        return self.second(torch.cat(self.after, 1))


def test_gains_of_activations_side_by_side_are_one_gain():
    model, inputs = SideBySide(), torch.randn(9, 5)
    snapshot = observe(model, inputs)
    x = model.first(inputs)
    relu, tanh = x.relu(), x.tanh()
    loss = model.second(torch.cat([relu, tanh], 1)).square().sum()
    out_of = torch.autograd.grad(loss, (relu, tanh))
    into = out_of[0] * (x > 0), out_of[1] * (1 - tanh**2)
    gain = math.log10(norm(*into) / norm(*out_of))
    assert snapshot.activation_gain_log10[0] == pytest.approx(gain, abs=1e-4)


class Post(nn.Module):
    """An activation behind a residual addition."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        return self.head(F.relu(self.branch(x) + x))


def test_an_activation_behind_an_addition_belongs_to_the_nearest_layer():
    snapshot = observe(Post(), torch.randn(9, 5))
    assert activations(snapshot) == {"stem": "tanh", "branch": "relu", "head": None}


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        hidden += x
        return F.relu_(self.second(self.act(hidden)))


def test_in_place_activations_and_additions_are_seen():
    model, inputs = InPlace(), torch.randn(7, 5)
    snapshot = observe(model, inputs)
    assert activations(snapshot) == {"first": "relu", "second": "relu"}
    assert [layer.activation_module for layer in snapshot.layers] == ["act", None]
    first = model.first(inputs)
    second = model.second(F.relu(first + inputs))
    gradients = torch.autograd.grad(F.relu(second).square().sum(), (first, second))
    np.testing.assert_allclose(
        snapshot.output_grad_norm, [norm(gradient) for gradient in gradients], rtol=1e-5
    )
    assert by_name(snapshot, "output_rms")["first"] == pytest.approx(
        norm(first) / first.numel() ** 0.5, rel=1e-5
    )


class Fused(nn.Module):
    """A layer that applies its activations itself."""

    def __init__(self, *functions: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.functions = nn.Parameter(torch.randn(5, 5)), functions

    def forward(self, x: Tensor) -> Tensor:
        x = x @ self.weight
        for function in self.functions:
            x = function(x)
        return x


@pytest.mark.parametrize("functions", [(torch.sigmoid,), (F.relu, torch.tanh)], ids=["one", "two"])
def test_an_activation_inside_a_layer_follows_its_weights(functions):
    model, inputs = nn.Sequential(Fused(*functions), Fused(*functions)), torch.randn(7, 5)
    snapshot = observe(model, inputs)
    x, taps = inputs, []
    for layer in model:
        taps.append(x := x @ layer.weight)
        for function in functions:
            x = function(x)
        taps.append(x)
    gradients = [norm(entry) for entry in torch.autograd.grad(x.square().sum(), taps)]
    assert [layer.activation for layer in snapshot.layers] == [
        {torch.sigmoid: "sigmoid", F.relu: "relu"}[functions[0]]
    ] * 2
    np.testing.assert_allclose(snapshot.output_grad_norm, gradients[::2], rtol=1e-4)
    np.testing.assert_allclose(
        snapshot.output_grad_rms, np.array(gradients[::2]) / math.sqrt(35), rtol=1e-4
    )
    gains = np.log10(gradients[::2]) - np.log10(gradients[1::2])
    np.testing.assert_allclose(snapshot.activation_gain_log10, gains, atol=1e-4)


class FeedForward(nn.Module):
    """A layer with two matrices, and an activation between them."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(5, 9)), nn.Parameter(torch.randn(9, 5))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x @ self.up) @ self.down


def test_an_activation_between_two_matrices_of_a_layer_is_not_at_its_output():
    model, inputs = nn.Sequential(nn.Linear(5, 5), FeedForward()), torch.randn(7, 5)
    snapshot = observe(model, inputs)
    (at_output,) = torch.autograd.grad((output := model(inputs)).square().sum(), output)
    assert snapshot.output_grad_norm[1] == pytest.approx(norm(at_output), rel=1e-5)
    assert activations(snapshot) == {"0": None, "1": None}
    assert np.isnan(snapshot.activation_gain_log10[1])
    slopes = (model[0](inputs) @ model[1].up > 0).float()
    assert snapshot.mean_slope[1] == pytest.approx(float(slopes.mean()), rel=1e-5)


class Reshaped(nn.Module):
    """A convolution or a linear layer, then its values in another shape, then a ReLU."""

    def __init__(self, layer: nn.Module, reshape: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.reshape = layer, reshape
        with torch.no_grad():
            self.layer.bias.copy_(torch.linspace(-3, 1, len(self.layer.bias)))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.reshape(self.layer(x)))


class OddlyNamed(nn.Conv2d):
    pass


@pytest.mark.parametrize(
    ("layer", "shape", "reshape", "axis"),
    [
        (nn.Conv1d(2, 7, 3), (4, 2, 9), lambda x: x, 1),
        (nn.Conv2d(2, 7, 3), (4, 2, 5, 5), lambda x: x, 1),
        (nn.Conv2d(2, 7, 3), (2, 5, 5), lambda x: x, 0),
        (OddlyNamed(2, 7, 3), (4, 2, 5, 5), lambda x: x, 1),
        (nn.ConvTranspose2d(2, 7, 3), (4, 2, 5, 5), lambda x: x, 1),
        (nn.Conv3d(2, 7, 3), (4, 2, 4, 4, 4), lambda x: x, 1),
        (nn.Conv2d(2, 7, 3), (4, 2, 5, 5), lambda x: x.flatten(1), 1),
        (nn.Conv2d(2, 7, 3), (4, 2, 5, 5), lambda x: x.flatten(2), 1),
        (nn.Conv2d(2, 7, 3), (4, 2, 5, 5), lambda x: x.flatten(2).transpose(1, 2), 2),
        (nn.Conv2d(2, 7, 3), (4, 2, 5, 5), lambda x: x.mean((2, 3)), 1),
        (nn.Linear(5, 7), (4, 5), lambda x: x, 1),
        (nn.Linear(5, 7), (4, 3, 5), lambda x: x, 2),
        (nn.Linear(5, 7), (4, 3, 5), lambda x: x.transpose(1, 2), 1),
        (nn.BatchNorm1d(7), (4, 7), lambda x: x, 1),
        (nn.BatchNorm2d(7), (4, 7, 3, 3), lambda x: x, 1),
        (nn.GroupNorm(7, 7), (4, 7, 3, 3), lambda x: x, 1),
        (nn.LayerNorm(7), (4, 3, 7), lambda x: x, 2),
    ],
)
def test_dead_units_are_counted_along_the_axis_of_the_units(layer, shape, reshape, axis):
    model, inputs = Reshaped(layer, reshape), torch.randn(shape)
    snapshot = observe(model, inputs)
    dead = (model(inputs) <= 0).movedim(axis, 0).flatten(1).all(dim=1)
    assert 0 < float(dead.float().mean()) < 1
    assert snapshot.dead_fraction[0] == pytest.approx(float(dead.float().mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("probabilities", "name"),
    [(torch.sigmoid, "sigmoid"), (lambda x: torch.softmax(x, -1), "softmax"), (torch.tanh, "tanh")],
    ids=["sigmoid", "softmax", "tanh"],
)
@pytest.mark.parametrize("times", [1, 2])
def test_an_activation_in_the_loss_function_belongs_to_the_last_layer(probabilities, name, times):
    model, inputs = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), torch.randn(9, 5)
    targets = torch.rand(9, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with torch.no_grad():
        model[2].weight.mul_(30)
    with gradwatch.watch(model, optimizer, every=1, verbose=0) as watch:
        loss = F.mse_loss(probabilities(model(inputs)), targets)
        for _ in range(times):
            watch.observe_loss(loss)
        loss.backward()
        optimizer.step()
    snapshot = watch.history[-1]
    assert activations(snapshot) == {"0": "relu", "2": name}
    logits = model(inputs)
    p = probabilities(logits)
    into, out_of = torch.autograd.grad(F.mse_loss(p, targets), (logits, p))
    gain = math.log10(norm(into) / norm(out_of))
    assert snapshot.activation_gain_log10[1] == pytest.approx(gain, abs=1e-4)
    slopes = 1 - p**2 if name == "tanh" else p * (1 - p)
    flat = slopes < 0.05 * (1.0 if name == "tanh" else 0.25)
    assert 0.1 < flat.float().mean() < 1
    assert snapshot.saturation_fraction[1] == pytest.approx(float(flat.float().mean()), rel=1e-5)


def test_a_loss_told_after_backward_is_harmless_and_shows_no_activation():
    model, inputs = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), torch.randn(9, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradwatch.watch(model, optimizer, every=1, verbose=0) as watch:
        loss = torch.sigmoid(model(inputs)).mean()
        loss.backward()
        watch.observe_loss(loss)
        optimizer.step()
    assert activations(watch.history[-1]) == {"0": "relu", "2": None}
    assert watch.history[-1].loss == pytest.approx(float(loss.detach()))
    assert not watch.history.limits


def test_an_activation_of_the_model_and_one_of_the_loss_stand_one_behind_the_other():
    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.layer(x))

    model, inputs = Ends(), torch.randn(9, 5)
    snapshot = observe(model, inputs, loss_of=lambda net, x: torch.sigmoid(net(x)).square().sum())
    before = model.layer(inputs)
    after = torch.sigmoid(torch.tanh(before))
    into, out_of = torch.autograd.grad(after.square().sum(), (before, after))
    assert activations(snapshot) == {"layer": "tanh"}
    gain = math.log10(norm(into) / norm(out_of))
    assert snapshot.activation_gain_log10[0] == pytest.approx(gain, abs=1e-4)


def test_a_cross_entropy_is_no_activation():
    labels = torch.randint(0, 3, (9,))
    snapshot = observe(
        nn.Linear(5, 3),
        torch.randn(9, 5),
        loss_of=lambda model, x: F.cross_entropy(model(x), labels),
    )
    assert activations(snapshot) == {"Linear": None}
