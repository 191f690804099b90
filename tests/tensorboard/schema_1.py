"""What gradwatch wrote with schema 1: the octets of its chunks and its event files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gradwatch.snapshot import Snapshot
from gradwatch.tensorboard import schema
from gradwatch.tensorboard.events import EventWriter
from gradwatch.tensorboard.values import ValueBuilder

from .builders import Clock


def chunk_of_schema_1(
    snapshots: Sequence[Snapshot], *, session: str, rows: str
) -> tuple[bytes, bytes]:
    """Header and body: all states, and flags of an octet each."""
    header = {
        "session": session,
        "rows": rows,
        "limits": snapshots[0].limits,
        "snapshot_count": len(snapshots),
        "first_step": int(snapshots[0].step),
    }
    body = b""
    for dtype, name in (("<i8", "step"), ("<f8", "wall_time"), ("<f8", "loss"), ("u1", "skipped")):
        body += np.array([getattr(entry, name) for entry in snapshots], dtype=dtype).tobytes()
    body += b"".join(entry.states.astype("i1").tobytes() for entry in snapshots)
    bits = [row.astype("<f4").view("<u4") for entry in snapshots for row in entry.packed()]
    uneven = [bool((row != row[:1]).any()) for row in bits]
    body += bytes(uneven)
    body += b"".join(row[:1].tobytes() for row, flag in zip(bits, uneven, strict=True) if not flag)
    body += b"".join(row.tobytes() for row, flag in zip(bits, uneven, strict=True) if flag)
    return json.dumps(header, separators=(",", ":")).encode(), body


def write_run_of_schema_1(
    log_dir: Path, snapshots: Sequence[Snapshot], *, clock: Clock, chunk_size: int = 4
) -> None:
    """A finished run of one session, in `<log_dir>/gradwatch`."""
    events, values = EventWriter(str(log_dir / "gradwatch"), clock=clock), ValueBuilder()
    facts = schema.RunFacts("old", "torch", "0.1.0", clock(), finished=True)
    encoded = schema.encode_rows(schema.Rows(snapshots[0].layers))
    digest = schema.digest(encoded)
    stored = [
        (schema.run_tag("old"), "run", (schema.encode_run(facts),)),
        (schema.layers_tag(digest), "layers", (encoded,)),
    ]
    for first in range(0, len(snapshots), chunk_size):
        chunk = snapshots[first : first + chunk_size]
        parts = chunk_of_schema_1(chunk, session="old", rows=digest)
        stored.append((schema.chunk_tag(chunk[0].step), "statistics", parts))
    for tag, content, parts in stored:
        value = values.stored(tag, content, parts)
        value.metadata.plugin_data.content = b'{"schema":1,"content":"%s"}' % content.encode()
        events.add([value], step=0)
    events.close()
