"""The sink: what is on the disk when, in what size, and what happens when the disk is full."""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gradwatch.errors import ArgumentError
from gradwatch.schedule import Sample, Schedule
from gradwatch.tensorboard.events import event_files, read_events
from gradwatch.tensorboard.reader import read
from gradwatch.tensorboard.scalars import SNAPSHOT_SCALARS
from gradwatch.tensorboard.sink import FLUSH_SECONDS, LARGEST_CHUNK, SUMMARY_TAG, TensorBoardSink

from .builders import Clock, as_written, chain, finding, random_run, usual_snapshot, write_run


def tag_steps(directory: Path) -> dict[str, list[int]]:
    """Tag → steps of its points, from every event file in the directory."""
    steps: dict[str, list[int]] = {}
    for path in event_files(directory):
        for event in read_events(path):
            for value in event.summary.value:
                steps.setdefault(value.tag, []).append(event.step)
    return steps


def texts(directory: Path) -> list[str]:
    """The versions of the text summary."""
    return [
        value.tensor.string_val[0].decode()
        for path in event_files(directory)
        for event in read_events(path)
        for value in event.summary.value
        if value.tag == SUMMARY_TAG
    ]


def points(directory: Path, tag: str) -> list[tuple[int, float]]:
    return [
        (event.step, value.tensor.float_val[0])
        for path in event_files(directory)
        for event in read_events(path)
        for value in event.summary.value
        if value.tag == tag
    ]


def chunk_starts(directory: Path) -> list[int]:
    tags = (tag for tag in tag_steps(directory) if tag.startswith("gradwatch/stats/"))
    return sorted(int(tag.rpartition("/")[2]) for tag in tags)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sink(tmp_path: Path, clock: Clock) -> Iterator[TensorBoardSink]:
    sink = TensorBoardSink(tmp_path, framework="torch", clock=clock)
    yield sink
    sink.close()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_snapshots_come_back_bit_by_bit(tmp_path, seed):
    snapshots = random_run(chain(7), range(0, 1500, 7), seed=seed)
    write_run(tmp_path, snapshots)
    assert as_written(read(tmp_path / "gradwatch").snapshots) == as_written(snapshots)


def test_a_layer_that_appears_late_makes_a_new_version_of_the_rows(tmp_path):
    early, late = chain(2), chain(3)
    snapshots = random_run(early, range(10)) + random_run(late, range(10, 20))
    write_run(tmp_path, snapshots)
    assert as_written(read(tmp_path / "gradwatch").snapshots) == as_written(snapshots)
    layers = [tag for tag in tag_steps(tmp_path / "gradwatch") if "/layers/" in tag]
    assert len(layers) == 2


def test_rows_are_stored_once_however_often_the_tuple_is_made_anew(tmp_path):
    write_run(tmp_path, [usual_snapshot(chain(3), step) for step in range(200)])
    layers = {tag: s for tag, s in tag_steps(tmp_path / "gradwatch").items() if "/layers/" in tag}
    assert list(layers.values()) == [[0]]


def test_a_limit_that_appears_late_is_stored_with_its_snapshots(tmp_path):
    first = random_run(chain(2), range(5))
    then = tuple(replace(s, limits=("compiled",)) for s in random_run(chain(2), range(5, 9)))
    write_run(tmp_path, first + then)
    assert as_written(read(tmp_path / "gradwatch").snapshots) == as_written(first + then)


def test_chunks_grow_up_to_the_largest(tmp_path):
    write_run(tmp_path, [usual_snapshot(chain(1), step) for step in range(127 + 3 * LARGEST_CHUNK)])
    growing = [0, 1, 3, 7, 15, 31, 63]
    assert chunk_starts(tmp_path / "gradwatch") == [*growing, 127, 191, 255]


def test_a_chunk_of_one_is_on_the_disk_at_once(tmp_path, sink):
    sink.write_snapshot(usual_snapshot(chain(2), 0))
    assert [s.step for s in read(tmp_path / "gradwatch").snapshots] == [0]


def test_a_chunk_is_on_the_disk_after_the_flush_time(tmp_path, sink, clock):
    for step in range(10):
        sink.write_snapshot(usual_snapshot(chain(2), step))
    assert len(read(tmp_path / "gradwatch").snapshots) == 7
    clock.now += FLUSH_SECONDS - 0.1
    sink.write_snapshot(usual_snapshot(chain(2), 10))
    assert len(read(tmp_path / "gradwatch").snapshots) == 7
    clock.now += 0.2
    sink.write_snapshot(usual_snapshot(chain(2), 11))
    assert len(read(tmp_path / "gradwatch").snapshots) == 12


def test_a_sample_that_comes_rarely_is_on_the_disk_at_once(tmp_path, sink, clock):
    for step in range(0, 1000, 100):
        clock.now += 2 * FLUSH_SECONDS
        sink.write_snapshot(usual_snapshot(chain(2), step))
        assert read(tmp_path / "gradwatch").snapshots[-1].step == step


