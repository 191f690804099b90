r"""All examples leave the hidden layers in one direction: the network cannot tell them apart.

## What it means

Deep in the network the outputs of all examples are multiples of one vector. What differs between
the inputs is lost on the way, layer by layer, however well the size of the signal is kept.

## Why it matters

The head gets the same direction for every example, so it can learn the frequencies of the classes
and nothing else. The gradient has one direction too: its size is fine, its content is gone. No
threshold on norms sees that.

## How it is measured

The spread of direction of a layer's outputs over the batch,
$s = 1 - \lVert \mathrm{mean}_n(y_n / \lVert y_n \rVert) \rVert^2$. The rule fires if it is below
$10^{-3}$ at every hidden layer that feeds an output layer, although it is more than ten times that
where the inputs come in, while the loss does not fall. Median over five samples, in two windows in
a row. A ReLU network at He's initialisation brings it down to about $22/L^2$ after $L$ wide
layers, so that fifty are well above the threshold; narrow layers go much further. Layers behind a
sigmoid share a mean by nature and are not judged: see GW101 for those.

## Example

Forty ReLU layers of eight units.

## Fixes

Residual paths, normalisation over the batch, orthogonal initialisation; fewer or wider layers.

## When it is wrong

A network whose outputs are meant to agree, such as one that predicts a constant.

## References

- Schoenholz et al. 2017, Deep information propagation.
- Hanin & Rolnick 2018, How to start training.
- Daneshmand et al. 2020, Batch normalization provably avoids rank collapse.
- Dong, Cordonnier & Loukas 2021, Attention is not all you need.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gradwatch import flow
from gradwatch.finding import Severity
from gradwatch.fixes.initialisation import matching_initialisation
from gradwatch.fixes.normalisation import insert_normalisation
from gradwatch.fixes.residual import residual_path
from gradwatch.history import Window
from gradwatch.layer import Layer
from gradwatch.rules.base import Diagnosis, Rule, began_vanishing, threshold
from gradwatch.snapshot import FloatArray

_OFFSET = frozenset({"sigmoid", "hardsigmoid", "softmax"})
"""Activations whose values share a mean, and so a direction, whatever the examples."""


@dataclass(frozen=True)
class RankCollapse(Rule):
    """Hidden outputs of all examples point one way."""

    code = "GW404"
    name = "rank-collapse"

    spread: float = threshold(
        1e-4, unit="1", source="calibration: above 4e-4 on nets of up to 50 layers that learn"
    )
    at_inputs: float = threshold(
        1e-2, unit="1", source="a hundred times the spread: the inputs themselves must differ"
    )
    depth: float = threshold(-3.5, unit="log10", source="calibration, as GW101")
    patience: float = threshold(100, unit="steps", source="calibration, as GW102")
    whole: float = threshold(0.99, unit="1", source="definition, as GW201")
    learning: float = threshold(0.8, unit="1", source="calibration, as GW102")

    def check(self, window: Window) -> Iterable[Diagnosis]:
        layers = window.layers
        spread = window.typical.direction_spread
        at_inputs = _largest(spread[list(flow.input_rows(layers))])
        if window.loss_ratio < self.learning or not at_inputs > self.at_inputs:
            return
        dead = np.flatnonzero(window.typical.dead_fraction > self.whole)
        silenced = flow.downstream(layers, tuple(int(row) for row in dead))
        rows = self._collapsed(layers, spread, silenced)
        if not rows or began_vanishing(window, self.depth):
            return
        least = float(spread[list(rows)].min())
        guilty = [layers[row] for row in rows]
        yield Diagnosis(
            cause="depth",
            rows=rows,
            severity=self._severity(window, any_dead=bool(dead.size)),
            message=(
                f"From layer {guilty[0].name} on, the outputs of all examples point one way "
                f"(spread of direction {max(least, 0.0):.0e}): the network cannot tell its inputs "
                "apart."
            ),
            evidence={
                "direction_spread": least,
                "direction_spread_threshold": self.spread,
                "direction_spread_at_inputs": at_inputs,
            },
            fixes=(
                residual_path(guilty),
                insert_normalisation(guilty),
                matching_initialisation(guilty),
            ),
            covers=flow.upstream(layers, rows) | flow.downstream(layers, rows),
        )

    def _collapsed(
        self, layers: tuple[Layer, ...], spread: FloatArray, silenced: frozenset[int]
    ) -> tuple[int, ...]:
        """Hidden rows whose outputs point one way, if all that an output layer reads does.

        A dead layer silences what it feeds; that is its doing (GW201), not theirs.
        """
        collapsed = np.flatnonzero(spread < self.spread)
        one_way = silenced | {int(row) for row in collapsed}
        fed = flow.consumers(layers)
        read_last = [
            layer.inputs for layer, readers in zip(layers, fed, strict=True) if not readers
        ]
        if not any(inputs and one_way.issuperset(inputs) for inputs in read_last):
            return ()
        rows = [row for row in flow.forward_order(layers) if row in one_way - silenced and fed[row]]
        by_nature = any(
            layers[row].activation in _OFFSET for row in flow.upstream(layers, tuple(rows))
        )
        return () if by_nature else tuple(rows)

    def _severity(self, window: Window, *, any_dead: bool) -> Severity:
        """A notice while the net may still learn: not with a dead layer, nor after long."""
        young = window.step - window.history.first_step < self.patience
        return "notice" if young and not any_dead else "warning"


def _largest(spread: FloatArray) -> float:
    return float(np.nan_to_num(spread, nan=0.0).max(initial=0.0))
