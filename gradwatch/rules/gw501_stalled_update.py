r"""The steps are too small to change anything.

## What it means

The optimizer runs, but no layer moves by more than a hundred-thousandth of its size a step, and has
not in the whole run. Gradients are there: the learning rate is too small for them.

## Why it matters

At 1e-5 a step a layer needs ten thousand steps in one direction to change by a tenth.

## How it is measured

The update ratio $u = \lVert \Delta W \rVert / \lVert W \rVert$, weight decay left out, measured
across the optimizer step. The rule fires if its median over layers is below 1e-5 and its largest
value in the whole run below 3e-5, although there is something to learn: the gradient is more than a
thousandth of the weights. An elasticity above $10^{1.5}$ (a loss so steep that such a step still
matters) is left alone. Medians over five samples, in two windows in a row. A learning rate that
decays to zero at the end of a schedule is not meant.

## Example

A learning rate of 1e-6 for plain SGD.

## Fixes

A larger learning rate: by a factor of ten until the loss moves.

## When it is wrong

A long warm-up from exactly zero: the finding goes away as the rate rises.

## References

- Smith 2017, Cyclical learning rates (range test).
- You, Gitman & Ginsburg 2017 (LARS): the ratio of update to weight.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from gradwatch.fixes.learning_rate import raise_learning_rate, warm_up
from gradwatch.history import Window
from gradwatch.rules.base import Diagnosis, Rule, threshold
from gradwatch.snapshot import State


@dataclass(frozen=True)
class StalledUpdate(Rule):
    """The steps are too small for any layer to learn."""

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
        update = float(np.median(window.typical.update_ratio[trained]))
        elasticity = window.median(attrgetter("elasticity"))[trained]
        largest = float(np.nan_to_num(elasticity, nan=0.0).max())
        relative = float(np.nanmedian(window.median(attrgetter("relative_grad"))[trained]))
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
            fixes=(raise_learning_rate(layers, factor=factor), warm_up(layers)),
        )
