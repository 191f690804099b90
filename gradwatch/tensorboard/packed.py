"""Packed: the snapshots of a chunk as they are stored, unpacked only where they are asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gradwatch.samples import Flags, Samples
from gradwatch.snapshot import STATISTICS, FloatArray
from gradwatch.tensorboard.schema import Rows

Bits = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class ChunkHeader:
    """What all snapshots of a chunk share.

    Args:
        session: Writer of the chunk.
        rows: Digest of the version of the rows.
        limits: See `Snapshot.limits`.
        snapshot_count: Number of snapshots.
        first_step: Step of the first; steps increase.
        schema: Version of the schema by which it is stored.
    """

    session: str
    rows: str
    limits: tuple[str, ...]
    snapshot_count: int
    first_step: int
    schema: int


@dataclass(frozen=True, eq=False)
class Chunk:
    """A chunk as it is stored: nothing is unpacked before `samples`.

    Args:
        header: What its snapshots share.
        rows: The version of the rows that the header names.
        steps: Shape (snapshots,), as wall times, losses, skipped and changed.
        wall_times: Seconds since the epoch.
        losses: NaN for none.
        skipped: Whether the optimizer skipped the step.
        changed: Whether the states are others than those of the snapshot before, set of the first.
        state_rows: The states of the snapshots at which they changed, shape (changed, layers).
        uneven: Which rows are stored with one number a layer, shape (snapshots, statistics).
        even_bits: Numbers of the even rows, shape (even rows, 1).
        uneven_bits: Numbers of the uneven rows, shape (uneven rows, layers).
        kept: Snapshots that no later chunk took the place of.
    """

    header: ChunkHeader
    rows: Rows
    steps: NDArray[np.int64]
    wall_times: NDArray[np.float64]
    losses: NDArray[np.float64]
    skipped: Flags
    changed: Flags
    state_rows: NDArray[np.int8]
    uneven: Flags
    even_bits: Bits
    uneven_bits: Bits
    kept: int

    def before(self, step: int) -> Chunk:
        """The chunk without its snapshots from this step on."""
        return replace(self, kept=min(self.kept, int(np.searchsorted(self.steps, step))))

    @property
    def last_step(self) -> int:
        """Step of the last snapshot that is kept; there has to be one."""
        return int(self.steps[self.kept - 1])

    @property
    def states(self) -> NDArray[np.int8]:
        """The states of the snapshots, shape (snapshots, layers), unpacked anew on every call."""
        return np.asarray(self.state_rows[np.cumsum(self.changed) - 1])

    def samples(self) -> Samples:
        """The snapshots that are kept, oldest first.

        Statistics that this version does not know are left out; those that the writer did not know
        are NaN, not observed.
        """
        kept = slice(self.kept)
        return Samples(
            layers=self.rows.layers,
            steps=self.steps[kept].astype(np.int64),
            states=self.states[kept].astype(np.int8),
            packed=self._packed()[kept],
            losses=self.losses[kept].astype(np.float64),
            skipped=self.skipped[kept],
            wall_times=self.wall_times[kept].astype(np.float64),
            limits=self.header.limits,
        )

    def statistic(self, name: str) -> FloatArray:
        """One statistic of the snapshots that are kept, without unpacking the others.

        Args:
            name: One of `STATISTICS`.

        Returns:
            Shape (kept, layers); NaN throughout if the writer did not know it.
        """
        figures = np.full((self.kept, len(self.rows.layers)), np.nan, dtype=np.float32)
        if name not in self.rows.statistics:
            return figures
        row, bits = self.rows.statistics.index(name), figures.view(np.uint32)
        uneven = self.uneven[: self.kept]
        taken = uneven[:, row]
        bits[taken] = self.uneven_bits[_set_before(uneven, row)[taken]]
        bits[~taken] = self.even_bits[_set_before(~uneven, row)[~taken]]
        return figures

    def observed(self) -> frozenset[str]:
        """Names of the statistics that any layer has in any of the snapshots that are kept."""
        seen = np.empty(self.uneven.shape, dtype=np.bool_)
        seen[~self.uneven] = _any_observed(self.even_bits)
        seen[self.uneven] = _any_observed(self.uneven_bits)
        flags = np.asarray(seen[: self.kept].any(axis=0))
        return frozenset(
            name for name, flag in zip(self.rows.statistics, flags, strict=True) if flag
        )

    def _packed(self) -> FloatArray:
        count, stored_count = len(self.steps), len(self.rows.statistics)
        rows = {name: row for row, name in enumerate(self.rows.statistics)}
        sources = [rows.get(statistic.name, stored_count) for statistic in STATISTICS]
        # One row more than is stored, for the statistics that the writer did not know.
        packed = np.empty((count, stored_count + 1, len(self.rows.layers)), dtype=np.float32)
        packed[:, stored_count] = np.nan
        bits = packed.view(np.uint32)
        bits[:, :stored_count][~self.uneven] = self.even_bits
        bits[:, :stored_count][self.uneven] = self.uneven_bits
        if sources == list(range(stored_count)):
            return packed[:, :stored_count]
        return packed[:, sources]


def _set_before(flags: Flags, column: int) -> NDArray[np.intp]:
    """For each row, how many flags are set before its entry of a column, row after row."""
    set_in_row = flags.sum(axis=1, dtype=np.intp)
    return np.asarray(
        np.cumsum(set_in_row) - set_in_row + flags[:, :column].sum(axis=1, dtype=np.intp)
    )


def _any_observed(bits: Bits) -> Flags:
    """Whether any number of a row is not NaN, shape (rows,)."""
    return np.asarray((~np.isnan(bits.view(np.float32))).any(axis=1))
