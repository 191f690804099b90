"""GW201 dead-units."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from gradwatch.layer import Layer
from gradwatch.rules import ALL_RULES
from gradwatch.rules.gw201_dead_units import DeadUnits
from gradwatch.testing import backward_signals, chain, history_of, snapshot, steady
from gradwatch.watcher import Watcher

from .contract import ScaleFree, WindowedRule, above, below, only, present
from .real import apply, mlp, sgd, train

RULE = DeadUnits()
LAYERS = chain(4, activation="relu")
FLOWING = backward_signals(LAYERS, activation=-0.15, weights=0.15)
FADING = backward_signals(LAYERS, weights=-0.6)
VANISHED = backward_signals(LAYERS, weights=-1.3)


def dead(share: float) -> dict:
    """The second of the four layers has lost this share of its units."""
    return {"dead_fraction": [0.1, share, 0.1, np.nan]}


class TestDeadUnits(ScaleFree, WindowedRule):
    rule = RULE
    layers = LAYERS
    sick = dead(1.0)
    well = dead(0.3)


def test_units_that_are_dead_from_the_start_blame_the_weights():
    diagnosis = only(RULE, steady(LAYERS, **dead(1.0)))
    assert (diagnosis.cause, diagnosis.severity, diagnosis.rows) == ("weights", "error", (1,))
    assert diagnosis.explained == {0, 1, 2, 3}
    assert "100%" in diagnosis.message
    assert [fix.kind for fix in diagnosis.fixes] == [
        "initialisation",
        "initialisation",
        "normalisation",
    ]


def test_units_that_died_in_training_blame_the_learning_rate():
    history = steady(LAYERS, at=lambda step: dead(1.0 if step else 0.0))
    diagnosis = only(RULE, history)
    assert diagnosis.cause == "learning rate"
    assert diagnosis.evidence["dead_fraction_at_first"] == 0.0
    assert [fix.kind for fix in diagnosis.fixes] == [
        "learning_rate",
        "normalisation",
        "activation",
        "learning_rate",
    ]


@pytest.mark.parametrize(
    ("share", "fires"), [(0.8, False), (above(0.8), True), (1.0, True), (np.nan, False)]
)
def test_it_fires_above_four_fifths(share, fires):
    assert bool(present(RULE, steady(LAYERS, **dead(share)))) is fires


@pytest.mark.parametrize(
    ("at_first", "cause"),
    [(0.5, "learning rate"), (above(0.5), "weights"), (np.nan, "weights")],
)
def test_a_layer_began_dead_from_half_of_its_units_on(at_first, cause):
    history = steady(LAYERS, at=lambda step: dead(1.0 if step else at_first))
    assert only(RULE, history).cause == cause


@pytest.mark.parametrize(
    ("share", "severity"), [(below(0.99), "warning"), (above(0.99), "error"), (1.0, "error")]
)
def test_a_whole_layer_is_an_error_and_part_of_one_a_warning(share, severity):
    history = steady(LAYERS, **FADING, **dead(share))
    assert only(RULE, history).severity == severity


@pytest.mark.parametrize(
    ("last_loss", "severity"),
    [(0.79, "notice"), (0.8, "warning"), (1.0, "warning"), (np.nan, "warning")],
)
def test_part_of_a_layer_is_a_notice_while_the_loss_falls(last_loss, severity):
    history = steady(
        LAYERS,
        at=lambda step: {"loss": 1.0 if step == 0 else last_loss},
        **FADING,
        **dead(0.9),
    )
    assert only(RULE, history).severity == severity


@pytest.mark.parametrize(
    ("last_step", "signals", "severity"),
    [
        (99, FLOWING, "notice"),
        (100, FLOWING, "warning"),
        (99, FADING, "warning"),
    ],
)
def test_part_of_a_layer_is_a_notice_at_first_if_the_signal_flows(last_step, signals, severity):
    history = steady(LAYERS, steps=[*range(9), last_step], **signals, **dead(0.9))
    assert only(RULE, history).severity == severity


@pytest.mark.parametrize(("depth", "severity"), [(-1.51, "warning"), (-1.49, "notice")])
def test_the_signal_flows_above_one_and_a_half_decades(depth, severity):
    history = steady(LAYERS, **backward_signals(LAYERS, weights=depth / 3), **dead(0.9))
    assert only(RULE, history).severity == severity


@pytest.mark.parametrize(("depth", "fires"), [(-3.51, False), (-3.49, True)])
def test_units_that_die_where_the_signal_had_vanished_are_a_consequence(depth, fires):
    signals = backward_signals(LAYERS, weights=depth / 3)
    history = steady(LAYERS, at=lambda step: dead(1.0 if step else 0.0), **signals)
    assert bool(present(RULE, history)) is fires


def test_units_dead_from_the_start_are_a_cause_even_if_the_signal_has_vanished():
    assert only(RULE, steady(LAYERS, **VANISHED, **dead(1.0))).cause == "weights"


def test_a_run_that_ended_in_nan_is_not_judged_by_its_units():
    history = steady(LAYERS, at=lambda step: {"loss": np.inf if step == 16 else 1.0}, **dead(1.0))
    assert not present(RULE, history)


@pytest.mark.parametrize(
    ("setting", "cause", "severity"),
    [
        ({"dead": 0.95}, None, None),
        ({"alive_at_first": 0.95}, "learning rate", "warning"),
        ({"whole": 0.85}, "weights", "error"),
        ({"flowing": -2.5}, "weights", "notice"),
        ({"learning": 1.5}, "weights", "notice"),
        ({"flowing": -2.5, "patience": 10}, "weights", "warning"),
        ({"alive_at_first": 0.95, "depth": -1.0}, None, None),
    ],
    ids=str,
)
def test_its_thresholds_are_settings(setting, cause, severity):
    found = present(replace(RULE, **setting), steady(LAYERS, **FADING, **dead(0.9)))
    assert [(diagnosis.cause, diagnosis.severity) for diagnosis in found] == (
        [(cause, severity)] if cause else []
    )


def test_a_layer_that_appears_late_and_dead_was_dead_from_the_start():
    early = [snapshot(LAYERS[:1], step, dead_fraction=0.1) for step in range(2)]
    late = [snapshot(LAYERS, step, **dead(1.0)) for step in range(2, 12)]
    assert only(RULE, history_of([*early, *late])).cause == "weights"


def test_a_notice_explains_nothing_away():
    watcher = Watcher(ALL_RULES)
    raw_inputs = [200.0, 1.0, 1.0, 1.0]
    for entry in steady(LAYERS, input_rms=raw_inputs, **FLOWING, **dead(0.9)):
        watcher.observe(entry)
    assert {finding.code: finding.severity for finding in watcher.findings} == {
        "GW201": "notice",
        "GW204": "warning",
    }


def test_layers_of_an_unconnected_part_are_judged_on_their_own():
    layers = (
        *LAYERS,
        Layer(name="apart", kind="Linear", depth=4),
    )
    diagnosis = only(RULE, steady(layers, dead_fraction=[0.1, 1.0, 0.1, np.nan, np.nan]))
    assert 4 not in diagnosis.explained


class TestFixes:
    """On real nets."""

    def test_zero_biases_bring_the_units_back(self):
        def build():
            model = mlp(4)
            for layer in list(model)[:-1]:
                if isinstance(layer, nn.Linear):
                    nn.init.constant_(layer.bias, -8.0)
            return model

        run = train(build())
        assert run.alarms == [("GW201", "weights")]
        finding = run.finding("GW201")
        assert (finding.layers, finding.severity) == (("0", "2", "4", "6"), "error")

        model = build()
        apply(finding.fixes[0], model=model)
        cured = train(model, sgd(model, 0.02))
        assert cured.alarms == []
        assert cured.losses[-1] < 0.8 * run.losses[-1]

    def test_a_smaller_learning_rate_keeps_them_alive(self):
        model = mlp(3, seed=1)
        run = train(model, sgd(model, 0.5))
        assert run.alarms == [("GW201", "learning rate")]
        finding = run.finding("GW201")

        model = mlp(3, seed=1)
        optimizer = sgd(model, 0.5)
        apply(finding.fixes[0], model=model, optimizer=optimizer)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
        cured = train(model, optimizer)
        assert cured.alarms == []
        assert cured.losses[-1] < 0.8 * run.losses[-1]


def test_a_layer_that_one_sample_in_five_observed_is_not_judged():
    """An expert of a mixture that saw a few tokens once looks dead, and is not."""
    history = steady(LAYERS, at=lambda step: dead(1.0 if step == 6 else np.nan))
    assert not present(RULE, history)
