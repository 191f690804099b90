"""What a net of the contract is, where adapters differ, and what a snapshot of it should hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .formulas import (
    Array,
    Call,
    Trained,
    complete,
    logit_misfit_ratio,
    norm,
    signal_statistics,
    trained_statistics,
    unit_spread_ratio,
)

BATCH, RATE, STEPS, TIME, REPEATS = 16, 0.1, 2, 12, 10

Parameters = dict[str, list[Array]]
"""Layer → its kernels, output units on the last axis, then its bias."""

Passed = tuple[float, dict[str, list[Call]], Parameters]
"""Loss, calls by layer, gradients."""


@dataclass(frozen=True)
class Reading:
    """Where adapters rightly differ.

    Args:
        recurrent_biases: Keras' SimpleRNN has one bias, PyTorch's RNN one for each kernel.
        whole_sequence: PyTorch's RNN gives all states, Keras' only the last one if not told to.
        units_after_step: PyTorch's units are compared after the step, Keras' by the probe before.
        first_input_grad: The probe also takes dL/dx of inputs that require no gradient.
        misfit_from: PyTorch knows from the first pass which layer is the last.
    """

    recurrent_biases: int
    whole_sequence: bool
    units_after_step: bool
    first_input_grad: bool
    misfit_from: int


READINGS = {
    "torch": Reading(2, True, True, False, 1),
    "keras": Reading(1, False, False, True, 0),
}


@dataclass(frozen=True)
class Facts:
    """What `Layer` should say of a layer."""

    inputs: tuple[int, ...]
    fan_in: int
    fan_out: int
    activation: str | None = None
    recurrent: bool = False


@dataclass(frozen=True)
class Net:
    """A net, its batch, and how it trains.

    Args:
        form: Its architecture: nets of one form are built alike.
        layers: Layer → facts, in forward order.
        parameters: Layer → parameters.
        x: Inputs.
        targets: Labels for a cross-entropy on logits, else values for a mean squared error.
        passed: Makes the pass.
        weight_decay: Of SGD.
        clipnorm: Norm to which all gradients together are clipped.
    """

    form: str
    layers: dict[str, Facts]
    parameters: Parameters
    x: Array
    targets: Array
    passed: Callable[[Parameters, Array, Array, Reading], Passed]
    weight_decay: float = 0.0
    clipnorm: float | None = None

    @property
    def is_classifier(self) -> bool:
        return self.targets.ndim == 1

    def parameters_for(self, reading: Reading) -> Parameters:
        """Parameters as the adapter's framework keeps them: a second recurrent bias starts at 0."""
        parameters = {name: list(arrays) for name, arrays in self.parameters.items()}
        if "recurrent" in parameters and reading.recurrent_biases > 1:
            parameters["recurrent"].append(np.zeros_like(parameters["recurrent"][-1]))
        return parameters

    def expected(self, reading: Reading) -> list[Expected]:
        """What a snapshot of each step should hold."""
        parameters, steps = self.parameters_for(reading), []
        for step in range(STEPS):
            loss, calls, gradients = self.passed(parameters, self.x, self.targets, reading)
            gradients = self._clipped(gradients)
            after = self._stepped(parameters, gradients)
            statistics = {}
            for name, facts in self.layers.items():
                share = RATE * self.weight_decay
                trained = Trained(
                    parameters[name], gradients[name], after[name], facts.fan_out, share
                )
                units = after if reading.units_after_step else parameters
                row = trained_statistics(trained) | signal_statistics(calls[name])
                row["unit_spread_ratio"] = unit_spread_ratio(units[name][0])
                if name == "head" and step >= reading.misfit_from:
                    row["logit_misfit_ratio"] = logit_misfit_ratio(calls[name][0])
                # PyTorch's adapter takes dL/dx of a recurrent layer in any case, to see time.
                if not (facts.inputs or facts.recurrent or reading.first_input_grad):
                    row["input_grad_norm"] = np.nan
                statistics[name] = complete(row)
            steps.append(Expected(loss, statistics))
            parameters = after
        return steps

    def _stepped(self, parameters: Parameters, gradients: Parameters) -> Parameters:
        """The parameters after a step of SGD."""
        return {
            name: [
                (1 - RATE * self.weight_decay) * array - RATE * gradient
                for array, gradient in zip(arrays, gradients[name], strict=True)
            ]
            for name, arrays in parameters.items()
        }

    def _clipped(self, gradients: Parameters) -> Parameters:
        total = norm(*(gradient for arrays in gradients.values() for gradient in arrays))
        if self.clipnorm is None:
            return gradients
        assert total > self.clipnorm, "the clipping must have something to do"
        return {
            name: [gradient * self.clipnorm / total for gradient in arrays]
            for name, arrays in gradients.items()
        }


@dataclass(frozen=True)
class Expected:
    """Loss of a step, and every statistic by layer and name."""

    loss: float
    statistics: dict[str, dict[str, float]]
