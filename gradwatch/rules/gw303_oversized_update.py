r"""One optimizer step replaced a layer: the update is larger than the layer itself.

## What it means

A single step moved a layer by more than its own size. What the layer had learned, or how it was
initialised, is gone.

## Why it matters

A healthy step moves a layer by about a thousandth of its size. A step of its whole size lands
anywhere: units die, activations saturate, the next gradient is of another network.

## How it is measured

The update ratio $u = \lVert \Delta W \rVert / \lVert W \rVert$, weight decay left out, measured
across the optimizer step, above 1. It counts at once, on a single sample. Layers whose weights
start at zero or nearly so ($\lVert W \rVert < 0.1\sqrt{\mathrm{fan\_out}}$) have no size to be
compared with and are not judged. Where signals explode through the network as well (GW301), or a
value is not finite (GW302), that is the finding.

## Example

Adam with a learning rate of 1: every weight moves by 1, ten times its size.

## Fixes

A smaller learning rate, a warm-up (Adam's first steps are its largest), clipping.

## When it is wrong

A weight that is meant to be replaced in one step, as in a solver that jumps to its optimum.

## References

- You, Gitman & Ginsburg 2017 (LARS): the ratio of update to weight.
- Goyal et al. 2017, Accurate, large minibatch SGD (warm-up).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gradwatch import flow
from gradwatch.fixes.clipping import clip_gradients
from gradwatch.fixes.learning_rate import lower_learning_rate, warm_up
from gradwatch.history import Window
from gradwatch.rules.base import Diagnosis, Rule, threshold

_LARGE_UPDATE = 1e-2
"""Update ratio of the first steps of healthy nets, on the large side (calibration)."""


@dataclass(frozen=True)
class OversizedUpdate(Rule):
    """A step was larger than the layer that it moved."""

    code = "GW303"
    name = "oversized-update"
    needs = "parameters"
    size = 1
    persistence = 1
    warm_up = 0

    update: float = threshold(
        1.0, unit="1", source="definition; calibration: at most 0.3 on healthy nets"
    )

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
        factor = float(10.0 ** np.clip(np.floor(np.log10(_LARGE_UPDATE) - np.log10(worst)), -6, -1))
        yield Diagnosis(
            cause="learning rate",
            rows=rows,
            severity="warning",
            message=(
                f"One step moved {{layers}} by up to {worst:.1f} times their own size: the "
                "learning rate is too large for these gradients."
            ),
            evidence={"update_ratio": worst, "update_ratio_threshold": self.update},
            fixes=(
                lower_learning_rate(layers, factor=factor),
                warm_up(layers),
                clip_gradients(layers),
            ),
            covers=flow.downstream(window.layers, rows),
        )
