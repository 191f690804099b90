"""The reader: what a run left behind, also after it was resumed, killed or damaged."""

from dataclasses import replace
from pathlib import Path

import pytest

from gradwatch.errors import ArgumentError
from gradwatch.finding import Finding
from gradwatch.tensorboard.events import event_files
from gradwatch.tensorboard.reader import find_recordings, read

from .builders import (
    Clock,
    as_written,
    chain,
    finding,
    random_run,
    usual_snapshot,
    write_run,
    write_training,
)

LAYERS = chain(3)


def session(
    log_dir: Path, clock: Clock, steps: range, *, findings: dict[int, Finding], seed: int = 0
) -> None:
    """One writer: random snapshots, and a finding after each step that has one."""
    sink = write_run(log_dir, [], clock=clock, close=False)
    known: dict[tuple[str, str], Finding] = {}
    for snapshot in random_run(LAYERS, steps, seed=seed):
        sink.write_snapshot(snapshot)
        if snapshot.step in findings:
            seen = findings[snapshot.step]
            known[seen.code, seen.cause] = seen
            sink.write_findings([seen], list(known.values()))
    sink.close()
    clock.now += 3600


def test_a_resumed_run_continues_where_the_checkpoint_was(tmp_path):
    clock = Clock()
    session(tmp_path, clock, range(100), findings={}, seed=1)
    session(tmp_path, clock, range(60, 80), findings={}, seed=2)
    session(tmp_path, clock, range(70, 90), findings={}, seed=3)
    expected = (
        random_run(LAYERS, range(100), seed=1)[:60]
        + random_run(LAYERS, range(60, 80), seed=2)[:10]
        + random_run(LAYERS, range(70, 90), seed=3)
    )
    recording = read(tmp_path / "gradwatch")
    assert as_written(recording.snapshots) == as_written(expected)
    assert len(recording.sessions) == 3


def test_a_run_that_was_started_anew_forgets_the_one_before(tmp_path):
    clock = Clock()
    session(tmp_path, clock, range(100), findings={50: finding(step=50)}, seed=1)
    session(tmp_path, clock, range(30), findings={}, seed=2)
    recording = read(tmp_path / "gradwatch")
    assert as_written(recording.snapshots) == as_written(random_run(LAYERS, range(30), seed=2))
    assert recording.findings == ()


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({10: finding(step=10)}, {}, [finding(step=10, resolved_step=60)]),
        ({70: finding(step=70)}, {}, []),
        ({10: finding(step=10)}, {65: finding(step=65)}, [finding(step=65)]),
        (
            {10: finding(step=10), 20: finding(step=10, resolved_step=20)},
            {},
            [finding(step=10, resolved_step=20)],
        ),
        (
            {10: finding(step=10), 80: finding(step=10, resolved_step=80)},
            {},
            [finding(step=10, resolved_step=60)],
        ),
        (
            {10: finding(step=10)},
            {65: finding(step=65, code="GW501")},
            [finding(step=10, resolved_step=60), finding(step=65, code="GW501")],
        ),
    ],
    ids=["open", "opened after", "seen again", "resolved before", "resolved after", "another"],
)
def test_a_finding_ends_where_the_run_was_resumed_unless_seen_again(
    tmp_path, first, second, expected
):
    clock = Clock()
    session(tmp_path, clock, range(100), findings=first)
    session(tmp_path, clock, range(60, 90), findings=second)
    assert list(read(tmp_path / "gradwatch").findings) == expected


def test_a_resumed_run_that_goes_further_back_a_second_time(tmp_path):
    clock = Clock()
    session(tmp_path, clock, range(100), findings={10: finding(step=10)})
    session(tmp_path, clock, range(60, 90), findings={})
    session(tmp_path, clock, range(40, 50), findings={})
    assert read(tmp_path / "gradwatch").findings == (finding(step=10, resolved_step=40),)


def test_of_two_sessions_side_by_side_the_later_one_stays(tmp_path):
    clock = Clock()
    sinks = [write_run(tmp_path, [], clock=clock, close=False) for _ in range(2)]
    runs = [random_run(LAYERS, range(100), seed=seed) for seed in range(2)]
    sinks[0].write_snapshot(runs[0][0])
    for later, earlier in zip(runs[1], runs[0][1:], strict=False):
        clock.now += 1
        sinks[1].write_snapshot(later)
        sinks[0].write_snapshot(earlier)
    for sink in reversed(sinks):
        clock.now += 1
        sink.close()
    assert as_written(read(tmp_path / "gradwatch").snapshots) == as_written(runs[1][:99])


def test_a_step_that_goes_back_within_a_session_truncates_too(tmp_path):
    snapshots = random_run(LAYERS, [*range(50), *range(20, 30)])
    write_run(tmp_path, snapshots)
    expected = snapshots[:20] + snapshots[50:]
    assert as_written(read(tmp_path / "gradwatch").snapshots) == as_written(expected)


@pytest.mark.parametrize("lost", [1, 100, 5_000])
def test_a_run_that_was_cut_off_is_read_up_to_there(tmp_path, lost):
    snapshots = random_run(LAYERS, range(300))
    write_run(tmp_path, snapshots)
    (path,) = event_files(tmp_path / "gradwatch")
    path.write_bytes(path.read_bytes()[:-lost])
    recording = read(tmp_path / "gradwatch")
    assert not recording.sessions[0].finished
    assert len(recording.snapshots) >= 255
    assert as_written(recording.snapshots) == as_written(snapshots[: len(recording.snapshots)])


def test_a_chunk_whose_layers_are_lost_is_left_out_with_a_warning(tmp_path, monkeypatch, caplog):
    sink = write_run(tmp_path, [], close=False)
    sink._rows, sink._layers = "lost", LAYERS
    sink.write_snapshot(usual_snapshot(LAYERS, 5))
    sink.close()
    assert read(tmp_path / "gradwatch").snapshots == ()
    assert "gradwatch/stats/5 is damaged and left out: it is the chunk of step 5" in caplog.text


@pytest.mark.parametrize("wanted", ["nothing", "file"])
def test_what_is_no_directory_is_an_error(tmp_path, wanted):
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentError, match=f"{wanted}' is not a directory"):
        read(tmp_path / wanted)


def test_a_directory_without_a_recording_says_what_to_pass(tmp_path):
    with pytest.raises(ArgumentError, match="no event file of gradwatch that can be read; pass"):
        read(tmp_path)


def test_recordings_are_found_among_other_event_files(tmp_path):
    write_training(tmp_path / "a", steps=4)
    write_run(tmp_path / "b", [usual_snapshot(LAYERS, 0)], name="generator")
    (tmp_path / "a" / "events.out.tfevents.1.host.1.0").write_bytes(b"another writer's")
    expected = [tmp_path / "a" / "gradwatch", tmp_path / "b" / "generator"]
    assert find_recordings(tmp_path) == expected
    assert find_recordings(tmp_path / "a" / "gradwatch") == expected[:1]


def test_a_finding_that_came_back_keeps_its_place(tmp_path):
    first, second = finding(step=10), finding(step=20, code="GW501")
    resolved, reopened = replace(first, resolved_step=25), replace(first, step=30)
    sink = write_run(tmp_path, [usual_snapshot(LAYERS, 10)], close=False)
    sink.write_findings([first], [first])
    sink.write_findings([second], [first, second])
    sink.write_findings([resolved], [resolved, second])
    sink.write_findings([reopened], [reopened, second])
    sink.close()
    assert read(tmp_path / "gradwatch").findings == (reopened, second)
