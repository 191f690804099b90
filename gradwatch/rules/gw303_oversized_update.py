r"""One optimizer step replaced a layer: the update is larger than the layer itself.

## What it means

A single step moved a layer by more than its own size. What the layer had learned, or how it was
initialised, is gone.

## Why it matters

A healthy step moves a layer by about a thousandth of its size. A step of its whole size lands
anywhere: units die, activations saturate, and the next gradient is that of another network.

## How it is measured

The update ratio

$$
u = \frac{\lVert \Delta W \rVert}{\lVert W \rVert} > 1
$$

measured across the optimizer step, weight decay left out. It counts at once, on a single sample.
Layers whose weights are nearly zero, $\lVert W \rVert < 0.1\sqrt{\mathrm{fan\_out}}$, have no size
to be compared with and are not judged. Where signals explode as well, that is the finding (GW301),
and so it is where a value is not finite (GW302).

## Causes

- `inputs` (warning): the network's inputs are large, their rms above 30, and the gradients with
  them.
- `learning rate` (warning): otherwise; it is too large for these gradients.

## Example

Adam with a learning rate of 1: its first step moves every weight by about 1, several times the
weight's size.

## Fixes

For `inputs`: standardise them first. For `learning rate`: a smaller one, by the factor that brings
this step down to about a hundredth of the layer; a warm-up, since Adam's first steps are its
largest; clipping.

## When it is wrong

A weight that is meant to be replaced in one step, as in a solver that jumps to its optimum.

## References

- You, Gitman & Ginsburg 2017, Large batch training of convolutional networks (the ratio).
- Goyal et al. 2017, Accurate, large minibatch SGD (warm-up).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gradwatch import flow
from gradwatch.fixes.clipping import clip_gradients
from gradwatch.fixes.inputs import standardise_inputs
from gradwatch.fixes.learning_rate import lower_learning_rate, warm_up
from gradwatch.history import Window
from gradwatch.rules.base import Deferred, Diagnosis, Rule, large_inputs, threshold
from gradwatch.samples import Flags, Samples

_LARGE_UPDATE = 1e-2
"""Update ratio of the first steps of healthy nets, on the large side (calibration)."""


@dataclass(frozen=True)
class OversizedUpdate(Rule):
    """A step was larger than the layer that it moved.

    Args:
        update: Update ratio above which a step counts as oversized.
        large_input: Rms of the network's inputs above which they are to blame.
    """

    code = "GW303"
    name = "oversized-update"
    needs = "parameters"
    size = 1
    persistence = 1
    warm_up = 0

    update: float = threshold(
        1.0, unit="1", source="definition; calibration: at most 0.3 on healthy nets"
    )

    large_input: float = threshold(30.0, unit="x", source="calibration, as GW204")

    def check(self, window: Window) -> Iterable[Diagnosis]:
        snapshot = window.snapshots[-1]
        if not snapshot.is_finite:
            return
        updates = np.where(snapshot.has_size, snapshot.update_ratio, np.nan)
        rows = tuple(int(row) for row in np.flatnonzero(updates > self.update))
        if not rows:
            return
        layers = [window.layers[row] for row in rows]
        worst = float(updates[list(rows)].max())
        inputs = large_inputs(window.history.last_finite_signals, self.large_input)
        reading = [window.layers[row] for row in inputs]
        rms = max(inputs.values(), default=float("nan"))
        why = (
            f"the network's inputs are large (rms {rms:.3g}), and the gradients with them."
            if inputs
            else "the learning rate is too large for these gradients."
        )
        yield Diagnosis(
            cause="inputs" if inputs else "learning rate",
            rows=rows,
            severity="warning",
            message=f"One step moved {{layers}} by up to {worst:.1f} times their own size: {why}",
            evidence={
                "update_ratio": worst,
                "update_ratio_threshold": self.update,
                **({"input_rms": rms, "input_rms_threshold": self.large_input} if inputs else {}),
            },
            fixes=Deferred(
                lambda: (
                    *([standardise_inputs(reading, input_rms=rms)] if inputs else ()),
                    lower_learning_rate(layers, factor=_factor(worst)),
                    warm_up(layers),
                    clip_gradients(layers),
                )
            ),
            covers=flow.downstream(window.layers, rows),
        )

    def suspects(self, samples: Samples) -> Flags:
        return samples.any_above("update_ratio", self.update)


def _factor(update: float) -> float:
    """The power of ten that makes the update a healthy one again, 1e-6 to 0.1."""
    exponent = np.floor(np.log10(_LARGE_UPDATE) - np.log10(update))
    return float(10.0 ** np.clip(exponent, -6, -1))
