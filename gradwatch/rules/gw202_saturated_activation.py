r"""Hidden activations sit on their flat sides.

## What it means

More than half of the values of a sigmoid or tanh layer are where its slope is below a twentieth of
its largest. The cause is `inputs` if the network's inputs are large, else `weights`.

## Why it matters

On the flat side the gradient says little about the direction in which to go: units act as switches
that hardly move. The signal need not vanish for that: large weights can make up for flat slopes.

## How it is measured

The share of values with $|f'| < 0.05 \max f'$ of bounded activations (sigmoid, tanh, hard variants)
that another layer reads; median over five samples, in two windows in a row. Gates, whose result is
multiplied into another branch, are not counted. Layers that saturate where the backward signal had
vanished before (GW101) are that finding's consequence; those that saturate while the loss falls
have learned to. Inputs count as large from an rms of 10 on.

## Example

Ten tanh layers with weights six times too large; or tanh layers on pixels from 0 to 255.

## Fixes

`weights`: the matching initialisation, normalisation. `inputs`: standardise the inputs.

## When it is wrong

Nets that are meant to be binary (hashing, binarised layers) saturate on purpose.

## References

- Glorot & Bengio 2010, section 3.
- LeCun et al. 1998, Efficient BackProp, section 4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gradwatch import flow
from gradwatch.fixes.initialisation import matching_initialisation
from gradwatch.fixes.inputs import standardise_inputs
from gradwatch.fixes.normalisation import insert_normalisation
from gradwatch.history import Window
from gradwatch.rules.base import Diagnosis, Rule, began_vanishing, threshold


@dataclass(frozen=True)
class SaturatedActivation(Rule):
    """Hidden activations are saturated."""

    code = "GW202"
    name = "saturated-activation"

    saturation: float = threshold(0.5, unit="1", source="calibration; Glorot & Bengio 2010")
    depth: float = threshold(-3.5, unit="log10", source="calibration, as GW101")
    learning: float = threshold(0.8, unit="1", source="calibration, as GW102")
    large_input: float = threshold(10.0, unit="x", source="calibration; LeCun et al. 1998")

    def check(self, window: Window) -> Iterable[Diagnosis]:
        layers = window.layers
        saturation = window.typical.saturation_fraction
        hidden = [bool(fed) for fed in flow.consumers(layers)]
        rows = tuple(int(row) for row in np.flatnonzero((saturation > self.saturation) & hidden))
        if not rows or (not self._began(window, rows) and self._is_consequence(window)):
            return
        sources = flow.upstream(layers, rows)
        first = [row for row in flow.input_rows(layers) if row in sources]
        inputs = window.typical.input_rms[first]
        largest = float(np.nan_to_num(inputs, nan=0.0).max(initial=0.0))
        by_inputs = largest > self.large_input
        guilty = [layers[row] for row in rows]
        fixes = (
            (standardise_inputs([layers[row] for row in first], input_rms=largest),)
            if by_inputs
            else (matching_initialisation(guilty), insert_normalisation(guilty))
        )
        worst = float(saturation[list(rows)].max())
        yield Diagnosis(
            cause="inputs" if by_inputs else "weights",
            rows=rows,
            severity="warning",
            message=(
                f"Up to {worst:.0%} of the activations after {{layers}} are on their flat sides: "
                + (
                    f"the network's inputs are large (rms {largest:.3g})."
                    if by_inputs
                    else "the weights before them are too large."
                )
            ),
            evidence={
                "saturation_fraction": worst,
                "saturation_fraction_threshold": self.saturation,
                "input_rms": largest,
                "input_rms_threshold": self.large_input,
            },
            fixes=fixes,
            covers=flow.upstream(layers, rows) | flow.downstream(layers, rows),
        )

    def _is_consequence(self, window: Window) -> bool:
        """Whether saturation that came in training is no cause: of vanishing, or of learning."""
        return began_vanishing(window, self.depth) or window.loss_ratio < self.learning

    def _began(self, window: Window, rows: tuple[int, ...]) -> bool:
        """Whether one of the rows was saturated in the run's first window already."""
        early = window.history.early
        if early is None:
            return False
        known = early.typical.saturation_fraction
        return any(known[row] > self.saturation for row in rows if row < len(known))
