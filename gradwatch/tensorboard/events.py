"""Event files: TensorBoard's records, written and read without TensorFlow and without torch.

A record is a length (uint64), its checksum, the serialised event and its checksum; a checksum is a
masked CRC32C. TensorBoard's own writer computes it in pure Python and reopens the file for each
write; `google-crc32c` and one open file are about a thousand times faster.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
import struct
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from gradwatch.errors import ArgumentError, MissingExtraError

logger = logging.getLogger("gradwatch")

FILE_VERSION = "brain.Event:2"
_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")


def required(module: str) -> Any:
    """The module, imported when it is first needed.

    Args:
        module: Full name of a module of the extra `tensorboard`.

    Raises:
        MissingExtraError: If it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"event files need {module}, which cannot be imported ({error}): "
            'run `pip install "gradwatch[tensorboard]"`'
        ) from error


class EventWriter:
    """Writes one event file, and makes its directory.

    Events are held in memory until `flush`. If a flush fails, the file ends after its last whole
    record and the writer is closed.

    Args:
        directory: Directory of the run; a URL (`gs://...`) needs fsspec, and gets a file a flush.
        clock: Seconds since the epoch.

    Raises:
        ArgumentError: If the directory cannot be made or written to.
        MissingExtraError: If TensorBoard or google-crc32c is not installed.
    """

    def __init__(self, directory: str, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._event_pb2 = required("tensorboard.compat.proto.event_pb2")
        self._masked_crc = _masked_crc()
        self._pending = bytearray()
        self._last_time = 0.0
        self._file = _open(directory, self._version_record(), started=clock())
        self.closed = False

    def add(self, values: Iterable[Any], *, step: int, wall_time: float | None = None) -> None:
        """Add an event.

        Args:
            values: `Summary.Value` protos.
            step: Optimizer step.
            wall_time: Seconds since the epoch, None for now.
        """
        event = self._event_pb2.Event(wall_time=wall_time or self._now(), step=step)
        event.summary.value.extend(values)
        self._pending += self._record(event)

    def flush(self) -> None:
        """Hand everything that was added to the file.

        Raises:
            OSError: If it cannot be written, for example on a full disk.
        """
        pending, self._pending = bytes(self._pending), bytearray()
        if not pending:
            return
        try:
            self._file.append(pending)
        except Exception:
            self.closed = True
            raise

    def close(self) -> None:
        """Flush and let go of the file; does nothing on a writer that is closed already."""
        if self.closed:
            return
        self.flush()
        self.closed = True
        self._file.close()

    def _now(self) -> float:
        """The time, always later than before: readers order by it."""
        self._last_time = max(self._clock(), self._last_time + 1e-6)
        return self._last_time

    def _version_record(self) -> bytes:
        event = self._event_pb2.Event(wall_time=self._now(), file_version=FILE_VERSION)
        return self._record(event)

    def _record(self, event: Any) -> bytes:
        body: bytes = event.SerializeToString()
        length = struct.pack("<Q", len(body))
        header = length + _CHECKSUM.pack(self._masked_crc(length))
        return header + body + _CHECKSUM.pack(self._masked_crc(body))


def read_events(path: Path) -> Iterator[Any]:
    """The events of a file, up to its end or to the first record that is not whole.

    The last record of a file that is being written, or whose writer was killed, may be cut off. A
    wrong checksum is logged.

    Args:
        path: The event file.

    Raises:
        MissingExtraError: If TensorBoard or google-crc32c is not installed.
    """
    event_pb2 = required("tensorboard.compat.proto.event_pb2")
    masked_crc = _masked_crc()
    with path.open("rb") as file:
        while True:
            offset = file.tell()
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                return
            length, length_crc = _HEADER.unpack(header)
            if masked_crc(header[:8]) != length_crc:
                _warn_damaged(path, offset)
                return
            body = file.read(length)
            crc = file.read(_CHECKSUM.size)
            if len(crc) < _CHECKSUM.size:
                return
            if masked_crc(body) != _CHECKSUM.unpack(crc)[0]:
                _warn_damaged(path, offset)
                return
            yield event_pb2.Event.FromString(body)


def event_files(directory: Path) -> list[Path]:
    """The event files right in a directory, in the order in which TensorBoard reads them."""
    return sorted(path for path in directory.iterdir() if "tfevents" in path.name)


class _EventFile(Protocol):
    def append(self, records: bytes) -> None: ...
    def close(self) -> None: ...


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


def _open(directory: str, version_record: bytes, *, started: float) -> _EventFile:
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


def _open_url(directory: str, version_record: bytes, name: str) -> _EventFile:
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


def _masked_crc() -> Callable[[bytes], int]:
    crc32c: Callable[[bytes], int] = required("google_crc32c").value

    def masked(octets: bytes) -> int:
        crc = crc32c(octets)
        return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF

    return masked


def _warn_damaged(path: Path, offset: int) -> None:
    logger.warning("gradwatch: %s is damaged at byte %d; what comes after is lost.", path, offset)
