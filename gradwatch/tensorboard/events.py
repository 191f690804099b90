"""Event files: TensorBoard's records, written and read without TensorFlow and without torch.

A record is a length (uint64), its checksum, the serialised event and its checksum; a checksum is a
masked CRC32C. TensorBoard's own writer computes it in pure Python and reopens the file for each
write; `google-crc32c` and one open file are about a thousand times faster.
"""

from __future__ import annotations

import importlib
import logging
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from gradwatch.errors import MissingExtraError
from gradwatch.tensorboard.event_file import open_event_file

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
        self._file = open_event_file(directory, self._version_record(), started=clock())
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

    What cannot be read is logged.

    Args:
        path: The event file.

    Raises:
        OSError: If the file cannot be read.
        MissingExtraError: If TensorBoard or google-crc32c is not installed.
    """
    parse = event_parser()
    for record in read_records(path, tell=_warn):
        event = parse(record)
        if event is None:
            _warn(f"{path} holds a record that is no event; it is left out.")
        else:
            yield event


def read_records(path: Path, *, tell: Callable[[str], None]) -> Iterator[bytes]:
    """The serialised events of a file, up to its end or to where no record can be told apart.

    A record whose own checksum is wrong is left out, and those after it are read. The last record
    of a file that is being written, or whose writer was killed, may be cut off.

    Args:
        path: The event file.
        tell: Takes a sentence, with the file's name, on what cannot be read.

    Raises:
        OSError: If the file cannot be read.
        MissingExtraError: If TensorBoard or google-crc32c is not installed.
    """
    masked_crc = _masked_crc()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while True:
            offset = file.tell()
            header = file.read(_HEADER.size)
            if not header:
                return
            length, length_crc = _HEADER.unpack(header.ljust(_HEADER.size, b"\0"))
            if len(header) == _HEADER.size and masked_crc(header[:8]) != length_crc:
                tell(f"{path} is damaged at byte {offset:,}; what comes after is lost.")
                return
            # The length is held against the file's before it is believed.
            if offset + _HEADER.size + length + _CHECKSUM.size > size:
                tell(
                    f"{path} is cut off at byte {offset:,}: it is still being written, or its "
                    "writer was killed; what comes before is read."
                )
                return
            body = file.read(length)
            checksum = file.read(_CHECKSUM.size)
            if len(checksum) < _CHECKSUM.size:
                tell(f"{path} has become shorter while it was read, at byte {offset:,}.")
                return
            if masked_crc(body) == _CHECKSUM.unpack(checksum)[0]:
                yield body
            else:
                tell(f"{path} is damaged at byte {offset:,}; one record is left out.")


def event_parser() -> Callable[[bytes], Any]:
    """Serialised event → its proto, None if it is none.

    Raises:
        MissingExtraError: If TensorBoard is not installed.
    """
    parse = required("tensorboard.compat.proto.event_pb2").Event.FromString
    error: type[Exception] = required("google.protobuf.message").DecodeError

    def parsed(record: bytes) -> Any:
        try:
            return parse(record)
        except error:
            return None

    return parsed


def event_files(directory: Path) -> list[Path]:
    """The event files right in a directory, in the order in which TensorBoard reads them.

    Raises:
        OSError: If the directory cannot be read.
    """
    return sorted(path for path in directory.iterdir() if "tfevents" in path.name)


def _masked_crc() -> Callable[[bytes], int]:
    crc32c: Callable[[bytes], int] = required("google_crc32c").value

    def masked(octets: bytes) -> int:
        crc = crc32c(octets)
        return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF

    return masked


def _warn(sentence: str) -> None:
    logger.warning("gradwatch: %s", sentence)
