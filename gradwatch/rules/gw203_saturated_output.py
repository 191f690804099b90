r"""The output activation is saturated and the loss cannot pull it back.

## What it means

The network's last activation is on its flat side, and the loss hardly depends on the layer before
it although the loss is not small: the output is confident and wrong.

## Why it matters

A squared error after a sigmoid multiplies its gradient by the slope of the sigmoid, which is
nearly zero just where the output is most wrong. Cross-entropy on logits cancels that slope.

## How it is measured

More than half of the values at an output layer are flat, and the elasticity of the loss to that
output,

$$
\frac{\lVert \Delta \rVert \max(\lVert y \rVert, \sqrt{n})}{|L|}
$$

for $n$ values in $y$, is below 0.05; medians over five samples, in two windows in a row. Where the
activation cannot be seen (it is part of the loss function, and `observe_loss` is called after
`backward`), the elasticity has to be as small and no layer may have moved by more than 1e-4 a step
in the whole run. Without `observe_loss` the rule is silent.

## Causes

- `loss` (warning): the loss multiplies its gradient by a slope that is nearly zero.

## Example

A sigmoid output whose bias starts at 10, under a mean squared error: the elasticity is 0.002,
and the loss stays where it is.

## Fixes

Give the loss logits: binary cross-entropy with logits, or cross-entropy.

## When it is wrong

A loss with a large constant part makes every elasticity small.

## References

- Goodfellow, Bengio & Courville 2016, Deep Learning, section 6.2.2.2.
- Glorot & Bengio 2010, section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gradwatch import flow
from gradwatch.fixes.loss import loss_on_logits
from gradwatch.history import Window
from gradwatch.rules.base import Deferred, Diagnosis, Rule, threshold
from gradwatch.samples import Flags, Samples


@dataclass(frozen=True)
class SaturatedOutput(Rule):
    """The output activation is saturated and does not recover.

    Args:
        saturation: Share of flat values at the output above which it counts as saturated.
        elasticity: Elasticity of the loss to the output below which the loss cannot pull it back.
        still: Largest update ratio of the run below which an unseen activation counts as flat.
    """

    code = "GW203"
    name = "saturated-output"

    saturation: float = threshold(0.5, unit="1", source="calibration, as GW202")
    elasticity: float = threshold(0.05, unit="1", source="calibration: above 1 on healthy nets")
    still: float = threshold(1e-4, unit="1", source="calibration: ten times GW501's update ratio")

    def check(self, window: Window) -> Iterable[Diagnosis]:
        layers = window.layers
        saturation = window.typical.saturation_fraction
        elasticity = window.median(lambda snapshot: snapshot.output_elasticity)
        last = [
            layer.weighted and not fed
            for layer, fed in zip(layers, flow.consumers(layers), strict=True)
        ]
        flat = (saturation > self.saturation) | self._stands_still(window)
        guilty = flat & (elasticity < self.elasticity) & last
        rows = tuple(int(row) for row in np.flatnonzero(guilty))
        if not rows:
            return
        smallest = float(elasticity[list(rows)].min())
        yield Diagnosis(
            cause="loss",
            rows=rows,
            severity="warning",
            message=(
                f"The loss hardly moves with the output of {{layers}} (elasticity {smallest:.1e}) "
                "although it is not small: it is on the flat side of its activation, where this "
                "loss cannot pull a confident wrong output back."
            ),
            evidence={
                "saturation_fraction": float(saturation[list(rows)].max()),
                "saturation_fraction_threshold": self.saturation,
                "output_elasticity": smallest,
                "output_elasticity_threshold": self.elasticity,
            },
            fixes=Deferred(lambda: (loss_on_logits([layers[row] for row in rows]),)),
            covers=flow.upstream(layers, rows),
        )

    def suspects(self, samples: Samples) -> Flags:
        last = np.asarray([not fed for fed in flow.consumers(samples.layers)], dtype=np.bool_)
        flat = samples.statistic("saturation_fraction") > self.saturation
        stands_still = samples.largest_update_ratio < self.still
        return np.asarray((flat & last).any(axis=1) | stands_still)

    def _stands_still(self, window: Window) -> bool:
        """Whether nothing has moved in the whole run, for an activation that cannot be seen."""
        return window.history.largest_update_ratio < self.still
