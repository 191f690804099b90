"""From snapshots to findings: opened, updated, explained away, resolved, reopened."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from gradwatch.errors import ArgumentError
from gradwatch.finding import Finding, Fix
from gradwatch.history import History, Window
from gradwatch.layer import Layer
from gradwatch.rules import PRECEDENCE, Diagnosis, Rule
from gradwatch.rules.gw901_nothing_observed import NothingObserved
from gradwatch.rules.gw902_observation_degraded import ObservationDegraded
from gradwatch.samples import Samples
from gradwatch.snapshot import ROW_OF, Snapshot, State, empty_statistics
from gradwatch.watcher import Watcher

LAYERS = tuple(Layer(name=f"layer{row}", kind="Linear", depth=row) for row in range(4))

FIRST, SECOND = "GW301", "GW101"
"""Two codes in the order of `PRECEDENCE`."""

assert PRECEDENCE.index(FIRST) < PRECEDENCE.index(SECOND)


@dataclass(frozen=True)
class Large(Rule):
    """Fires on layers whose gradient norm is above a threshold."""

    code = SECOND
    name = "large-gradient"
    needs = "parameters"
    size = 1
    warm_up = 0
    threshold: float = 1.0

    def check(self, window: Window) -> Iterable[Diagnosis]:
        rows = np.flatnonzero(window.snapshots[-1].grad_norm > self.threshold)
        if rows.size:
            yield Diagnosis(
                cause="weights",
                rows=tuple(map(int, rows)),
                severity="warning",
                message="{layers}: large",
                evidence={"step": np.float32(window.step)},
            )


@dataclass(frozen=True)
class Huge(Large):
    """Comes first, and explains the row after each of its own too."""

    code = FIRST
    name = "huge-gradient"
    threshold: float = 100.0

    def check(self, window: Window) -> Iterable[Diagnosis]:
        for diagnosis in super().check(window):
            covers = frozenset(row + 1 for row in diagnosis.rows)
            yield Diagnosis("depth", diagnosis.rows, "error", "huge", {}, covers=covers)


@dataclass(frozen=True)
class Own(Large):
    """A user's rule with a code of its own, hence after all others."""

    code = "X001"
    name = "own"


@dataclass(frozen=True)
class Raises(Large):
    """Fails when it sees a large gradient."""

    code = "X002"
    name = "raises"

    def check(self, window: Window) -> Iterable[Diagnosis]:
        if list(super().check(window)):
            raise ZeroDivisionError("by design")
        return ()


@dataclass(frozen=True)
class Nonsense(Large):
    """Returns a row that is not there."""

    code = "X003"
    name = "nonsense"

    def check(self, window: Window) -> Iterable[Diagnosis]:
        yield Diagnosis("weights", (99,), "warning", "{layers}", {})


@dataclass
class Told:
    """A sink that notes what it is told, and fails at a call if asked to."""

    fails_at: str = ""
    snapshots: list[Snapshot] = field(default_factory=list)
    changed: list[list[Finding]] = field(default_factory=list)
    closed: int = 0

    def write_snapshot(self, snapshot: Snapshot) -> None:
        self._fail("write_snapshot")
        self.snapshots.append(snapshot)

    def write_findings(self, changed: Sequence[Finding], findings: Sequence[Finding]) -> None:
        self._fail("write_findings")
        assert set(map(id, changed)) <= set(map(id, findings))
        self.changed.append(list(changed))

    def close(self) -> None:
        self._fail("close")
        self.closed += 1

    def _fail(self, call: str) -> None:
        if call == self.fails_at:
            raise OSError(28, "No space left on device")


def snapshot(step: int, *grad_norms: float) -> Snapshot:
    packed = empty_statistics(len(LAYERS))
    packed[ROW_OF["grad_norm"]] = 0.0
    packed[ROW_OF["grad_norm"], : len(grad_norms)] = grad_norms
    states = np.full(len(LAYERS), State.TRAINED, dtype=np.int8)
    return Snapshot.unpacked(packed, step=step, layers=LAYERS, states=states)


def watched(watcher: Watcher, *rows: Sequence[float]) -> tuple[Finding, ...]:
    """The findings after one more snapshot for each row of gradient norms."""
    for norms in rows:
        watcher.observe(snapshot(len(watcher.history), *norms))
    return watcher.findings


