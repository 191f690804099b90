"""Event files that TensorBoard's own loader accepts, and errors that say what to do."""

import os
import re
import struct
from pathlib import Path

import fsspec
import google_crc32c
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from gradwatch.errors import ArgumentError, MissingExtraError
from gradwatch.tensorboard.events import EventWriter, event_files, read_events, required
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
    path.write_bytes(path.read_bytes()[:-lost])
    steps = steps_read(path)
    assert steps == list(range(len(steps)))
    assert 17 <= len(steps) <= 19
    assert not caplog.records


@pytest.mark.parametrize("place", [0, 8, 20])
def test_a_damaged_record_ends_the_file_with_a_warning(tmp_path, place, caplog):
    path = write_points(tmp_path, 20)
    record = len(path.read_bytes()) // 2
    starts = record_starts(path.read_bytes())
    start = max(offset for offset in starts if offset < record)
    damaged = bytearray(path.read_bytes())
    damaged[start + place] ^= 0x40
    path.write_bytes(damaged)
    assert steps_read(path) == list(range(starts.index(start) - 1))
    assert f"{path.name} is damaged at byte {start}" in caplog.text


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
