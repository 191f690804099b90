"""Stored runs made of snapshots, as the store makes them of a data provider's points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from gradwatch.finding import Finding
from gradwatch.layer import Layer
from gradwatch.snapshot import Snapshot
from gradwatch.tab.stored_run import StoredRun
from gradwatch.tensorboard import schema
from gradwatch.tensorboard.chunk import encode_chunk
from gradwatch.tensorboard.reader import Point, assemble
from gradwatch.tensorboard.schema import Rows, RunFacts


def session_points(
    snapshots: Sequence[Snapshot],
    *,
    session: str = "s",
    findings: Sequence[Finding] = (),
    started: float = 0.0,
    finished: bool = True,
    framework: str = "torch",
    statistics: tuple[str, ...] | None = None,
    chunk_size: int = 4,
    encode: Callable[..., tuple[bytes, bytes]] = encode_chunk,
) -> list[Point]:
    """The points of one session; a chunk ends where the rows change."""
    facts = RunFacts(session, framework, "0.1.0", started, finished)
    last = int(snapshots[-1].step) if snapshots else 0
    known: set[str] = set()
    points = [Point("run", last, started, (schema.encode_run(facts),))]
    for number, chunk in enumerate(chunks_of(snapshots, chunk_size)):
        rows = Rows(chunk[0].layers)
        encoded = schema.encode_rows(replace(rows, statistics=statistics or rows.statistics))
        digest, time = schema.digest(encoded), started + number + 1
        if digest not in known:
            known.add(digest)
            points.append(Point("layers", chunk[0].step, time, (encoded,)))
        parts = encode(chunk, session=session, rows=digest)
        points.append(Point("statistics", chunk[0].step, time, parts))
    for finding in findings:
        stored = schema.encode_finding(finding, session=session)
        points.append(Point("finding", finding.step, started + 0.5, (stored,)))
    return points


def chunks_of(snapshots: Sequence[Snapshot], size: int) -> list[list[Snapshot]]:
    """The snapshots in groups of equal rows and limits, each of at most `size`."""
    chunks: list[list[Snapshot]] = []
    for snapshot in snapshots:
        last = chunks[-1] if chunks else []
        same = last and last[-1].layers == snapshot.layers and last[-1].limits == snapshot.limits
        if same and len(last) < size:
            last.append(snapshot)
        else:
            chunks.append([snapshot])
    return chunks


def stored(*points: Point) -> StoredRun:
    """The run that points make up."""
    recording = assemble(points)
    return StoredRun("a/gradwatch", "t0", recording, recording.troubles)


def run_of(snapshots: Sequence[Snapshot], **session: object) -> StoredRun:
    """The run of one session, see `session_points`."""
    return stored(*session_points(snapshots, **session))


def reordered(layers: tuple[Layer, ...], depths: Sequence[int]) -> tuple[Layer, ...]:
    """The layers with other places in the network, which nothing connects."""
    return tuple(
        replace(layer, depth=depth, inputs=()) for layer, depth in zip(layers, depths, strict=True)
    )
