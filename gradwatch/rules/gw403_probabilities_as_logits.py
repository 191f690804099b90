r"""The loss takes probabilities for logits: a softmax or sigmoid is applied twice.

## What it means

The network ends in a softmax or a sigmoid (in the model, or between it and the loss), and the loss
applies its own to what comes out: `CrossEntropyLoss` and `BCEWithLogitsLoss` in PyTorch,
`from_logits=True` in Keras.

## Why it matters

A second softmax of ten probabilities lies between 0.085 and 0.232, however sure the network is.
So the cross-entropy cannot fall below 1.46, and the gradient passes two slopes: training is slow
and ends early. Nothing breaks, which is why it stays unnoticed.

## How it is measured

Every loss leaves its own direction in the gradient $g = \partial L/\partial z$ at the last layer's
output $z$. Let $p$ be the softmax (or sigmoid) of $z$, $J$ its derivative, and $t$ the one-hot
target, which the signs of $g$ give away.

- Cross-entropy on logits: $d = p - t$.
- Squared error on probabilities: $d = J (p - t)$.
- Cross-entropy that is given $p$: $d = J (\mathrm{softmax}(p) - t)$.

The misfit of a loss is the part of $g$ that its direction leaves unexplained,
$m = \lVert g - a d \rVert / \lVert g \rVert$ with the best factor $a$. The rule fires if the best
loss that squashes twice has less than a thirtieth of the misfit of the best other one. Scale,
reduction and class weights do not matter. Median over five samples, in two windows in a row.

## Causes

- `loss` (warning): it is given probabilities where it expects logits.

## Example

`nn.Sequential(..., nn.Softmax(dim=1))` trained with `nn.CrossEntropyLoss()`: the ratio of the
misfits is 1.6e-5.

## Fixes

Give the loss what the last layer puts out, and apply the softmax or sigmoid only where
probabilities are read.

## When it is wrong

It is silent, rather than wrong, under label smoothing or soft targets, in float16 and bfloat16, and
where the network's output is neither.

## References

- Goodfellow, Bengio & Courville 2016, Deep Learning, section 6.2.2.
- Bridle 1990, Probabilistic interpretation of feedforward classification network outputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gradwatch import flow
from gradwatch.fixes.loss import bare_logits
from gradwatch.history import Window
from gradwatch.rules.base import Deferred, Diagnosis, Rule, threshold
from gradwatch.samples import Flags, Samples


@dataclass(frozen=True)
class ProbabilitiesAsLogits(Rule):
    """The loss squashes what is squashed already.

    Args:
        misfit: Misfit of the losses that squash twice over that of the others, below which it
            fires.
    """

    code = "GW403"
    name = "probabilities-as-logits"

    misfit: float = threshold(
        1 / 30, unit="1", source="calibration: below 0.01 if squashed twice, above 0.2 otherwise"
    )

    def check(self, window: Window) -> Iterable[Diagnosis]:
        ratio = window.typical.logit_misfit_ratio
        rows = tuple(int(row) for row in np.flatnonzero(ratio < self.misfit))
        if not rows:
            return
        layers = window.layers
        worst = float(ratio[list(rows)].min())
        yield Diagnosis(
            cause="loss",
            rows=rows,
            severity="warning",
            message=(
                "The loss takes the probabilities that come after {layers} for logits, so they "
                "are squashed by a softmax or sigmoid twice."
            ),
            evidence={
                "logit_misfit_ratio": worst,
                "logit_misfit_ratio_threshold": self.misfit,
            },
            fixes=Deferred(lambda: (bare_logits([layers[row] for row in rows]),)),
            covers=flow.upstream(layers, rows),
        )

    def suspects(self, samples: Samples) -> Flags:
        return samples.any_below("logit_misfit_ratio", self.misfit)
