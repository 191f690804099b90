"""Which activation belongs to which layer, its slopes and its gain, against plain autograd."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradwatch import Snapshot

from .observed import activations, by_name, norm, observe

FORMS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "F.relu": ("relu", F.relu),
    "torch.relu_": ("relu", torch.relu_),
    "F.relu_": ("relu", F.relu_),
    "x.clamp(min=0)": ("relu", lambda x: x.clamp(min=0)),
    "x.clamp_min(0)": ("relu", lambda x: x.clamp_min(0)),
    "F.threshold": ("relu", lambda x: F.threshold(x, 0, 0)),
    "x.clamp(0, 6)": ("relu6", lambda x: x.clamp(0, 6)),
    "F.relu6": ("relu6", F.relu6),
    "F.leaky_relu": ("leaky_relu", F.leaky_relu),
    "in-place leaky_relu": ("leaky_relu", lambda x: F.leaky_relu(x, inplace=True)),
    "F.elu": ("elu", F.elu),
    "in-place elu": ("elu", lambda x: F.elu(x, inplace=True)),
    "F.celu": ("celu", F.celu),
    "F.gelu": ("gelu", F.gelu),
    "approximate gelu": ("gelu", lambda x: F.gelu(x, approximate="tanh")),
    "F.silu": ("silu", F.silu),
    "in-place silu": ("silu", lambda x: F.silu(x, inplace=True)),
    "F.mish": ("mish", F.mish),
    "x.sigmoid()": ("sigmoid", Tensor.sigmoid),
    "torch.tanh": ("tanh", torch.tanh),
    "x.tanh_()": ("tanh", Tensor.tanh_),
    "F.hardtanh": ("hardtanh", F.hardtanh),
    "F.hardsigmoid": ("hardsigmoid", F.hardsigmoid),
    "F.hardswish": ("hardswish", F.hardswish),
    "F.softplus": ("softplus", F.softplus),
    "F.logsigmoid": ("logsigmoid", F.logsigmoid),
}
MODULES: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "ReLU": ("relu", nn.ReLU),
    "in-place ReLU": ("relu", lambda: nn.ReLU(inplace=True)),
    "ReLU6": ("relu6", nn.ReLU6),
    "LeakyReLU": ("leaky_relu", lambda: nn.LeakyReLU(0.3)),
    "ELU": ("elu", nn.ELU),
    "GELU": ("gelu", nn.GELU),
    "SiLU": ("silu", nn.SiLU),
    "Sigmoid": ("sigmoid", nn.Sigmoid),
    "Tanh": ("tanh", nn.Tanh),
    "Hardtanh": ("hardtanh", nn.Hardtanh),
}
LARGEST_SLOPE = {"sigmoid": 0.25, "hardsigmoid": 1 / 6}
SATURATE = {"sigmoid", "tanh", "hardtanh", "hardsigmoid"}
DIE = {"relu", "relu6", "elu", "celu", "gelu", "silu", "mish", "hardswish"}


class Two(nn.Module):
    """Two layers with an activation between them; the first has large weights and a shift."""

    def __init__(self, activation: Any) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 12), nn.Linear(12, 3)
        self.act = activation
        with torch.no_grad():
            self.first.weight.mul_(4)
            self.first.bias.copy_(torch.linspace(-9, 9, 12))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.act(self.first(x)))


def assert_activation(
    snapshot: Snapshot, model: Any, inputs: Tensor, function: Callable[[Tensor], Tensor], name: str
) -> None:
    """Slope, gain, flat and dead shares of the first layer's activation, by plain autograd."""
    before = model.first(inputs).detach().requires_grad_()
    after = function(before * 1.0)
    (slopes,) = torch.autograd.grad(after.sum(), before)
    leaf = after.detach().requires_grad_()
    (out_of,) = torch.autograd.grad(model.second(leaf).square().sum(), leaf)
    gain = math.log10(norm(out_of * slopes) / norm(out_of))
    assert snapshot.activation_gain_log10[0] == pytest.approx(gain, abs=1e-4)
    assert snapshot.mean_slope[0] == pytest.approx(float(slopes.mean()), rel=1e-4)
    flat = slopes.abs() < 0.05 * LARGEST_SLOPE.get(name, 1.0)
    shares = {
        "saturation_fraction": float(flat.float().mean()) if name in SATURATE else math.nan,
        "dead_fraction": float(flat.all(dim=0).float().mean()) if name in DIE else math.nan,
    }
    for statistic, share in shares.items():
        np.testing.assert_allclose(getattr(snapshot, statistic)[0], share, rtol=1e-5)


@pytest.mark.parametrize(("name", "function"), FORMS.values(), ids=FORMS.keys())
def test_functions_are_known_and_measured(name, function):
    model, inputs = Two(function), torch.randn(9, 5)
    snapshot = observe(model, inputs)
    assert activations(snapshot) == {"first": name, "second": None}
    assert snapshot.layers[0].activation_module is None
    assert_activation(snapshot, model, inputs, function, name)


