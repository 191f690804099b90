r"""The backward signal shrinks so much on its way to the inputs that early layers do not learn.

## What it means

Between the output layer and the input layer the backward signal $\Delta = \partial L/\partial y$
loses more than three and a half decades: of ten thousand parts, about three arrive. The layers
near the inputs get gradients thousands of times smaller than those near the outputs.

## Why it matters

The signal passes a slope and a weight matrix in every layer, and these factors multiply. A
sigmoid's slope is at most 1/4, so eight sigmoids in a row let through at most
$4^{-8} = 1.5 \cdot 10^{-5}$. A larger learning rate does not help: it scales all layers alike, and
the last ones blow up first.

## How it is measured

$$
B = \log_{10} \frac{\lVert \Delta_{\mathrm{in}} \rVert}{\lVert \Delta_{\mathrm{out}} \rVert}
$$

for the worst pair of an input layer and the strongest output layer that it leads to; median over
five samples, in two windows in a row. It is a ratio of signals, so neither the scale of the loss
nor that of the gradients matters.

The gain is then split along the path that carries most of the signal: $g_A$ sums what the
activations let through, $g_W$ what the weights do, and the rest lies in other operations. Each part
is held against a net that is well initialised: a ReLU costs -0.15, and He's weights give +0.15
back; any other activation and its weights should cost nothing. The part that falls short most is
the cause, unless the signal came through in the very first sample ($B > -1.5$): then training has
spoilt it. Layers with at least a third of the worst layer's share of it are named.

A signal that is exactly zero has no depth, so the rule says nothing of it: GW103, GW201, GW401 and
GW402 look at zeros.

## Causes

- `activation` (error): the activations are flat where the values lie, or steep nowhere.
- `weights` (error): the weights that the signal passes are too small for their fan-in.
- `wiring` (error): something else between the layers shrinks it, such as a pooling over many values
  or a constant factor.
- `learning rate` (error): at the first step the signal came through, and training changed that.

## Example

A multilayer perceptron with eight sigmoid layers and Glorot initialisation has $B = -5.2$, and
its loss does not move. The cause is `activation`.

## Fixes

For `activation`, ReLU with He initialisation is the surest; then a residual path, normalisation,
and layer-wise pre-training where the activation has to stay. For `weights`, the initialisation that
matches the activation, a residual path or normalisation. For `wiring`, normalisation or a residual
path. For
`learning rate`, a smaller one, a warm-up, clipping or normalisation. A signal that flows again
often needs a smaller learning rate; each fix says by how much.

## When it is wrong

An input branch that is meant to matter little (a weak side input) has a small signal by design. One
nearly zero layer among healthy ones heals itself within some steps; the rule waits for that.

## References

- Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks.
- He et al. 2015, Delving deep into rectifiers, section 2.2.
- Schoenholz et al. 2017, Deep information propagation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gradwatch import flow
from gradwatch.finding import Cause, Fix
from gradwatch.fixes.activation import relu_with_he
from gradwatch.fixes.clipping import clip_gradients
from gradwatch.fixes.initialisation import matching_initialisation
from gradwatch.fixes.learning_rate import lower_learning_rate, warm_up
from gradwatch.fixes.normalisation import insert_normalisation
from gradwatch.fixes.pretraining import stacked_autoencoders
from gradwatch.fixes.residual import residual_path
from gradwatch.history import History, Window
from gradwatch.layer import Layer
from gradwatch.rules.base import Deferred, Diagnosis, Rule, Verdict, flowed_at_first, threshold
from gradwatch.samples import Flags, Samples
from gradwatch.snapshot import FloatArray

_FACTOR = {
    "activation": "the activations after {layers} let too little of it through",
    "weights": "the weights of {layers} are too small to carry it",
    "wiring": "an operation between {layers}, neither weights nor an activation, shrinks it",
    "learning rate": "at the first step it came through, so training has spoilt {layers}",
}


@dataclass(frozen=True)
class VanishingGradient(Rule):
    """The backward signal vanishes on its way to the inputs.

    Args:
        depth: Backward depth B below which the signal counts as vanished.
        well_at_first: Backward depth B of the first sample above which the learning rate is to
            blame.
        culprit_share: Share of the worst layer's deficit from which on a layer is named.
    """

    code = "GW101"
    name = "vanishing-gradient"

    depth: float = threshold(
        -3.5, unit="log10", source="calibration: any value from -2.5 to -4 does alike"
    )
    well_at_first: float = threshold(
        -1.5, unit="log10", source="calibration: B of the first sample of healthy nets"
    )
    culprit_share: float = threshold(
        1 / 3, unit="1", source="calibration: names all of a uniform stack, three of nine layers"
    )

    def evaluate(self, history: History) -> Verdict | None:
        newest = history.windows(self.needs, size=self.size, count=1, warm_up=self.warm_up)
        if newest and np.isnan(_depth(newest[0])):
            return None
        return super().evaluate(history)

    def check(self, window: Window) -> Iterable[Diagnosis]:
        depth = _depth(window)
        if not depth < self.depth:
            return
        path = _path(window)
        if path is None:
            return
        layers = window.layers
        activation = path.activation_deficit_log10(layers)
        weights = path.weight_deficit_log10(layers)
        deficits: dict[Cause, float] = {
            "activation": float(activation.sum(dtype=np.float64)),
            "weights": float(weights.sum(dtype=np.float64)),
            "wiring": path.rest_log10,
        }
        cause = min(deficits, key=lambda entry: deficits[entry])
        if flowed_at_first(window.history, self.well_at_first):
            cause = "learning rate"
        blamed = {"activation": activation, "weights": weights}.get(cause)
        rows = path.rows if blamed is None else self._culprits(path, blamed, cause)
        yield Diagnosis(
            cause=cause,
            rows=rows,
            severity="error",
            message=(
                f"The backward signal shrinks by {-depth:.1f} decades from "
                f"{layers[path.rows[-1]].name} to {layers[path.rows[0]].name}: "
                f"{_FACTOR[cause]}."
            ),
            evidence={
                "backward_depth_log10": depth,
                "backward_depth_log10_threshold": self.depth,
                "activation_gain_log10": float(path.activation_gain_log10.sum(dtype=np.float64)),
                "weight_gain_log10": float(path.weight_gain_log10.sum(dtype=np.float64)),
                "activation_deficit_log10": deficits["activation"],
                "weight_deficit_log10": deficits["weights"],
            },
            fixes=Deferred(lambda: _fixes(cause, [layers[row] for row in rows])),
            covers=flow.upstream(layers, path.rows[:-1]),
        )

    def suspects(self, samples: Samples) -> Flags:
        return samples.backward_depth < self.depth

    def _culprits(self, path: flow.Path, deficit: FloatArray, cause: str) -> tuple[int, ...]:
        """Rows with at least a third of the worst row's deficit.

        The input layer's weights carry no backward signal, so they show no deficit: it is named
        with the others where nearly all of them are.
        """
        guilty = deficit <= self.culprit_share * deficit.min()
        if cause == "weights" and guilty[1:].mean() >= 2 / 3:
            guilty[0] = True
        return tuple(np.asarray(path.rows)[guilty].tolist())


def _depth(window: Window) -> float:
    """Median B; NaN where the signal is exactly zero, which says nothing of its depth."""
    return window.median_of(lambda snapshot: snapshot.backward_depth)


def _path(window: Window) -> flow.Path | None:
    """The worst path of the medians; of the newest sample with one where their signal is zero."""
    candidates = (window.typical, *reversed(window.snapshots))
    paths = (flow.worst_path(snapshot) for snapshot in candidates)
    return next((path for path in paths if path is not None), None)


def _fixes(cause: str, layers: list[Layer]) -> tuple[Fix, ...]:
    skips = [residual_path(layers)] if any(layer.keeps_width for layer in layers) else []
    if cause == "activation":
        first = (relu_with_he(layers), *skips, insert_normalisation(layers))
        return (*first, stacked_autoencoders(layers))
    if cause == "learning rate":
        rate = (lower_learning_rate(layers, factor=0.1), warm_up(layers))
        return (*rate, clip_gradients(layers), insert_normalisation(layers))
    if cause == "weights":
        return (matching_initialisation(layers), *skips, insert_normalisation(layers))
    return (insert_normalisation(layers), *skips)
