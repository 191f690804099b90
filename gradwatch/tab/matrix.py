"""Matrix: a stored run as arrays over all its samples, and over its layers in forward order.

A run that was resumed with other layers, or whose layers appeared one by one, has several versions
of its rows. Here they are one: a layer is known by its name, and it was idle, with nothing
observed, where a version lacks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradwatch.layer import Layer
from gradwatch.samples import Flags
from gradwatch.snapshot import FloatArray, Snapshot, State
from gradwatch.tab.statistics import STATISTIC_OF, TAB_STATISTICS, TabStatistic
from gradwatch.tensorboard.packed import Chunk
from gradwatch.tensorboard.reader import Recording

Rows = NDArray[np.intp]


def united_layers(versions: Iterable[tuple[Layer, ...]]) -> tuple[Layer, ...]:
    """The layers of all versions by depth, each as the newest version with its name has it.

    Args:
        versions: Versions of the rows, oldest first.
    """
    newest: dict[str, Layer] = {}
    for layers in versions:
        newest |= {layer.name: layer for layer in layers}
    return tuple(sorted(newest.values(), key=lambda layer: layer.depth))


class Matrix:
    """The samples of a recording, by step.

    Args:
        recording: The run.
    """

    def __init__(self, recording: Recording) -> None:
        self._chunks = tuple(chunk for part in recording.parts for chunk in part.chunks)
        versions = {id(chunk.rows): chunk.rows.layers for chunk in self._chunks}
        self.layers = united_layers(versions.values())
        """All layers in forward order."""
        self.row_of = {layer.name: row for row, layer in enumerate(self.layers)}
        """Layer's name → its row here."""
        self._rows: dict[int, Rows] = {
            version: np.asarray([self.row_of[layer.name] for layer in layers], dtype=np.intp)
            for version, layers in versions.items()
        }

    def __len__(self) -> int:
        return len(self.steps)

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        """Step of each sample, increasing, shape (samples,)."""
        steps = [chunk.steps[: chunk.kept] for chunk in self._chunks]
        return np.concatenate([np.empty(0, dtype=np.int64), *steps])

    @cached_property
    def has_signals(self) -> Flags:
        """Whether forward and backward signals were observed, shape (samples,)."""
        flags = [~np.isnan(chunk.statistic("forward_calls")).all(axis=1) for chunk in self._chunks]
        return np.concatenate([np.empty(0, dtype=np.bool_), *flags])

    @cached_property
    def observed(self) -> tuple[TabStatistic, ...]:
        """The statistics that were observed at any layer in any sample."""
        stored: frozenset[str] = frozenset().union(*(chunk.observed() for chunk in self._chunks))
        with_loss = any(
            (chunk.losses[: chunk.kept] == chunk.losses[: chunk.kept]).any()
            for chunk in self._chunks
        )
        return tuple(
            statistic
            for statistic in TAB_STATISTICS
            if stored.issuperset(statistic.sources)
            and (with_loss or statistic.name != "elasticity")
        )

    def statistic(self, name: str) -> FloatArray:
        """One statistic of every sample, shape (samples, layers); NaN where it was not observed.

        Args:
            name: A key of `STATISTIC_OF`.
        """
        with np.errstate(all="ignore"):
            return self._gathered(STATISTIC_OF[name].of, np.nan, np.float32)

    @cached_property
    def states(self) -> NDArray[np.int8]:
        """`State` of each layer in every sample, shape (samples, layers)."""
        return self._gathered(lambda chunk: chunk.states[: chunk.kept], State.IDLE, np.int8)

    def snapshot(self, sample: int) -> tuple[Snapshot, Rows]:
        """A sample as a snapshot, and the row here of each of its layers.

        Args:
            sample: Its place among all samples.
        """
        for chunk in self._chunks:
            if sample < chunk.kept:
                return chunk.samples().snapshots()[sample], self._rows[id(chunk.rows)]
            sample -= chunk.kept
        raise IndexError(f"there is no sample {sample} past the last one")

    def _gathered(
        self, values_of: Callable[[Chunk], NDArray[Any]], missing: float, dtype: type[Any]
    ) -> NDArray[Any]:
        """Values of every chunk one after the other, in the columns of its layers."""
        gathered = np.full((len(self), len(self.layers)), missing, dtype=dtype)
        start = 0
        for chunk in self._chunks:
            gathered[start : start + chunk.kept, self._rows[id(chunk.rows)]] = values_of(chunk)
            start += chunk.kept
        return gathered
