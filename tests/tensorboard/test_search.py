"""The search for runs: what it finds, what it passes over, and what it costs."""

import os
from pathlib import Path

import pytest

from gradwatch.errors import ArgumentError
from gradwatch.tensorboard import search as searching
from gradwatch.tensorboard.events import EventWriter, event_files
from gradwatch.tensorboard.scalars import Scalar
from gradwatch.tensorboard.search import find_recordings, search
from gradwatch.tensorboard.values import ValueBuilder

from .builders import chain, usual_snapshot, write_run


def write_scalars(directory: Path, count: int = 5) -> Path:
    writer, values = EventWriter(str(directory)), ValueBuilder()
    for step in range(count):
        writer.add([values.scalar(Scalar("loss", "Loss", "The loss."), 1.0)], step=step)
    writer.close()
    return event_files(directory)[-1]


def test_runs_are_sorted_and_other_files_are_counted(tmp_path):
    for name in ("b", "a", "c/d"):
        write_run(tmp_path / name, [usual_snapshot(chain(2), 0)])
        write_scalars(tmp_path / name)
    found = search(tmp_path)
    assert list(found.directories) == [tmp_path / name / "gradwatch" for name in ("a", "b", "c/d")]
    assert (found.foreign_files, found.troubles) == (3, ())
    assert find_recordings(tmp_path) == list(found.directories)


def test_files_of_others_beside_a_run_are_no_trouble(tmp_path):
    write_run(tmp_path, [usual_snapshot(chain(2), 0)])
    write_scalars(tmp_path / "gradwatch")
    (tmp_path / "gradwatch" / "events.out.tfevents.0").write_bytes(b"of another kind altogether")
    found = search(tmp_path)
    assert found.directories == (tmp_path / "gradwatch",)
    assert (found.foreign_files, found.troubles) == (0, ())


@pytest.mark.parametrize("place", [20, 60, 200])
def test_a_run_whose_first_records_are_damaged_is_found(tmp_path, place):
    write_run(tmp_path, [usual_snapshot(chain(2), step) for step in range(9)])
    (path,) = event_files(tmp_path / "gradwatch")
    octets = bytearray(path.read_bytes())
    octets[place] ^= 1
    path.write_bytes(octets)
    assert search(tmp_path).directories == (tmp_path / "gradwatch",)


def test_a_large_file_of_others_is_not_read_to_its_end(tmp_path, monkeypatch):
    path = write_scalars(tmp_path, 10_000)
    offsets = []
    original = searching.stored_points

    def watched(path, troubles, *, most_records):
        offsets.append(most_records)
        return original(path, troubles, most_records=most_records)

    monkeypatch.setattr(searching, "stored_points", watched)
    assert search(tmp_path).foreign_files == 1
    assert offsets == [64]
    assert path.stat().st_size > 200_000


def test_a_directory_of_many_files_is_walked_once(tmp_path):
    for number in range(3_000):
        (tmp_path / f"checkpoint{number}").touch()
    write_run(tmp_path, [usual_snapshot(chain(2), 0)])
    assert search(tmp_path).directories == (tmp_path / "gradwatch",)


def test_a_run_has_its_own_name_rather_than_that_of_a_link(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "z")
    write_run(tmp_path / "z", [usual_snapshot(chain(2), 0)])
    assert search(tmp_path).directories == (tmp_path / "z" / "gradwatch",)


def test_a_pipe_that_is_called_like_an_event_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "events.out.tfevents.1")
    assert search(tmp_path).foreign_files == 0


@pytest.mark.parametrize("wanted", ["missing", "a\0b", "x" * 300])
def test_what_is_no_directory_is_an_error(tmp_path, wanted):
    with pytest.raises(ArgumentError, match="is not a directory; pass the one given"):
        search(tmp_path / wanted)


def test_the_home_of_nobody_is_an_error():
    with pytest.raises(ArgumentError, match="is not a directory; pass the one given"):
        search("~nosuchuser/runs")
