"""Event file: where records are stored, one local file or objects of a store."""

from __future__ import annotations

import importlib
import os
import socket
import uuid
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from gradwatch.errors import ArgumentError


class EventFile(Protocol):
    """Where the records of one writer go."""

    def append(self, records: bytes) -> None:
        """Add whole records.

        Raises:
            OSError: If they cannot be written.
        """

    def close(self) -> None:
        """Let go of every resource."""


class _LocalFile:
    """A file that always ends after a whole record."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def append(self, records: bytes) -> None:
        start = self._file.tell()
        rest = memoryview(records)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            with self._file:
                self._file.truncate(start)
            raise

    def close(self) -> None:
        self._file.close()


class _Objects:
    """Objects of a store that cannot append, one a flush; TensorBoard reads them one by one."""

    def __init__(self, filesystem: Any, directory: str, version_record: bytes, name: str) -> None:
        self._filesystem = filesystem
        self._stem = f"{directory.rstrip('/')}/{name}"
        self._version_record = version_record
        self._numbers = count()
        filesystem.makedirs(directory, exist_ok=True)

    def append(self, records: bytes) -> None:
        path = f"{self._stem}.{next(self._numbers):06d}"
        self._filesystem.pipe_file(path, self._version_record + records)

    def close(self) -> None:
        pass


def open_event_file(directory: str, version_record: bytes, *, started: float) -> EventFile:
    """A new event file in a directory, which is made if it is missing.

    Args:
        directory: Directory of the run; a URL (`gs://...`) needs fsspec, and gets a file a flush.
        version_record: The record that every event file begins with.
        started: Seconds since the epoch, for the file's name.

    Raises:
        ArgumentError: If the directory cannot be made or written to.
    """
    host = socket.gethostname().replace("/", "_")
    name = f"events.out.tfevents.{int(started):010d}.{host}.{os.getpid()}"
    if "://" in directory:
        return _open_url(directory, version_record, name)
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        file = _LocalFile(_create_free(Path(directory), name))
        file.append(version_record)
    except (OSError, ValueError) as error:
        raise ArgumentError(
            f"log_dir: event files cannot be written to {directory!r} ({error}); "
            "pass a directory that can be made and written to, or log_dir=None"
        ) from error
    return file


def _create_free(directory: Path, name: str) -> BinaryIO:
    """A new file: two writers of one process and second must not share one."""
    for number in count():
        try:
            # Unbuffered: a buffered file would try to write the same bytes again when closed.
            return (directory / f"{name}.{number}").open("xb", buffering=0)
        except FileExistsError:
            continue
    raise AssertionError("unreachable")


def _open_url(directory: str, version_record: bytes, name: str) -> EventFile:
    try:
        fsspec = importlib.import_module("fsspec")
        filesystem, path = fsspec.core.url_to_fs(directory)
        objects = _Objects(filesystem, path, version_record, f"{name}.{uuid.uuid4().hex[:8]}")
        objects.append(b"")
    except Exception as error:  # each kind of store has errors of its own
        raise ArgumentError(
            f"log_dir: event files cannot be written to {directory!r} ({error}); run `pip install "
            "fsspec` and its package for this kind of URL, or pass a local directory"
        ) from error
    return objects
