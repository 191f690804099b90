"""The callback at its defaults says what is wrong with a sick run, and nothing of a healthy one."""

import pytest

from gradwatch.finding import Finding

keras = pytest.importorskip("keras")

from tests.keras.calibration_cases import (  # noqa: E402 -- needs Keras
    CASES,
    HEALTHY,
    SICK,
    Case,
    Result,
    described,
    totals,
    train,
)

# Keras itself, and what it imports, calls NumPy in ways that NumPy 2.4 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

NAMED = {case.name: case for case in CASES}


@pytest.mark.parametrize("case", SICK, ids=lambda case: case.name)
def test_a_sick_run_gets_the_code_and_the_cause_of_its_label(case):
    result = train(case, seed=0)
    assert result.verdict == "caught", list(described(result))
    assert result.watch.history.limits == ()


@pytest.mark.parametrize("case", HEALTHY, ids=lambda case: case.name)
def test_nothing_above_a_notice_is_ever_said_of_a_healthy_run(case):
    result = train(case, seed=0)
    assert result.verdict == "silent", list(described(result))
    assert result.watch.history.limits == ()
    assert sum(snapshot.has_signals for snapshot in result.watch.history) >= 8


def test_six_epochs_of_thirty_steps_are_enough_for_the_verdict():
    result = train(NAMED["mlp_sigmoid8"], seed=0, steps=30, epochs=6)
    assert result.verdict == "caught", list(described(result))


def test_sixty_steps_are_enough_for_the_verdict():
    result = train(NAMED["mlp_relu_std01"], seed=0, steps=20, epochs=3)
    assert result.verdict == "caught", list(described(result))


def finding(code, cause):
    return Finding(
        code=code,
        name="",
        severity="warning",
        step=16,
        layers=(),
        cause=cause,
        message="",
        evidence={},
        fixes=(),
    )


@pytest.mark.parametrize(
    ("code", "found", "verdict"),
    [
        ("GW101", [("GW101", "weights")], "caught"),
        ("GW101", [("GW101", "activation")], "caught, wrong cause"),
        ("GW101", [("GW201", "weights")], "other code"),
        ("GW101", [], "missed"),
        (None, [("GW101", "weights")], "false alarm"),
        (None, [], "silent"),
    ],
)
def test_a_verdict_holds_the_alarms_against_the_label(code, found, verdict):
    case = Case("", lambda: None, code, code and "weights")
    alarms = tuple(finding(*pair) for pair in found)
    assert Result(case, 0, alarms, None, 0.0).verdict == verdict


def test_totals_count_sick_and_healthy_runs_apart():
    cases = [Case("", lambda: None, code, code and "weights") for code in ("GW101", "GW201", None)]
    alarm = (finding("GW101", "weights"),)
    results = [Result(case, 0, alarm, None, 0.0) for case in cases]
    expected = "caught 1 of 2, right cause 1 of 1, missed 1; false alarms 1 of 1"
    assert totals(results) == expected
