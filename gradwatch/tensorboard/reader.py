"""Reader: event files of a run → its snapshots and findings, as the watch saw them.

A run that was resumed has several sessions, in the order of the wall time at which they began. A
chunk truncates what came before it at its first step; a finding that was open when a session began
is resolved at that session's first step unless the session saw it again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from gradwatch.errors import ArgumentError
from gradwatch.finding import Finding
from gradwatch.snapshot import Snapshot
from gradwatch.tensorboard import schema
from gradwatch.tensorboard.chunk import ChunkHeader, decode_chunk, decode_header
from gradwatch.tensorboard.events import event_files, read_events

logger = logging.getLogger("gradwatch")

_FIRST_EVENTS = 3
"""A file of gradwatch's holds its run facts this early."""


@dataclass(frozen=True, slots=True)
class Point:
    """One stored tensor, from a file or from TensorBoard's data provider.

    Args:
        content: What it holds.
        step: Step of its event.
        wall_time: Seconds since the epoch, of its event.
        parts: The tensor's byte strings.
    """

    content: schema.Content
    step: int
    wall_time: float
    parts: tuple[bytes, ...]


@dataclass(frozen=True)
class Recording:
    """A run as it was stored.

    Args:
        sessions: Facts of each session, oldest first.
        snapshots: Snapshots, by step.
        findings: Findings by the step at which they first opened, resolved ones included.
    """

    sessions: tuple[schema.RunFacts, ...]
    snapshots: tuple[Snapshot, ...]
    findings: tuple[Finding, ...]


def read(directory: str | os.PathLike[str]) -> Recording:
    """The recording that is in a run's directory, for example `runs/today/gradwatch`.

    Args:
        directory: Directory that holds the event files themselves, see `find_recordings`.

    Raises:
        ArgumentError: If there is none, or a newer gradwatch wrote it.
        MissingExtraError: If TensorBoard or google-crc32c is not installed.
    """
    root = _existing(directory)
    points = [point for path in event_files(root) for point in _points(path)]
    if not points:
        raise ArgumentError(
            f"{str(root)!r} holds no event file of gradwatch; pass the subdirectory that it wrote "
            'to, for example "runs/today/gradwatch"'
        )
    return assemble(points)


def find_recordings(log_dir: str | os.PathLike[str]) -> list[Path]:
    """Directories at or below `log_dir` that `read` can read, sorted.

    Args:
        log_dir: What is given to TensorBoard.

    Raises:
        ArgumentError: If it is not a directory.
        MissingExtraError: If TensorBoard or google-crc32c is not installed.
    """
    files = (path for path in _existing(log_dir).rglob("*tfevents*") if path.is_file())
    return sorted({path.parent for path in files if any(_points(path, most=_FIRST_EVENTS))})


def assemble(points: Iterable[Point]) -> Recording:
    """The recording that stored tensors make up.

    Args:
        points: In any order; their wall times tell which came first.
    """
    ordered = sorted(points, key=lambda point: point.wall_time)
    of = {
        content: [point for point in ordered if point.content == content]
        for content in ("run", "layers", "statistics", "finding")
    }
    facts = {entry.session: entry for entry in (schema.decode_run(p.parts[0]) for p in of["run"])}
    chunks = [(decode_header(point.parts[0]), point.parts[1]) for point in of["statistics"]]
    starts = _session_starts(chunks)
    # Two sessions that ran side by side would truncate each other: the one that began later stays.
    chunks.sort(key=lambda chunk: list(starts).index(chunk[0].session))
    return Recording(
        sessions=tuple(sorted(facts.values(), key=lambda entry: entry.started)),
        snapshots=_snapshots(chunks, [point.parts[0] for point in of["layers"]]),
        findings=_findings(starts, of["finding"]),
    )


def _snapshots(
    chunks: list[tuple[ChunkHeader, bytes]], encoded_rows: list[bytes]
) -> tuple[Snapshot, ...]:
    rows = {schema.digest(encoded): schema.decode_rows(encoded) for encoded in encoded_rows}
    snapshots: list[Snapshot] = []
    for header, body in chunks:
        if header.rows not in rows:
            logger.warning(
                "gradwatch: the chunk of step %d is left out, its layers (%s) are not stored.",
                header.first_step,
                header.rows,
            )
            continue
        while snapshots and snapshots[-1].step >= header.first_step:
            snapshots.pop()
        snapshots += decode_chunk(header, body, rows[header.rows])
    return tuple(snapshots)


def _session_starts(chunks: list[tuple[ChunkHeader, bytes]]) -> dict[str, int]:
    """Session → its first step, oldest session first."""
    starts: dict[str, int] = {}
    for header, _ in chunks:
        starts.setdefault(header.session, header.first_step)
    return starts


def _findings(starts: dict[str, int], points: list[Point]) -> tuple[Finding, ...]:
    sessions: dict[str, list[tuple[int, Finding]]] = {session: [] for session in starts}
    for point in points:
        session, finding = schema.decode_finding(point.parts[0])
        sessions.setdefault(session, []).append((point.step, finding))
    later_starts = list(starts.values())
    findings: dict[tuple[str, str], Finding] = {}
    for index, entries in enumerate(sessions.values()):
        if index < len(later_starts):
            findings = {key: _interrupted(f, later_starts[index]) for key, f in findings.items()}
        end = min(later_starts[index + 1 :], default=None)
        for step, finding in entries:
            if end is None or step < end:
                findings[finding.code, finding.cause] = finding
    return tuple(findings.values())


def _interrupted(finding: Finding, start: int) -> Finding:
    """A finding of an earlier session as a session that begins at `start` leaves it."""
    ended_earlier = finding.resolved_step is not None and finding.resolved_step <= start
    return finding if ended_earlier else replace(finding, resolved_step=start)


def _points(path: Path, *, most: int | None = None) -> Iterator[Point]:
    for event in islice(read_events(path), most):
        for value in event.summary.value:
            plugin = value.metadata.plugin_data
            if plugin.plugin_name != schema.PLUGIN_NAME:
                continue
            content = schema.parse_plugin_content(plugin.content, tag=value.tag)
            if content is not None:
                yield _point(content, event, value)


def _point(content: schema.Content, event: Any, value: Any) -> Point:
    return Point(content, event.step, event.wall_time, tuple(value.tensor.string_val))


def _existing(directory: str | os.PathLike[str]) -> Path:
    root = Path(directory).expanduser()
    if not root.is_dir():
        raise ArgumentError(f"{str(root)!r} is not a directory; pass the one given to TensorBoard")
    return root
