"""Leaving out rules that cannot change anything never changes a finding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.finding import Finding
from gradwatch.history import History, Window
from gradwatch.layer import Layer
from gradwatch.rules import ALL_RULES, Diagnosis, Rule, Verdict
from gradwatch.rules.gw101_vanishing_gradient import VanishingGradient
from gradwatch.samples import Flags, Samples
from gradwatch.screening import Screening
from gradwatch.snapshot import Snapshot
from gradwatch.testing import backward_signals, chain, steady
from gradwatch.watcher import Watcher

from .arbitrary import ABSURD, BOUNDED_RUN, EXTREME, history_from, runs

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

LAYERS = chain(4, activation="relu")

SCREENED = [rule for rule in ALL_RULES if type(rule).suspects is not Rule.suspects]

screened_rule = pytest.mark.parametrize("rule", SCREENED, ids=lambda rule: rule.code)
kind_of_odd = st.sampled_from([EXTREME, ABSURD])


def with_shared_layers(snapshots: Iterable[Snapshot]) -> list[Snapshot]:
    """The snapshots of a run as an adapter makes them: equal layers are one object."""
    known: dict[tuple[Layer, ...], tuple[Layer, ...]] = {}
    return [
        replace(entry, layers=known.setdefault(entry.layers, entry.layers)) for entry in snapshots
    ]


def watched(snapshots: Iterable[Snapshot], *, screening: bool) -> tuple[Finding, ...]:
    watcher = Watcher(ALL_RULES, screening=screening)
    for entry in snapshots:
        watcher.observe(entry)
    watcher.finish(10_000)
    return watcher.findings


def blocks(snapshots: Sequence[Snapshot], size: int) -> Iterator[Samples]:
    """The snapshots as samples, a few at a time, a change of the layers in none of them."""
    for _, group in groupby(snapshots, key=lambda entry: id(entry.layers)):
        entries = list(group)
        for start in range(0, len(entries), size):
            yield Samples.of(entries[start : start + size])


@BOUNDED_RUN
@given(runs(), kind_of_odd)
def test_the_findings_of_any_run_are_the_same_without(drawn, odd):
    snapshots = with_shared_layers(history_from(drawn, odd))
    screened = watched(snapshots, screening=True)
    assert repr(screened) == repr(watched(snapshots, screening=False))


@BOUNDED_RUN
@given(runs(), kind_of_odd, st.sampled_from([1, 2, 3, 7, 64]))
def test_many_samples_at_once_are_judged_as_one_by_one(drawn, odd, size):
    snapshots = with_shared_layers(history_from(drawn, odd))
    watcher = Watcher(ALL_RULES)
    for samples in blocks(snapshots, size):
        watcher.observe_all(samples)
    watcher.finish(10_000)
    assert repr(watcher.findings) == repr(watched(snapshots, screening=True))
    assert [entry.step for entry in watcher.history] == [entry.step for entry in snapshots]


@screened_rule
@BOUNDED_RUN
@given(runs(late=False), kind_of_odd)
def test_a_rule_is_silent_on_a_window_without_a_suspect(rule, drawn, odd):
    history = history_from(drawn, odd)
    for start in range(max(len(history) - rule.size, 0)):
        window = Window(tuple(history[start : start + rule.size]), history)
        suspected = rule.suspects(Samples.of(window.snapshots))
        assert suspected.any() or not list(rule.check(window))


@dataclass(frozen=True)
class Unchanged(VanishingGradient):
    """Another kind of rule, although it differs in nothing."""


@dataclass(frozen=True)
class OtherCheck(VanishingGradient):
    """Looks for something else than what its parent suspects."""

    def check(self, window: Window) -> Iterable[Diagnosis]:
        return ()


@dataclass(frozen=True)
class OtherEvaluate(VanishingGradient):
    """Judges by something else than what its parent suspects."""

    def evaluate(self, history: History) -> Verdict | None:
        return None


@dataclass(frozen=True)
class OtherSuspects(OtherCheck):
    """Says itself what it suspects: every sixteenth step, from step 12 on."""

    def suspects(self, samples: Samples) -> Flags:
        return np.asarray(samples.steps % 16 == 12)


@dataclass(frozen=True)
class OtherCheckAgain(OtherSuspects):
    """Once more looks for something else than what its parent suspects."""

    def check(self, window: Window) -> Iterable[Diagnosis]:
        return ()


@dataclass(frozen=True)
class WithoutSuspects(Rule):
    """A new rule that says nothing of what it suspects."""

    code = "LAB001"
    name = "without-suspects"

    def check(self, window: Window) -> Iterable[Diagnosis]:
        return ()


@pytest.fixture
def judged(monkeypatch):
    """Rule's code → how many of the samples, and the end of the run, it was evaluated at."""
    moments: dict[str, set[tuple[int, bool]]] = defaultdict(set)
    for kind in {
        base for rule in ALL_RULES for base in type(rule).mro() if "evaluate" in vars(base)
    }:

        def noted(rule, history, original=kind.evaluate):
            moments[rule.code].add((history[-1].step, history.finished))
            return original(rule, history)

        monkeypatch.setattr(kind, "evaluate", noted)
    return lambda code: len(moments[code])


