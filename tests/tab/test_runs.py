"""The store reads what changed, once, and shows a run as it is on the disk."""

import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensorboard.context import RequestContext

from gradwatch.snapshot import STATISTICS
from gradwatch.tab import runs
from gradwatch.tab.runs import MOST_RUNS, RunStore
from gradwatch.tab.stored_run import MOST_MATRICES, Recent
from gradwatch.tensorboard.reader import read
from tests.tensorboard.builders import (
    Clock,
    as_written,
    chain,
    finding,
    random_run,
    usual_snapshot,
    write_run,
    write_training,
)
from tests.tensorboard.test_loaders import PythonLoader

CONTEXT = RequestContext()


class Watched:
    """A data provider that counts what is read through it, and may fail or lose a tag.

    Args:
        log_dir: What it has loaded, and loads again on `reload`.
    """

    def __init__(self, log_dir: Path) -> None:
        self._loader = PythonLoader(log_dir)
        self.reload()
        self.tags_read: list[str] = []
        self.calls = 0
        self.hidden: set[str] = set()
        self.broken: set[str] = set()

    def reload(self) -> None:
        self._provider = self._loader.provider()

    def list_tensors(self, *args, **kwargs):
        return self._provider.list_tensors(*args, **kwargs)

    def read_tensors(self, *args, run_tag_filter, **kwargs):
        self.calls += 1
        self.tags_read += sorted(run_tag_filter.tags)
        if self.broken & run_tag_filter.tags:
            raise ValueError("cannot reshape array")
        found = self._provider.read_tensors(*args, run_tag_filter=run_tag_filter, **kwargs)
        return {
            run: {tag: data for tag, data in tags.items() if tag not in self.hidden}
            for run, tags in found.items()
        }


def run_in(store: RunStore, name: str = "gradwatch"):
    return store.run(CONTEXT, "", name)


def steps_of(run) -> list[int]:
    return run.matrix.steps.tolist()


def test_a_run_is_what_the_reader_reads(tmp_path):
    write_training(tmp_path)
    run = run_in(RunStore(Watched(tmp_path)))
    expected = read(tmp_path / "gradwatch")
    assert as_written(run.recording.snapshots) == as_written(expected.snapshots)
    assert run.recording.findings == expected.findings
    assert run.recording.sessions == expected.sessions
    assert run.troubles == ()


def test_tokens_are_those_of_the_runs_by_name(tmp_path):
    for name in ("b", "a", "a/c"):
        write_run(tmp_path / name, random_run(chain(2), range(3)))
    store = RunStore(Watched(tmp_path))
    tokens = store.tokens(CONTEXT, "")
    assert list(tokens) == ["a/c/gradwatch", "a/gradwatch", "b/gradwatch"]
    assert {name: run_in(store, name).token for name in tokens} == tokens


def test_there_is_no_run_of_another_name(tmp_path):
    write_training(tmp_path)
    assert run_in(RunStore(Watched(tmp_path)), "gradwatch2") is None


def test_what_did_not_change_is_not_read_again(tmp_path):
    write_training(tmp_path)
    provider = Watched(tmp_path)
    store = RunStore(provider)
    first, calls = run_in(store), provider.calls
    assert run_in(store) is first
    assert provider.calls == calls
    assert max(Counter(provider.tags_read).values()) == 1


def test_of_a_run_that_grows_only_what_is_new_is_read(tmp_path):
    snapshots, clock = random_run(chain(3), range(200)), Clock()
    sink = write_run(tmp_path, snapshots[:150], clock=clock, close=False)
    provider = Watched(tmp_path)
    store = RunStore(provider)
    before = run_in(store)
    assert len(before.matrix) == 127
    provider.tags_read.clear()
    for snapshot in snapshots[150:]:
        clock.now += 1
        sink.write_snapshot(snapshot)
    sink.close()
    provider.reload()
    after = run_in(store)
    assert as_written(after.recording.snapshots) == as_written(snapshots)
    assert after.token != before.token
    assert sorted(tag.split("/")[1] for tag in provider.tags_read) == ["run", "stats", "stats"]


def test_a_finding_that_changes_gives_another_token(tmp_path):
    clock = Clock()
    sink = write_run(tmp_path, [usual_snapshot(chain(3), 0)], clock=clock, close=False)
    seen = finding(step=0)
    sink.write_findings([seen], [seen])
    provider = Watched(tmp_path)
    store = RunStore(provider)
    before = run_in(store)
    assert before.recording.findings == (seen,)
    clock.now += 1
    gone = replace(seen, resolved_step=1)
    sink.write_findings([gone], [gone])
    provider.reload()
    assert store.tokens(CONTEXT, "")["gradwatch"] != before.token
    assert run_in(store).recording.findings == (gone,)
    sink.close()


