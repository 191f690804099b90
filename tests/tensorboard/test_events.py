"""Event files that TensorBoard's own loader accepts, and errors that say what to do."""

import os
import re
import struct
import tracemalloc
from pathlib import Path

import fsspec
import google_crc32c
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from gradwatch.errors import ArgumentError, MissingExtraError
from gradwatch.tensorboard.events import (
    EventWriter,
    _masked_crc,
    event_files,
    read_events,
    required,
)
from gradwatch.tensorboard.scalars import Scalar
from gradwatch.tensorboard.values import ValueBuilder

from .builders import Clock

LOSS = Scalar("loss", "Loss", "The loss.")
NOBODY = 65534


def write_points(directory: Path, count: int, clock: Clock | None = None) -> Path:
    """One event file with so many points of a curve, at steps 0, 1, 2, ..."""
    before = set(directory.iterdir()) if directory.exists() else set()
    writer, values = EventWriter(str(directory), clock=clock or Clock()), ValueBuilder()
    for step in range(count):
        writer.add([values.scalar(LOSS, step / 2)], step=step)
    writer.close()
    (path,) = set(directory.iterdir()) - before
    return path


def steps_read(path: Path) -> list[int]:
    return [event.step for event in read_events(path) if event.summary.value]


def test_tensorboards_own_loader_reads_every_event(tmp_path):
    path = write_points(tmp_path, 50)
    version, *events = EventFileLoader(str(path)).Load()
    assert version.file_version == "brain.Event:2"
    assert [event.step for event in events] == list(range(50))
    assert events[3].summary.value[0].tensor.float_val[0] == 1.5


def test_our_reader_reads_what_tensorboards_loader_reads(tmp_path):
    path = write_points(tmp_path, 50)
    theirs = [event.SerializeToString() for event in EventFileLoader(str(path)).Load()]
    ours = [event.SerializeToString() for event in read_events(path)]
    assert ours == theirs


def test_the_checksums_are_masked_crc32c(tmp_path):
    stored = write_points(tmp_path, 1).read_bytes()
    (length,) = struct.unpack("<Q", stored[:8])
    crc = google_crc32c.value(stored[12 : 12 + length])
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    assert struct.unpack_from("<I", stored, 12 + length)[0] == (rotated + 0xA282EAD8) % 2**32


def test_the_name_is_one_that_tensorboard_looks_for(tmp_path):
    path = write_points(tmp_path / "a" / "b", 0, Clock(1_700_000_000.9))
    assert path.parent == tmp_path / "a" / "b"
    assert re.fullmatch(rf"events\.out\.tfevents\.1700000000\..*\.{os.getpid()}\.0", path.name)


def test_two_writers_of_one_second_get_a_file_each(tmp_path):
    clock = Clock()
    first, second = write_points(tmp_path, 1, clock), write_points(tmp_path, 2, clock)
    assert [steps_read(path) for path in (first, second)] == [[0], [0, 1]]
    assert event_files(tmp_path) == [first, second]


def test_nothing_is_read_before_the_flush(tmp_path):
    writer, values = EventWriter(str(tmp_path)), ValueBuilder()
    (path,) = tmp_path.iterdir()
    writer.add([values.scalar(LOSS, 1.0)], step=0)
    assert steps_read(path) == []
    writer.flush()
    assert steps_read(path) == [0]
    writer.close()


def test_closing_twice_does_nothing(tmp_path):
    writer = EventWriter(str(tmp_path))
    writer.close()
    writer.close()
    assert writer.closed


def test_wall_times_increase_even_when_the_clock_goes_back(tmp_path):
    clock = Clock()
    writer, values = EventWriter(str(tmp_path), clock=clock), ValueBuilder()
    for step in range(5):
        clock.now -= 100
        writer.add([values.scalar(LOSS, 0.0)], step=step)
    writer.close()
    times = [event.wall_time for event in read_events(event_files(tmp_path)[0])]
    assert times == sorted(set(times))


@pytest.mark.parametrize("lost", [1, 4, 5, 30, 60])
def test_a_file_that_is_cut_off_is_read_up_to_there(tmp_path, lost, caplog):
    path = write_points(tmp_path, 20)
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    steps = steps_read(path)
    assert steps == list(range(len(steps)))
    assert 17 <= len(steps) <= 19
    start = max(offset for offset in record_starts(whole) if offset < len(whole) - lost)
    assert f"{path} is cut off at byte {start:,}: it is still being written, or" in caplog.text


def test_a_file_that_ends_with_a_whole_record_is_not_cut_off(tmp_path, caplog):
    path = write_points(tmp_path, 20)
    whole = path.read_bytes()
    path.write_bytes(whole[: record_starts(whole)[-3]])
    assert steps_read(path) == list(range(17))
    assert not caplog.records


@pytest.mark.parametrize("place", [0, 7, 8])
def test_a_record_of_unknown_length_ends_the_file_with_a_warning(tmp_path, place, caplog):
    path, number, start = damaged_in_the_middle(tmp_path, place)
    assert steps_read(path) == list(range(number))
    assert f"{path} is damaged at byte {start:,}; what comes after is lost" in caplog.text