def one(watcher: Watcher, *rows: Sequence[float]) -> Finding:
    (finding,) = watched(watcher, *rows)
    return finding


CALM, SICK = [0.0], [9.0]


def test_a_finding_opens_once_two_windows_support_it():
    watcher = Watcher([Large()])
    assert watched(watcher, CALM, SICK) == ()
    finding = one(watcher, SICK)
    assert finding.is_open
    assert (finding.code, finding.name, finding.cause, finding.severity, finding.step) == (
        SECOND,
        "large-gradient",
        "weights",
        "warning",
        2,
    )
    assert (finding.layers, finding.message) == (("layer0",), "layer layer0: large")


def test_one_sick_sample_is_no_finding():
    assert watched(Watcher([Large()]), SICK, CALM, SICK, CALM) == ()


def test_a_finding_is_updated_in_place():
    watcher = Watcher([Large()])
    assert one(watcher, SICK, SICK).evidence == {"step": 1.0}
    finding = one(watcher, [9, 9], [9, 9])
    assert (finding.step, finding.layers, finding.evidence) == (
        1,
        ("layer0", "layer1"),
        {"step": 3},
    )
    assert type(finding.evidence["step"]) is float


def test_a_finding_is_resolved_once_no_window_supports_it():
    watcher = Watcher([Large()])
    assert one(watcher, SICK, SICK, CALM).is_open
    finding = one(watcher, CALM)
    assert (finding.is_open, finding.step, finding.resolved_step) == (False, 1, 3)


def test_a_finding_that_flickers_stays_open():
    watcher = Watcher([Large()])
    assert one(watcher, SICK, SICK, CALM, SICK, CALM, SICK, CALM).is_open


def test_a_resolved_finding_reopens_at_a_new_step():
    watcher = Watcher([Large()])
    watched(watcher, SICK, SICK, CALM, CALM)
    finding = one(watcher, SICK, SICK)
    assert (finding.step, finding.resolved_step) == (5, None)


def test_an_earlier_code_explains_the_rows_that_it_covers():
    findings = watched(Watcher([Large(), Huge()]), [0, 900, 9, 9], [0, 900, 9, 9])
    assert [(finding.code, finding.layers) for finding in findings] == [
        (FIRST, ("layer1",)),
        (SECOND, ("layer3",)),
    ]


def test_an_open_finding_that_comes_to_be_explained_is_resolved():
    watcher = Watcher([Large(), Huge()])
    assert one(watcher, [0, 0, 9], [0, 0, 9]).is_open
    later, earlier = watched(watcher, [0, 900, 9], [0, 900, 9])
    assert (later.code, later.resolved_step) == (SECOND, 3)
    assert (earlier.code, earlier.is_open) == (FIRST, True)


def test_the_order_of_the_rules_does_not_matter():
    rows = [[900, 9, 9], [900, 9, 9]]
    assert watched(Watcher([Huge(), Large()]), *rows) == watched(Watcher([Large(), Huge()]), *rows)


def test_a_rule_of_the_user_comes_after_all_others():
    (finding,) = watched(Watcher([Own(), Large()]), SICK, SICK)
    assert finding.code == SECOND


def test_a_code_that_is_not_reported_still_explains():
    watcher = Watcher([Large(), Huge()], report_only=frozenset({SECOND}))
    assert watched(watcher, [900, 9], [900, 9]) == ()
    assert [finding.code for finding in watched(watcher, [9, 9], [9, 9])] == [SECOND]


def test_on_finding_is_called_once_an_opening():
    told = []
    watcher = Watcher([Large()], on_finding=told.append)
    watched(watcher, SICK, SICK, [9, 9], [9, 9])
    assert [finding.step for finding in told] == [1]
    watched(watcher, CALM, CALM, SICK, SICK)
    assert [finding.step for finding in told] == [1, 7]
    assert all(finding.is_open for finding in told)


def test_on_finding_is_not_called_for_a_code_that_is_not_reported():
    told = []
    watcher = Watcher([Large()], on_finding=told.append, report_only=frozenset({FIRST}))
    watched(watcher, SICK, SICK)
    assert told == []


def test_on_finding_has_to_be_callable():
    with pytest.raises(ArgumentError, match="on_finding='print' cannot be called"):
        Watcher([], on_finding="print")


