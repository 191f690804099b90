"""The console: one line when a finding opens, one when it is gone, one at the end."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
from rich.console import Console
from rich.progress import Progress

from gradwatch.console import MOST_OPENINGS, START_OF_EMPTY_LINE, ConsoleSink
from gradwatch.history import Window
from gradwatch.rules import Diagnosis, Rule
from gradwatch.watcher import Watcher

from .report_builder import OVERHEAD, RELU_FIX, chain, finding, history, snapshot

SNAPSHOT = snapshot(chain(["fc1", "fc2", "head"]))
OPENED = finding()
UPDATED = finding(layers=("fc1",))
GONE = finding(resolved_step=64)
NOTICE = finding(code="GW902", name="observation-degraded", severity="notice", layers=(), fixes=())
DIM = "\x1b[2m"


def sink(*, terminal=False, width=200, **options):
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=terminal,
        force_jupyter=False,
        color_system="standard" if terminal else None,
        legacy_windows=False,
    )
    return ConsoleSink(console=console, **options)


def written(to: ConsoleSink) -> list[str]:
    return to._console.file.getvalue().splitlines()


def tell(to: ConsoleSink, *changes) -> list[str]:
    for change in changes:
        to.write_findings([change], [change])
    return written(to)


def test_a_finding_that_opens_is_one_line_with_its_fix_and_the_next_step():
    assert tell(sink(), OPENED) == [
        "gradwatch error at step 16: vanishing-gradient (GW101) on layers fc1 and fc2, cause: "
        "activation. Fix: Use ReLU with He initialisation in fc1 and fc2. See watch.report()."
    ]


def test_a_finding_that_only_changes_writes_nothing():
    assert len(tell(sink(), OPENED, UPDATED, UPDATED)) == 1


def test_a_finding_that_is_gone_is_one_line():
    assert tell(sink(), OPENED, GONE)[1:] == [
        "gradwatch resolved at step 64: vanishing-gradient (GW101) on layers fc1 and fc2."
    ]


def test_another_cause_is_another_finding():
    assert len(tell(sink(), OPENED, replace(OPENED, cause="weights"))) == 2


def test_a_finding_that_comes_and_goes_falls_silent():
    lines = tell(sink(), *[OPENED, GONE] * (MOST_OPENINGS + 4))
    assert len(lines) == 2 * MOST_OPENINGS
    assert lines[-2].endswith("It comes and goes; no more lines about it.")


def test_a_snapshot_writes_nothing():
    quiet = sink()
    quiet.write_snapshot(SNAPSHOT)
    assert written(quiet) == []


@pytest.mark.parametrize("verbose", [0, 1])
def test_verbose_0_is_silent(verbose):
    told = sink(verbose=verbose)
    tell(told, OPENED)
    told.close()
    assert bool(written(told)) is bool(verbose)


@pytest.mark.parametrize(
    ("framework", "call"), [("torch", "watch.report()"), ("keras", "callback.report()")]
)
def test_the_next_step_is_that_of_the_framework(framework, call):
    assert tell(sink(framework=framework), OPENED)[0].endswith(f"See {call}.")


def test_a_line_is_one_line_however_narrow_the_terminal_and_odd_the_title():
    odd = replace(OPENED, fixes=(replace(RELU_FIX, title="Use\nReLU\x1b[2J"),))
    assert len(tell(sink(width=20), odd)) == 1
    assert "Use ReLU\\x1b[2J" in tell(sink(width=20), odd)[0]


@pytest.mark.parametrize(("change", "dim"), [(NOTICE, True), (OPENED, False)])
def test_a_notice_is_a_dim_line(change, dim):
    line = tell(sink(terminal=True), change)[-1]
    assert (f"{DIM}{change.severity}" in line.replace(f"{DIM}gradwatch ", DIM)) is dim


@pytest.mark.parametrize(
    ("findings", "summary"),
    [
        ([], "gradwatch Healthy: 3 layers, 300 steps, no finding."),
        (
            [OPENED],
            "gradwatch 1 error: vanishing-gradient (GW101) on layers fc1 and fc2, cause: "
            "activation. See watch.report().",
        ),
        (
            [GONE],
            "gradwatch Healthy: 3 layers, 300 steps, no finding, 1 finding resolved. "
            "See watch.report().",
        ),
    ],
)
def test_the_last_line_is_the_verdict(findings, summary):
    told = sink(overhead=lambda: OVERHEAD)
    for seen in history(SNAPSHOT):
        told.write_snapshot(seen)
    told.write_findings(findings, findings)
    told.close()
    assert written(told)[-1] == summary


def test_the_last_line_of_a_short_run_is_no_verdict():
    told = sink()
    told.write_snapshot(SNAPSHOT)
    told.close()
    assert written(told) == [
        "gradwatch Too short for a verdict: the run ended after 1 of 9 samples."
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_line_takes_the_place_of_a_progress_bar(terminal):
    told = sink(terminal=terminal)
    tell(told, OPENED)
    assert told._console.file.getvalue().startswith(START_OF_EMPTY_LINE) is terminal
    assert told._console.file.getvalue().endswith("\n")


def test_standard_error_is_where_lines_go(capsys):
    ConsoleSink().close()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "gradwatch Nothing observed yet: no optimizer step was seen.\n"


def test_a_line_stands_above_a_live_progress_bar(monkeypatch):
    """rich redirects standard error for this; a line that went past it would break the bar."""
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    console = Console(file=screen, force_terminal=True, force_jupyter=False, width=200)
    with Progress(console=console, auto_refresh=False) as progress:
        progress.add_task("training", total=2)
        ConsoleSink().write_findings([OPENED], [OPENED])
    assert "vanishing-gradient (GW101)" in screen.getvalue()
    assert screen.getvalue().rstrip().rpartition("vanishing-gradient")[2].count("training") >= 1


@dataclass(frozen=True)
class SmallUpdates(Rule):
    """Fires where the first layer's update ratio is small."""

    code: ClassVar[str] = "XX101"
    name: ClassVar[str] = "small-updates"

    def check(self, window: Window) -> Iterable[Diagnosis]:
        """One diagnosis while the newest update is below 1e-4."""
        newest = window.snapshots[-1]
        if newest.update_ratio[0] < 1e-4:
            yield Diagnosis("learning rate", (0,), "warning", "Small on {layers}.", {})


def test_a_watcher_writes_through_it():
    told = sink()
    watcher = Watcher([SmallUpdates()], sinks=[told])
    layers = chain(["fc1", "head"])
    for step in range(30):
        small = 1e-6 if step < 15 else 1e-2
        watcher.observe(snapshot(layers, step, update_ratio=[small, 1e-2]))
    watcher.finish(29)
    assert [line.partition(" on ")[0] for line in written(told)] == [
        "gradwatch warning at step 8: small-updates (XX101)",
        "gradwatch resolved at step 16: small-updates (XX101)",
        "gradwatch Healthy: 2 layers, up to step 29, no finding, 1 finding resolved. "
        "See watch.report().",
    ]
