"""GW202 saturated-activation."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from torch import nn

from gradwatch.layer import Layer
from gradwatch.rules.gw202_saturated_activation import SaturatedActivation
from gradwatch.testing import backward_signals, chain, steady

from .contract import ScaleFree, WindowedRule, above, only, present
from .real import apply, digits, mlp, raw_digits, sgd, train

RULE = SaturatedActivation()
LAYERS = chain(4, activation="tanh")


def flat(share: float) -> dict:
    """The second of the four layers has this share of its values on a flat side."""
    return {"saturation_fraction": [0.1, share, 0.1, np.nan]}


class TestSaturatedActivation(ScaleFree, WindowedRule):
    rule = RULE
    layers = LAYERS
    sick = flat(0.9)
    well = flat(0.3)


def test_large_weights_are_to_blame():
    diagnosis = only(RULE, steady(LAYERS, **flat(0.9)))
    assert (diagnosis.cause, diagnosis.severity, diagnosis.rows) == ("weights", "warning", (1,))
    assert diagnosis.explained == {0, 1, 2, 3}
    assert "90%" in diagnosis.message
    assert [fix.kind for fix in diagnosis.fixes] == ["initialisation", "normalisation"]


@pytest.mark.parametrize(
    ("share", "fires"), [(0.5, False), (above(0.5), True), (1.0, True), (np.nan, False)]
)
def test_it_fires_above_one_half(share, fires):
    assert bool(present(RULE, steady(LAYERS, **flat(share)))) is fires


@pytest.mark.parametrize(
    ("rms", "cause"), [(10.0, "weights"), (above(10.0), "inputs"), (np.nan, "weights")]
)
def test_large_inputs_are_to_blame_from_an_rms_of_ten_on(rms, cause):
    diagnosis = only(RULE, steady(LAYERS, input_rms=[rms, 1.0, 1.0, 1.0], **flat(0.9)))
    assert diagnosis.cause == cause
    assert (diagnosis.fixes[0].kind == "inputs") is (cause == "inputs")


@pytest.mark.parametrize(("at_first", "cause"), [(0.2, "learning rate"), (0.3, "weights")])
def test_what_was_not_saturated_in_the_first_sample_was_driven_there(at_first, cause):
    history = steady(LAYERS, at=lambda step: {} if step else flat(at_first), **flat(0.9))
    diagnosis = only(RULE, history)
    assert diagnosis.cause == cause
    assert (diagnosis.fixes[0].kind == "learning_rate") is (cause == "learning rate")


def test_large_inputs_of_a_hidden_layer_are_not_the_networks():
    history = steady(LAYERS, input_rms=[1.0, 50.0, 1.0, 1.0], **flat(0.9))
    assert only(RULE, history).cause == "weights"


def test_large_inputs_of_another_branch_are_not_to_blame():
    layers = (
        Layer(name="sick", kind="Linear", depth=0, activation="tanh"),
        Layer(name="raw", kind="Linear", depth=1, activation="tanh"),
        Layer(name="head", kind="Linear", depth=2, inputs=(0, 1)),
    )
    history = steady(layers, input_rms=[1.0, 90.0, 1.0], saturation_fraction=[0.9, 0.1, np.nan])
    diagnosis = only(RULE, history)
    assert (diagnosis.cause, diagnosis.rows) == ("weights", (0,))
    assert diagnosis.explained == {0, 2}


def test_the_output_layer_is_not_meant():
    assert not present(RULE, steady(LAYERS, saturation_fraction=[0.1, 0.1, 0.1, 1.0]))


def test_gates_and_one_sided_activations_have_no_saturation_to_judge():
    assert not present(RULE, steady(LAYERS, saturation_fraction=np.nan, dead_fraction=0.7))


@pytest.mark.parametrize(
    ("last_loss", "fires"),
    [(0.79, False), (0.8, True), (1.0, True), (np.nan, True), (-1.0, True)],
)
def test_layers_that_saturate_while_the_loss_falls_have_learned_to(last_loss, fires):
    history = steady(
        LAYERS,
        steps=range(12),
        at=lambda step: {**flat(0.9 if step > 6 else 0.1), "loss": 1.0 if not step else last_loss},
    )
    assert bool(present(RULE, history)) is fires


def test_layers_saturated_from_the_start_are_judged_although_the_loss_falls():
    history = steady(LAYERS, at=lambda step: {"loss": 1.0 if step == 0 else 0.1}, **flat(0.9))
    assert present(RULE, history)


@pytest.mark.parametrize(("depth", "fires"), [(-3.51, False), (-3.49, True)])
def test_layers_that_saturate_where_the_signal_had_vanished_are_a_consequence(depth, fires):
    history = steady(
        LAYERS,
        steps=range(16),
        at=lambda step: flat(0.9 if step > 8 else 0.1),
        **backward_signals(LAYERS, weights=depth / 3),
    )
    assert bool(present(RULE, history)) is fires


def test_layers_saturated_from_the_start_are_a_cause_of_vanishing():
    history = steady(LAYERS, **flat(0.9), **backward_signals(LAYERS, weights=-2.0))
    assert present(RULE, history)


@pytest.mark.parametrize(
    ("setting", "causes"),
    [
        ({"saturation": 0.95}, []),
        ({"large_input": 1.5}, ["inputs"]),
        ({"depth": -9.0}, ["weights"]),
    ],
    ids=str,
)
def test_its_thresholds_are_settings(setting, causes):
    history = steady(LAYERS, input_rms=2.0, **flat(0.9))
    assert [diagnosis.cause for diagnosis in present(replace(RULE, **setting), history)] == causes


@pytest.mark.parametrize(("setting", "fires"), [({}, True), ({"learning": 1.5}, False)], ids=str)
def test_what_counts_as_a_falling_loss_is_a_setting(setting, fires):
    history = steady(LAYERS, steps=range(12), at=lambda step: flat(0.9 if step > 6 else 0.1))
    assert bool(present(replace(RULE, **setting), history)) is fires


class TestFixes:
    """On real nets."""

    def test_the_matching_initialisation(self):
        build = partial(mlp, 10, nn.Tanh, init=partial(nn.init.normal_, std=1.0))
        run = train(build())
        assert run.alarms == [("GW202", "weights")]
        finding = run.finding("GW202")
        assert (finding.layers[0], finding.step) == ("0", 16)

        model = build()
        apply(finding.fixes[0], model=model)
        cured = train(model, sgd(model, 0.01))
        assert cured.alarms == []
        assert cured.losses[-1] < 0.8 * run.losses[-1]

    def test_standardised_inputs(self):
        build = partial(mlp, 2, nn.Tanh, init=nn.init.xavier_normal_)
        inputs, targets = raw_digits()
        run = train(build(), samples=(inputs, targets))
        assert run.alarms == [("GW202", "inputs")]

        model = build()
        names = apply(run.finding("GW202").fixes[0], model=model, inputs=inputs)
        cured = train(model, samples=(names["inputs"], targets))
        assert cured.alarms == []
        assert cured.losses[-1] < 0.8 * run.losses[-1]
        assert names["inputs"].shape == digits()[0].shape
