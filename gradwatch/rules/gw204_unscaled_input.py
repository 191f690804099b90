r"""The network's inputs are far too large or far too small.

## What it means

The rms of what a first layer reads is outside [0.03, 30].

## Why it matters

The input is a factor of the first layer's gradient, and initialisations assume inputs of about unit
size. Large inputs saturate the next activations or make the first layer's steps too large; tiny
ones starve it.

## How it is measured

$\mathrm{rms}(x)$ at every weighted layer that no other layer feeds; median over five samples, in
two windows in a row. Embeddings are not judged, since an index has no size. Nor is a first layer
whose only readers are normalisation layers, which undo the scale.

## Causes

- `inputs` (warning): what is fed in is not of about unit size.

## Example

Pixels from 0 to 255 (rms 124 on scikit-learn's digits, scaled that way), or data in units that
make it a thousandth.

## Fixes

Standardise the inputs by the mean and the deviation of the training set. A normalisation right
behind the first layer does it as well.

## When it is wrong

One-hot inputs of $K$ classes have an rms of $1/\sqrt{K}$, which is below 0.03 from 1,112 classes
on, and they may be fine.

## References

- LeCun et al. 1998, Efficient BackProp, section 4.3.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gradwatch import flow
from gradwatch.fixes.inputs import standardise_inputs
from gradwatch.history import Window
from gradwatch.layer import Layer
from gradwatch.rules.base import Deferred, Diagnosis, Rule, threshold
from gradwatch.samples import Flags, Samples


@dataclass(frozen=True)
class UnscaledInput(Rule):
    """The network's inputs are not of about unit size.

    Args:
        smallest: Rms of the inputs below which they are too small.
        largest: Rms of the inputs above which they are too large.
    """

    code = "GW204"
    name = "unscaled-input"

    smallest: float = threshold(0.03, unit="x", source="calibration; LeCun et al. 1998")
    largest: float = threshold(30.0, unit="x", source="calibration; LeCun et al. 1998")

    def check(self, window: Window) -> Iterable[Diagnosis]:
        layers = window.layers
        rms = window.typical.input_rms
        outside = (rms < self.smallest) | (rms > self.largest)
        judged = [row for row in flow.input_rows(layers) if not _is_normalised(layers, row)]
        rows = tuple(row for row in judged if outside[row] and rms[row] > 0)
        if not rows:
            return
        worst = float(max(rms[list(rows)], key=lambda size: abs(np.log10(size))))
        side = "large" if worst > 1 else "small"
        yield Diagnosis(
            cause="inputs",
            rows=rows,
            severity="warning",
            message=f"The inputs of {{layers}} are too {side}: rms {worst:.3g}, expected about 1.",
            evidence={
                "input_rms": worst,
                "input_rms_smallest": self.smallest,
                "input_rms_largest": self.largest,
            },
            fixes=Deferred(
                lambda: (standardise_inputs([layers[row] for row in rows], input_rms=worst),)
            ),
            covers=flow.downstream(layers, rows),
        )

    def suspects(self, samples: Samples) -> Flags:
        rms = samples.statistic("input_rms")[:, list(flow.input_rows(samples.layers))]
        return np.asarray(((rms < self.smallest) | (rms > self.largest)).any(axis=1))


def _is_normalised(layers: tuple[Layer, ...], row: int) -> bool:
    """Whether everything that reads the layer is unweighted with parameters: a normalisation."""
    readers = flow.consumers(layers)[row]
    return bool(readers) and not any(layers[reader].weighted for reader in readers)