@pytest.mark.parametrize(("name", "make"), MODULES.values(), ids=MODULES.keys())
def test_modules_are_known_and_measured(name, make):
    model, inputs = Two(make()), torch.randn(9, 5)
    snapshot = observe(model, inputs)
    assert activations(snapshot) == {"first": name, "second": None}
    assert snapshot.layers[0].activation_module == "act"
    assert_activation(snapshot, model, inputs, make(), name)


def test_the_test_of_dead_units_sees_dead_and_living_ones():
    snapshot = observe(Two(F.relu), torch.randn(9, 5))
    assert 0 < snapshot.dead_fraction[0] < 1


def test_a_prelu_is_a_layer_of_its_own_with_its_own_activation():
    model, inputs = Two(nn.PReLU()), torch.randn(9, 5)
    snapshot = observe(model, inputs)
    assert activations(snapshot) == {"first": None, "second": None, "act": "prelu"}
    slopes = torch.where(model.first(inputs) > 0, 1.0, 0.25)
    assert by_name(snapshot, "mean_slope")["act"] == pytest.approx(float(slopes.mean()), rel=1e-5)


@pytest.mark.parametrize(
    "activation",
    [
        lambda x: x * 2,
        lambda x: x.clamp(min=-1),
        lambda x: x.clamp(min=torch.zeros(12)),
        lambda x: F.softmax(x, -1),
        lambda x: x * torch.sigmoid(x),
        lambda x: x * x.sigmoid().view(-1, 12).unsqueeze(0).squeeze(0),
        lambda x: x * (1 - torch.sigmoid(x)),
        lambda x: x * (2 * torch.sigmoid(x)),
        lambda x: F.glu(torch.cat([x, x], -1)),
        lambda x: x * F.dropout(torch.sigmoid(x), 0.5),
        lambda x: torch.cat([x[:, :6] * torch.sigmoid(x[:, 6:])] * 2, 1),
        lambda x: x * torch.sigmoid(torch.cat([x, x], -1)).chunk(2, -1)[0],
        lambda x: x * F.hardsigmoid(x.mean(1, keepdim=True)).expand_as(x),
        lambda x: torch.tanh(x) * torch.sigmoid(x),
        lambda x: (F.softmax(x, -1).unsqueeze(1) @ x.unsqueeze(-1)).squeeze(-1) + x,
    ],
    ids=[
        *("scale", "clamp at -1", "clamp at a tensor", "softmax inside", "swish by hand"),
        *("reshaped gate", "1 - gate", "2 gate", "glu", "dropped gate", "glu by hand"),
        *("chunked gate", "squeeze and excite", "gated tanh", "attention"),
    ],
)
def test_what_is_no_activation_is_not_counted(activation):
    assert activations(observe(Two(activation), torch.randn(9, 5)))["first"] is None


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3)
        self.down, self.up = nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.head((x * gate).mean((2, 3)))


def test_the_gate_of_squeeze_and_excite_is_no_activation():
    snapshot = observe(SqueezeExcite(), torch.randn(3, 2, 8, 8))
    assert activations(snapshot) == {"conv": "relu", "down": "relu", "up": None, "head": None}


@pytest.mark.parametrize(
    "square", [lambda x: x * x, lambda x: x**2, lambda x: x.square()], ids=["x * x", "**", "square"]
)
def test_a_squared_error_does_not_make_a_sigmoid_a_gate(square):
    targets = torch.rand(9, 3)
    snapshot = observe(
        nn.Sequential(nn.Linear(5, 3), nn.Sigmoid()),
        torch.randn(9, 5),
        loss_of=lambda model, x: square(model(x) - targets).mean(),
    )
    assert activations(snapshot) == {"0": "sigmoid"}


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_dropout_between_layer_and_activation_changes_nothing(p):
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(p), nn.Tanh(), nn.Dropout(p), nn.Linear(8, 2))
    assert activations(observe(model, torch.randn(9, 5))) == {"0": "tanh", "4": None}


def test_gains_of_activations_one_behind_the_other_add_up():
    model, inputs = Two(lambda x: torch.tanh(F.relu(x))), torch.randn(9, 5)
    snapshot = observe(model, inputs)
    before = model.first(inputs)
    after = torch.tanh(F.relu(before))
    into, out_of = torch.autograd.grad(model.second(after).square().sum(), (before, after))
    gain = math.log10(norm(into) / norm(out_of))
    assert snapshot.layers[0].activation == "relu"
    assert snapshot.activation_gain_log10[0] == pytest.approx(gain, abs=1e-4)


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


def dead_channels(slopes: Tensor, axis: int) -> float:
    rest = [other for other in range(slopes.ndim) if other != axis]
    return (
        float((slopes < 0.05).all(dim=rest[0]).flatten().float().mean())
        if not rest
        else float((slopes.movedim(axis, 0).flatten(1) < 0.05).all(dim=1).float().mean())
    )


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
    import gradwatch

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
    import gradwatch

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
