r"""The loss takes probabilities for logits: a softmax or sigmoid is applied twice.

## What it means

The network ends in a softmax or a sigmoid (in the model, or between it and the loss), and the loss
applies its own to what comes out: `CrossEntropyLoss` and `BCEWithLogitsLoss` in PyTorch,
`from_logits=True` in Keras.

## Why it matters

A second softmax of ten probabilities lies between 0.09 and 0.23, however sure the network is. The
loss cannot come near zero and the gradient passes two slopes, so training is slow and ends early.
Nothing breaks, which is why it stays unnoticed.

## How it is measured

Every loss leaves its own direction in the gradient $g = \partial L/\partial z$ at the last layer's
output $z$. With $p$ the softmax (or sigmoid) of $z$ and $y$ the one-hot target, which is where $g$
is negative, a cross-entropy on logits gives $p - y$, a squared error on probabilities
$J(p)(p - y)$, and a cross-entropy that is given $p$ gives $J(p)(\mathrm{softmax}(p) - y)$: there
$\mathrm{softmax}(p) - N\,\partial L/\partial p$ is one-hot. The misfit of each is the part of $g$
that it does not explain; the rule fires if the best of those that squash twice has less than a
thirtieth of the misfit of the best other. Scale, reduction and class weights do not matter. Median
over five samples, in two windows in a row.

## Example

`nn.Sequential(..., nn.Softmax(dim=1))` trained with `nn.CrossEntropyLoss()`.

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
from gradwatch.fixes.loss import loss_on_logits
from gradwatch.history import Window
from gradwatch.rules.base import Diagnosis, Rule, threshold


@dataclass(frozen=True)
class ProbabilitiesAsLogits(Rule):
    """The loss squashes what is squashed already."""

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
            fixes=(loss_on_logits([layers[row] for row in rows]),),
            covers=flow.upstream(layers, rows),
        )
