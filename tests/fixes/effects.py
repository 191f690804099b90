"""What each fix's PyTorch snippet has to have done: one check a fix, and the table of all fixes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from gradwatch.finding import Fix
from gradwatch.fixes import (
    activation,
    clipping,
    initialisation,
    inputs,
    learning_rate,
    loss,
    loss_scale,
    normalisation,
    pretraining,
    recurrent,
    residual,
    wiring,
)
from gradwatch.layer import Layer

from .nets import (
    WIDTH,
    Subject,
    constant_mlp,
    faint_mlp,
    lstm,
    mlp,
    relu_mlp,
    rnn,
    steep_mlp,
)


@dataclass(frozen=True)
class Outcome:
    """One run of a snippet.

    Attributes:
        before: The model before it, a copy.
        after: The namespace after it.
        names: Names of the layers that the fix was for.
        output: What it printed.
    """

    before: nn.Module
    after: dict[str, Any]
    names: tuple[str, ...]
    output: str

    @property
    def model(self) -> nn.Module:
        """The model after the snippet."""
        return self.after["model"]

    def layers(self) -> list[nn.Module]:
        """The modules of the layers after the snippet."""
        return [self.model.get_submodule(name) for name in self.names]

    def activations(self) -> list[nn.Module]:
        """The modules of their activations after the snippet."""
        return [self.model.get_submodule(f"act {name}") for name in self.names]

    def scalar_loss(self) -> torch.Tensor:
        """The loss by the namespace's own `loss_fn`."""
        return self.after["loss_fn"](self.model, self.after["batch"])


@dataclass(frozen=True)
class Case:
    """A fix, a net that it is for, and the check of what its PyTorch snippet does."""

    make: Callable[[Sequence[Layer]], Fix]
    net: Callable[[Sequence[str]], Subject]
    check: Callable[[Outcome], None]

    @property
    def function(self) -> Callable[..., Fix]:
        """The fix's function, without the facts that `make` binds."""
        return self.make.func if isinstance(self.make, partial) else self.make

    @property
    def name(self) -> str:
        """Name of the function."""
        return self.function.__name__


def std_is(expected: float) -> Any:
    """Equal to the standard deviation up to what 4,096 random numbers leave open."""
    return pytest.approx(expected, rel=0.06)


def relu_and_he(outcome: Outcome) -> None:
    assert all(isinstance(module, nn.ReLU) for module in outcome.activations())
    for layer in outcome.layers():
        assert layer.weight.std().item() == std_is(math.sqrt(2 / WIDTH))
        assert not layer.bias.any()


def leaky(outcome: Outcome) -> None:
    assert [module.negative_slope for module in outcome.activations()] == [0.2] * len(outcome.names)
    for name in outcome.names:
        assert outcome.model.get_submodule(name).weight.equal(
            outcome.before.get_submodule(name).weight
        )


def xavier_times_four(outcome: Outcome) -> None:
    for layer in outcome.layers():
        assert layer.weight.std().item() == std_is(4 / math.sqrt(WIDTH))
        assert not layer.bias.any()


def biases_zero(outcome: Outcome) -> None:
    for name, layer in zip(outcome.names, outcome.layers(), strict=True):
        assert not layer.bias.any()
        assert layer.weight.equal(outcome.before.get_submodule(name).weight)


def units_differ(outcome: Outcome) -> None:
    for layer in outcome.layers():
        assert layer.weight.std(dim=0).min() > 0.05


def passes_its_input_on(outcome: Outcome) -> None:
    x = outcome.after["batch"][0]
    for layer in outcome.layers():
        assert layer(x).equal(x)


def outputs_normalised(outcome: Outcome) -> None:
    x = outcome.after["batch"][0]
    for layer in outcome.layers():
        x = layer(x)
        assert x.std(dim=-1).mean().item() == pytest.approx(1.0, abs=0.02)


def input_added(outcome: Outcome) -> None:
    x, scale = outcome.after["batch"][0], 0.25
    expected = x
    for layer, name in zip(outcome.layers(), outcome.names, strict=True):
        assert layer.scale.item() == 0
        nn.init.constant_(layer.scale, scale)
        expected = expected + scale * torch.sigmoid(outcome.before.get_submodule(name)(expected))
    expected = outcome.before.get_submodule("the head")(expected)
    torch.testing.assert_close(outcome.model(x), expected, rtol=1e-3, atol=1e-3)


def standardised(outcome: Outcome) -> None:
    scaled = outcome.after["inputs"]
    assert scaled.mean(dim=0).abs().max() < 1e-5
    assert scaled.std(dim=0).sub(1).abs().max() < 1e-5


def learning_rate_times(factor: float, outcome: Outcome) -> None:
    assert outcome.after["optimizer"].param_groups[0]["lr"] == pytest.approx(0.1 * factor)


