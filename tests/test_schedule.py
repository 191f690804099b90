"""Which steps are observed, and what it may cost."""

import math

import numpy as np
import pytest

from gradwatch.errors import ArgumentError
from gradwatch.schedule import EARLY_STEPS, Sample, Schedule

STEP = 0.01
"""Seconds of a step without gradwatch."""


def run(
    schedule: Schedule,
    steps: int,
    *,
    cost: dict[Sample, float] | None = None,
    closer_at: frozenset[int] = frozenset(),
) -> list[Sample]:
    """What is observed at each step, where a sample costs so many seconds."""
    seconds = {Sample.PARAMETERS: 0.001, Sample.SIGNALS: 0.003, **(cost or {})}
    observed = []
    for step in range(steps):
        sample = schedule.plan()
        observed.append(sample)
        if step in closer_at:
            schedule.look_closer()
        spent = seconds.get(sample, 0.0)
        schedule.close_step(sample, STEP + spent, spent)
    return observed


def steps_of(observed: list[Sample], kind: Sample) -> list[int]:
    return [step for step, sample in enumerate(observed) if sample is kind]


def late_share(observed: list[Sample], cost: dict[Sample, float]) -> float:
    spent = sum(cost.get(sample, 0.0) for sample in observed[129:])
    return spent / (STEP * len(observed[129:]) + spent)


def test_auto_samples_exactly_these_steps():
    observed = run(Schedule("auto", None), 3000)
    early = [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128]
    assert steps_of(observed, Sample.SIGNALS) == [
        *early,
        *range(153, 1001, 25),
        *range(1078, 3000, 100),
    ]
    assert steps_of(observed, Sample.PARAMETERS) == [
        step for start in range(128, 1000, 25) for step in (start + 10, start + 20) if step < 1001
    ]


@pytest.mark.parametrize("every", [1, 2, 7, 1000, np.int64(3)])
def test_an_interval_is_kept_exactly(every):
    observed = run(Schedule(every, budget=1e-6), 2500)
    assert steps_of(observed, Sample.SIGNALS) == list(range(0, 2500, every))
    assert steps_of(observed, Sample.PARAMETERS) == []


@pytest.mark.parametrize("budget", [0.001, 0.01, 0.05])
def test_the_samples_after_the_early_ones_stay_within_the_budget(budget):
    cost = {Sample.PARAMETERS: 0.02, Sample.SIGNALS: 0.05}
    observed = run(Schedule("auto", budget), 20_000, cost=cost)
    assert set(EARLY_STEPS) <= set(steps_of(observed, Sample.SIGNALS))
    share = late_share(observed, cost)
    assert 0.5 * budget < share <= budget


def test_cheap_samples_are_not_stretched():
    cheap = {Sample.PARAMETERS: 1e-6, Sample.SIGNALS: 1e-6}
    assert run(Schedule("auto", 0.01), 2000, cost=cheap) == run(Schedule("auto", None), 2000)


def test_a_slow_step_between_samples_is_no_reason_to_sample_more_than_usual():
    schedule = Schedule("auto", 0.01)
    run(schedule, 200)
    schedule.close_step(Sample.NOTHING, 60.0, 0.0)  # an evaluation
    assert schedule.overhead.parameter_interval > 10
    assert schedule.overhead.signal_interval > 25


def test_looking_closer_makes_the_next_eight_steps_samples():
    observed = run(Schedule("auto", None), 400, closer_at=frozenset({303}))
    usual = run(Schedule("auto", None), 304)
    assert observed[:304] == usual
    assert observed[304:312] == [Sample.SIGNALS] * 8
    assert observed[312:321] == [Sample.NOTHING] * 9


def test_looking_closer_does_not_prolong_itself():
    observed = run(Schedule("auto", None), 320, closer_at=frozenset(range(303, 312)))
    assert observed[304:312] == [Sample.SIGNALS] * 8
    assert observed[312] is Sample.NOTHING


def test_looking_closer_works_among_the_early_steps_too():
    observed = run(Schedule("auto", 0.01), 60, closer_at=frozenset({32}))
    assert observed[33:41] == [Sample.SIGNALS] * 8


def test_events_at_every_sample_do_not_break_the_budget():
    cost = {Sample.PARAMETERS: 0.002, Sample.SIGNALS: 0.005}
    observed = run(Schedule("auto", 0.01), 50_000, cost=cost, closer_at=frozenset(range(50_000)))
    share = late_share(observed, cost)
    assert share <= 0.011
    assert steps_of(observed[129:], Sample.SIGNALS)


@pytest.mark.parametrize("budget", [None, 0.01])
def test_without_signals_only_parameters_are_planned(budget):
    schedule = Schedule("auto", budget)
    schedule.leave_out_signals()
    observed = run(schedule, 1200, cost={Sample.PARAMETERS: 1e-5})
    assert steps_of(observed, Sample.SIGNALS) == []
    assert steps_of(observed, Sample.PARAMETERS) == [
        *sorted(EARLY_STEPS),
        *range(138, 1001, 10),
        1098,
        1198,
    ]


def test_without_signals_an_interval_is_kept_too():
    schedule = Schedule(5)
    schedule.leave_out_signals()
    assert steps_of(run(schedule, 20), Sample.PARAMETERS) == [0, 5, 10, 15]


