r"""Hidden activations sit on their flat sides.

## What it means

More than half of the values of a sigmoid or tanh layer lie where its slope is below a twentieth of
its largest.

## Why it matters

On the flat side the gradient says little about the direction in which to go: units act as switches
that hardly move. The signal need not vanish for that, since the large weights that saturate the
units also carry the signal past them.

## How it is measured

The share of values with $|f'| < 0.05 \max f'$, of bounded activations (sigmoid, tanh, softsign and
their hard variants) that another layer reads; median over five samples, in two windows in a row.
Gates, whose result is multiplied into another branch, are not counted. Saturation that came during
training is left alone where the loss has fallen by a fifth (the net has learned to) and where the
backward signal had vanished before (then GW101 speaks). Saturation from the start is a notice while
the loss has fallen by a fifth.

## Causes

- `inputs` (warning or notice): the network's inputs are large, their rms above 10.
- `learning rate` (warning or notice): in the first sample less than a quarter was saturated, so
  steps that are too large took the values there.
- `weights` (warning or notice): otherwise; the weights before the activation are too large.

## Example

Ten tanh layers with weights six times too large (`weights`); tanh layers on pixels from 0 to 255
(`inputs`).

## Fixes

For `weights`: the initialisation that matches the activation, or normalisation. For `inputs`:
standardise the inputs. For `learning rate`: a smaller one, or a warm-up.

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
from gradwatch.finding import Cause, Fix
from gradwatch.fixes.initialisation import matching_initialisation
from gradwatch.fixes.inputs import standardise_inputs
from gradwatch.fixes.learning_rate import lower_learning_rate, warm_up
from gradwatch.fixes.normalisation import insert_normalisation
from gradwatch.history import Window
from gradwatch.layer import Layer
from gradwatch.rules.base import Deferred, Diagnosis, Rule, began_vanishing, threshold
from gradwatch.samples import Flags, Samples

_WHY = {
    "inputs": "the network's inputs are large (rms {:.3g}).",
    "learning rate": "training took them there, with steps that are too large.",
    "weights": "the weights before them are too large.",
}


@dataclass(frozen=True)
class SaturatedActivation(Rule):
    """Hidden activations are saturated.

    Args:
        saturation: Share of flat values above which a layer is reported.
        depth: Backward depth B below which the signal had vanished before, so that GW101 speaks.
        well_at_first: Share of flat values in the first sample below which the learning rate is to
            blame.
        learning: Loss over first loss below which the net learns, so that it is a notice at most.
        large_input: Rms of the network's inputs above which they are to blame.
    """

    code = "GW202"
    name = "saturated-activation"

    saturation: float = threshold(0.5, unit="1", source="calibration; Glorot & Bengio 2010")
    depth: float = threshold(-3.5, unit="log10", source="calibration, as GW101")
    well_at_first: float = threshold(
        0.25, unit="1", source="calibration: half of what counts as saturated"
    )
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
        cause = self._cause(window, rows, largest)
        reading = [layers[row] for row in first]
        guilty = [layers[row] for row in rows]
        worst = float(saturation[list(rows)].max())
        yield Diagnosis(
            cause=cause,
            rows=rows,
            severity="notice" if window.loss_ratio < self.learning else "warning",
            message=(
                f"Up to {worst:.0%} of the activations after {{layers}} are on their flat sides: "
                + _WHY[cause].format(largest)
            ),
            evidence={
                "saturation_fraction": worst,
                "saturation_fraction_threshold": self.saturation,
                "input_rms": largest,
                "input_rms_threshold": self.large_input,
            },
            fixes=Deferred(lambda: _fixes(cause, guilty, reading, largest)),
            covers=flow.upstream(layers, rows) | flow.downstream(layers, rows),
        )

    def suspects(self, samples: Samples) -> Flags:
        hidden = np.asarray([bool(fed) for fed in flow.consumers(samples.layers)], dtype=np.bool_)
        flat = samples.statistic("saturation_fraction") > self.saturation
        return np.asarray((flat & hidden).any(axis=1))

    def _cause(self, window: Window, rows: tuple[int, ...], largest_input: float) -> Cause:
        if largest_input > self.large_input:
            return "inputs"
        first = window.history.first_signals
        known = [row for row in rows if first is not None and row < len(first.layers)]
        if first is None or not known:
            return "weights"
        at_first = first.saturation_fraction[known]
        return "learning rate" if (at_first < self.well_at_first).all() else "weights"

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


def _fixes(
    cause: Cause, guilty: list[Layer], reading: list[Layer], input_rms: float
) -> tuple[Fix, ...]:
    if cause == "inputs":
        return (standardise_inputs(reading, input_rms=input_rms),)
    if cause == "learning rate":
        return (lower_learning_rate(guilty, factor=0.1), warm_up(guilty))
    return (matching_initialisation(guilty), insert_normalisation(guilty))
