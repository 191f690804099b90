"""Runs: what TensorBoard's data provider serves of ours, read once and then kept up to date."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from tensorboard.data.provider import RunTagFilter

from gradwatch.tab.stored_run import Recent, StoredRun
from gradwatch.tensorboard import schema
from gradwatch.tensorboard.reader import Point, assemble
from gradwatch.tensorboard.stored import Troubles, decoded

MOST_RUNS = 4
"""Runs that stay in memory: the one that is looked at, one beside it, and two to come back to."""

ALL_POINTS = 100_000
"""More than a tag ever has: TensorBoard's loaders themselves keep at most 100."""

BATCH_OCTETS = 32 * 2**20
"""What is asked for at once: gRPC refuses answers above 256 MiB."""

FIRST_TAGS = 4
"""Tags of the first batch, whose chunks are small; how large they are bounds the next."""

Mark = tuple[Any, Any]
"""Largest step and largest wall time of a tag: they change when its points do."""


class RunStore:
    """The runs of a data provider.

    Args:
        provider: TensorBoard's `DataProvider`.
    """

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._kept: Recent[tuple[str, str], _KeptRun] = Recent(MOST_RUNS)

    def tokens(self, context: Any, experiment: str) -> dict[str, str]:
        """Run's name → its token, sorted by name.

        Args:
            context: TensorBoard's `RequestContext`.
            experiment: Id of the experiment.
        """
        listed = self._provider.list_tensors(
            context, experiment_id=experiment, plugin_name=schema.PLUGIN_NAME
        )
        return {name: _token(_marks(listed[name])) for name in sorted(listed) if listed[name]}

    def run(self, context: Any, experiment: str, name: str) -> StoredRun | None:
        """A run as it is stored now; None if there is none of this name.

        Args:
            context: TensorBoard's `RequestContext`.
            experiment: Id of the experiment.
            name: Name of the run.
        """
        source = _Source(self._provider, context, experiment, name)
        listed = source.listed()
        if not listed:
            return None
        kept = self._kept.get((experiment, name), lambda: _KeptRun(name))
        return kept.refreshed(source, listed)


@dataclass(frozen=True)
class _Source:
    """One run of the data provider."""

    provider: Any
    context: Any
    experiment: str
    run: str

    def listed(self) -> Mapping[str, Any]:
        """Tag → its time series, without points."""
        listed = self.provider.list_tensors(
            self.context,
            experiment_id=self.experiment,
            plugin_name=schema.PLUGIN_NAME,
            run_tag_filter=RunTagFilter(runs=[self.run]),
        )
        series: Mapping[str, Any] = listed.get(self.run, {})
        return series

    def read(self, tags: Sequence[str]) -> Mapping[str, Sequence[Any]]:
        """Tag → its points; a tag may be missing."""
        read = self.provider.read_tensors(
            self.context,
            experiment_id=self.experiment,
            plugin_name=schema.PLUGIN_NAME,
            downsample=ALL_POINTS,
            run_tag_filter=RunTagFilter(runs=[self.run], tags=tags),
        )
        points: Mapping[str, Sequence[Any]] = read.get(self.run, {})
        return points


class _KeptRun:
    """Everything read of one run so far; only tags that changed are read again."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = Lock()
        self._marks: dict[str, Mark] = {}
        self._points: dict[str, tuple[Point, ...]] = {}
        self._troubles: dict[str, tuple[str, ...]] = {}
        self._stored: StoredRun | None = None

    def refreshed(self, source: _Source, listed: Mapping[str, Any]) -> StoredRun:
        """The run with what is new in it."""
        with self._lock:
            marks = _marks(listed)
            for tag in self._marks.keys() - marks.keys():
                self._forget(tag)
            changed = [tag for tag in marks if marks[tag] != self._marks.get(tag)]
            for tag, data in _read_in_batches(source, sorted(changed, key=_by_step(marks))):
                self._marks[tag] = marks[tag]
                self._take(tag, listed[tag].plugin_content, data)
            token = _token(self._marks)
            if self._stored is None or self._stored.token != token:
                self._stored = self._assembled(token)
            return self._stored

    def _take(self, tag: str, plugin_content: bytes, data: Sequence[Any] | None) -> None:
        troubles = Troubles()
        if data is None:
            troubles.tell(f"{tag} is damaged and left out: TensorBoard cannot read its tensor.")
        content = decoded(
            lambda: schema.parse_plugin_content(plugin_content, tag=tag), tag, troubles
        )
        self._points[tag] = (
            tuple(
                Point(content, datum.step, datum.wall_time, _octets(datum.numpy), tag)
                for datum in data or ()
            )
            if content is not None
            else ()
        )
        self._troubles[tag] = troubles.sentences

    def _forget(self, tag: str) -> None:
        for known in (self._marks, self._points, self._troubles):
            known.pop(tag, None)

    def _assembled(self, token: str) -> StoredRun:
        troubles = Troubles()
        for sentence in (sentence for told in self._troubles.values() for sentence in told):
            troubles.tell(sentence)
        recording = assemble(point for points in self._points.values() for point in points)
        for sentence in recording.troubles:
            troubles.tell(sentence)
        return StoredRun(self._name, token, recording, troubles.sentences)


def _read_in_batches(
    source: _Source, tags: Sequence[str]
) -> Iterator[tuple[str, Sequence[Any] | None]]:
    """Each tag with its points, None where TensorBoard cannot make a tensor of what is stored."""
    largest, size, start = 1, FIRST_TAGS, 0
    while start < len(tags):
        batch = tags[start : start + size]
        for tag, data in _read(source, batch):
            largest = max(largest, sum(map(_size, data or ())))
            yield tag, data
        start += len(batch)
        size = max(1, min(BATCH_OCTETS // largest, 2 * len(batch)))


def _read(source: _Source, tags: Sequence[str]) -> list[tuple[str, Sequence[Any] | None]]:
    try:
        return list(source.read(tags).items())
    except (TypeError, ValueError):
        # One tensor that is none spoils the answer for all.
        if len(tags) == 1:
            return [(tags[0], None)]
        half = len(tags) // 2
        return [*_read(source, tags[:half]), *_read(source, tags[half:])]


def _octets(array: Any) -> tuple[bytes, ...]:
    """The byte strings of a tensor, none of one that holds anything else."""
    if array.dtype != np.object_:
        return ()
    parts = tuple(array.ravel())
    return parts if all(isinstance(part, bytes) for part in parts) else ()


def _size(datum: Any) -> int:
    """Octets of a point, about."""
    return int(datum.numpy.nbytes) + sum(map(len, _octets(datum.numpy)))


def _marks(listed: Mapping[str, Any]) -> dict[str, Mark]:
    return {tag: (series.max_step, series.max_wall_time) for tag, series in listed.items()}


def _by_step(marks: Mapping[str, Mark]) -> Callable[[str], tuple[int, str]]:
    return lambda tag: (marks[tag][0] or 0, tag)


def _token(marks: Mapping[str, Mark]) -> str:
    listed = repr(sorted(marks.items(), key=lambda entry: entry[0]))
    return hashlib.sha256(listed.encode("utf-8", "backslashreplace")).hexdigest()[:16]