def test_sinks_are_not_opened_where_on_finding_is_wrong():
    opened = []
    sinks = (opened.append(number) or Told() for number in range(2))
    with pytest.raises(ArgumentError):
        Watcher([], on_finding=1, sinks=sinks)
    assert opened == []


def test_sinks_see_every_snapshot_and_what_changed():
    sink = Told()
    watcher = Watcher([Large()], sinks=[sink])
    watched(watcher, SICK, SICK, CALM, CALM, CALM)
    watcher.finish(5)
    assert [entry.step for entry in sink.snapshots] == [0, 1, 2, 3, 4]
    assert [[finding.is_open for finding in changed] for changed in sink.changed] == [
        [True],
        [False],
    ]
    assert sink.closed == 1


def test_a_run_that_goes_on_keeps_history_and_findings_and_writes_to_new_sinks():
    earlier, later = Told(), Told()
    watcher = Watcher([Large()], sinks=[earlier])
    watched(watcher, SICK, SICK)
    watcher.finish(2)
    watcher.resume([later])
    assert not watcher.history.finished
    watcher.observe(snapshot(2, *SICK))
    assert (len(earlier.snapshots), [entry.step for entry in later.snapshots]) == (2, [2])
    assert [finding.is_open for finding in watcher.findings] == [True]


def test_a_finding_of_the_end_of_a_run_is_resolved_once_the_run_goes_on():
    rule = NothingObserved()
    watcher = Watcher([rule])
    watcher.finish(0)
    assert one(watcher).is_open
    watcher.resume([])
    assert one(watcher, *[CALM] * (rule.size - 1)).is_open
    finding = one(watcher, CALM)
    assert (finding.code, finding.resolved_step) == ("GW901", rule.size - 1)


def test_snapshots_carry_the_limits_of_the_run():
    sink = Told()
    watcher = Watcher([], sinks=[sink])
    watcher.degrade("half of it is not seen")
    watcher.degrade("half of it is not seen")
    watched(watcher, CALM)
    assert sink.snapshots[0].limits == ("half of it is not seen",)


def test_limits_that_a_snapshot_brings_along_are_those_of_the_run():
    sink = Told()
    watcher = Watcher([ObservationDegraded()], sinks=[sink])
    watcher.degrade("a")
    watcher.observe(replace(snapshot(0), limits=("b", "a")))
    watcher.observe(snapshot(1))
    assert [entry.limits for entry in sink.snapshots] == [("a", "b"), ("a", "b")]
    (finding,) = watcher.findings
    assert (finding.step, finding.evidence) == (0, {"limits": 2.0})


def test_many_samples_are_taken_as_one_after_the_other():
    rows = [CALM, SICK, SICK, CALM, CALM, [9, 9], [9, 9]]
    snapshots = [snapshot(step, *norms) for step, norms in enumerate(rows)]
    together, told = Watcher([Large()], sinks=[sink := Told()]), []
    together.observe_all(Samples.of(snapshots))
    alone = Watcher([Large()], on_finding=told.append)
    watched(alone, *rows)
    assert together.findings == alone.findings
    assert [entry.step for entry in together.history] == list(range(7))
    assert [entry.step for entry in sink.snapshots] == list(range(7))
    assert [finding.step for finding in told] == [2, 6]


@pytest.fixture
def warnings_of(caplog):
    """The warnings that were logged so far."""
    caplog.set_level(logging.WARNING, logger="gradwatch")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "gradwatch"]


@pytest.mark.parametrize("rule", [Raises(), Nonsense()], ids=["raises", "nonsense"])
def test_a_rule_that_fails_is_off_and_reported_once(rule, warnings_of):
    watcher = Watcher([rule, Large(), ObservationDegraded()])
    findings = watched(watcher, SICK, SICK, SICK, SICK)
    (warning,) = warnings_of()
    assert f"rule {rule.code} raised" in warning
    assert warning.endswith("training goes on.")
    assert {finding.code for finding in findings} == {SECOND, "GW902"}
    (degraded,) = (finding for finding in findings if finding.code == "GW902")
    assert f"rule {rule.code} raised" in degraded.message


