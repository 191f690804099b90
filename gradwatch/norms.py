"""Norms: how the norms of parts add up, and how they compare. On the host, on NumPy."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def root_sum_square(norms: Iterable[float] | NDArray[np.float64]) -> float:
    """The norm of parts whose norms are given; +inf if any is not finite, NaN without any."""
    values = list(norms)
    if len(values) == 1:
        return abs(float(values[0])) if math.isfinite(values[0]) else math.inf
    if not values:
        return math.nan
    return float(np.hypot.reduce(values)) if np.isfinite(values).all() else math.inf


def root_sum_square_by_row(
    norms: NDArray[np.float64], row: NDArray[np.intp], rows: int
) -> NDArray[np.float64]:
    """The norm of each row from those of its parts, NaN where it has none, shape (rows,).

    Args:
        norms: Shape (parts,); a part that is NaN was not read, and does not count.
        row: Row of each part, shape (parts,).
        rows: How many rows there are.
    """
    seen = ~np.isnan(norms)
    squares = np.bincount(row[seen], norms[seen] ** 2, minlength=rows)
    counts = np.bincount(row[seen], minlength=rows)
    return np.where(counts > 0, np.sqrt(squares), np.nan)


def log10_ratio(numerator: float, denominator: float) -> float:
    """log10 of a ratio of norms; NaN for 0/0, inf/inf and anything not observed."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.log10(np.float64(numerator) / np.float64(denominator)))


def finite_or_inf(figure: float) -> float:
    """The figure, +inf for one that is not finite."""
    return float(figure) if math.isfinite(figure) else math.inf


def decay_and_growth_log10(norms: NDArray[np.float64]) -> tuple[float, float]:
    r"""(decay, growth) of the norms of $\partial L/\partial x_t$ over time.

    Decay is $\log_{10}(\lVert x_0 \rVert / \max_t)$, growth $\log_{10}(\max_t / \lVert x_T \rVert)$
    with T the last step that has a signal; NaN where no step has one (Pascanu, Mikolov & Bengio
    2013). An exact zero at the first step counts as 1e-45, the smallest float32.

    Args:
        norms: Shape (time,).
    """
    alive = norms[np.isfinite(norms) & (norms > 0)]
    if not alive.size or not np.isfinite(norms).all():
        return float("nan"), float("nan")
    largest = alive.max()
    first = max(norms[0], 1e-45)
    return float(np.log10(first / largest)), float(np.log10(largest / alive[-1]))
