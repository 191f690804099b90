r"""The backward signal of a recurrent layer dies on its way to the early time steps.

## What it means

The gradient at the first time step is more than a thousand times smaller than at the time step
where it is largest. What a sequence says at its beginning cannot teach the layer anything.

## Why it matters

A recurrent layer multiplies the signal by the same matrix and the same kind of slope at every step.
So its gain per step is raised to the power of the sequence's length.

## How it is measured

$$
T = \log_{10}
\frac{\lVert \partial L/\partial x_0 \rVert}{\max_t \lVert \partial L/\partial x_t \rVert}
$$

from the gradient of the layer's *input*, which fused kernels give too; for a cell that is called
step by step, from the gradient of its outputs. Median over five samples, in two windows in a row.

Gated cells (LSTM, GRU) open their gates late, so in the first 100 steps the finding is a notice for
them. For every layer it is a notice while the loss has fallen by a fifth or more. Without
`observe_loss` that cannot be known.

## Causes

- `time` (error or notice): the same weights, applied again at each time step, shrink the signal.

## Example

A tanh RNN whose recurrent matrix is 0.4 times an orthogonal one, on sequences of 60 steps:
$T = -23.5$.

## Fixes

For a plain RNN, an LSTM or GRU in its place, or an orthogonal recurrent matrix. For a gated cell, a
forget gate that starts open (a bias of 1 or more), or an orthogonal recurrent matrix.

## When it is wrong

A task that needs only the last steps is learned all the same, and the finding is a notice as soon
as the loss falls. A loss that falls by less than a fifth does not tell this apart.

## References

- Pascanu, Mikolov & Bengio 2013, On the difficulty of training recurrent neural networks.
- Jozefowicz, Zaremba & Sutskever 2015, An empirical exploration of recurrent network architectures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gradwatch import flow
from gradwatch.finding import Fix, Severity
from gradwatch.fixes.recurrent import gated_cell, open_forget_gate, orthogonal_recurrent
from gradwatch.history import Window
from gradwatch.layer import Layer
from gradwatch.rules.base import Deferred, Diagnosis, Rule, threshold
from gradwatch.samples import Flags, Samples


@dataclass(frozen=True)
class VanishingThroughTime(Rule):
    """The backward signal of a recurrent layer vanishes over time.

    Args:
        decay: Time decay T below which the signal counts as vanished.
        patience: Steps of the run in which gated cells get a notice only.
        learning: Loss over first loss below which the net learns, so that it is a notice.
    """

    code = "GW102"
    name = "vanishing-through-time"

    decay: float = threshold(-3.0, unit="log10", source="calibration on recall and mnist1d tasks")
    patience: float = threshold(
        100, unit="steps", source="calibration: a GRU opened its gates at step 96"
    )
    learning: float = threshold(
        0.8, unit="1", source="calibration: loss over first loss below which the net learns"
    )

    def check(self, window: Window) -> Iterable[Diagnosis]:
        decay = window.typical.time_decay_log10
        rows = tuple(int(row) for row in np.flatnonzero(decay < self.decay))
        if not rows:
            return
        layers = [window.layers[row] for row in rows]
        yield Diagnosis(
            cause="time",
            rows=rows,
            severity=self._severity(window, layers),
            message=(
                f"In {{layers}} the backward signal shrinks by {-decay[list(rows)].min():.1f} "
                "decades from its largest time step to the first: the start of a sequence teaches "
                "nothing."
            ),
            evidence={
                "time_decay_log10": float(decay[list(rows)].min()),
                "time_decay_log10_threshold": self.decay,
            },
            fixes=Deferred(lambda: _fixes(layers)),
            covers=flow.upstream(window.layers, rows),
        )

    def suspects(self, samples: Samples) -> Flags:
        return samples.any_below("time_decay_log10", self.decay)

    def _severity(self, window: Window, layers: list[Layer]) -> Severity:
        gated = all(layer.is_gated for layer in layers)
        if gated and window.step - window.history.first_step < self.patience:
            return "notice"
        return "notice" if window.loss_ratio < self.learning else "error"


def _fixes(layers: list[Layer]) -> tuple[Fix, ...]:
    if all(layer.is_gated for layer in layers):
        return (open_forget_gate(layers), orthogonal_recurrent(layers))
    return (gated_cell(layers), orthogonal_recurrent(layers))
