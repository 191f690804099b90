"""Divergence: where two stored runs leave each other, at which step and in which layer first.

Layers are held against each other by name, steps by their number. A run diverges from another where
a layer's figure leaves a factor of the other's for several samples on end. Healthy runs of the same
network under other seeds do not reach that factor (`python -m tests.calibration.twins`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from gradwatch.comparison.alignment import (
    Aligned,
    Departure,
    align,
    departures,
    largest_lasting,
    matched,
)
from gradwatch.comparison.result import ComparedLayer, Comparison, Divergence, Largest, Losses
from gradwatch.comparison.series import Levels, Series, loss_series, series_of, stored_bits
from gradwatch.errors import ArgumentError
from gradwatch.finding import Finding
from gradwatch.tensorboard.reader import Recording

Travel = Literal["backward", "forward"]

TRAVELS: dict[str, Travel] = {
    "output_grad_norm": "backward",
    "grad_norm": "backward",
    "input_grad_norm": "backward",
    "output_grad_rms": "backward",
    "activation_gain_log10": "backward",
    "update_ratio": "backward",
    "weight_norm": "forward",
    "input_rms": "forward",
    "output_rms": "forward",
}
"""Statistics that two runs can be compared by → the way on which a change of one spreads."""

DEFAULTS = ("output_grad_norm", "grad_norm")
"""Statistics to compare by where none is asked for: the first that both runs observed."""

OTHERWISE = ("update_ratio", "grad_norm")
"""Statistics that are told of where the default one does not diverge: a rescaled loss or another
learning rate changes them, and leaves the profile of the backward signal as it is."""

FACTOR = 10.0
"""Ratio of two runs' figures up to which they do not diverge."""

PERSISTENCE = 5
"""Samples on end for which a ratio has to be beyond `FACTOR`."""

SETTLED_SHARE = 4
"""A layer's ratio is the median over the last so-many-th part of the common samples."""


def compare(
    recording_a: Recording,
    recording_b: Recording,
    *,
    names: tuple[str, str],
    statistic: str | None = None,
    findings: tuple[Iterable[Finding], Iterable[Finding]] | None = None,
) -> Comparison:
    """Two stored runs held against each other.

    Args:
        recording_a: The run that the other is held against.
        recording_b: The other.
        names: What the sentence calls them.
        statistic: One of `TRAVELS`; by default the first of `DEFAULTS` that both observed.
        findings: The findings of each, those that are stored by default.

    Raises:
        ArgumentError: If there is no such statistic, or not one that runs can be compared by.
    """
    if statistic is not None and statistic not in TRAVELS:
        raise ArgumentError(
            f"runs cannot be compared by {statistic!r}; take one of {', '.join(TRAVELS)}"
        )
    pairs = _pairs(recording_a, recording_b, DEFAULTS if statistic is None else (statistic,))
    pair = next((pair for pair in pairs if pair.is_observed), pairs[0])
    others = () if statistic or pair.divergence else _pairs(recording_a, recording_b, OTHERWISE)
    sets = findings or (recording_a.findings, recording_b.findings)
    return Comparison(
        names=names,
        statistic=pair.statistic,
        factor=FACTOR,
        steps=tuple(map(int, pair.aligned.steps_a)),
        farthest_match=int(np.abs(pair.aligned.steps_a - pair.aligned.steps_b).max(initial=0)),
        is_same=_is_same(recording_a, recording_b, pair.aligned),
        largest=_largest(pair.aligned),
        divergence=pair.divergence,
        otherwise={other.statistic: other.divergence for other in others if other.divergence},
        layers=_layers(pair),
        losses=_last_losses(recording_a, recording_b),
        open_findings=(_open_keys(sets[0]), _open_keys(sets[1])),
    )


