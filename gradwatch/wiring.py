"""Wiring: what follows from the layers alone, worked out once for every tuple of layers.

The snapshots of a run share one tuple, so that each question here is answered once a run and not
once a sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gradwatch.layer import Layer

Rows = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Wiring:
    """How the rows of one tuple of layers are connected.

    Args:
        order: All rows by depth.
        consumers: For each row, the rows that it feeds directly.
        weighted_rows: Weighted rows.
        input_rows: Weighted rows that no row feeds: a normalisation of the inputs counts as a row.
        output_rows: Weighted rows that no other weighted row reads, directly or not.
        starts: Weighted rows without a weighted row nearer the inputs that lead to an output row.
        ends: For each of the starts, the output rows that it leads to, by depth.
        flat_ends: All `ends`, one after the other.
        end_offsets: Where in `flat_ends` those of each start begin.
        relu_like: 1 for a row whose activation is ReLU-like, else 0, shape (layers,).
    """

    order: Rows
    consumers: tuple[Rows, ...]
    weighted_rows: Rows
    input_rows: Rows
    output_rows: Rows
    starts: NDArray[np.intp]
    ends: tuple[NDArray[np.intp], ...]
    flat_ends: NDArray[np.intp]
    end_offsets: NDArray[np.intp]
    relu_like: NDArray[np.float32]

    @classmethod
    def of(cls, layers: tuple[Layer, ...]) -> Wiring:
        """The wiring of these layers, worked out."""
        order = tuple(sorted(range(len(layers)), key=lambda row: (layers[row].depth, row)))
        sources = _weighted_sources(layers, order)
        weighted = tuple(row for row, layer in enumerate(layers) if layer.weighted)
        feeding = frozenset().union(*(sources[row] for row in weighted))
        ends_of = _ends(layers, order, sources, feeding)
        ends = [np.asarray(rows, dtype=np.intp) for rows in ends_of.values()]
        counts = [0, *(len(rows) for rows in ends)]
        return cls(
            order=order,
            consumers=_consumers(layers),
            weighted_rows=weighted,
            input_rows=tuple(row for row in weighted if not layers[row].inputs),
            output_rows=tuple(row for row in weighted if row not in feeding),
            starts=np.asarray(list(ends_of), dtype=np.intp),
            ends=tuple(ends),
            flat_ends=np.concatenate([np.empty(0, dtype=np.intp), *ends]),
            end_offsets=np.cumsum(counts[:-1], dtype=np.intp),
            relu_like=np.asarray([layer.is_relu_like for layer in layers], dtype=np.float32),
        )


def wiring(layers: tuple[Layer, ...]) -> Wiring:
    """The wiring of these layers, the same object for the same tuple."""
    return _wiring(_Same(layers))


def upstream(layers: tuple[Layer, ...], rows: Rows) -> frozenset[int]:
    """The rows and everything nearer the inputs that feeds them."""
    return _upstream(_Same(layers), tuple(rows))


def downstream(layers: tuple[Layer, ...], rows: Rows) -> frozenset[int]:
    """The rows and everything nearer the outputs that they feed."""
    return _downstream(_Same(layers), tuple(rows))


def onward(layers: tuple[Layer, ...], end: int) -> tuple[Rows, ...]:
    """For each row, the rows that it feeds, deeper than itself and on a way to `end`."""
    return _onward(_Same(layers), end)


def only_way(layers: tuple[Layer, ...], start: int, end: int) -> Rows | None:
    """The rows from `start` on, always deeper, towards `end`; None where the way ever forks."""
    return _only_way(_Same(layers), start, end)


@dataclass(frozen=True, eq=False)
class _Same:
    """Key of a cache: equal only to itself, since comparing hundreds of layers takes longer."""

    layers: tuple[Layer, ...]

    def __hash__(self) -> int:
        return id(self.layers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.layers is self.layers


@lru_cache(maxsize=16)
def _wiring(same: _Same) -> Wiring:
    return Wiring.of(same.layers)


@lru_cache(maxsize=64)
def _upstream(same: _Same, rows: Rows) -> frozenset[int]:
    inputs = tuple(layer.inputs for layer in same.layers)
    return _reached(inputs, rows)


@lru_cache(maxsize=64)
def _downstream(same: _Same, rows: Rows) -> frozenset[int]:
    return _reached(_wiring(same).consumers, rows)


@lru_cache(maxsize=64)
def _onward(same: _Same, end: int) -> tuple[Rows, ...]:
    layers, leads_to_end = same.layers, _upstream(same, (end,))
    return tuple(
        tuple(
            consumer
            for consumer in fed
            if consumer in leads_to_end and layers[consumer].depth > layers[row].depth
        )
        for row, fed in enumerate(_wiring(same).consumers)
    )


@lru_cache(maxsize=64)
def _only_way(same: _Same, start: int, end: int) -> Rows | None:
    ways = _onward(same, end)
    rows = [start]
    while rows[-1] != end and ways[rows[-1]]:
        if len(ways[rows[-1]]) > 1:
            return None
        rows.append(ways[rows[-1]][0])
    return tuple(rows)


def _reached(onward_of: tuple[Rows, ...], rows: Rows) -> frozenset[int]:
    reached: set[int] = set()
    pending = list(rows)
    while pending:
        row = pending.pop()
        if row not in reached:
            reached.add(row)
            pending.extend(onward_of[row])
    return frozenset(reached)


def _consumers(layers: tuple[Layer, ...]) -> tuple[Rows, ...]:
    fed: list[list[int]] = [[] for _ in layers]
    for row, layer in enumerate(layers):
        for source in layer.inputs:
            fed[source].append(row)
    return tuple(tuple(rows) for rows in fed)


def _weighted_sources(layers: tuple[Layer, ...], order: Rows) -> tuple[frozenset[int], ...]:
    """For each row, the weighted rows that feed it, directly or through unweighted rows."""
    sources: list[frozenset[int]] = [frozenset()] * len(layers)
    for row in order:
        found: set[int] = set()
        for source in layers[row].inputs:
            found |= {source} if layers[source].weighted else sources[source]
        sources[row] = frozenset(found - {row})
    return tuple(sources)


def _ends(
    layers: tuple[Layer, ...],
    order: Rows,
    sources: tuple[frozenset[int], ...],
    feeding: frozenset[int],
) -> dict[int, list[int]]:
    """Start → the output rows that it leads to; starts that lead to none are left out."""
    ends: dict[int, list[int]] = {}
    reach: dict[int, frozenset[int]] = {}
    for row in order:
        if not layers[row].weighted:
            continue
        starts = frozenset().union(*(reach.get(source, frozenset()) for source in sources[row]))
        reach[row] = starts if sources[row] else frozenset({row})
        if row not in feeding:
            for start in reach[row] - {row}:
                ends.setdefault(start, []).append(row)
    return ends
