r"""Signals grow by more than three decades through the network or over time.

## What it means

The backward signal grows by a factor of more than a thousand from the outputs to the inputs, or the
forward signal does on its way out, or the backward signal of a recurrent layer does over time.

## Why it matters

Steps are then far too large in one part of the network for any learning rate that suits the other;
the loss jumps, and NaN is near.

## How it is measured

The largest of these three, each a $\log_{10}$, above 3:

- on the way back: $\lVert \Delta_{\mathrm{in}} \rVert / \lVert \Delta_{\mathrm{out}} \rVert$ over
  connected pairs of an input layer and an output layer;
- on the way forward: the largest $\mathrm{rms}(y)$ of a layer against the larger of the input
  layers' $\mathrm{rms}(x)$ and $\mathrm{rms}(y)$;
- over time: $\max_t \lVert \partial L/\partial x_t \rVert$ against the last time step's.

It counts at once, on a single sample, for there may be no second one. If the run has ended in NaN,
the last finite sample with signals is judged, so the explosion keeps its name and GW302 says
nothing more of it.

## Causes

- `weights` (error): each of the named layers multiplies the signal too much.
- `depth` (error): each multiplies it a little, less than 0.15 decades, but there are many.
- `time` (error): a recurrent layer multiplies it at every time step.
- `learning rate` (error): the network was well at the first sample, with a growth below 1.5.

## Example

Twenty ReLU layers with weights 2.5 times He's: signals grow by 8 decades.

## Fixes

For `weights` and `depth`: the initialisation that matches the activation, normalisation, a residual
path, clipping. For `time`: clipping, an orthogonal recurrent matrix. For `learning rate`: a smaller
one, a warm-up, clipping.

## When it is wrong

A network whose output is meant to be thousands of times larger than its input, because the target
is not scaled.

## References

- Pascanu, Mikolov & Bengio 2013, On the difficulty of training recurrent neural networks.
- Hanin & Rolnick 2018, How to start training.
- Philipp, Song & Carbonell 2017, The exploding gradient problem demystified.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gradwatch.finding import Cause, Fix
from gradwatch.fixes.clipping import clip_gradients
from gradwatch.fixes.initialisation import matching_initialisation
from gradwatch.fixes.learning_rate import lower_learning_rate, warm_up
from gradwatch.fixes.normalisation import insert_normalisation
from gradwatch.fixes.recurrent import orthogonal_recurrent
from gradwatch.fixes.residual import residual_path
from gradwatch.history import Window
from gradwatch.layer import Layer
from gradwatch.rules.base import Deferred, Diagnosis, Rule, threshold
from gradwatch.samples import Flags, Samples
from gradwatch.snapshot import FloatArray, Snapshot


@dataclass(frozen=True)
class ExplodingGradient(Rule):
    """Signals explode through the network or over time.

    Args:
        growth: Growth of a signal above which it counts as exploding.
        well_at_first: Growth in the first sample below which the learning rate is to blame.
        gentle: Median gain of the named layers above which their weights are to blame, not the
            depth.
        culprit_share: Share of the largest layer's gain from which on a layer is named.
    """

    code = "GW301"
    name = "exploding-gradient"
    size = 1
    persistence = 1
    warm_up = 0

    growth: float = threshold(3.0, unit="log10", source="calibration")
    well_at_first: float = threshold(
        1.5, unit="log10", source="calibration: growth of the first sample of healthy nets"
    )
    gentle: float = threshold(
        0.15, unit="log10", source="He et al. 2015: what a whole layer's weights should gain"
    )
    culprit_share: float = threshold(1 / 3, unit="1", source="calibration, as GW101")

    def check(self, window: Window) -> Iterable[Diagnosis]:
        snapshot = _last_finite(window)
        over_time = np.nan_to_num(snapshot.time_growth_log10, nan=-np.inf)
        rows = tuple(int(row) for row in np.flatnonzero(over_time > self.growth))
        if rows:
            yield self._diagnosis(window, "time", rows, float(over_time.max()), "over time")
        growth, way = _largest_growth(snapshot)
        if not growth > self.growth:
            return
        gains = _gains(snapshot)
        rows = self._culprits(gains)
        if rows:
            cause = self._cause(window.history.first_signals, snapshot, gains[list(rows)])
            yield self._diagnosis(window, cause, rows, growth, way)

    def suspects(self, samples: Samples) -> Flags:
        grows = (samples.backward_growth > self.growth) | (samples.forward_drift > self.growth)
        over_time = samples.any_above("time_growth_log10", self.growth)
        return grows | over_time | ~samples.is_finite

    def _culprits(self, gains: FloatArray) -> tuple[int, ...]:
        """Rows that gain most; where what lies between the layers does it, all of them."""
        known = np.nan_to_num(gains, nan=-np.inf, posinf=38.0)
        least = self.culprit_share * known.max() if known.max() > 0 else -np.inf
        return tuple(int(row) for row in np.flatnonzero((known >= least) & ~np.isnan(gains)))

    def _cause(self, first: Snapshot | None, snapshot: Snapshot, gains: FloatArray) -> Cause:
        if first is not None and first is not snapshot:
            began, _ = _largest_growth(first)
            if began < self.well_at_first:
                return "learning rate"
        return "weights" if np.median(gains) > self.gentle else "depth"

    def _diagnosis(
        self, window: Window, cause: Cause, rows: tuple[int, ...], growth: float, way: str
    ) -> Diagnosis:
        return Diagnosis(
            cause=cause,
            rows=rows,
            severity="error",
            message=f"Signals grow by {growth:.1f} decades {way}, most in {{layers}}.",
            evidence={"growth_log10": growth, "growth_log10_threshold": self.growth},
            fixes=Deferred(lambda: _fixes(cause, [window.layers[row] for row in rows])),
            covers=frozenset(range(len(window.layers))),
        )


def _last_finite(window: Window) -> Snapshot:
    """The newest sample; where that is not finite, the last finite one with signals before it.

    So an explosion that ended in NaN is still named as what it was.
    """
    newest = window.snapshots[-1]
    return newest if newest.is_finite else window.history.last_finite_signals or newest


def _largest_growth(snapshot: Snapshot) -> tuple[float, str]:
    backward = snapshot.backward_growth
    forward = snapshot.forward_drift
    if not backward >= forward:
        return forward, "on the way forward"
    return backward, "on the way back"


def _gains(snapshot: Snapshot) -> FloatArray:
    """log10 of what a layer multiplies its signal by, the larger of both ways: (layers,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        backward = np.log10(snapshot.input_grad_norm) - np.log10(snapshot.output_grad_norm)
        forward = np.log10(snapshot.output_rms) - np.log10(snapshot.input_rms)
    weighted = np.asarray([layer.weighted for layer in snapshot.layers])
    return np.where(weighted, np.fmax(backward, forward), np.nan).astype(np.float32)


def _fixes(cause: Cause, layers: list[Layer]) -> tuple[Fix, ...]:
    clip = clip_gradients(layers)
    if cause == "time":
        return (clip, orthogonal_recurrent(layers))
    if cause == "learning rate":
        return (lower_learning_rate(layers, factor=0.1), warm_up(layers), clip)
    skips = [residual_path(layers)] if any(layer.keeps_width for layer in layers) else []
    return (matching_initialisation(layers), insert_normalisation(layers), *skips, clip)
