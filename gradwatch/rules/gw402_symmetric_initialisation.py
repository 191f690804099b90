r"""All units of a layer have the same weights and stay that way.

## What it means

The output units of a layer do not differ from each other: all weights are zero, or the same
constant. Units with equal weights get equal gradients, so they stay equal.

## Why it matters

A layer of a hundred equal units is a layer of one unit. If the weights are zero in every layer, no
gradient passes at all.

## How it is measured

$$
\frac{\lVert W - \bar W_{\mathrm{units}} \rVert}{\lVert W \rVert} < 10^{-5}
$$

with $\bar W_{\mathrm{units}}$ the mean over the units, in every sample of two windows in a row, of
a layer that ran and that an optimizer trains. One zero layer among others (a zero-initialised head,
an adapter's second matrix) is broken up by its first step and is not meant.

## Causes

- `weights` (error): they start equal, and nothing tells the units apart.

## Example

`nn.init.zeros_` or `nn.init.constant_` on all weights.

## Fixes

Initialise the weights at random, by the scheme that matches the activation.

## When it is wrong

A layer that is meant to average, with weights tied by hand.

## References

- Goodfellow, Bengio & Courville 2016, Deep Learning, section 8.4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gradwatch import flow
from gradwatch.fixes.initialisation import break_symmetry
from gradwatch.history import Window
from gradwatch.rules.base import Deferred, Diagnosis, Rule, threshold
from gradwatch.samples import Flags, Samples
from gradwatch.snapshot import State


@dataclass(frozen=True)
class SymmetricInitialisation(Rule):
    """All units of a layer are alike.

    Args:
        spread: Spread of a layer's units below which they count as equal.
    """

    code = "GW402"
    name = "symmetric-initialisation"

    spread: float = threshold(
        1e-5, unit="1", source="float32 rounding stays below; one step of training goes far beyond"
    )

    def check(self, window: Window) -> Iterable[Diagnosis]:
        spread = window.stacked(lambda snapshot: snapshot.unit_spread_ratio)
        alike = (spread < self.spread).all(axis=0) & window.has_run()
        alike &= ~window.always(State.FROZEN, State.IDLE)
        rows = tuple(int(row) for row in np.flatnonzero(alike))
        if not rows:
            return
        layers = window.layers
        zero = bool((window.typical.weight_norm[list(rows)] == 0).all())
        yield Diagnosis(
            cause="weights",
            rows=rows,
            severity="error",
            message=(
                "All units of {layers} have the same weights"
                + (" (zero)" if zero else "")
                + ", so they get the same gradient and stay the same."
            ),
            evidence={
                "unit_spread_ratio": float(spread[:, list(rows)].max()),
                "unit_spread_ratio_threshold": self.spread,
            },
            fixes=Deferred(lambda: (break_symmetry([layers[row] for row in rows]),)),
            covers=flow.upstream(layers, rows) | flow.downstream(layers, rows),
        )

    def suspects(self, samples: Samples) -> Flags:
        return samples.any_below("unit_spread_ratio", self.spread)