def test_planning_ahead_says_what_the_later_step_will_be():
    schedule = Schedule("auto", None)
    for _ in range(300):
        ahead = schedule.plan(ahead=1)
        sample = schedule.plan()
        schedule.close_step(sample, STEP, 0.0)
        assert schedule.plan() is ahead or sample is not Sample.NOTHING


def test_the_overhead_adds_up():
    schedule = Schedule("auto", 0.01)
    observed = run(schedule, 1000)
    signals, alone = (len(steps_of(observed, kind)) for kind in (Sample.SIGNALS, Sample.PARAMETERS))
    overhead = schedule.overhead
    spent = 0.003 * signals + 0.001 * alone
    assert overhead.steps == 1000
    assert overhead.signal_samples == signals
    assert overhead.parameter_samples == signals + alone
    assert overhead.seconds == pytest.approx(spent)
    assert overhead.step_seconds == pytest.approx(STEP)
    assert overhead.share == pytest.approx(spent / (1000 * STEP + spent))
    assert overhead.parameter_interval == math.ceil(0.001 / (0.005 * STEP))
    assert overhead.signal_interval == math.ceil(0.003 / (0.005 * STEP))


def test_the_overhead_is_known_before_the_first_step():
    overhead = Schedule().overhead
    assert (overhead.steps, overhead.seconds, overhead.share) == (0, 0.0, 0.0)
    assert math.isnan(overhead.step_seconds)
    assert (overhead.parameter_interval, overhead.signal_interval) == (10, 25)


def test_what_a_sample_costs_after_its_step_counts_as_its_cost():
    late, at_once = Schedule("auto", 0.01), Schedule("auto", 0.01)
    for schedule, step_cost, later in ((late, 0.001, 0.004), (at_once, 0.005, 0.0)):
        for _ in range(200):
            sample = schedule.plan()
            cost = step_cost if sample is not Sample.NOTHING else 0.0
            schedule.close_step(sample, STEP, cost)
            if sample is not Sample.NOTHING and later:
                schedule.charge_late(sample, later)
    assert late.overhead.seconds == pytest.approx(at_once.overhead.seconds)
    assert late.overhead.signal_interval == at_once.overhead.signal_interval
    assert late.overhead.parameter_interval == at_once.overhead.parameter_interval


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "often", "100", None, [10]])
def test_an_interval_that_cannot_be_used_is_refused(every):
    with pytest.raises(ArgumentError, match='neither "auto" nor a whole number of steps from 1 on'):
        Schedule(every)


@pytest.mark.parametrize("budget", [0, -0.1, 2, 1.01, "x", True, float("nan"), [0.1]])
def test_a_budget_that_cannot_be_used_is_refused(budget):
    with pytest.raises(ArgumentError, match="pass None for no limit"):
        Schedule("auto", budget)


@pytest.mark.parametrize("budget", [1, 1.0, 1e-6, None])
def test_a_budget_at_the_boundary_is_taken(budget):
    Schedule("auto", budget)


SPARSE = frozenset({4, 16, 48})


def test_signals_can_keep_to_steps_of_their_own_while_parameters_keep_to_theirs():
    observed = run(Schedule("auto", None, signal_steps=SPARSE), 129)
    assert steps_of(observed, Sample.SIGNALS) == sorted(SPARSE)
    assert steps_of(observed, Sample.PARAMETERS) == sorted(EARLY_STEPS - SPARSE)


def test_a_closer_look_brings_no_signals_where_they_keep_to_steps_of_their_own():
    observed = run(Schedule("auto", None, signal_steps=SPARSE), 129, closer_at=frozenset({70}))
    assert set(range(71, 79)) <= set(steps_of(observed, Sample.PARAMETERS))
    assert steps_of(observed, Sample.SIGNALS) == sorted(SPARSE)


@pytest.mark.parametrize(("span", "expected"), [(1, Sample.NOTHING), (2, Sample.SIGNALS)])
def test_steps_that_run_at_once_are_observed_if_one_of_them_is_due(span, expected):
    schedule = Schedule("auto", None)
    for _ in range(5):
        schedule.close_step(schedule.plan(), STEP, 0.0)
    assert schedule.plan(span=span) is expected


def test_steps_that_ran_at_once_are_counted_and_timed_each():
    schedule = Schedule(100, None)
    schedule.close_step(Sample.SIGNALS, STEP, 0.0)
    schedule.close_step(Sample.NOTHING, 4 * STEP, 0.0, count=4)
    assert schedule.overhead.steps == 5
    assert schedule.overhead.step_seconds == pytest.approx(STEP)


@pytest.mark.parametrize(("once", "interval"), [(0.0, 1000), (0.999, 25)])
def test_a_compilation_counts_in_the_total_but_stretches_no_interval(once, interval):
    schedule = Schedule("auto", 0.2)
    schedule.close_step(Sample.SIGNALS, 1.0, 1.0, once=once)
    schedule.close_step(Sample.NOTHING, STEP, 0.0)
    assert schedule.overhead.signal_interval == interval
    assert schedule.overhead.seconds == pytest.approx(1.0)


def test_an_unusually_long_step_hardly_moves_the_average():
    schedule = Schedule(100, None)
    schedule.close_step(Sample.SIGNALS, STEP, 0.0)
    for seconds in (STEP, 100 * STEP):
        schedule.close_step(Sample.NOTHING, seconds, 0.0)
    assert schedule.overhead.step_seconds == pytest.approx(1.3 * STEP)
