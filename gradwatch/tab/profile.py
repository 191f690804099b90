"""Profile: the backward signal layer by layer at one step, and where on its way it is lost."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradwatch.flow import backward_profile, worst_path
from gradwatch.snapshot import Snapshot
from gradwatch.tab.matrix import Rows
from gradwatch.tab.stored_run import StoredRun
from gradwatch.tab.wire import observed, observed_list

EMPTY: dict[str, Any] = {
    "step": None,
    "backward": [],
    "expected": [],
    "activation_gain": [],
    "weight_gain": [],
    "path": [],
    "depth": None,
    "growth": None,
}
"""The profile of a run without signals."""


def profile(run: StoredRun, step: float) -> dict[str, Any]:
    """The profile at the sample with signals that is nearest to a step, for JSON.

    Its lists have an entry for each layer in forward order, log10, None where not observed; `path`
    has the layers from an input to an output layer along which the signal is weakest.

    Args:
        run: The run.
        step: The step; of two samples that are as near, the earlier is taken.
    """
    matrix = run.matrix
    with_signals = np.flatnonzero(matrix.has_signals)
    if not len(with_signals):
        return EMPTY
    steps = matrix.steps[with_signals]
    distances = np.abs(steps - np.clip(step, steps[0], steps[-1]))
    snapshot, rows = matrix.snapshot(int(with_signals[distances.argmin()]))
    return _of(snapshot, rows, len(matrix.layers))


def _of(snapshot: Snapshot, rows: Rows, layer_count: int) -> dict[str, Any]:
    def of_all(values: NDArray[Any], places: Rows) -> list[float | str | None]:
        spread = np.full(layer_count, np.nan)
        spread[places] = values
        return observed_list(spread)

    with np.errstate(all="ignore"):
        path = worst_path(snapshot)
        backward, growth = backward_profile(snapshot), snapshot.backward_growth
    on_path = rows[:0] if path is None else rows[list(path.rows)]
    nothing = np.empty(0)
    return {
        "step": snapshot.step,
        "backward": of_all(backward, rows),
        "expected": [0.0] * layer_count,
        "activation_gain": of_all(nothing if path is None else path.activation_gain_log10, on_path),
        "weight_gain": of_all(nothing if path is None else path.weight_gain_log10, on_path),
        "path": on_path.tolist(),
        "depth": observed(math.nan if path is None else path.depth_log10),
        "growth": observed(growth),
    }
