"""The report: its verdict, and what its views have in common."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from gradwatch.history import WARM_UP_SAMPLES, History
from gradwatch.report import SAMPLES_TO_VERDICT, WINDOW_COUNT, WINDOW_SIZE, Report
from gradwatch.rules import Rule

from .report_builder import (
    BLIND,
    ENDLESS,
    GONE,
    LAYERS,
    NOTICE,
    RELU_FIX,
    SICK,
    WARNING,
    finding,
    history,
    hostile_report,
    printed,
    report,
    snapshot,
)


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        (
            [finding()],
            "1 error: vanishing-gradient (GW101) on layers fc1 and fc2, cause: activation.",
        ),
        (
            [NOTICE, WARNING, finding(layers=("fc1",))],
            "1 error, 1 warning and 1 notice: the worst is vanishing-gradient (GW101) on layer "
            "fc1, cause: activation.",
        ),
        (
            [finding(), finding(code="GW301", name="exploding-gradient", step=8, layers=())],
            "2 errors: the worst is exploding-gradient (GW301), cause: activation.",
        ),
        ([], "Healthy: 4 layers, 300 steps, no finding."),
        ([NOTICE], "Healthy: 4 layers, 300 steps, 1 notice."),
        ([GONE], "Healthy: 4 layers, 300 steps, no finding, 1 finding resolved."),
        ([BLIND], "Nothing observed (GW901): No gradient came."),
        (
            [BLIND, WARNING],
            "1 warning and 1 notice: the worst is saturated-activation (GW202) on layers fc1 and "
            "fc2, cause: weights.",
        ),
    ],
)
def test_the_verdict_comes_first_and_names_the_worst_finding(findings, expected):
    shown = report(*findings)
    assert shown.verdict == expected
    assert printed(shown, ENDLESS).startswith(expected)


def test_before_any_step_the_verdict_says_so():
    assert "no optimizer step" in Report((), History()).verdict


@pytest.mark.parametrize("samples", [1, SAMPLES_TO_VERDICT - 1])
def test_with_too_few_samples_there_is_no_verdict(samples):
    shown = report(samples=samples)
    assert shown.verdict == (
        f"Too early for a verdict: {samples} of 9 samples; by default it comes after step 16."
    )
    assert not shown.is_judged


def test_a_run_that_ended_too_soon_is_not_called_healthy():
    short = report(samples=4)
    short.history.finished = True
    assert short.verdict == "Too short for a verdict: the run ended after 4 of 9 samples."


def test_a_finding_is_told_even_with_too_few_samples():
    assert report(finding(), samples=2).verdict.startswith("1 error")


def test_the_verdict_comes_when_the_rules_give_theirs():
    assert (WARM_UP_SAMPLES, WINDOW_SIZE, WINDOW_COUNT) == (
        Rule.warm_up,
        Rule.size,
        Rule.persistence,
    )
    assert report(samples=SAMPLES_TO_VERDICT).is_judged


def test_parameters_alone_are_enough_for_a_verdict():
    assert report(newest=snapshot(LAYERS, signals=False)).verdict.startswith("Healthy")


def test_without_overhead_the_verdict_names_the_last_step():
    assert report(overhead=None).verdict == "Healthy: 4 layers, up to step 16, no finding."


def test_a_log_is_plain_ascii():
    text = str(report(finding(), GONE))
    assert text.isascii()
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_the_table_leaves_out_a_step_that_was_skipped():
    taken = history(SICK)
    taken.append(snapshot(LAYERS, 24, skipped=True, grad_norm=[math.inf] * 4))
    assert Report((), taken).table_step == 16


@pytest.mark.parametrize(
    ("framework", "shown", "hidden"),
    [("torch", "kaiming_normal_", "he_normal"), ("keras", "he_normal", "kaiming_normal_")],
)
def test_snippets_are_those_of_the_framework(framework, shown, hidden):
    told = report(finding(), framework=framework)
    assert shown in printed(told)
    assert hidden not in printed(told)
    assert shown in told._repr_html_()
    assert hidden not in told._repr_html_()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr_factor": 0.2}, "Learning rate: try lr/5 with it."),
        ({"lr_factor": 10.0}, "Learning rate: try lr x 10 with it."),
        ({"lr_factor": 1.0}, "Learning rate: unchanged."),
        ({"avoid_when": "the range has to stay"}, "Not if the range has to stay."),
    ],
)
def test_what_goes_with_a_fix_and_when_it_is_wrong_is_shown(changes, said):
    told = report(finding(fixes=(replace(RELU_FIX, **changes),)))
    assert said in printed(told, ENDLESS)
    assert said in told._repr_html_()


def test_a_fix_of_the_learning_rate_says_nothing_more_of_the_rate():
    told = report(finding(fixes=(replace(RELU_FIX, kind="learning_rate", lr_factor=1.0),)))
    assert "Learning rate:" not in printed(told)


def test_repr_is_the_verdict():
    assert repr(report(finding())) == f"<Report: {report(finding()).verdict}>"


@pytest.mark.parametrize("text", [str(hostile_report()), hostile_report()._repr_html_()])
def test_an_escape_sequence_in_a_layer_name_does_not_reach_the_terminal(text):
    assert "\x1b" not in text
    assert r"\x1b[2J" in text
