"""Chunk: consecutive snapshots packed into two byte strings, bit by bit as they were.

The first string is a JSON header. The second holds, little-endian and one after the other:
steps (int64), wall times (float64), losses (float64), each of shape (snapshots,); the flags
`skipped` and `changed`, shape (snapshots,), a bit each; states (int8), shape (changed, layers); the
flags `uneven`, shape (snapshots, statistics), a bit each; then float32 numbers.

The states of a snapshot are stored where they are others than those of the snapshot before. A row
of statistics whose layers all hold the same bits, such as one that was not observed, is even: it is
stored as one number. The even rows' numbers come first, then the uneven rows of one number a layer,
both in order of (snapshot, statistic).

Schema 1 had the states of every snapshot and no `changed`, an octet for each flag, and a header
without `schema`. The header tells, not the tag: where a newer gradwatch resumed a run, TensorBoard
may keep the metadata that the older one gave to a tag of both.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from gradwatch.snapshot import Snapshot, State
from gradwatch.tensorboard.checks import check_types
from gradwatch.tensorboard.columns import Columns, column, flag_column
from gradwatch.tensorboard.packed import Chunk, ChunkHeader
from gradwatch.tensorboard.schema import SCHEMA_VERSION, Rows, encode_json, refuse_newer

MOST_SNAPSHOTS = 256
"""Snapshots that a chunk may claim to hold: a few octets must not make a reader ask for gigabytes.

The sink writes at most 64.
"""


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
        "schema": SCHEMA_VERSION,
    }
    packed = np.stack([snapshot.packed() for snapshot in snapshots])
    bits = np.ascontiguousarray(packed, dtype="<f4").view("<u4")
    uneven = (bits != bits[:, :, :1]).any(axis=2)
    states = np.stack([snapshot.states for snapshot in snapshots])
    changed = np.append(True, (states[1:] != states[:-1]).any(axis=1))
    body = (
        column([snapshot.step for snapshot in snapshots], "<i8"),
        column([snapshot.wall_time for snapshot in snapshots], "<f8"),
        column([snapshot.loss for snapshot in snapshots], "<f8"),
        flag_column([snapshot.skipped for snapshot in snapshots]),
        flag_column(changed),
        column(states[changed], "i1"),
        flag_column(uneven),
        bits[:, :, :1][~uneven].tobytes(),
        bits[uneven].tobytes(),
    )
    return encode_json(header), b"".join(body)


def decode_header(encoded: bytes) -> ChunkHeader:
    """The header of a chunk.

    Raises:
        ArgumentError: If a newer schema wrote it.
        ValueError: If it is not what `encode_chunk` writes.
    """
    parsed = json.loads(encoded)
    try:
        version = parsed.get("schema", 1)
        refuse_newer(version, "its chunk")
        header = ChunkHeader(
            session=parsed["session"],
            rows=parsed["rows"],
            limits=tuple(parsed["limits"]),
            snapshot_count=parsed["snapshot_count"],
            first_step=parsed["first_step"],
            schema=version,
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"its header is no header of a chunk: {error!r}") from error
    check_types(header)
    if header.schema < 1:
        raise ValueError(f"it claims to be of schema {header.schema}, and the first is 1")
    if not 1 <= header.snapshot_count <= MOST_SNAPSHOTS:
        raise ValueError(
            f"it claims to hold {header.snapshot_count} snapshots, not 1 to {MOST_SNAPSHOTS}"
        )
    return header


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
    columns = Columns(body)
    flags = columns.take_flags if header.schema > 1 else columns.take_octet_flags
    steps = columns.take("<i8", count)
    wall_times = columns.take("<f8", count)
    losses = columns.take("<f8", count)
    skipped = flags(count)
    changed = flags(count) if header.schema > 1 else np.ones(count, dtype=np.bool_)
    state_rows = columns.take("i1", int(changed.sum()), layer_count)
    uneven = flags(count, len(rows.statistics))
    even_bits = columns.take("<u4", int((~uneven).sum()), min(layer_count, 1))
    uneven_bits = columns.take("<u4", int(uneven.sum()), layer_count)
    columns.expect_end()
    if steps[0] != header.first_step or steps[0] < 0 or (steps[1:] <= steps[:-1]).any():
        raise ValueError(f"its steps do not increase from {header.first_step} on")
    if not changed[0]:
        raise ValueError("it lacks the states of its first snapshot")
    if state_rows.size and not 0 <= state_rows.min() <= state_rows.max() <= max(State):
        raise ValueError("it holds states that no layer can be in")
    return Chunk(
        header,
        rows,
        steps,
        wall_times,
        losses,
        skipped,
        changed,
        state_rows,
        uneven,
        even_bits,
        uneven_bits,
        kept=count,
    )
