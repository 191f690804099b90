"""Pooling: samples → columns of a heatmap, each column the consecutive samples that it stands for.

NaN is "not observed" and counts for nothing; +inf is "not finite" and shows in its column whatever
else is there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradwatch.snapshot import FloatArray, State

Starts = NDArray[np.intp]


def column_starts(sample_count: int, column_count: int) -> Starts:
    """The first sample of each column, shape (columns,); no column is empty.

    Args:
        sample_count: Number of samples.
        column_count: Columns wanted, at least one; fewer samples give one column each.
    """
    columns = min(sample_count, column_count)
    return np.arange(columns, dtype=np.intp) * sample_count // max(columns, 1)


def column_sizes(starts: Starts, sample_count: int) -> NDArray[np.int32]:
    """Samples in each column, shape (columns,)."""
    return np.diff(starts, append=sample_count).astype(np.int32)


def pooled(values: FloatArray, starts: Starts, *, geometric: bool) -> FloatArray:
    """Each column's mean of what was observed, shape (columns, layers).

    Args:
        values: Shape (samples, layers).
        starts: See `column_starts`.
        geometric: Whether to take the geometric mean of the values above zero, which is zero where
            all are; else the mean of the finite ones, which is -inf (log10 of zero) where all are.
    """
    if len(starts) == len(values):
        return values
    if not geometric:
        return _means(values, starts).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = np.log10(values)
    with np.errstate(over="ignore"):
        return (10.0 ** _means(levels, starts)).astype(np.float32)


def pooled_states(states: NDArray[np.int8], starts: Starts) -> NDArray[np.uint8]:
    """Each column's most frequent state, the one with the lower number if two are, as uint8.

    Args:
        states: Shape (samples, layers).
        starts: See `column_starts`.

    Returns:
        Shape (columns, layers).
    """
    if len(starts) == len(states):
        return states.astype(np.uint8)
    commonest = np.zeros((len(starts), states.shape[1]), dtype=np.uint8)
    most = np.zeros(commonest.shape, dtype=np.int32)
    for state in State:
        is_state = states == state
        if is_state.any():
            count = np.add.reduceat(is_state, starts, axis=0, dtype=np.int32)
            commonest[count > most] = state
            np.maximum(most, count, out=most)
    return commonest


def _means(values: FloatArray, starts: Starts) -> NDArray[np.float64]:
    """Mean of the finite values; +inf where any is, -inf where all that was observed is."""
    finite = np.isfinite(values)
    count = np.add.reduceat(finite, starts, axis=0, dtype=np.int32)
    total = np.add.reduceat(np.where(finite, values, 0), starts, axis=0, dtype=np.float64)
    means = np.full(total.shape, np.nan)
    np.divide(total, count, out=means, where=count > 0)
    if not finite.all():
        means[(count == 0) & np.logical_or.reduceat(values == -np.inf, starts, axis=0)] = -np.inf
        means[np.logical_or.reduceat(values == np.inf, starts, axis=0)] = np.inf
    return means
