"""The fast calibration cases; `python -m tests.calibration` runs them all."""

from __future__ import annotations

import pytest

from gradwatch import Finding
from gradwatch.rules import ALL_RULES

from .baselines import BASELINES
from .case_sets import ALL_CASES
from .scoring import Result, evaluate, scored, tally
from .training import Alarms, Run, train, watched

FAST = [case for case in ALL_CASES if case.fast]
SEED = 0


@pytest.mark.parametrize("case", FAST, ids=lambda case: case.name)
def test_the_verdict_is_the_labels(case):
    result = evaluate(case, SEED, watch_factory=watched, counterfactual=False)
    assert result.verdict == ("caught" if case.sick else "silent"), result.alarms


WITHOUT_A_CASE = {"GW302", "GW901", "GW902"}
"""A NaN needs no calibration, and the last two are about gradwatch; their tests build real ones."""


def test_every_rule_with_something_to_calibrate_has_a_case():
    covered = {code for case in ALL_CASES for code in case.codes}
    assert {rule.code for rule in ALL_RULES} - WITHOUT_A_CASE <= covered


def test_a_sick_net_that_is_not_flagged_is_missed_and_a_flagged_healthy_one_a_false_alarm():
    sick = next(case for case in FAST if case.sick)
    healthy = next(case for case in FAST if not case.sick)
    results = [Result(case, SEED, Run((), 0.0)) for case in (sick, healthy)]
    nothing = tally(results, lambda result: False)
    everything = tally(results, lambda result: True)
    assert (nothing.caught, nothing.missed, nothing.false_alarms) == (0, 1, 0)
    assert (everything.caught, everything.missed, everything.false_alarms) == (1, 0, 1)


def test_a_label_that_its_fix_does_not_prove_leaves_the_totals():
    sick = next(case for case in FAST if case.sick)
    proven = Result(sick, SEED, Run((), 0.0), fixed_progress=0.9)
    unproven = Result(sick, SEED, Run((), 0.0), fixed_progress=0.2)
    assert scored([proven, unproven]) == [proven]


def saturated(severity: str, step: int) -> Finding:
    return Finding(
        code="GW202",
        name="saturated-activation",
        severity=severity,
        step=step,
        layers=("hidden.0",),
        cause="weights",
        message="",
        evidence={},
        fixes=(),
    )


def test_a_warning_that_became_a_notice_is_still_a_false_alarm():
    healthy = next(case for case in FAST if not case.sick)
    alarms = Alarms()
    alarms.note([saturated("warning", 16)])
    alarms.note([saturated("notice", 16)])
    run = Run((), 0.0, findings=(saturated("notice", 16),), alarms=alarms.noted)
    assert Result(healthy, SEED, run).verdict == "false alarm"


def test_a_finding_that_was_never_above_a_notice_is_no_alarm():
    alarms = Alarms()
    alarms.note([saturated("notice", 16)])
    assert alarms.noted == ()


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_baseline_flags_tiny_weights_and_spares_a_shallow_net(baseline, runs_of_two):
    assert [BASELINES[baseline](run) for run in runs_of_two] == [True, False]


@pytest.fixture(scope="module")
def runs_of_two() -> tuple[Run, Run]:
    cases = {case.name: case for case in ALL_CASES}
    sick, healthy = cases["mlp_tanh_std01"], cases["h_sigmoid1_shallow"]
    return train(sick.build(SEED), watched), train(healthy.build(SEED), watched)
