"""Reader: event files of a run → its samples and findings, as the watch saw them.

A run that was resumed has several sessions, in the order of the wall time at which they began. A
chunk truncates what came before it at its first step; a finding that was open when a session began
is resolved at that session's first step unless the session saw it again.

What cannot be read is left out and told of; the rest is read.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from gradwatch.errors import ArgumentError
from gradwatch.finding import Finding
from gradwatch.snapshot import Snapshot
from gradwatch.tensorboard import schema
from gradwatch.tensorboard.contents import Contents
from gradwatch.tensorboard.events import event_files
from gradwatch.tensorboard.packed import Chunk
from gradwatch.tensorboard.search import find_recordings
from gradwatch.tensorboard.stored import Point, Troubles, existing, stored_points

logger = logging.getLogger("gradwatch")


@dataclass(frozen=True)
class Session:
    """What one writer of a run left behind.

    Args:
        facts: Its facts.
        chunks: Its samples, oldest first, without those that a later session took the place of.
        findings: Its findings as it stored them last before a later session took over.
        first_step: Its first stored step, None where it stored none.
        last_step: Step of its last event.
    """

    facts: schema.RunFacts
    chunks: tuple[Chunk, ...]
    findings: tuple[Finding, ...]
    first_step: int | None
    last_step: int


@dataclass(frozen=True)
class Recording:
    """A run as it was stored.

    Args:
        parts: Its sessions in the order of their first samples, those without any last.
        troubles: What could not be read, a sentence each.
    """

    parts: tuple[Session, ...]
    troubles: tuple[str, ...] = ()

    @property
    def sessions(self) -> tuple[schema.RunFacts, ...]:
        """Facts of each session, oldest first."""
        return tuple(sorted((part.facts for part in self.parts), key=lambda facts: facts.started))

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """All snapshots, by step, unpacked anew on every call."""
        return tuple(
            snapshot
            for part in self.parts
            for chunk in part.chunks
            for snapshot in chunk.samples().snapshots()
        )

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Findings by the step at which they first opened, resolved ones included."""
        return joined((part.first_step, part.findings) for part in self.parts)


def joined(parts: Iterable[tuple[int | None, Iterable[Finding]]]) -> tuple[Finding, ...]:
    """The findings of a run from those of its sessions.

    Args:
        parts: For each session, its first step (None where it stored none) and its findings.
    """
    findings: dict[tuple[str, str], Finding] = {}
    for start, own in parts:
        if start is not None:
            findings = {key: _interrupted(found, start) for key, found in findings.items()}
        findings |= {(found.code, found.cause): found for found in own}
    return tuple(findings.values())


def read(directory: str | os.PathLike[str]) -> Recording:
    """The recording that is in a run's directory, for example `runs/today/gradwatch`.

    What cannot be read is logged, and stands in the recording's `troubles`.

    Args:
        directory: Directory that holds the event files themselves, see `find_recordings`.

    Raises:
        ArgumentError: If nothing in it can be read, or only a newer gradwatch can.
        MissingExtraError: If TensorBoard or google-crc32c is not installed.
    """
    root, troubles = existing(directory), Troubles()
    points = [point for path in _files(root, troubles) for point in stored_points(path, troubles)]
    recording = _assembled(points, troubles)
    if not recording.parts:
        raise ArgumentError(
            f"{str(root)!r} holds no event file of gradwatch that can be read; pass the "
            'subdirectory that it wrote to, for example "runs/today/gradwatch"'
            + "".join(f". {sentence.rstrip('.')}" for sentence in troubles.sentences)
        )
    for sentence in recording.troubles:
        logger.warning("gradwatch: %s", sentence)
    return recording


def assemble(points: Iterable[Point]) -> Recording:
    """The recording that stored tensors make up.

    Args:
        points: In any order; their wall times tell which came first.
    """
    return _assembled(points, Troubles())


def _files(root: Path, troubles: Troubles) -> list[Path]:
    try:
        return [path for path in event_files(root) if path.is_file()]
    except OSError as error:
        troubles.tell(f"{root} cannot be read ({error.strerror}); see to its permissions.")
        return []


def _assembled(points: Iterable[Point], troubles: Troubles) -> Recording:
    contents = Contents.of(points, troubles)
    starts = contents.session_starts()
    order = list(starts)
    # Two sessions that ran side by side would truncate each other: the one that began later stays.
    chunks = sorted(contents.chunks, key=lambda chunk: order.index(chunk.header.session))
    kept = _without_truncated(chunks)
    later_starts = list(starts.values())
    parts = []
    for index, session in enumerate(contents.sessions()):
        taken_over = min(later_starts[index + 1 :], default=None)
        parts.append(
            Session(
                facts=contents.facts_of(session, troubles),
                chunks=tuple(chunk for chunk in kept if chunk.header.session == session),
                findings=contents.findings_of(session, before=taken_over),
                first_step=starts.get(session),
                last_step=contents.last_steps.get(session, 0),
            )
        )
    return Recording(tuple(parts), troubles.sentences)


def _without_truncated(chunks: Iterable[Chunk]) -> list[Chunk]:
    """The chunks without what each of them took the place of."""
    kept: list[Chunk] = []
    for chunk in chunks:
        start = chunk.header.first_step
        while kept and kept[-1].last_step >= start:
            cut = kept.pop().before(start)
            if cut.kept:
                kept.append(cut)
        kept.append(chunk)
    return kept


def _interrupted(finding: Finding, start: int) -> Finding:
    """A finding of an earlier session as a session that begins at `start` leaves it."""
    ended_earlier = finding.resolved_step is not None and finding.resolved_step <= start
    return finding if ended_earlier else replace(finding, resolved_step=start)


__all__ = [
    "Point",
    "Recording",
    "Session",
    "assemble",
    "find_recordings",
    "joined",
    "read",
]
