r"""The steps are too small to change anything.

## What it means

The optimizer runs, but half of the layers move by less than a hundred-thousandth of their size a
step, and no layer has ever moved by much more. Gradients are there: the learning rate is too small
for them.

## Why it matters

At 1e-5 a step, a layer needs ten thousand steps in one direction to change by a tenth.

## How it is measured

By the update ratio $u = \lVert \Delta W \rVert / \lVert W \rVert$, measured across the optimizer
step, weight decay left out. The rule fires if its median over the trained layers is below 1e-5 and
its largest value in the whole run below 3e-5, although there is something to learn: the median
gradient is more than a thousandth of the weights. An elasticity $\lVert g \rVert \lVert W \rVert /
|L|$ above $10^{1.5}$ (a loss so steep that such a step still matters) is left alone. Medians over
five samples, in two windows in a row. A learning rate that decays to zero at the end of a schedule
is not meant, since it was larger before.

## Causes

- `learning rate` (warning): it is too small for these gradients.

## Example

A learning rate of 1e-6 for plain SGD: the median update ratio is 1e-6.

## Fixes

A larger learning rate, by the factor that brings $u$ to about a thousandth.

## When it is wrong

A long warm-up from exactly zero: the finding goes away as the rate rises.

## References

- Smith 2017, Cyclical learning rates for training neural networks (range test).
- You, Gitman & Ginsburg 2017, Large batch training of convolutional networks (the ratio).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from gradwatch.fixes.learning_rate import raise_learning_rate
from gradwatch.history import Window
from gradwatch.rules.base import Deferred, Diagnosis, Rule, threshold
from gradwatch.samples import Flags, Samples
from gradwatch.snapshot import FloatArray, State


@dataclass(frozen=True)
class StalledUpdate(Rule):
    """The steps are too small for any layer to learn.

    Args:
        update: Median update ratio of the layers below which they stand still.
        ever: Largest update ratio of the run below which no layer ever moved.
        relative: Gradient against weights above which there is something to learn.
        steep: Elasticity of the loss above which even such a step matters.
    """

    code = "GW501"
    name = "stalled-update"
    needs = "parameters"

    update: float = threshold(1e-5, unit="1", source="calibration")
    ever: float = threshold(
        3e-5, unit="1", source="calibration: the largest of all layers lies above their median"
    )
    relative: float = threshold(
        1e-3, unit="1", source="calibration: below, nothing is to be learned"
    )
    steep: float = threshold(10**1.5, unit="1", source="calibration: 1 to 30 on healthy nets")

    def check(self, window: Window) -> Iterable[Diagnosis]:
        trained = window.always(State.TRAINED)
        if not trained.any() or not window.history.largest_update_ratio < self.ever:
            return
        update = _median(window.typical.update_ratio[trained])
        elasticity = window.median(attrgetter("elasticity"))[trained]
        largest = float(np.nan_to_num(elasticity, nan=0.0).max())
        relative = _median(window.median(attrgetter("relative_grad"))[trained])
        if not update < self.update or largest > self.steep:
            return
        if not relative > self.relative:
            return
        rows = tuple(int(row) for row in np.flatnonzero(trained))
        layers = [window.layers[row] for row in rows]
        factor = float(10.0 ** np.clip(np.ceil(np.log10(1e-3 / max(update, 1e-12))), 1, 6))
        yield Diagnosis(
            cause="learning rate",
            rows=rows,
            severity="warning",
            message=(
                f"A step moves {{layers}} by {update:.1e} of their size: "
                "the learning rate is too small for these gradients."
            ),
            evidence={
                "update_ratio": update,
                "update_ratio_threshold": self.update,
                "relative_grad": relative,
                "relative_grad_threshold": self.relative,
                "elasticity": largest,
            },
            fixes=Deferred(lambda: (raise_learning_rate(layers, factor=factor),)),
        )

    def suspects(self, samples: Samples) -> Flags:
        small = (samples.statistic("update_ratio") <= self.update).any(axis=1)
        return small & (samples.largest_update_ratio < self.ever)


def _median(figures: FloatArray) -> float:
    """Median of what was observed, NaN where nothing was."""
    known = figures[~np.isnan(figures)]
    return float(np.median(known)) if known.size else float("nan")