def test_on_a_healthy_run_rules_are_left_out(judged):
    watched(steady(LAYERS, steps=range(100), **backward_signals(LAYERS)), screening=True)
    assert max(judged(rule.code) for rule in SCREENED) == 5
    assert judged("GW902") == 101


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.code)
def test_without_screening_every_rule_runs_at_every_sample(rule, judged):
    watched(steady(LAYERS, steps=range(20)), screening=False)
    assert judged(rule.code) == 21


def due_at(rule: Rule, history: History) -> list[int]:
    """The samples at which a rule is due, by their index."""
    return list(np.flatnonzero(Screening([rule]).due(Samples.of(tuple(history)))[:, 0]))


@pytest.mark.parametrize(
    "rule",
    [Unchanged(), OtherCheck(), OtherEvaluate(), OtherCheckAgain(), WithoutSuspects()],
    ids=lambda rule: type(rule).__name__,
)
def test_a_rule_that_does_not_itself_say_what_it_suspects_is_due_at_every_sample(rule):
    assert due_at(rule, steady(LAYERS, steps=range(50))) == list(range(50))


def test_a_subclass_that_says_what_it_suspects_is_due_there():
    due = due_at(OtherSuspects(), steady(LAYERS, steps=range(24)))
    assert due == [0, 1, 2, 3, 12, 13, 14, 15, 16]


def test_a_rule_suspects_every_sample_by_default():
    suspected = WithoutSuspects().suspects(Samples.of(tuple(steady(LAYERS, steps=range(7)))))
    assert suspected.tolist() == [True] * 7


def test_a_suspect_makes_a_rule_due_for_as_long_as_it_is_in_the_window():
    screening = Screening([VanishingGradient()])
    vanishing = backward_signals(LAYERS, weights=-2.0)
    history = steady(LAYERS, steps=range(20), at=lambda step: vanishing if step == 10 else {})
    due = screening.due(Samples.of(tuple(history)))[:, 0]
    assert list(np.flatnonzero(due)) == [0, 1, 2, 3, 10, 11, 12, 13, 14]


def test_samples_that_do_not_fit_the_rule_do_not_let_a_suspect_go():
    screening = Screening([VanishingGradient()])
    vanishing = backward_signals(LAYERS, weights=-2.0)
    history = steady(
        LAYERS,
        steps=range(20),
        at=lambda step: vanishing if step == 6 else {"skipped": step in (8, 9)},
    )
    due = screening.due(Samples.of(tuple(history)))[:, 0]
    assert list(np.flatnonzero(due)) == [0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12]


def test_samples_without_signals_do_not_let_a_suspect_go_either():
    screening = Screening([VanishingGradient()])
    vanishing = backward_signals(LAYERS, weights=-2.0)
    history = steady(
        LAYERS,
        steps=range(20),
        at=lambda step: vanishing if step == 6 else {"forward_calls": 1.0 if step % 2 else np.nan},
    )
    due = screening.due(Samples.of(tuple(history)))[:, 0]
    assert list(np.flatnonzero(due)) == list(range(15))


def test_a_sample_that_does_not_fit_the_rule_is_no_suspect():
    screening = Screening([VanishingGradient()])
    skipped = {"skipped": True, **backward_signals(LAYERS, weights=-2.0)}
    history = steady(LAYERS, steps=range(20), at=lambda step: skipped if step == 10 else {})
    due = screening.due(Samples.of(tuple(history)))[:, 0]
    assert list(np.flatnonzero(due)) == [0, 1, 2, 3]


def test_what_is_due_does_not_depend_on_how_samples_are_grouped():
    vanishing = backward_signals(LAYERS, weights=-2.0)
    history = tuple(
        steady(LAYERS, steps=range(30), at=lambda step: vanishing if step % 9 == 0 else {})
    )
    together = Screening(ALL_RULES).due(Samples.of(history))
    alone = Screening(ALL_RULES)
    one_by_one = [alone.due(Samples.of((entry,)))[0] for entry in history]
    np.testing.assert_array_equal(together, one_by_one)


def test_a_change_of_the_layers_makes_every_rule_due_again():
    screening = Screening([VanishingGradient()])
    screening.due(Samples.of(tuple(steady(LAYERS, steps=range(20)))))
    due = screening.due(Samples.of(tuple(steady(chain(5), steps=range(20, 30)))))[:, 0]
    assert list(np.flatnonzero(due)) == [0, 1, 2, 3]


def test_a_suspicion_that_fails_lets_every_rule_run(monkeypatch):
    def fails(rule: Rule, samples: Samples) -> None:
        raise ZeroDivisionError("by design")

    monkeypatch.setattr(VanishingGradient, "suspects", fails)
    history = steady(LAYERS, steps=range(20), **backward_signals(LAYERS, weights=-2.0))
    assert [found.code for found in watched(history, screening=True)] == ["GW101"]
