"""Chunk: consecutive snapshots packed into two byte strings, bit by bit as they were.

The first string is a JSON header. The second holds, little-endian and one after the other:
steps (int64), wall times (float64), losses (float64), skipped (uint8), each of shape (snapshots,);
states (int8), shape (snapshots, layers); `uneven` (uint8), shape (snapshots, statistics); then
float32 numbers. A row of statistics whose layers all hold the same bits, such as one that was not
observed, is even: it is stored as one number. The even rows' numbers come first, then the uneven
rows of one number a layer, both in order of (snapshot, statistic).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gradwatch.samples import Flags, Samples
from gradwatch.snapshot import STATISTICS, FloatArray, Snapshot, State
from gradwatch.tensorboard.checks import check_types
from gradwatch.tensorboard.schema import Rows, encode_json

Bits = NDArray[np.uint32]

MOST_SNAPSHOTS = 256
"""Snapshots that a chunk may claim to hold: a few octets must not make a reader ask for gigabytes.

The sink writes at most 64.
"""


@dataclass(frozen=True, slots=True)
class ChunkHeader:
    """What all snapshots of a chunk share.

    Args:
        session: Writer of the chunk.
        rows: Digest of the version of the rows.
        limits: See `Snapshot.limits`.
        snapshot_count: Number of snapshots.
        first_step: Step of the first; steps increase.
    """

    session: str
    rows: str
    limits: tuple[str, ...]
    snapshot_count: int
    first_step: int


def fits(snapshot: Snapshot, pending: Sequence[Snapshot]) -> bool:
    """Whether a snapshot can go into the same chunk: same rows and limits, and a later step."""
    if not pending:
        return True
    last = pending[-1]
    same_rows = snapshot.layers is last.layers or snapshot.layers == last.layers
    return same_rows and snapshot.limits == last.limits and snapshot.step > last.step


def encode_chunk(snapshots: Sequence[Snapshot], *, session: str, rows: str) -> tuple[bytes, bytes]:
    """Header and body of a chunk.

    Args:
        snapshots: At least one; each fits the ones before it, see `fits`.
        session: Writer of the chunk.
        rows: Digest of the snapshots' rows.
    """
    header = {
        "session": session,
        "rows": rows,
        "limits": snapshots[0].limits,
        "snapshot_count": len(snapshots),
        "first_step": int(snapshots[0].step),
    }
    packed = np.stack([snapshot.packed() for snapshot in snapshots])
    bits = np.ascontiguousarray(packed, dtype="<f4").view("<u4")
    uneven = (bits != bits[:, :, :1]).any(axis=2)
    body = (
        _column([snapshot.step for snapshot in snapshots], "<i8"),
        _column([snapshot.wall_time for snapshot in snapshots], "<f8"),
        _column([snapshot.loss for snapshot in snapshots], "<f8"),
        _column([snapshot.skipped for snapshot in snapshots], "u1"),
        _column([snapshot.states for snapshot in snapshots], "i1"),
        uneven.tobytes(),
        bits[:, :, :1][~uneven].tobytes(),
        bits[uneven].tobytes(),
    )
    return encode_json(header), b"".join(body)


def decode_header(encoded: bytes) -> ChunkHeader:
    """The header of a chunk.

    Raises:
        ValueError: If it is not what `encode_chunk` writes.
    """
    parsed = json.loads(encoded)
    try:
        header = ChunkHeader(
            session=parsed["session"],
            rows=parsed["rows"],
            limits=tuple(parsed["limits"]),
            snapshot_count=parsed["snapshot_count"],
            first_step=parsed["first_step"],
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"its header is no header of a chunk: {error!r}") from error
    check_types(header)
    if not 1 <= header.snapshot_count <= MOST_SNAPSHOTS:
        raise ValueError(
            f"it claims to hold {header.snapshot_count} snapshots, not 1 to {MOST_SNAPSHOTS}"
        )
    return header


@dataclass(frozen=True, eq=False)
class Chunk:
    """A chunk as it is stored: nothing is unpacked before `samples`.

    Args:
        header: What its snapshots share.
        rows: The version of the rows that the header names.
        steps: Shape (snapshots,), as wall times, losses and skipped.
        wall_times: Seconds since the epoch.
        losses: NaN for none.
        skipped: 1 for a step that the optimizer skipped.
        states: Shape (snapshots, layers).
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
    skipped: NDArray[np.uint8]
    states: NDArray[np.int8]
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
            skipped=self.skipped[kept].astype(np.bool_),
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


def decode_chunk(header: ChunkHeader, body: bytes, rows: Rows) -> Chunk:
    """The chunk of a header and a body.

    Args:
        header: Its header.
        body: Its second byte string.
        rows: The version of the rows that the header names.

    Raises:
        ValueError: If the body has another length than the header and the rows call for, or holds
            what `encode_chunk` does not write.
    """
    count, layer_count = header.snapshot_count, len(rows.layers)
    columns = _Columns(body)
    steps = columns.take("<i8", count)
    wall_times = columns.take("<f8", count)
    losses = columns.take("<f8", count)
    skipped = columns.take("u1", count)
    states = columns.take("i1", count, layer_count)
    uneven = columns.take("u1", count, len(rows.statistics)).astype(np.bool_)
    even_bits = columns.take("<u4", int((~uneven).sum()), min(layer_count, 1))
    uneven_bits = columns.take("<u4", int(uneven.sum()), layer_count)
    columns.expect_end()
    if steps[0] != header.first_step or steps[0] < 0 or (steps[1:] <= steps[:-1]).any():
        raise ValueError(f"its steps do not increase from {header.first_step} on")
    if states.size and not 0 <= states.min() <= states.max() <= max(State):
        raise ValueError("it holds states that no layer can be in")
    return Chunk(
        header,
        rows,
        steps,
        wall_times,
        losses,
        skipped,
        states,
        uneven,
        even_bits,
        uneven_bits,
        kept=count,
    )


class _Columns:
    """Arrays taken from a byte string, one after the other."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._offset = 0

    def take(self, dtype: DTypeLike, *shape: int) -> NDArray[Any]:
        count, size = math.prod(shape), np.dtype(dtype).itemsize
        if self._offset + count * size > len(self._body):
            raise ValueError(f"its {len(self._body):,} bytes are fewer than its header calls for")
        column: NDArray[Any] = np.empty(0, dtype)
        if count:
            column = np.frombuffer(self._body, dtype, count, self._offset)
        self._offset += column.nbytes
        return column.reshape(shape)

    def expect_end(self) -> None:
        if self._offset != len(self._body):
            raise ValueError(
                f"its {len(self._body):,} bytes are more than the {self._offset:,} that its header "
                "calls for"
            )


def _set_before(flags: Flags, column: int) -> NDArray[np.intp]:
    """For each row, how many flags are set before its entry of a column, row after row."""
    set_in_row = flags.sum(axis=1, dtype=np.intp)
    return np.asarray(
        np.cumsum(set_in_row) - set_in_row + flags[:, :column].sum(axis=1, dtype=np.intp)
    )


def _any_observed(bits: Bits) -> Flags:
    """Whether any number of a row is not NaN, shape (rows,)."""
    return np.asarray((~np.isnan(bits.view(np.float32))).any(axis=1))


def _column(entries: Sequence[object], dtype: DTypeLike) -> bytes:
    return np.asarray(entries, dtype=dtype).tobytes()
