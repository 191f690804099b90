r"""Most units of a layer never pass anything on: they are dead.

## What it means

More than four fifths of the units (features or channels) are on the flat side of their activation
for every example of the batch.

## Why it matters

A unit whose slope is zero for all data gets no gradient, so it never comes back.

## How it is measured

The share of units $u$ with $|f'_u| < 0.05 \max f'$ for every example of the batch, of one-sided
activations (ReLU, ReLU6, GELU, SiLU, ELU and the like); median over five samples, in two windows in
a row. A leaky ReLU has no flat side and cannot be dead.

A layer with no unit left is an error. Part of one is a warning, but a notice while the loss has
fallen by a fifth or more, and in the first 100 steps if the signal still flows ($B > -1.5$): the
units that are left may do. Units that die where the backward signal had vanished before are a
consequence of that, and GW101 speaks. Where all examples point one way (GW404), a unit is on or off
for all of them, so there only a layer that is dead as a whole counts.

## Causes

- `weights` (error, warning or notice): more than half of the units were dead in the first sample,
  by a bias or an initialisation that pushes them off.
- `learning rate` (error, warning or notice): at first they were alive, and a step too large threw
  them over.

## Example

ReLU layers whose biases start at -5.

## Fixes

For `weights`: biases of zero, the initialisation that matches the activation, normalisation. For
`learning rate`: a smaller one, normalisation, a leaky ReLU, a warm-up. Start again from weights of
before the damage, since dead units stay dead.

## When it is wrong

A layer that is sparse on purpose (a mixture's gate, a sparse coder) has many silent units in one
batch; judge it by several batches.

## References

- Lu et al. 2019, Dying ReLU and initialization.
- He et al. 2015, Delving deep into rectifiers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradwatch import flow
from gradwatch.finding import Fix, Severity
from gradwatch.fixes.activation import leaky_relu
from gradwatch.fixes.initialisation import matching_initialisation, zero_bias
from gradwatch.fixes.learning_rate import lower_learning_rate, warm_up
from gradwatch.fixes.normalisation import insert_normalisation
from gradwatch.history import Window
from gradwatch.layer import Layer
from gradwatch.rules.base import Deferred, Diagnosis, Rule, began_vanishing, threshold
from gradwatch.samples import Flags, Samples
from gradwatch.snapshot import Snapshot


@dataclass(frozen=True)
class DeadUnits(Rule):
    """Most units of a layer are dead.

    Args:
        dead: Share of dead units above which a layer is reported.
        alive_at_first: Share of dead units in the first sample above which the weights are to
            blame.
        depth: Backward depth B below which the signal had vanished before, so that GW101 speaks.
        flowing: Backward depth B above which a young net may still learn with the units left.
        patience: Steps of the run in which a net whose signal flows gets a notice only.
        learning: Loss over first loss below which the net learns, so that it is a notice.
        spread: Spread of direction below which only a layer that is dead as a whole counts.
        whole: Share of dead units above which no unit is left, so that it is an error.
    """

    code = "GW201"
    name = "dead-units"

    dead: float = threshold(0.8, unit="1", source="calibration; Lu et al. 2019")
    alive_at_first: float = threshold(
        0.5, unit="1", source="calibration: dead share below which a layer began alive"
    )
    depth: float = threshold(-3.5, unit="log10", source="calibration, as GW101")
    flowing: float = threshold(
        -1.5, unit="log10", source="calibration: B of nets that learn around a half-dead layer"
    )
    patience: float = threshold(100, unit="steps", source="calibration, as GW102")
    learning: float = threshold(0.8, unit="1", source="calibration, as GW102")
    spread: float = threshold(1e-4, unit="1", source="calibration, as GW404")
    whole: float = threshold(0.99, unit="1", source="definition: no unit is left")

    def check(self, window: Window) -> Iterable[Diagnosis]:
        dead = window.typical.dead_fraction
        rows = tuple(int(row) for row in np.flatnonzero(self._are_dead(window.typical)))
        if not rows or not window.snapshots[-1].is_finite:
            return
        began = self._began_dead(window, rows)
        from_start = began > self.alive_at_first
        if not from_start and began_vanishing(window, self.depth):
            return
        layers = [window.layers[row] for row in rows]
        worst = float(dead[list(rows)].max())
        yield Diagnosis(
            cause="weights" if from_start else "learning rate",
            rows=rows,
            severity=self._severity(window, worst),
            message=(
                f"Up to {worst:.0%} of the units of {{layers}} are dead for the whole batch; "
                + ("they were from the start." if from_start else "at first they were alive.")
            ),
            evidence={
                "dead_fraction": worst,
                "dead_fraction_threshold": self.dead,
                "dead_fraction_at_first": began,
            },
            fixes=Deferred(lambda: _fixes(layers, from_start=from_start)),
            covers=flow.upstream(window.layers, rows) | flow.downstream(window.layers, rows),
        )

    def suspects(self, samples: Samples) -> Flags:
        return samples.any_above("dead_fraction", self.dead)

    def _are_dead(self, typical: Snapshot) -> NDArray[np.bool_]:
        """Rows of which most units are dead; where all examples point one way, only whole rows.

        There each unit is on or off for the whole batch, so about half of them look dead.
        """
        one_way = typical.direction_spread < self.spread
        return np.asarray(
            typical.dead_fraction > np.where(one_way, self.whole, self.dead).astype(np.float32)
        )

    def _severity(self, window: Window, worst: float) -> Severity:
        """An error for a whole layer; a notice for a part of one while the net may still learn."""
        if worst > self.whole:
            return "error"
        young = window.step - window.history.first_step < self.patience
        flows = window.typical.backward_depth > self.flowing
        learns = window.loss_ratio < self.learning
        return "notice" if learns or (young and flows) else "warning"

    def _began_dead(self, window: Window, rows: tuple[int, ...]) -> float:
        """Largest dead share of the rows in the first sample that observed one of them."""
        for sample in (*window.history.early_samples, *window.history):
            known = sample.dead_fraction[[row for row in rows if row < len(sample.layers)]]
            if (~np.isnan(known)).any():
                return float(np.nanmax(known))
        return float("nan")


def _fixes(layers: list[Layer], *, from_start: bool) -> tuple[Fix, ...]:
    if from_start:
        return (zero_bias(layers), matching_initialisation(layers), insert_normalisation(layers))
    lower = lower_learning_rate(layers, factor=0.1)
    return (lower, insert_normalisation(layers), leaky_relu(layers), warm_up(layers))