def test_a_resumed_run_truncates_what_came_before(tmp_path):
    clock = Clock()
    write_run(tmp_path, random_run(chain(2), range(10)), clock=clock)
    provider = Watched(tmp_path)
    store = RunStore(provider)
    assert steps_of(run_in(store)) == list(range(10))
    clock.now += 1000
    write_run(tmp_path, random_run(chain(2), range(6, 9), seed=1), clock=clock)
    provider.reload()
    assert steps_of(run_in(store)) == list(range(9))
    assert as_written(run_in(store).recording.snapshots) == as_written(
        read(tmp_path / "gradwatch").snapshots
    )


def test_a_tag_that_is_listed_before_it_can_be_read_is_asked_for_again(tmp_path):
    write_run(tmp_path, random_run(chain(2), range(7)))
    provider = Watched(tmp_path)
    provider.hidden = {"gradwatch/stats/3"}
    store = RunStore(provider)
    partial = run_in(store)
    assert steps_of(partial) == [0, 1, 2]
    assert partial.token != store.tokens(CONTEXT, "")["gradwatch"]
    provider.hidden = set()
    assert steps_of(run_in(store)) == list(range(7))
    assert run_in(store).token == store.tokens(CONTEXT, "")["gradwatch"]


def test_a_tensor_that_tensorboard_cannot_make_costs_no_other(tmp_path):
    write_run(tmp_path, random_run(chain(2), range(15)))
    provider = Watched(tmp_path)
    provider.broken = {"gradwatch/stats/3"}
    run = run_in(RunStore(provider))
    assert steps_of(run) == [0, 1, 2, *range(7, 15)]
    assert run.troubles == (
        "gradwatch/stats/3 is damaged and left out: TensorBoard cannot read its tensor.",
    )


@pytest.mark.parametrize(("most", "answers"), [(1, 14), (150_000, 5), (runs.BATCH_OCTETS, 3)])
def test_a_large_run_is_read_in_several_answers(tmp_path, monkeypatch, most, answers):
    monkeypatch.setattr(runs, "BATCH_OCTETS", most)
    write_run(tmp_path, random_run(chain(20), range(600)))
    provider = Watched(tmp_path)
    assert len(run_in(RunStore(provider)).matrix) == 600
    assert provider.calls == answers


def test_runs_that_were_not_looked_at_for_long_are_let_go(tmp_path):
    names = [f"run{index}/gradwatch" for index in range(MOST_RUNS + 1)]
    for name in names:
        write_run(tmp_path / name.partition("/")[0], random_run(chain(2), range(3)))
    provider = Watched(tmp_path)
    store = RunStore(provider)
    first = run_in(store, names[0])
    for name in names[1:MOST_RUNS]:
        run_in(store, name)
    assert run_in(store, names[0]) is first
    run_in(store, names[MOST_RUNS])
    provider.tags_read.clear()
    assert run_in(store, names[0]) is first
    assert not provider.tags_read
    run_in(store, names[1])
    assert provider.tags_read


def test_statistics_that_were_not_looked_at_for_long_are_let_go(tmp_path):
    write_training(tmp_path)
    run = run_in(RunStore(Watched(tmp_path)))
    first = run.statistic("grad_norm")
    assert run.statistic("grad_norm") is first
    for statistic in STATISTICS[-MOST_MATRICES:]:
        run.statistic(statistic.name)
    assert run.statistic("grad_norm") is not first


def test_the_values_used_last_are_kept():
    recent, made = Recent(2), []

    def value_of(key):
        return recent.get(key, lambda: made.append(key) or key)

    for key in "abacab":
        assert value_of(key) == key
    assert made == ["a", "b", "c", "b"]


def test_many_threads_read_a_run_once(tmp_path):
    write_training(tmp_path)
    provider = Watched(tmp_path)
    store, found, start = RunStore(provider), [], threading.Barrier(8)

    def look():
        start.wait()
        run = run_in(store)
        found.append((run, run.statistic("grad_norm"), run.matrix.states.shape))

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({id(run) for run, _, _ in found}) == 1
    assert len({id(values) for _, values, _ in found}) == 1
    assert max(Counter(provider.tags_read).values()) == 1
    assert np.isfinite(found[0][1]).all()