@pytest.mark.parametrize("place", [12, 20])
def test_a_damaged_record_of_known_length_is_left_out_alone(tmp_path, place, caplog):
    path, number, start = damaged_in_the_middle(tmp_path, place)
    assert steps_read(path) == [step for step in range(20) if step != number]
    assert f"{path} is damaged at byte {start:,}; one record is left out" in caplog.text


@pytest.mark.parametrize("length", [2**20, 2**40, 2**63, 2**64 - 1])
def test_a_huge_length_is_not_believed(tmp_path, length, caplog):
    path = write_points(tmp_path, 3)
    header = struct.pack("<Q", length)
    with path.open("ab") as file:
        file.write(header + struct.pack("<I", _masked_crc()(header)) + b"little")
    tracemalloc.start()
    assert steps_read(path) == [0, 1, 2]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500_000
    assert "is cut off" in caplog.text


def test_a_record_that_is_no_event_is_left_out(tmp_path, caplog):
    path = write_points(tmp_path, 3)
    with path.open("ab") as file:
        file.write(record(b"\xff\xff\xff"))
    assert steps_read(path) == [0, 1, 2]
    assert f"{path} holds a record that is no event" in caplog.text


def test_a_file_of_another_kind_is_damaged_from_the_start(tmp_path, caplog):
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(b"something else altogether")
    assert steps_read(path) == []
    assert f"{path} is damaged at byte 0" in caplog.text


def damaged_in_the_middle(directory: Path, place: int) -> tuple[Path, int, int]:
    """A file of 20 points, the number of the one that has a wrong bit, and where it begins."""
    path = write_points(directory, 20)
    damaged = bytearray(path.read_bytes())
    number = 9
    start = record_starts(bytes(damaged))[number + 1]
    damaged[start + place] ^= 0x40
    path.write_bytes(damaged)
    return path, number, start


def record(body: bytes) -> bytes:
    length, crc = struct.pack("<Q", len(body)), _masked_crc()
    return length + struct.pack("<I", crc(length)) + body + struct.pack("<I", crc(body))


def record_starts(stored: bytes) -> list[int]:
    starts, offset = [], 0
    while offset < len(stored):
        starts.append(offset)
        offset += 16 + struct.unpack_from("<Q", stored, offset)[0]
    return starts


@pytest.mark.parametrize("below", ["", "run", "a/b/c"])
def test_a_file_in_the_way_is_an_error_at_once(tmp_path, below):
    (tmp_path / "taken").write_text("not a directory")
    with pytest.raises(ArgumentError, match=r"log_dir: .*taken.*pass a directory"):
        EventWriter(str(tmp_path / "taken" / below))


@pytest.mark.parametrize("directory", ["a\0b", "x" * 300])
def test_an_impossible_name_is_an_error_at_once(tmp_path, directory):
    with pytest.raises(ArgumentError, match=r"log_dir: .*pass a directory"):
        EventWriter(str(tmp_path / directory))


def test_a_directory_that_is_not_ours_is_an_error_at_once(tmp_path):
    tmp_path.chmod(0o555)
    if os.getuid() == 0:
        os.seteuid(NOBODY)
    try:
        with pytest.raises(ArgumentError, match=r"Permission denied.*pass a directory"):
            EventWriter(str(tmp_path / "run"))
    finally:
        os.seteuid(os.getuid())
        tmp_path.chmod(0o755)


def test_a_url_without_its_package_is_an_error_at_once():
    with pytest.raises(ArgumentError, match=r"nosuch://bucket.*pip install fsspec"):
        EventWriter("nosuch://bucket/run")


def test_a_url_gets_an_object_a_flush():
    writer, values = EventWriter("memory://bucket/run", clock=Clock()), ValueBuilder()
    for step in range(3):
        writer.add([values.scalar(LOSS, 0.0)], step=step)
        writer.flush()
    writer.close()
    filesystem = fsspec.filesystem("memory")
    paths = sorted(filesystem.ls("/bucket/run", detail=False))
    assert len(paths) == 4
    assert all(b"brain.Event:2" in filesystem.cat_file(path) for path in paths)


def test_objects_of_a_url_are_event_files_that_tensorboard_reads(tmp_path):
    writer, values = EventWriter(f"local://{tmp_path}", clock=Clock()), ValueBuilder()
    for step in range(3):
        writer.add([values.scalar(LOSS, 0.0)], step=step)
        writer.flush()
    writer.close()
    loaded = [e for path in event_files(tmp_path) for e in EventFileLoader(str(path)).Load()]
    assert [event.step for event in loaded if event.summary.value] == [0, 1, 2]


def test_a_missing_extra_names_what_to_install():
    with pytest.raises(MissingExtraError, match=r'pip install "gradwatch\[tensorboard\]"'):
        required("tensorboard.compat.proto.nosuch_pb2")
