r"""Gradients are too small for float16 and become zero.

## What it means

The layers compute in float16, whose smallest positive value is about 6e-8, and the backward signal
has fallen to that size or is exactly zero everywhere.

## Why it matters

A value that underflows is lost: no optimizer can scale it up again. The network stands still
although nothing is wrong with its wiring, its activations or its weights.

## How it is measured

A layer counts as float16 if its output is; its parameters may be float32 under autocast. The rule
fires if every trained layer's gradient is exactly zero in each sample, or if the backward depth $B$
is below -3.5 and the weakest float16 layer is near the end of the format:

$$
\log_{10} \mathrm{rms}(\partial L/\partial y) - \log_{10} \mathrm{tiny} < 1
$$

with tiny the smallest positive value of the type of $y$. Medians over five samples, in two windows
in a row.

## Causes

- `precision` (error): the number format cannot express gradients of this size.

## Example

Automatic mixed precision in float16 without a gradient scaler, with a loss that is scaled down by a
small weight: all gradients are zero from the first step on.

## Fixes

Scale the loss (a gradient scaler), or compute in bfloat16, which has the range of float32.

## When it is wrong

With a gradient scaler the signal is measured as it is in memory, scaled, so a scaler that works
silences the rule. Many zeros alone mean nothing: a ReLU makes them too.

## References

- Micikevicius et al. 2018, Mixed precision training, section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gradwatch.fixes.loss_scale import bfloat16, gradient_scaler
from gradwatch.history import Window
from gradwatch.rules.base import Deferred, Diagnosis, Rule, threshold
from gradwatch.samples import Flags, Samples
from gradwatch.snapshot import State


@dataclass(frozen=True)
class HalfPrecisionUnderflow(Rule):
    """Gradients underflow in float16.

    Args:
        depth: Backward depth B below which a signal near the format's end counts as lost.
        headroom: Distance of the weakest signal from the smallest value below which it counts as
            lost.
        half: Smallest value of a number format above which the format counts as float16.
    """

    code = "GW103"
    name = "half-precision-underflow"

    depth: float = threshold(-3.5, unit="log10", source="calibration, as GW101")
    headroom: float = threshold(
        1.0,
        unit="log10",
        source="Micikevicius et al. 2018, figure 3: gradients cluster at the edge",
    )
    half: float = threshold(
        -10.0, unit="log10", source="IEEE 754: float16 ends at -7.2, bfloat16 at -40"
    )

    def check(self, window: Window) -> Iterable[Diagnosis]:
        typical = window.typical
        half = typical.tiny_log10 > self.half
        if not half.any():
            return
        zero = window.always(State.ZERO_GRADIENT)
        trained = ~window.always(State.FROZEN) & window.has_run()
        all_zero = bool(trained.any()) and bool(zero[trained].all())
        with np.errstate(divide="ignore"):
            room = np.log10(typical.output_grad_rms) - typical.tiny_log10
        weakest = float(np.nanmin(np.where(half, room, np.inf), initial=np.inf))
        depth = window.median_of(lambda snapshot: snapshot.backward_depth)
        if not all_zero and not (depth < self.depth and weakest < self.headroom):
            return
        rows = tuple(int(row) for row in np.flatnonzero(trained & (half | zero)))
        layers = [window.layers[row] for row in rows]
        yield Diagnosis(
            cause="precision",
            rows=rows,
            severity="error",
            message=(
                "The gradients of {layers} are "
                + ("exactly zero" if all_zero else "at the edge of what float16 can express")
                + ": they underflow below 6e-8 in float16."
            ),
            evidence={
                "zero_gradient_layers": float(zero.sum()),
                "tiny_log10": float(typical.tiny_log10[half].max()),
                "headroom_log10": weakest,
                "headroom_log10_threshold": self.headroom,
            },
            fixes=Deferred(lambda: (gradient_scaler(layers), bfloat16(layers))),
            covers=frozenset(range(len(window.layers))),
        )

    def suspects(self, samples: Samples) -> Flags:
        half = samples.any_above("tiny_log10", self.half)
        zero = half & samples.any_in(State.ZERO_GRADIENT)
        return zero | (samples.backward_depth < self.depth)
