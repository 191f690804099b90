"""TensorBoardSink: snapshots and findings as event files, for TensorBoard's dashboards and ours."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from gradwatch._version import __version__
from gradwatch.errors import ArgumentError
from gradwatch.finding import Finding, Severity
from gradwatch.layer import Layer
from gradwatch.snapshot import Snapshot
from gradwatch.tensorboard import schema
from gradwatch.tensorboard.chunk import encode_chunk, fits
from gradwatch.tensorboard.events import EventWriter
from gradwatch.tensorboard.scalars import CHARTS, OPEN_FINDINGS, finite_scalars
from gradwatch.tensorboard.summary import NO_FINDINGS_YET, findings_summary, healthy_summary
from gradwatch.tensorboard.values import ValueBuilder

LARGEST_CHUNK = 64
"""Snapshots to a chunk, once it has grown: 1, 2, 4, ..."""

FLUSH_SECONDS = 30.0
"""What a killed process loses at most, unless snapshots are further apart than that."""

SUMMARY_TAG = "gradwatch/summary"


@dataclass(frozen=True, slots=True)
class _Headline:
    """What of a finding is news; its figures change with every sample, its layers may flicker."""

    step: int
    resolved_step: int | None
    severity: Severity
    layers: frozenset[str]

    @classmethod
    def of(cls, finding: Finding, earlier: _Headline | None) -> _Headline:
        """The headline of a finding; layers that were told of once are not news again."""
        told = earlier.layers if earlier is not None else frozenset()
        return cls(
            finding.step,
            finding.resolved_step,
            finding.severity,
            told | frozenset(finding.layers),
        )


class TensorBoardSink:
    """Writes a run to `<log_dir>/<name>/`.

    The directory is not the user's own: TensorBoard's Python loader drops points where two writers
    share one. Snapshots are held back until their chunk is full or `FLUSH_SECONDS` have passed. A
    finding is written at once when it opens, takes in another layer, changes its severity or is
    resolved; figures alone that changed are written with the next chunk.

    Args:
        log_dir: TensorBoard's directory for this run.
        name: Subdirectory, None for "gradwatch".
        framework: "torch" or "keras", whose snippets the text summary shows.
        clock: Seconds since the epoch.

    Raises:
        ArgumentError: If the directory cannot be made or written to.
        MissingExtraError: If TensorBoard or google-crc32c is not installed.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        name: str | None = None,
        *,
        framework: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._values = ValueBuilder()
        self._events = EventWriter(_directory(log_dir, name), clock=clock)
        self._facts = schema.RunFacts(
            session=uuid.uuid4().hex[:8],
            framework=framework,
            version=__version__,
            started=clock(),
        )
        self._pending: list[Snapshot] = []
        self._chunk_size = 1
        self._flushed = clock()
        self._layers: tuple[Layer, ...] | None = None
        self._rows = ""
        self._step = 0
        self._observed = 0
        self._findings: tuple[Finding, ...] = ()
        self._stored: dict[str, Finding] = {}
        self._headlines: dict[str, _Headline] = {}
        self._summary = ""
        self._write_run_facts()
        self._events.add([self._values.layout("gradwatch", CHARTS)], step=0)
        self._events.flush()

    def write_snapshot(self, snapshot: Snapshot) -> None:
        """Take the newest snapshot.

        Raises:
            OSError: If a chunk cannot be written; what was written before stays readable.
        """
        self._write_judgement()
        if not fits(snapshot, self._pending):
            self._write_chunk()
        self._pending.append(snapshot)
        self._step = int(snapshot.step)
        self._observed += 1
        self._write_scalars(snapshot)
        overdue = abs(self._clock() - self._flushed) >= FLUSH_SECONDS
        if overdue or len(self._pending) >= self._chunk_size:
            self._write_chunk()
            self._write_changed_findings()
            self._flush()

    def write_findings(self, changed: Sequence[Finding], findings: Sequence[Finding]) -> None:
        """Take the findings; figures alone that changed are written with the next chunk.

        Raises:
            OSError: If they cannot be written.
        """
        self._findings = tuple(findings)
        self._step = max([self._step, *map(_latest_step, changed)])
        if self._take_news(changed):
            self._write_changed_findings()
            self._write_summary(self._findings_text())
            self._events.flush()

    def close(self) -> None:
        """Write what is pending and let go of the file; does nothing when closed already.

        Raises:
            OSError: If what is pending cannot be written.
        """
        if self._events.closed:
            return
        self._write_judgement()
        self._write_chunk()
        self._write_changed_findings()
        if self._findings:
            self._write_summary(self._findings_text())
        elif self._observed:
            self._write_summary(healthy_summary(observed=self._observed, last_step=self._step))
        self._facts = replace(self._facts, finished=True)
        self._write_run_facts()
        self._events.close()

    def _write_judgement(self) -> None:
        """What the rules said of the step before, which is not known before they have run."""
        if not self._observed:
            return
        opened = sum(finding.is_open for finding in self._findings)
        self._events.add([self._values.scalar(OPEN_FINDINGS, opened)], step=self._step)
        if not self._summary:
            self._write_summary(NO_FINDINGS_YET)

    def _write_scalars(self, snapshot: Snapshot) -> None:
        values = [self._values.scalar(scalar, value) for scalar, value in finite_scalars(snapshot)]
        if values:
            self._events.add(values, step=self._step, wall_time=snapshot.wall_time)

    def _write_chunk(self) -> None:
        if not self._pending:
            return
        first_step = int(self._pending[0].step)
        self._write_layers(self._pending[0].layers, first_step)
        parts = encode_chunk(self._pending, session=self._facts.session, rows=self._rows)
        tag = schema.chunk_tag(first_step)
        self._events.add([self._values.stored(tag, "statistics", parts)], step=first_step)
        self._pending.clear()
        self._chunk_size = min(2 * self._chunk_size, LARGEST_CHUNK)

    def _write_layers(self, layers: tuple[Layer, ...], step: int) -> None:
        if layers == self._layers:
            return
        self._layers = layers
        encoded = schema.encode_rows(schema.Rows(layers))
        digest = schema.digest(encoded)
        if digest == self._rows:
            return
        self._rows = digest
        value = self._values.stored(schema.layers_tag(digest), "layers", [encoded])
        self._events.add([value], step=step)

    def _write_changed_findings(self) -> None:
        for finding in self._findings:
            tag = schema.finding_tag(finding)
            if self._stored.get(tag) != finding:
                self._stored[tag] = finding
                encoded = schema.encode_finding(finding, session=self._facts.session)
                value = self._values.stored(tag, "finding", [encoded])
                self._events.add([value], step=self._step)

    def _write_summary(self, text: str) -> None:
        if text != self._summary:
            self._summary = text
            self._events.add([self._values.text(SUMMARY_TAG, text)], step=self._step)

    def _findings_text(self) -> str:
        return findings_summary(self._findings, framework=self._facts.framework)

    def _write_run_facts(self) -> None:
        tag = schema.run_tag(self._facts.session)
        value = self._values.stored(tag, "run", [schema.encode_run(self._facts)])
        self._events.add([value], step=self._step)

    def _take_news(self, changed: Sequence[Finding]) -> bool:
        """Whether any of the findings is worth a new version of the text summary."""
        before = dict(self._headlines)
        for finding in changed:
            tag = schema.finding_tag(finding)
            self._headlines[tag] = _Headline.of(finding, before.get(tag))
        return self._headlines != before

    def _flush(self) -> None:
        self._events.flush()
        self._flushed = self._clock()


def _latest_step(finding: Finding) -> int:
    return int(finding.step if finding.resolved_step is None else finding.resolved_step)


def _directory(log_dir: str | os.PathLike[str], name: str | None) -> str:
    name = "gradwatch" if name is None else name
    parts = PurePath(name).parts
    if not parts or ".." in parts or PurePath(name).is_absolute():
        raise ArgumentError(
            f"name={name!r} does not name a subdirectory of log_dir; "
            'pass one such as "generator", or None for "gradwatch"'
        )
    root = os.fspath(log_dir)
    return f"{root.rstrip('/')}/{name}" if "://" in root else str(Path(root).expanduser() / name)