@dataclass(frozen=True, eq=False)
class _Pair:
    """One statistic of both runs."""

    statistic: str
    a: Series
    b: Series

    @property
    def is_observed(self) -> bool:
        return bool(len(self.a) and len(self.b))

    @cached_property
    def aligned(self) -> Aligned:
        return align(self.a, self.b)

    @cached_property
    def departures(self) -> dict[int, Departure]:
        """Column of a layer → where it leaves, for those that do."""
        return departures(self.aligned, limit=math.log10(FACTOR), persistence=PERSISTENCE)

    @cached_property
    def divergence(self) -> Divergence | None:
        return _divergence(self.aligned, self.departures, TRAVELS[self.statistic])


def _pairs(a: Recording, b: Recording, statistics: Iterable[str]) -> list[_Pair]:
    return [
        _Pair(statistic, series_of(a, statistic), series_of(b, statistic))
        for statistic in statistics
    ]


def _divergence(
    aligned: Aligned, left: Mapping[int, Departure], travel: Travel
) -> Divergence | None:
    if not left:
        return None
    first = min(departure.first for departure in left.values())
    together = [layer for layer, departure in left.items() if departure.first == first]
    reached = max(together) if travel == "backward" else min(together)
    rows = left[reached].rows
    return Divergence(
        step=int(aligned.steps_a[first]),
        layer=aligned.names[reached],
        ratio_log10=_middle(aligned.ratios[rows, reached]),
        level_a=_middle(aligned.levels_a[rows, reached]),
        level_b=_middle(aligned.levels_b[rows, reached]),
        others=tuple(aligned.names[layer] for layer in together if layer != reached),
    )


def _largest(aligned: Aligned) -> Largest | None:
    lasting = largest_lasting(aligned, persistence=PERSISTENCE)
    if np.isnan(lasting).all():
        return None
    layer = int(np.nanargmax(lasting))
    return Largest(aligned.names[layer], float(lasting[layer]))


def _layers(pair: _Pair) -> tuple[ComparedLayer, ...]:
    a, b, aligned, left = pair.a, pair.b, pair.aligned, pair.departures
    column = {name: layer for layer, name in enumerate(aligned.names)}
    settled = len(aligned.steps_a) - math.ceil(len(aligned.steps_a) / SETTLED_SHARE)
    common = {
        name: ComparedLayer(
            name,
            "both",
            int(aligned.steps_a[left[layer].first]) if layer in left else None,
            _middle_or_none(aligned.ratios[settled:, layer]),
        )
        for name, layer in column.items()
    }
    only_b = (ComparedLayer(name, "b") for name in b.names if name not in column)
    return (*(common.get(name) or ComparedLayer(name, "a") for name in a.names), *only_b)


def _middle_or_none(ratios: Levels) -> float | None:
    return None if np.isnan(ratios).all() else _middle(ratios)


def _middle(values: Levels) -> float:
    """Median of what was observed, the lower of two middles: the mean of infinities is none."""
    known = np.sort(values[~np.isnan(values)])
    return float(known[(len(known) - 1) // 2])


def _last_losses(a: Recording, b: Recording) -> Losses | None:
    losses_a, losses_b = loss_series(a), loss_series(b)
    rows_a, rows_b = matched(losses_a.steps, losses_b.steps)
    if not len(rows_a):
        return None
    return Losses(
        step=int(losses_a.steps[rows_a[-1]]),
        a=float(losses_a.losses[rows_a[-1]]),
        b=float(losses_b.losses[rows_b[-1]]),
    )


def _is_same(a: Recording, b: Recording, aligned: Aligned) -> bool:
    """Whether all that is stored is equal; the digest is taken only where it may be."""
    if not len(aligned.steps_a) or np.any(np.nan_to_num(aligned.ratios) != 0):
        return False
    return a is b or stored_bits(a) == stored_bits(b)


def _open_keys(findings: Iterable[Finding]) -> frozenset[str]:
    return frozenset(f"{found.code}/{found.cause}" for found in findings if found.is_open)
