"""The same rules on the stored run give the findings that they gave live."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from gradwatch.finding import Fix
from gradwatch.rules import ALL_RULES, Diagnosis, Rule
from gradwatch.snapshot import Snapshot
from gradwatch.tensorboard.reader import read
from gradwatch.tensorboard.sink import TensorBoardSink
from gradwatch.watcher import Watcher

from .builders import chain, random_snapshot, usual_snapshot


@dataclass(frozen=True)
class LargestUpdate(Rule):
    """Blames the layers beyond the median update; its evidence holds numbers of every kind."""

    code: ClassVar[str] = "X1"
    name: ClassVar[str] = "largest-update"
    needs = "parameters"
    size = 2

    def check(self, window) -> Iterable[Diagnosis]:
        updates = window.median(lambda snapshot: snapshot.update_ratio)
        beyond = tuple(int(row) for row in np.flatnonzero(updates > np.nanmedian(updates)))
        if beyond:
            newest = window.snapshots[-1]
            evidence = {
                "loss": newest.loss,
                "updates": float(np.nansum(updates)),
                "slope": float(newest.mean_slope[0]),
                "calls": float(newest.forward_calls.max()),
                "states": float(newest.states.sum()),
            }
            fix = Fix("clipping", "Clip", "It is large.", "Pascanu et al. 2013")
            yield Diagnosis("learning rate", beyond, "warning", "{layers}", evidence, (fix,))


def watched(snapshots: Iterable[Snapshot], *sinks: TensorBoardSink) -> Watcher:
    watcher = Watcher((*ALL_RULES, LargestUpdate()), sinks=sinks)
    step = 0
    for snapshot in snapshots:
        watcher.observe(snapshot)
        step = snapshot.step
    watcher.finish(step)
    return watcher


def wild(steps: int) -> list[Snapshot]:
    rng, layers = np.random.default_rng(3), chain(6)
    random = [random_snapshot(rng, layers, step) for step in range(steps)]
    return [replace(snapshot, skipped=False) for snapshot in random]


RUNS = {
    "vanishing": [usual_snapshot(chain(8), step, signals=step % 2 == 0) for step in range(80)],
    "healthy": [usual_snapshot(chain(8, activation="relu"), s, decades=0.1) for s in range(80)],
    "wild": wild(80),
}


@pytest.mark.parametrize("snapshots", RUNS.values(), ids=RUNS.keys())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_rules_find_the_same_live_and_stored(tmp_path, snapshots):
    live = watched(snapshots, TensorBoardSink(tmp_path, framework="torch"))
    recording = read(tmp_path / "gradwatch")
    assert live.findings
    assert repr(watched(recording.snapshots).findings) == repr(live.findings)


@pytest.mark.parametrize("snapshots", RUNS.values(), ids=RUNS.keys())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_findings_that_were_stored_are_the_live_ones(tmp_path, snapshots):
    live = watched(snapshots, TensorBoardSink(tmp_path, framework="torch"))
    assert repr(read(tmp_path / "gradwatch").findings) == repr(live.findings)


def test_what_the_watch_could_not_see_is_stored_with_every_later_step(tmp_path):
    watcher = Watcher((), sinks=[TensorBoardSink(tmp_path, framework="torch")])
    watcher.observe(usual_snapshot(chain(2), 0))
    watcher.degrade("signals are off: the model is compiled")
    watcher.observe(usual_snapshot(chain(2), 1))
    watcher.finish(1)
    limits = [snapshot.limits for snapshot in read(tmp_path / "gradwatch").snapshots]
    assert limits == [(), ("signals are off: the model is compiled",)]
