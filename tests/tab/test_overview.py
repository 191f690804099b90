"""The overview says of a stored run what the report says of it."""

import json
from dataclasses import replace

import pytest

from gradwatch.history import History
from gradwatch.report import SAMPLES_TO_VERDICT, Report
from gradwatch.tab.overview import MOST_SAMPLES, overview
from gradwatch.tensorboard.reader import read
from tests.tensorboard.builders import (
    chain,
    finding,
    usual_snapshot,
    write_healthy_training,
    write_training,
)

from .recordings import reordered, run_of, session_points, stored
from .serving import strict_json

LAYERS = chain(3)


def samples(count, **changes):
    return [replace(usual_snapshot(LAYERS, step, decades=0.1), **changes) for step in range(count)]


def test_the_facts_are_those_of_the_run():
    snapshots = [usual_snapshot(LAYERS, step) for step in (4, 5, 9)]
    found = overview(run_of(snapshots, started=1.5, finished=False, framework="keras"))
    assert (found["name"], found["token"]) == ("a/gradwatch", "t0")
    assert (found["framework"], found["version"]) == ("keras", "0.1.0")
    assert (found["started"], found["finished"]) == (1.5, False)
    assert (found["sessions"], found["samples"]) == (1, 3)
    assert (found["first_step"], found["last_step"]) == (4, 9)


def test_layers_are_in_forward_order_with_what_the_page_shows():
    found = overview(run_of([usual_snapshot(reordered(LAYERS, [2, 0, 1]), 0)]))
    assert [layer["name"] for layer in found["layers"]] == ["fc2", "fc3", "fc1"]
    assert found["layers"][0] == {
        "name": "fc2",
        "kind": "Linear",
        "activation": "sigmoid",
        "weighted": True,
        "parameter_count": 4160,
        "recurrent": False,
    }


def test_statistics_are_told_with_title_and_scale():
    found = overview(run_of(samples(1)))
    entries = {entry["name"]: entry for entry in found["statistics"]}
    assert entries["activation_gain_log10"] == {
        "name": "activation_gain_log10",
        "title": "Activation gain (log10)",
        "unit": "log10",
        "scale": "diverging",
        "needs": "signals",
        "meaning": "Backward gain of the activations that follow the layer; -0.15 is normal for a "
        "ReLU.",
    }
    assert "dead_fraction" not in entries
    assert found["default_statistic"] == "output_grad_norm"


def test_without_signals_the_gradient_is_shown_first():
    found = overview(run_of([usual_snapshot(LAYERS, 0, signals=False)]))
    assert found["default_statistic"] == "grad_norm"


@pytest.mark.parametrize("write", [write_training, write_healthy_training])
def test_the_verdict_is_that_of_the_report(tmp_path, write):
    write(tmp_path)
    recording = read(tmp_path / "gradwatch")
    history = History()
    for snapshot in recording.snapshots:
        history.append(snapshot)
    history.finished = True
    report = Report(recording.findings, history)
    found = overview(replace(run_of(samples(1)), recording=recording))
    assert found["verdict"] == report.verdict
    assert (found["severity"], found["judged"]) == (report.severity, report.is_judged)


@pytest.mark.parametrize(
    ("count", "judged"), [(SAMPLES_TO_VERDICT - 1, False), (SAMPLES_TO_VERDICT, True)]
)
def test_a_verdict_waits_for_enough_samples(count, judged):
    found = overview(run_of(samples(count)))
    assert found["judged"] is judged
    assert found["verdict"].startswith("Healthy" if judged else "Too short for a verdict")


def test_a_run_that_goes_on_is_not_called_too_short():
    assert overview(run_of(samples(2), finished=False))["verdict"].startswith("Too early")


def test_a_long_run_is_judged_by_its_last_samples():
    found = overview(run_of(samples(2 * MOST_SAMPLES), chunk_size=64))
    assert found["judged"] is True
    assert found["verdict"] == f"Healthy: 3 layers, up to step {2 * MOST_SAMPLES - 1}, no finding."


def test_findings_come_worst_first_and_resolved_ones_last():
    findings = [
        finding(code="GW901", cause="wiring", severity="notice", step=1),
        finding(code="GW101", severity="error", step=2, resolved_step=9),
        finding(code="GW202", cause="weights", severity="warning", step=3),
        finding(code="GW301", cause="depth", severity="error", step=4),
    ]
    found = overview(run_of(samples(12), findings=findings))
    assert [card["code"] for card in found["findings"]] == ["GW301", "GW202", "GW901", "GW101"]
    assert found["severity"] == "error"


def test_limits_are_those_of_the_last_session():
    old = [replace(snapshot, limits=("old",)) for snapshot in samples(3)]
    new = [
        replace(usual_snapshot(LAYERS, step), limits=limits)
        for step, limits in ((5, ("a",)), (6, ("a", "b")))
    ]
    points = [
        *session_points(old, session="a"),
        *session_points(new, session="b", started=100.0),
    ]
    assert overview(stored(*points))["limits"] == ["a", "b"]


def test_a_resumed_run_counts_what_is_left_of_each_session():
    again = [usual_snapshot(LAYERS, step) for step in range(4, 8)]
    points = [
        *session_points(samples(6), session="a", findings=[finding(step=3)]),
        *session_points(again, session="b", started=100.0, framework="keras", finished=False),
    ]
    found = overview(stored(*points))
    assert (found["sessions"], found["samples"], found["last_step"]) == (2, 8, 7)
    assert (found["framework"], found["finished"]) == ("keras", False)
    assert [card["resolved_step"] for card in found["findings"]] == [4]


def test_a_run_of_which_nothing_can_be_read_is_told_in_words():
    found = overview(replace(stored(), troubles=("gradwatch/run/s is damaged.",)))
    assert (found["samples"], found["first_step"], found["layers"]) == (0, None, [])
    assert (found["severity"], found["judged"]) == (None, False)
    assert found["verdict"] == "Nothing observed yet: no optimizer step was seen."
    assert found["troubles"] == ["gradwatch/run/s is damaged."]


def test_it_is_json():
    found = overview(run_of(samples(3), findings=[finding()]))
    assert strict_json(json.dumps(found)) == found