def rate_rises_to_its_old_value(outcome: Outcome) -> None:
    optimizer, scheduler = outcome.after["optimizer"], outcome.after["scheduler"]
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(600):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.001)
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.1)


def binary_cross_entropy_on_logits(outcome: Outcome) -> None:
    inputs, targets = outcome.after["batch"]
    assert all(isinstance(module, nn.Identity) for module in outcome.activations())
    probabilities = torch.sigmoid(outcome.model(inputs))
    expected = nn.functional.binary_cross_entropy(probabilities, targets)
    torch.testing.assert_close(outcome.scalar_loss(), expected)


def stepped(outcome: Outcome) -> None:
    for name, layer in zip(outcome.names, outcome.layers(), strict=True):
        before = outcome.before.get_submodule(name)
        assert not layer.weight.equal(before.weight)
        assert torch.isfinite(layer.weight).all()


def gated(outcome: Outcome) -> None:
    x = outcome.after["batch"][0]
    assert outcome.model(x).shape == outcome.before(x).shape
    for layer in outcome.layers():
        assert isinstance(layer, nn.GRU)
        assert layer.batch_first
        assert layer.bias_ih_l0.chunk(3)[1].eq(3.0).all()


def recurrent_weights_orthogonal(outcome: Outcome) -> None:
    for layer in outcome.layers():
        weight = layer.weight_hh_l0
        torch.testing.assert_close(weight @ weight.T, torch.eye(WIDTH), rtol=0, atol=1e-5)


def forget_gates_open(outcome: Outcome) -> None:
    for name, layer in zip(outcome.names, outcome.layers(), strict=True):
        total = layer.bias_ih_l0 + layer.bias_hh_l0
        before = outcome.before.get_submodule(name)
        untouched = (before.bias_ih_l0 + before.bias_hh_l0).chunk(4)
        assert total.chunk(4)[1].eq(3.0).all()
        assert [total.chunk(4)[gate].equal(untouched[gate]) for gate in (0, 2, 3)] == [True] * 3


def gradient_norm_at_most_one(outcome: Outcome) -> None:
    gradients = [parameter.grad.norm() for parameter in outcome.model.parameters()]
    assert torch.stack(gradients).norm().item() <= 1.0 + 1e-4
    stepped(outcome)


def gradients_survive(outcome: Outcome) -> None:
    for layer in outcome.layers():
        assert layer.weight.grad.any()
        assert torch.isfinite(layer.weight.grad).all()


def layers_trained_and_head_not(outcome: Outcome) -> None:
    stepped(outcome)
    head = outcome.model.get_submodule("the head").weight
    assert head.equal(outcome.before.get_submodule("the head").weight)


def every_layer_reached(outcome: Outcome) -> None:
    for name in outcome.names:
        assert f"{name}.weight: trains True, gradient True\n" in outcome.output


def every_layer_finite(outcome: Outcome) -> None:
    for name in outcome.names:
        assert f"{name}.weight is finite: True\n" in outcome.output


CASES = (
    Case(activation.relu_with_he, mlp, relu_and_he),
    Case(activation.leaky_relu, relu_mlp, leaky),
    Case(initialisation.matching_initialisation, mlp, xavier_times_four),
    Case(initialisation.zero_bias, relu_mlp, biases_zero),
    Case(initialisation.break_symmetry, constant_mlp, units_differ),
    Case(initialisation.identity_initialisation, relu_mlp, passes_its_input_on),
    Case(normalisation.insert_normalisation, mlp, outputs_normalised),
    Case(residual.residual_path, mlp, input_added),
    Case(partial(inputs.standardise_inputs, input_rms=147.2), mlp, standardised),
    Case(learning_rate.lower_learning_rate, mlp, partial(learning_rate_times, 0.1)),
    Case(
        partial(learning_rate.raise_learning_rate, factor=30.0),
        mlp,
        partial(learning_rate_times, 30.0),
    ),
    Case(learning_rate.warm_up, mlp, rate_rises_to_its_old_value),
    Case(loss.loss_on_logits, mlp, binary_cross_entropy_on_logits),
    Case(loss.bare_logits, mlp, binary_cross_entropy_on_logits),
    Case(loss_scale.gradient_scaler, faint_mlp, gradients_survive),
    Case(loss_scale.bfloat16, faint_mlp, gradients_survive),
    Case(recurrent.gated_cell, rnn, gated),
    Case(recurrent.orthogonal_recurrent, rnn, recurrent_weights_orthogonal),
    Case(recurrent.open_forget_gate, lstm, forget_gates_open),
    Case(clipping.clip_gradients, steep_mlp, gradient_norm_at_most_one),
    Case(pretraining.stacked_autoencoders, mlp, layers_trained_and_head_not),
    Case(wiring.reconnect, mlp, every_layer_reached),
    Case(wiring.find_first_nonfinite, mlp, every_layer_finite),
)
"""Every fix; `test_every_fix` fails when one is missing."""
