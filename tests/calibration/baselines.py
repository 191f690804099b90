"""Rival detectors, each a yes or no from the same recordings that gradwatch's rules see.

All but the last look at every observed step and say yes at the first that fits, as the tools they
stand for do.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gradwatch import Snapshot, State

from .training import Run

MEAN_GRADIENT = 1e-7
"""Absolute mean gradient; SageMaker Debugger's VanishingGradient rule, its default."""
DEAD_FRACTION = 0.5
"""Share of inactive units in a layer; SageMaker Debugger's DeadRelu rule, its default."""
UPDATE_RATIOS = (1e-5, 1.0)
"""Two decades below the folklore figure of 1e-3 for a healthy update ratio, three above it."""
FIRST_TO_LAST = 1e-3
FIRST_NORM = 1e-4
"""Gradient norm of the first weight layer, against the last and alone (AUTOTRAINER, 2021)."""
LOSS_DROP = 0.1
"""Share of the first loss by which a run that trains has brought the loss down."""


def with_gradient(snapshot: Snapshot) -> NDArray[np.bool_]:
    """Layers that had a gradient at the step, all-zero ones included, shape (layers,)."""
    return np.isin(snapshot.states, (State.TRAINED, State.ZERO_GRADIENT))


def tiny_gradient(run: Run) -> bool:
    """Mean absolute gradient of some layer below 1e-7; the rms stands in for the mean."""
    return any(
        bool(np.any(snapshot.grad_rms[with_gradient(snapshot)] < MEAN_GRADIENT))
        for snapshot in run.history
    )


def tiny_gradient_dead_or_off_pace(run: Run) -> bool:
    """A tiny gradient, a layer with most units dead, or an update ratio outside 1e-5 to 1."""
    low, high = UPDATE_RATIOS
    return tiny_gradient(run) or any(
        bool(np.any(snapshot.dead_fraction > DEAD_FRACTION))
        or bool(np.any(snapshot.update_ratio[with_gradient(snapshot)] < low))
        or bool(np.any(snapshot.update_ratio > high))
        for snapshot in run.history
    )


def small_first_to_last(run: Run) -> bool:
    """AUTOTRAINER's vanishing rule without its accuracy gate, on norms of whole layers."""
    for snapshot in run.history:
        rows = [
            row for row in np.flatnonzero(with_gradient(snapshot)) if snapshot.layers[row].weighted
        ]
        rows.sort(key=lambda row: snapshot.layers[row].depth)
        if not rows:
            continue
        first, last = snapshot.grad_norm[rows[0]], snapshot.grad_norm[rows[-1]]
        if first < FIRST_NORM and first < FIRST_TO_LAST * last:
            return True
    return False


def loss_not_down(run: Run) -> bool:
    """Mean of the last 20 losses not 10 % below the mean of the first three, or not finite."""
    before, after = np.mean(run.losses[:3]), np.mean(run.losses[-20:])
    return not bool(after < (1.0 - LOSS_DROP) * before)


BASELINES: dict[str, Callable[[Run], bool]] = {
    "mean abs g < 1e-7": tiny_gradient,
    "that, dead ReLU, update ratio": tiny_gradient_dead_or_off_pace,
    "AUTOTRAINER's ratios, no gate": small_first_to_last,
    "loss not down by 10 %": loss_not_down,
}
