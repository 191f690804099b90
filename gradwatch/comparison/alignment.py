"""Alignment: which sample of one run belongs to which of another, and how far they are apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gradwatch.comparison.series import Levels, Series, Steps

Rows = NDArray[np.intp]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Aligned:
    """Two runs at the steps that both observed, and the layers that both have.

    Args:
        names: Names of the common layers, in the forward order of the first run.
        steps_a: Steps of the first run, shape (steps,).
        steps_b: Those of the second that they are held against, shape (steps,).
        levels_a: log10 of the first run's figures, shape (steps, layers), see `Series`.
        levels_b: The same of the second.
    """

    names: tuple[str, ...]
    steps_a: Steps
    steps_b: Steps
    levels_a: Levels
    levels_b: Levels

    @cached_property
    def ratios(self) -> Levels:
        """log10 of the second run's figures over the first's, shape (steps, layers).

        0 where both are zero or both not finite, infinite where one alone is, NaN where one was not
        observed.
        """
        with np.errstate(invalid="ignore"):
            return np.where(self.levels_a == self.levels_b, 0.0, self.levels_b - self.levels_a)

    @cached_property
    def broken(self) -> Flags:
        """Whether both were observed and one alone is not finite, shape (steps, layers)."""
        unlike = np.isposinf(self.levels_a) != np.isposinf(self.levels_b)
        return np.asarray(unlike & ~np.isnan(self.ratios))


def align(a: Series, b: Series) -> Aligned:
    """Two runs, held against each other where both observed a common layer."""
    names_b = frozenset(b.names)
    names = tuple(name for name in a.names if name in names_b)
    rows_a, rows_b = matched(a.steps, b.steps)
    levels_a = a.levels[np.ix_(rows_a, _columns(a.names, names))]
    levels_b = b.levels[np.ix_(rows_b, _columns(b.names, names))]
    seen = ~(np.isnan(levels_a) | np.isnan(levels_b)).all(axis=1)
    return Aligned(
        names,
        a.steps[rows_a][seen],
        b.steps[rows_b][seen],
        levels_a[seen],
        levels_b[seen],
    )


def matched(a: Steps, b: Steps) -> tuple[Rows, Rows]:
    """Rows of `a` and of `b` whose steps are the same, or nearest to each other.

    Two steps are near if they are at most half an interval apart, that of the run which is observed
    more rarely there; so runs that ran at different times have none in common.

    Args:
        a: Increasing steps, shape (samples of a,).
        b: Increasing steps, shape (samples of b,).
    """
    if not len(a) or not len(b):
        return np.empty(0, dtype=np.intp), np.empty(0, dtype=np.intp)
    rows_a = np.arange(len(a))
    rows_b = _nearest(b, a)
    mutual = _nearest(a, b)[rows_b] == rows_a
    interval = np.maximum(_intervals(a), _intervals(b)[rows_b])
    near = 2 * np.abs(a - b[rows_b]) <= interval
    return rows_a[mutual & near], rows_b[mutual & near]


@dataclass(frozen=True, slots=True)
class Departure:
    """Where the ratio of one layer leaves the factor.

    Args:
        first: Row of `Aligned` from which on it does.
        rows: The rows from there on that make it one: as many as it takes.
    """

    first: int
    rows: Rows


def departures(aligned: Aligned, *, limit: float, persistence: int) -> dict[int, Departure]:
    """Column of a layer → where its ratio is first beyond the limit, on one side, for long enough.

    For `persistence` samples on end that observed the layer; where one run alone is not finite from
    there to the end, fewer do, since a run that breaks off has no more.

    Args:
        aligned: The two runs.
        limit: Largest log10 of a ratio that is no departure.
        persistence: Samples.
    """
    beyond = (np.abs(aligned.ratios) > limit).any(axis=0)
    found = {
        int(layer): _departure(aligned, int(layer), limit=limit, persistence=persistence)
        for layer in np.flatnonzero(beyond)
    }
    return {layer: left for layer, left in found.items() if left is not None}


def largest_lasting(aligned: Aligned, *, persistence: int) -> Levels:
    """Largest |log10| of a ratio that every one of so many samples on end reaches, on one side.

    Shape (layers,); NaN for a layer that fewer samples observed.
    """
    if len(aligned.ratios) < persistence:
        return np.full(len(aligned.names), np.nan)
    observed_first = np.argsort(np.isnan(aligned.ratios), axis=0, kind="stable")
    known = np.take_along_axis(aligned.ratios, observed_first, axis=0)
    windows = np.lib.stride_tricks.sliding_window_view(known, persistence, axis=0)
    above = np.fmax.reduce(windows.min(axis=2), axis=0)
    below = np.fmin.reduce(windows.max(axis=2), axis=0)
    return np.asarray(np.maximum(np.maximum(above, -below), 0.0))


def _departure(aligned: Aligned, layer: int, *, limit: float, persistence: int) -> Departure | None:
    rows = np.flatnonzero(~np.isnan(aligned.ratios[:, layer]))
    ratios, broken = aligned.ratios[rows, layer], aligned.broken[rows, layer]
    sides = np.where(np.abs(ratios) > limit, np.sign(ratios), 0.0)
    starts = np.flatnonzero(np.diff(sides, prepend=np.nan) != 0)
    for start, length in zip(starts, np.diff(starts, append=len(sides)), strict=True):
        if sides[start] and (length >= persistence or broken[start:].all()):
            return Departure(int(rows[start]), rows[start : start + min(length, persistence)])
    return None


def _columns(names: tuple[str, ...], wanted: tuple[str, ...]) -> Rows:
    """Where each wanted name stands among the names."""
    column = {name: index for index, name in enumerate(names)}
    return np.asarray([column[name] for name in wanted], dtype=np.intp)


def _nearest(steps: Steps, wanted: Steps) -> Rows:
    """Row of `steps` nearest to each wanted step, the earlier of two as near."""
    after = np.clip(np.searchsorted(steps, wanted), 1, max(len(steps) - 1, 1))
    after = np.minimum(after, len(steps) - 1)
    before = np.maximum(after - 1, 0)
    nearer = np.abs(wanted - steps[before]) <= np.abs(steps[after] - wanted)
    rows: Rows = np.where(nearer, before, after)
    return rows


def _intervals(steps: Steps) -> Steps:
    """The larger of the intervals beside each sample, 0 for an only one."""
    gaps = np.diff(steps)
    intervals: Steps = np.maximum(np.append(0, gaps), np.append(gaps, 0))
    return intervals
