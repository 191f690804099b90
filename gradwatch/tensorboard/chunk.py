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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gradwatch.snapshot import STATISTICS, FloatArray, Snapshot, empty_statistics
from gradwatch.tensorboard.schema import Rows, encode_json

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
    """The header of a chunk."""
    parsed = json.loads(encoded)
    return ChunkHeader(
        session=parsed["session"],
        rows=parsed["rows"],
        limits=tuple(parsed["limits"]),
        snapshot_count=parsed["snapshot_count"],
        first_step=parsed["first_step"],
    )


def decode_chunk(header: ChunkHeader, body: bytes, rows: Rows) -> list[Snapshot]:
    """The snapshots of a chunk, oldest first.

    Statistics that this version does not know are left out; those that the writer did not know are
    NaN, not observed.

    Args:
        header: Its header.
        body: Its second byte string.
        rows: The version of the rows that the header names.

    Raises:
        ValueError: If the body has another length than the header and the rows call for.
    """
    count, layer_count = header.snapshot_count, len(rows.layers)
    columns = _Columns(body)
    steps = columns.take("<i8", count)
    wall_times = columns.take("<f8", count)
    losses = columns.take("<f8", count)
    skipped = columns.take("u1", count)
    states = columns.take("i1", count, layer_count)
    packed = _take_statistics(columns, count, rows)
    columns.expect_end(header)
    return [
        Snapshot.unpacked(
            packed[index],
            step=int(steps[index]),
            layers=rows.layers,
            states=states[index].astype(np.int8),
            loss=float(losses[index]),
            skipped=bool(skipped[index]),
            limits=header.limits,
            wall_time=float(wall_times[index]),
        )
        for index in range(count)
    ]


class _Columns:
    """Arrays taken from a byte string, one after the other."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._offset = 0

    def take(self, dtype: DTypeLike, *shape: int) -> NDArray[Any]:
        count = int(np.prod(shape))
        column = np.frombuffer(self._body, dtype=dtype, count=count, offset=self._offset)
        self._offset += column.nbytes
        return column.reshape(shape)

    def expect_end(self, header: ChunkHeader) -> None:
        if self._offset != len(self._body):
            raise ValueError(
                f"the chunk of step {header.first_step} has {len(self._body)} bytes, "
                f"expected {self._offset}"
            )


def _column(entries: Sequence[object], dtype: DTypeLike) -> bytes:
    return np.asarray(entries, dtype=dtype).tobytes()


def _take_statistics(columns: _Columns, count: int, rows: Rows) -> FloatArray:
    layer_count = len(rows.layers)
    uneven = columns.take("u1", count, len(rows.statistics)).astype(np.bool_)
    bits: Bits = np.empty((count, len(rows.statistics), layer_count), dtype=np.uint32)
    if layer_count:
        bits[~uneven] = columns.take("<u4", int((~uneven).sum()), 1)
        bits[uneven] = columns.take("<u4", int(uneven.sum()), layer_count)
    stored = bits.view(np.float32)
    packed = np.stack([empty_statistics(layer_count)] * count)
    source_of = {name: source for source, name in enumerate(rows.statistics)}
    for row, statistic in enumerate(STATISTICS):
        if statistic.name in source_of:
            packed[:, row] = stored[:, source_of[statistic.name]]
    return packed
