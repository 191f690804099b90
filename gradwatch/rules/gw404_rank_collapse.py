r"""All examples leave the hidden layers in one direction: the network cannot tell them apart.

## What it means

Deep in the network the outputs of all examples are multiples of one vector. What differs between
the inputs is lost on the way, layer by layer, however well the size of the signal is kept.

## Why it matters

The head gets the same direction for every example, so it can learn the frequencies of the classes
and nothing else. The gradient has one direction too: its size is fine, its content is gone. No
threshold on norms sees that.

## How it is measured

By the spread of direction of a layer's outputs $y_n$ over the examples of the batch,

$$
s = 1 - \lVert \mathrm{mean}_n (y_n / \lVert y_n \rVert) \rVert^2
$$

The rule fires if $s$ is below $10^{-4}$ at every hidden layer that an output layer reads, although
it is above $10^{-2}$ where the inputs come in, while the loss has not fallen by a fifth. Median
over five samples, in two windows in a row.

Fifty ReLU layers of 2,048 units at He's initialisation bring $s$ down to 0.01, a hundred times the
threshold; narrow layers go much further. Layers behind a sigmoid share a mean by nature and are not
judged, nor are those behind a saturated one (GW202) or an operation that lets nothing through
(GW401). Where the backward signal had vanished from the start, GW101 speaks, unless the weights
have the size that initialisation schemes call for: then depth is what is left to blame.

It is a notice in the first 100 steps, while a signal comes through and no layer is dead.

## Causes

- `depth` (warning or notice): many layers, each of which turns the outputs a little more to one
  direction.
- `learning rate` (warning or notice): in the very first sample the examples still differed and the
  signal came through, so steps that are too large did it.

## Example

Forty ReLU layers of eight units.

## Fixes

For `depth`: residual paths around all hidden layers, or weights that begin as the identity; also
fewer or wider layers. For `learning rate`: a smaller one, a warm-up, clipping, residual paths.

## When it is wrong

A network whose outputs are meant to agree, such as one that predicts a constant. The first axis of
an output is taken for the examples, except in recurrent layers with time first: in a transformer
with `batch_first=False` the spread is one over positions.

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
from gradwatch.finding import Cause, Fix, Severity
from gradwatch.fixes.clipping import clip_gradients
from gradwatch.fixes.initialisation import identity_initialisation
from gradwatch.fixes.learning_rate import lower_learning_rate, warm_up
from gradwatch.fixes.residual import residual_path
from gradwatch.history import History, Window
from gradwatch.layer import Layer
from gradwatch.rules.base import (
    Deferred,
    Diagnosis,
    Rule,
    began_vanishing,
    flowed_at_first,
    threshold,
)
from gradwatch.samples import Flags, Samples
from gradwatch.snapshot import FloatArray

_OFFSET = frozenset({"sigmoid", "hardsigmoid", "softmax"})
"""Activations whose values share a mean, and so a direction, whatever the examples."""


@dataclass(frozen=True)
class RankCollapse(Rule):
    """Hidden outputs of all examples point one way.

    Args:
        spread: Spread of direction below which all examples point one way.
        at_inputs: Spread of direction at the inputs above which the examples differ.
        depth: Backward depth B below which the signal counts as vanished.
        well_at_first: Backward depth B of the first sample above which the learning rate is to
            blame.
        saturation: Share of flat values above which what lies behind a layer is not judged.
        fit: Size of the weights, over that of the fitting scheme, above which depth is to blame.
        patience: Steps of the run in which it is a notice only, while a signal comes through.
        whole: Share of dead units above which a layer is dead, so that it silences what it feeds.
        learning: Loss over first loss below which the net learns, and the rule is silent.
    """

    code = "GW404"
    name = "rank-collapse"

    spread: float = threshold(
        1e-4, unit="1", source="calibration: above 4e-4 on nets of up to 50 layers that learn"
    )
    at_inputs: float = threshold(
        1e-2, unit="1", source="a hundred times the spread: the inputs themselves must differ"
    )
    depth: float = threshold(-3.5, unit="log10", source="calibration, as GW101")
    well_at_first: float = threshold(-1.5, unit="log10", source="calibration, as GW101")
    saturation: float = threshold(0.5, unit="1", source="calibration, as GW202")
    fit: float = threshold(
        0.85, unit="1", source="He et al. 2015: Glorot's scheme, which is too small, gives 0.71"
    )
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
        if not dead.size and _is_cut(window):
            return
        rows = self._collapsed(window, silenced)
        if not rows or (began_vanishing(window, self.depth) and not self._fits(window, rows)):
            return
        least = float(spread[list(rows)].min())
        cause: Cause = "learning rate" if self._was_well(window.history, rows) else "depth"
        yield Diagnosis(
            cause=cause,
            rows=rows,
            severity=self._severity(window, any_dead=bool(dead.size)),
            message=(
                "After {layers} the outputs of all examples point one way "
                f"(spread of direction {least:.0e}): the network cannot tell its inputs "
                + ("apart." if cause == "depth" else "apart. At the first step it could.")
            ),
            evidence={
                "direction_spread": least,
                "direction_spread_threshold": self.spread,
                "direction_spread_at_inputs": at_inputs,
            },
            fixes=Deferred(lambda: _fixes(cause, _on_the_way(layers, rows))),
            covers=flow.upstream(layers, rows) | flow.downstream(layers, rows),
        )

    def suspects(self, samples: Samples) -> Flags:
        return samples.any_below("direction_spread", self.spread)

    def _collapsed(self, window: Window, silenced: frozenset[int]) -> tuple[int, ...]:
        """Hidden rows whose outputs point one way, if all that an output layer reads does.

        A dead layer silences what it feeds; that is its doing (GW201), not theirs. So it is with
        saturated ones (GW202).
        """
        layers, typical = window.layers, window.typical
        collapsed = {int(row) for row in np.flatnonzero(typical.direction_spread < self.spread)}
        fed = flow.consumers(layers)
        read_last = [
            layer.inputs for layer, readers in zip(layers, fed, strict=True) if not readers
        ]
        if not any(inputs and (silenced | collapsed).issuperset(inputs) for inputs in read_last):
            return ()
        rows = [
            row for row in flow.forward_order(layers) if row in collapsed - silenced and fed[row]
        ]
        before = flow.upstream(layers, tuple(rows))
        offset = any(layers[row].activation in _OFFSET for row in before)
        flat = (typical.saturation_fraction[list(before)] > self.saturation).any()
        return () if offset or flat else tuple(rows)

    def _was_well(self, history: History, rows: tuple[int, ...]) -> bool:
        """Whether signal and differences came through in the very first sample."""
        first = history.first_signals
        if first is None or not flowed_at_first(history, self.well_at_first):
            return False
        known = first.direction_spread[[row for row in rows if row < len(first.layers)]]
        return bool(known.size and (known > self.at_inputs).all())

    def _fits(self, window: Window, rows: tuple[int, ...]) -> bool:
        """Whether the weights up to the rows have the size that their activations call for.

        And nothing between the layers takes the signal away. Then it is the depth that makes it
        vanish too, and neither a larger initialisation nor another activation would help.
        """
        path = flow.worst_path(window.typical)
        if path is not None and path.rest_log10 < self.depth / 2:
            return False
        layers = window.layers
        fan_in = np.asarray([layer.fan_in for layer in layers])
        gain = np.asarray([np.sqrt(2.0) if layer.is_relu_like else 1.0 for layer in layers])
        size = window.typical.weight_rms.astype(np.float64) * np.sqrt(fan_in) / gain
        sizes = size[[row for row in flow.upstream(layers, rows) if layers[row].weighted]]
        return bool(sizes.size and np.median(sizes) > self.fit and sizes.min() > self.fit / 2)

    def _severity(self, window: Window, *, any_dead: bool) -> Severity:
        """A notice while the net may still learn: with some signal, no dead layer, not for long."""
        young = window.step - window.history.first_step < self.patience
        flows = window.typical.backward_depth > self.depth
        return "notice" if young and flows and not any_dead else "warning"


def _fixes(cause: Cause, layers: list[Layer]) -> tuple[Fix, ...]:
    if cause == "depth":
        return (residual_path(layers), identity_initialisation(layers))
    rate = (lower_learning_rate(layers, factor=0.1), warm_up(layers))
    return (*rate, clip_gradients(layers), residual_path(layers))


def _on_the_way(layers: tuple[Layer, ...], rows: tuple[int, ...]) -> list[Layer]:
    """The hidden weighted layers before, at and behind those named: each turns the outputs a bit.

    Skips around those named alone come too late (calibration: `narrow_relu40`).
    """
    way = flow.upstream(layers, rows) | flow.downstream(layers, rows) | set(rows)
    feeds = flow.consumers(layers)
    return [
        layers[row]
        for row in flow.forward_order(layers)
        if row in way and feeds[row] and layers[row].weighted
    ]


def _is_cut(window: Window) -> bool:
    """Whether no signal at all reaches the first layers: an operation that takes all (GW401)."""
    first = list(flow.input_rows(window.layers))
    return bool((window.typical.output_grad_norm[first] == 0).all())


def _largest(spread: FloatArray) -> float:
    return float(np.nan_to_num(spread, nan=0.0).max(initial=0.0))
