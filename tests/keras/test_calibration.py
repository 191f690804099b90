"""The callback at its defaults says what is wrong with a sick run, and nothing of a healthy one."""

import pytest

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


@pytest.mark.parametrize("name", ["mlp_sigmoid8", "dead_relu_bias"])
def test_six_epochs_of_thirty_steps_are_enough_for_the_verdict(name):
    result = train(NAMED[name], seed=0, steps=30, epochs=6)
    assert result.verdict == "caught", list(described(result))


def test_sixty_steps_are_enough_for_the_verdict():
    result = train(NAMED["mlp_relu_std01"], seed=0, steps=20, epochs=3)
    assert result.verdict == "caught", list(described(result))


def result_of(code, alarms):
    case = Case("", lambda: None, code, code and "weights")
    return Result(case, 0, tuple(alarms), None, 0.0)