class Unbuilt(Sequence[Fix]):
    """Fixes that count how often they are built, and fail if asked to."""

    built = 0

    def __init__(self, *, fails: bool) -> None:
        self.fails = fails

    def __len__(self) -> int:
        type(self).built += 1
        return 1 // (not self.fails)

    def __getitem__(self, index: int) -> Fix:
        return (Fix("clipping", "Clip", "It is large.", "Pascanu et al. 2013"),)[index]


@dataclass(frozen=True)
class Fixing(Large):
    """A rule that names fixes."""

    fails: bool = False

    def check(self, window: Window) -> Iterable[Diagnosis]:
        for diagnosis in super().check(window):
            yield replace(diagnosis, fixes=Unbuilt(fails=self.fails))


def test_fixes_are_built_when_someone_looks(monkeypatch):
    monkeypatch.setattr(Unbuilt, "built", 0)
    watcher = Watcher([Fixing()])
    for step in range(20):
        watcher.observe(snapshot(step, *SICK))
    assert Unbuilt.built == 0
    (finding,) = watcher.findings
    assert [fix.title for fix in finding.fixes] == ["Clip"]
    assert watcher.findings[0] is finding


def test_fixes_are_those_of_the_latest_update_also_when_it_is_resolved():
    watcher = Watcher([Fixing()])
    finding = one(watcher, SICK, SICK, CALM, CALM)
    assert not finding.is_open
    assert [fix.title for fix in finding.fixes] == ["Clip"]


def test_a_fix_that_fails_is_left_out_and_reported_once(warnings_of):
    watcher = Watcher([Fixing(fails=True), ObservationDegraded()])
    watched(watcher, SICK, SICK)
    assert one(watcher).fixes == ()
    watched(watcher, SICK)
    (warning,) = warnings_of()
    assert f"a fix of rule {SECOND} raised ZeroDivisionError" in warning
    assert [finding.code for finding in watcher.findings] == [SECOND, "GW902"]


def test_on_finding_that_fails_is_off_and_reported_once(warnings_of):
    calls = []

    def fails(finding: Finding) -> None:
        calls.append(finding)
        raise RuntimeError("by design")

    watcher = Watcher([Large(), ObservationDegraded()], on_finding=fails)
    watched(watcher, SICK, SICK, CALM, CALM, SICK, SICK)
    (warning,) = warnings_of()
    assert "on_finding raised RuntimeError('by design')" in warning
    assert len(calls) == 1
    assert {finding.code for finding in watcher.findings} == {SECOND, "GW902"}


@pytest.mark.parametrize("call", ["write_snapshot", "write_findings", "close"])
def test_a_sink_that_fails_is_dropped_and_the_others_go_on(call, warnings_of):
    broken, sound = Told(fails_at=call), Told()
    watcher = Watcher([Large(), ObservationDegraded()], sinks=[broken, sound])
    watched(watcher, SICK, SICK, SICK)
    watcher.finish(3)
    (warning,) = warnings_of()
    assert "Told raised OSError(28, 'No space left on device')" in warning
    assert {finding.code for finding in watcher.findings} == {SECOND, "GW902"}
    assert len(sound.snapshots) == 3
    assert sound.closed == 1


def test_a_fault_at_the_very_end_is_reported_too(warnings_of):
    def fails(finding: Finding) -> None:
        raise RuntimeError("by design")

    @dataclass(frozen=True)
    class AtTheEnd(Large):
        def evaluate(self, history: History):
            return super().evaluate(history) if history.finished else None

    watcher = Watcher([AtTheEnd(), ObservationDegraded()], on_finding=fails)
    watched(watcher, SICK, SICK)
    watcher.finish(2)
    assert len(warnings_of()) == 1
    assert {finding.code for finding in watcher.findings} == {SECOND, "GW902"}


def test_an_interrupt_passes_through():
    def interrupt(finding: Finding) -> None:
        raise KeyboardInterrupt

    watcher = Watcher([Large()], on_finding=interrupt)
    with pytest.raises(KeyboardInterrupt):
        watched(watcher, SICK, SICK)


def test_a_fault_from_outside_is_a_finding_at_once(warnings_of):
    watcher = Watcher([ObservationDegraded()])
    watcher.fault("a hook failed", 7)
    (finding,) = watcher.findings
    assert (finding.code, finding.step) == ("GW902", 7)
    assert len(warnings_of()) == 1
