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
