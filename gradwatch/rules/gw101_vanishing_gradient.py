r"""The backward signal shrinks so much on its way to the inputs that early layers do not learn.

## What it means

Between the output layer and the input layer the backward signal $\Delta = \partial L/\partial y$
loses more than three and a half decades. The layers near the inputs get steps that are thousands
of times smaller than those near the outputs. The cause says which factor of the chain rule
collapsed: `activation` (the slopes f'), `weights` (the matrices the signal passes through) or
`wiring` (something else between the layers, such as a pooling or a constant factor).

## Why it matters

Every factor of $\partial E/\partial w = \partial E/\partial y \cdot f'(wx) \cdot x$ is multiplied
once a layer, so a modest loss per layer becomes an enormous one over the depth. A larger learning
rate does not help: it scales all layers alike, and the last ones blow up first.

## How it is measured

$B = \log_{10}(\lVert \Delta_{in} \rVert / \lVert \Delta_{out} \rVert)$, the worst over connected
pairs of an input layer and the strongest output layer it leads to; median over five samples, in
two windows in a row. It is a ratio of signals, so neither the scale of the loss nor that of the
gradients matters.

The gain is then split along the path that carries most of the signal: $g_A$ sums the gain of the
activations, $g_W$ that of the weights. He initialisation gives $g_A = -0.15$ and $g_W = +0.15$ a
layer with ReLU. The factor with the larger deficit against that is the cause, and the layers with
at least a third of the worst layer's deficit are named.

## Example

A multilayer perceptron with eight sigmoid layers and Glorot initialisation: each activation lets
through at most a quarter of the signal, so B is below -5. The cause is `activation`.

## Fixes

For `activation`: ReLU with He initialisation, normalisation, a residual path. For `weights`: the
initialisation that matches the activation, normalisation. Both usually need a smaller learning rate
with them.

## When it is wrong

A network in which one input branch is meant to matter little (a weak side input) has a small signal
there by design. One near-zero layer among healthy ones heals itself within some steps; the rule
waits for that.

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
from gradwatch.fixes.initialisation import matching_initialisation
from gradwatch.fixes.normalisation import insert_normalisation
from gradwatch.fixes.pretraining import stacked_autoencoders
from gradwatch.fixes.residual import residual_path
from gradwatch.history import History, Window
from gradwatch.layer import Layer
from gradwatch.rules.base import Diagnosis, Rule, Verdict, threshold
from gradwatch.snapshot import FloatArray

_FACTOR = {
    "activation": "the activations after {layers} let too little of it through",
    "weights": "the weights of {layers} are too small to carry it",
    "wiring": "an operation between {layers}, neither weights nor an activation, shrinks it",
}


@dataclass(frozen=True)
class VanishingGradient(Rule):
    """The backward signal vanishes on its way to the inputs."""

    code = "GW101"
    name = "vanishing-gradient"

    depth: float = threshold(
        -3.5, unit="log10", source="calibration: any value from -2.5 to -4 does alike"
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
        rest = path.depth_log10 - path.activation_gain_log10.sum() - path.weight_gain_log10.sum()
        deficits: dict[Cause, float] = {
            "activation": float(activation.sum()),
            "weights": float(weights.sum()),
            "wiring": float(rest),
        }
        cause = min(deficits, key=lambda entry: deficits[entry])
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
                "activation_gain_log10": float(path.activation_gain_log10.sum()),
                "weight_gain_log10": float(path.weight_gain_log10.sum()),
                "activation_deficit_log10": deficits["activation"],
                "weight_deficit_log10": deficits["weights"],
            },
            fixes=_fixes(cause, [layers[row] for row in rows]),
            covers=flow.upstream(layers, path.rows[:-1]),
        )

    def _culprits(self, path: flow.Path, deficit: FloatArray, cause: str) -> tuple[int, ...]:
        """Rows with at least a third of the worst row's deficit.

        The input layer's weights carry no backward signal, so they show no deficit: it is named
        with the others where nearly all of them are.
        """
        guilty = deficit <= self.culprit_share * deficit.min()
        if cause == "weights" and guilty[1:].mean() >= 2 / 3:
            guilty[0] = True
        return tuple(int(row) for row in np.asarray(path.rows)[guilty])


def _depth(window: Window) -> float:
    """Median B; NaN where the signal is exactly zero, which says nothing of its depth."""
    return window.median_of(lambda snapshot: snapshot.backward_depth)


def _path(window: Window) -> flow.Path | None:
    """The worst path of the medians; of the newest sample with one where their signal is zero."""
    candidates = (window.typical, *reversed(window.snapshots))
    paths = (flow.worst_path(snapshot) for snapshot in candidates)
    return next((path for path in paths if path is not None), None)


def _fixes(cause: str, layers: list[Layer]) -> tuple[Fix, ...]:
    if cause == "activation":
        first = (relu_with_he(layers), insert_normalisation(layers), residual_path(layers))
        return (*first, stacked_autoencoders(layers))
    if cause == "weights":
        return (matching_initialisation(layers), insert_normalisation(layers))
    return (insert_normalisation(layers), residual_path(layers))