def test_closing_writes_what_is_pending_and_says_the_run_is_over(tmp_path, sink):
    for step in range(10):
        sink.write_snapshot(usual_snapshot(chain(2), step))
    assert not read(tmp_path / "gradwatch").sessions[0].finished
    sink.close()
    sink.close()
    recording = read(tmp_path / "gradwatch")
    assert len(recording.snapshots) == 10
    assert recording.sessions[0].finished
    assert recording.sessions[0].framework == "torch"


def test_a_finding_that_opens_is_on_the_disk_at_once(tmp_path, sink):
    sink.write_snapshot(usual_snapshot(chain(3), 16))
    sink.write_findings([finding()], [finding()])
    assert read(tmp_path / "gradwatch").findings == (finding(),)
    assert "GW101 vanishing-gradient" in texts(tmp_path / "gradwatch")[-1]


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": ("fc1", "fc2", "fc3", "fc4")},
        {"severity": "warning"},
        {"resolved_step": 24},
        {"step": 24},
    ],
)
def test_a_finding_that_changes_is_on_the_disk_at_once(tmp_path, sink, changes):
    changed = finding(**changes)
    sink.write_findings([finding()], [finding()])
    sink.write_findings([changed], [changed])
    assert read_findings(tmp_path, sink) == (changed,)
    assert len(texts(tmp_path / "gradwatch")) == 2


@pytest.mark.parametrize("changes", [{"evidence": {"x": 1.0}}, {"layers": ("fc1",)}])
def test_figures_and_layers_that_flicker_wait_for_the_next_chunk(tmp_path, sink, changes):
    sink.write_snapshot(usual_snapshot(chain(3), 16))
    sink.write_findings([finding()], [finding()])
    sink.write_findings([finding(**changes)], [finding(**changes)])
    assert read(tmp_path / "gradwatch").findings == (finding(),)
    sink.close()
    assert read(tmp_path / "gradwatch").findings == (finding(**changes),)


def read_findings(tmp_path: Path, sink: TensorBoardSink):
    sink.write_snapshot(usual_snapshot(chain(3), 30))
    return read(tmp_path / "gradwatch").findings


def test_a_finding_that_does_not_change_is_stored_once(tmp_path, sink):
    sink.write_findings([finding()], [finding()])
    for step in range(16, 200):
        sink.write_snapshot(usual_snapshot(chain(3), step))
    sink.close()
    assert tag_steps(tmp_path / "gradwatch")["gradwatch/findings/GW101/activation"] == [16]
    assert len(texts(tmp_path / "gradwatch")) == 1


def test_a_healthy_run_says_so_once_and_at_the_end(tmp_path, sink):
    for step in range(0, 300, 3):
        sink.write_snapshot(usual_snapshot(chain(3), step, decades=0))
    sink.close()
    first, last = texts(tmp_path / "gradwatch")
    assert first.startswith("**No findings so far.**")
    assert last == "**No findings** in 100 observed steps; the last is step 297."


def test_a_run_that_observed_nothing_says_nothing(tmp_path, sink):
    sink.close()
    assert texts(tmp_path / "gradwatch") == []


def test_a_clock_that_was_set_back_holds_nothing_up(tmp_path, sink, clock):
    for step in range(10):
        sink.write_snapshot(usual_snapshot(chain(2), step))
    clock.now -= 3600
    sink.write_snapshot(usual_snapshot(chain(2), 10))
    assert len(read(tmp_path / "gradwatch").snapshots) == 11


def test_the_count_of_open_findings_is_that_of_its_step(tmp_path, sink):
    for step in range(4):
        sink.write_snapshot(usual_snapshot(chain(3), step))
        if step == 2:
            sink.write_findings([finding(step=2)], [finding(step=2)])
    sink.close()
    counted = points(tmp_path / "gradwatch", "gradwatch/open_findings")
    assert counted == [(0, 0), (1, 0), (2, 1), (3, 1)]


def test_a_curve_has_no_point_where_nothing_was_observed(tmp_path):
    layers = chain(3)
    write_run(tmp_path, [usual_snapshot(layers, s, signals=s % 2 == 0) for s in range(6)])
    steps = tag_steps(tmp_path / "gradwatch")
    assert steps["gradwatch/update_ratio_log10/max"] == [0, 1, 2, 3, 4, 5]
    assert steps["gradwatch/backward_depth_log10"] == [0, 2, 4]
    assert "gradwatch/time_decay_log10/min" not in steps


def test_every_curve_of_a_diverged_step_is_finite_or_left_out(tmp_path):
    write_run(tmp_path, random_run(chain(5), range(300)))
    drawn = {scalar.tag for scalar in SNAPSHOT_SCALARS} & set(tag_steps(tmp_path / "gradwatch"))
    values = [value for tag in drawn for _, value in points(tmp_path / "gradwatch", tag)]
    assert len(drawn) > 5
    assert np.isfinite(values).all()


def test_a_loss_beyond_float32_is_left_out_of_the_curve_and_stored_exactly(tmp_path):
    snapshot = replace(usual_snapshot(chain(2), 0), loss=1e300)
    write_run(tmp_path, [snapshot])
    assert points(tmp_path / "gradwatch", "gradwatch/loss") == []
    assert read(tmp_path / "gradwatch").snapshots[0].loss == 1e300


@pytest.mark.parametrize(
    ("name", "below"), [(None, "gradwatch"), ("generator", "generator"), ("a/b", "a/b")]
)
def test_the_run_goes_below_the_log_dir(tmp_path, name, below):
    write_run(tmp_path, [usual_snapshot(chain(1), 0)], name=name)
    assert len(event_files(tmp_path / below)) == 1


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/../../x", "/tmp/x"])
def test_a_name_that_leaves_the_log_dir_is_refused(tmp_path, name):
    with pytest.raises(ArgumentError, match=r"name='.*' does not name a subdirectory"):
        TensorBoardSink(tmp_path, name, framework="torch")


def test_the_home_directory_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    TensorBoardSink("~/runs", framework="torch").close()
    assert event_files(tmp_path / "runs" / "gradwatch")


def test_a_url_is_kept_as_it_is(tmp_path):
    TensorBoardSink(f"local://{tmp_path}/", "run", framework="torch").close()
    assert event_files(tmp_path / "run")


def test_bytes_of_a_default_schedule_with_200_layers(tmp_path):
    """10,000 steps of "auto" are 209 samples; the documentation may quote the figure."""
    layers = chain(200)
    schedule = Schedule(budget=None)
    samples = []
    for step in range(10_000):
        sample = schedule.plan()
        schedule.close_step(sample, seconds=0.0, cost=0.0)
        if sample is not Sample.NOTHING:
            samples.append(usual_snapshot(layers, step, signals=sample is Sample.SIGNALS))
    write_run(tmp_path, samples)
    (path,) = event_files(tmp_path / "gradwatch")
    per_sample = path.stat().st_size / len(samples)
    assert 6_500 < per_sample < 8_500
    assert path.stat().st_size / 10_000 < 200


WRITE_UNTIL_FULL = """
import json, sys
from tests.tensorboard.builders import chain, random_run
from gradwatch.tensorboard.scalars import SNAPSHOT_SCALARS
from gradwatch.tensorboard.sink import TensorBoardSink
{limit}
sink = TensorBoardSink(sys.argv[1], framework="torch")
written, error = 0, None
try:
    for snapshot in random_run(chain(20), range(2000)):
        sink.write_snapshot(snapshot)
        written += 1
except OSError as raised:
    error = raised.strerror
sink.close()
sink.close()
print(json.dumps([written, error]))
"""

LIMIT_FILE_SIZE = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))"


def write_until_full(log_dir: Path, *, limit: str = "") -> tuple[int, str]:
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", WRITE_UNTIL_FULL.format(limit=limit), str(log_dir)],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
    )
    return tuple(json.loads(run.stdout))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount_point = tmp_path / "small"
    mount_point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "gradwatch-test", str(mount_point)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a tmpfs")
    yield mount_point
    subprocess.run(["umount", str(mount_point)], check=True)


def assert_readable_up_to_the_error(log_dir: Path, written: int) -> None:
    expected = as_written(random_run(chain(20), range(2000))[:written])
    read_back = as_written(read(log_dir / "gradwatch").snapshots)
    assert len(read_back) > 30
    assert read_back == expected[: len(read_back)]
    (path,) = event_files(log_dir / "gradwatch")
    assert whole_records_size(path) == path.stat().st_size


def whole_records_size(path: Path) -> int:
    """Octets up to the end of the last whole record."""
    return sum(16 + event.ByteSize() for event in read_events(path))


def test_a_full_disk_raises_and_leaves_what_was_written_readable(small_disk):
    written, error = write_until_full(small_disk)
    assert error == "No space left on device"
    assert_readable_up_to_the_error(small_disk, written)


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on file sizes here")
def test_a_file_that_may_not_grow_raises_and_leaves_what_was_written_readable(tmp_path):
    written, error = write_until_full(tmp_path, limit=LIMIT_FILE_SIZE)
    assert error == "File too large"
    assert_readable_up_to_the_error(tmp_path, written)


def test_a_disk_full_from_the_start_is_an_error_at_once(tmp_path):
    limit = LIMIT_FILE_SIZE.replace("200_000", "0")
    with pytest.raises(subprocess.CalledProcessError) as failure:
        write_until_full(tmp_path, limit=limit)
    assert "ArgumentError: log_dir: event files cannot be written" in failure.value.stderr
