"""GW101 vanishing-gradient."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from torch import nn

from gradwatch.layer import Layer
from gradwatch.rules import ALL_RULES
from gradwatch.rules.gw101_vanishing_gradient import VanishingGradient
from gradwatch.testing import EARLY_STEPS, backward_signals, chain, snapshot, steady
from gradwatch.watcher import Watcher

from .contract import ScaleFree, WindowedRule, above, only, present
from .real import apply, mlp, sgd, train

RULE = VanishingGradient()
SIGMOID = chain(9, activation="sigmoid")
RELU = chain(10, activation="relu")


def relu_signals(deficits: dict[int, float]) -> dict[str, np.ndarray]:
    """He's gains, +0.15 for weights and -0.15 for ReLU, but for some layers' weights."""
    weights = np.full(len(RELU), 0.15)
    for row, deficit in deficits.items():
        weights[row] += deficit
    return backward_signals(RELU, activation=-0.15, weights=weights)


def names(diagnosis, layers):
    return [layers[row].name for row in diagnosis.rows]


class TestVanishingGradient(ScaleFree, WindowedRule):
    rule = RULE
    layers = SIGMOID
    sick = backward_signals(SIGMOID, activation=-0.7)
    well = backward_signals(SIGMOID, activation=-0.1)


def test_sigmoid_slopes_are_to_blame_for_all_hidden_layers():
    diagnosis = only(RULE, steady(SIGMOID, **backward_signals(SIGMOID, activation=-0.7)))
    assert diagnosis.cause == "activation"
    assert diagnosis.rows == tuple(range(8))
    assert diagnosis.explained == set(range(8))
    assert diagnosis.severity == "error"
    assert diagnosis.evidence["backward_depth_log10"] == pytest.approx(-5.6, abs=1e-3)
    assert diagnosis.evidence["activation_gain_log10"] == pytest.approx(-5.6, abs=1e-3)
    assert diagnosis.evidence["weight_gain_log10"] == pytest.approx(0, abs=1e-3)
    assert [fix.kind for fix in diagnosis.fixes] == [
        "activation",
        "residual",
        "normalisation",
        "pretraining",
    ]


def test_three_tiny_layers_are_named_alone():
    diagnosis = only(RULE, steady(RELU, **relu_signals(dict.fromkeys((3, 4, 5), -1.5))))
    assert diagnosis.cause == "weights"
    assert names(diagnosis, RELU) == ["layer3", "layer4", "layer5"]
    assert [fix.kind for fix in diagnosis.fixes] == [
        "initialisation",
        "residual",
        "normalisation",
    ]


def test_the_gains_of_he_initialised_relu_layers_are_no_deficit():
    diagnosis = only(RULE, steady(RELU, **relu_signals({3: -4.0})))
    assert diagnosis.rows == (3,)
    assert diagnosis.evidence["weight_deficit_log10"] == pytest.approx(-4.0, abs=1e-3)
    assert diagnosis.evidence["activation_deficit_log10"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("small", "with_first"),
    [(range(1, 10), True), (range(1, 7), True), (range(1, 6), False)],
    ids=["all", "two thirds", "fewer"],
)
def test_the_input_layer_is_named_where_two_thirds_of_the_layers_after_it_are(small, with_first):
    diagnosis = only(RULE, steady(RELU, **relu_signals(dict.fromkeys(small, -0.8))))
    assert diagnosis.rows == (*([0] if with_first else []), *small)


@pytest.mark.parametrize(
    ("activation", "weights", "other", "cause"),
    [
        (-0.8, 0.0, 0.0, "activation"),
        (0.0, -0.8, 0.0, "weights"),
        (0.0, 0.0, -0.8, "wiring"),
        (-0.5, -0.4, -0.2, "activation"),
        (-0.3, -0.4, -0.2, "weights"),
        (-0.3, -0.2, -0.4, "wiring"),
        (-0.7, 0.2, 0.0, "activation"),
        (0.3, -0.9, 0.0, "weights"),
    ],
)
def test_the_factor_with_the_largest_deficit_is_the_cause(activation, weights, other, cause):
    signals = backward_signals(SIGMOID, activation=activation, weights=weights, other=other)
    assert only(RULE, steady(SIGMOID, **signals)).cause == cause


def test_a_factor_between_two_layers_is_wiring_and_names_the_path():
    other = np.where(np.arange(10) == 4, -4.0, 0.0)
    signals = backward_signals(RELU, activation=-0.15, weights=0.15, other=other)
    diagnosis = only(RULE, steady(RELU, **signals))
    assert diagnosis.cause == "wiring"
    assert diagnosis.rows == tuple(range(10))
    assert [fix.kind for fix in diagnosis.fixes] == ["normalisation", "residual"]


def test_only_the_branch_in_which_the_signal_vanishes_is_named():
    layers = (
        Layer(name="deep.in", kind="Linear", depth=0, activation="tanh"),
        Layer(name="deep.mid", kind="Linear", depth=1, activation="tanh", inputs=(0,)),
        Layer(name="wide.in", kind="Linear", depth=2, activation="tanh"),
        Layer(name="head", kind="Linear", depth=3, inputs=(1, 2)),
    )
    signals = {
        "output_grad_norm": [1e-5, 0.1, 0.1, 0.1],
        "input_grad_norm": [1e-5, 1e-5, 0.1, 0.1],
        "activation_gain_log10": [0.0, 0.0, 0.0, np.nan],
    }
    diagnosis = only(RULE, steady(layers, **signals))
    assert (diagnosis.cause, names(diagnosis, layers)) == ("weights", ["deep.mid"])
    assert diagnosis.explained >= {0, 1}


def test_the_inputs_of_another_branch_are_judged_all_the_same():
    layers = (
        Layer(name="deep.in", kind="Linear", depth=0),
        Layer(name="deep.mid", kind="Linear", depth=1, inputs=(0,)),
        Layer(name="wide.in", kind="Linear", depth=2),
        Layer(name="head", kind="Linear", depth=3, inputs=(1, 2)),
    )
    signals = {
        "output_grad_norm": [1e-5, 0.1, 0.1, 0.1],
        "input_grad_norm": [1e-5, 1e-5, 0.1, 0.1],
        "input_rms": [1.0, 1.0, 200.0, 1.0],
    }
    watcher = Watcher(ALL_RULES)
    for entry in steady(layers, **signals):
        watcher.observe(entry)
    assert {(finding.code, finding.layers) for finding in watcher.findings} == {
        ("GW101", ("deep.mid",)),
        ("GW204", ("wide.in",)),
    }


def test_the_blame_follows_the_branch_that_carries_most_of_the_signal():
    layers = (
        Layer(name="in", kind="Linear", depth=0),
        Layer(name="strong", kind="Linear", depth=1, inputs=(0,)),
        Layer(name="weak", kind="Linear", depth=2, inputs=(0,)),
        Layer(name="out", kind="Linear", depth=3, inputs=(1, 2)),
    )
    signals = {
        "output_grad_norm": [1e-5, 0.1, 0.1, 0.1],
        "input_grad_norm": [1e-5, 1e-5, 1e-9, 0.1],
    }
    assert names(only(RULE, steady(layers, **signals)), layers) == ["strong"]


def test_the_strongest_output_that_an_input_leads_to_is_the_reference():
    layers = (
        Layer(name="in", kind="Linear", depth=0),
        Layer(name="main", kind="Linear", depth=1, inputs=(0,)),
        Layer(name="side", kind="Linear", depth=2, inputs=(0,)),
    )
    weak_side = {"output_grad_norm": [1e-4, 1e-4, 1.0], "input_grad_norm": [1e-4, 1e-4, 1e-9]}
    assert present(RULE, steady(layers, **weak_side))
    strong_main = {"output_grad_norm": [1e-4, 1e-4, 1e-4], "input_grad_norm": [1e-4, 1e-4, 1e-9]}
    assert not present(RULE, steady(layers, **strong_main))


@pytest.mark.parametrize(("depth", "fires"), [(-3.51, True), (-3.49, False)])
def test_it_fires_below_three_and_a_half_decades(depth, fires):
    signals = backward_signals(SIGMOID, weights=depth / 8)
    assert bool(present(RULE, steady(SIGMOID, **signals))) is fires


def test_the_depth_threshold_itself_is_still_healthy():
    history = steady(SIGMOID, **backward_signals(SIGMOID, weights=-1.0))
    measured = history[-1].backward_depth
    assert not present(replace(RULE, depth=float(np.float32(measured))), history)
    assert present(replace(RULE, depth=above(measured)), history)


@pytest.mark.parametrize(("deficit", "named"), [(-1.001, True), (-0.999, False)])
def test_a_layer_is_named_from_a_third_of_the_worst_layers_deficit_on(deficit, named):
    diagnosis = only(RULE, steady(RELU, **relu_signals({3: -3.0, 6: deficit})))
    assert (6 in diagnosis.rows) is named


@pytest.mark.parametrize("share", [0.5, 0.75])
def test_culprit_share_is_a_setting(share):
    history = steady(RELU, **relu_signals({3: -4.0, 6: -2.5}))
    diagnosis = only(replace(RULE, culprit_share=share), history)
    assert diagnosis.rows == ((3, 6) if share <= 2.5 / 4.0 else (3,))


@pytest.mark.parametrize(
    ("bad", "fires"), [(3, False), (4, True)], ids=["newest window", "both windows"]
)
def test_three_bad_samples_of_five_are_needed_in_both_windows(bad, fires):
    first_bad = EARLY_STEPS[-bad]
    history = steady(
        SIGMOID,
        at=lambda step: backward_signals(SIGMOID, activation=-0.7 if step >= first_bad else 0.0),
    )
    assert bool(present(RULE, history)) is fires


@pytest.mark.parametrize(("fan_out", "kinds"), [(64, 4), (32, 3)], ids=["same", "other width"])
def test_a_skip_is_suggested_where_a_layer_keeps_its_width(fan_out, kinds):
    layers = chain(9, activation="sigmoid", fan_out=fan_out)
    fixes = only(RULE, steady(layers, **backward_signals(layers, activation=-0.7))).fixes
    assert len(fixes) == kinds
    assert ("residual" in {fix.kind for fix in fixes}) is (fan_out == 64)


@pytest.mark.parametrize(("slope", "cause"), [(-0.1, "learning rate"), (-0.3, "activation")])
def test_a_signal_that_came_through_at_first_was_spoilt_by_training(slope, cause):
    """B in the first sample is the sum of the slopes, above -1.5 or below it."""
    healthy = backward_signals(SIGMOID, activation=slope)
    sick = backward_signals(SIGMOID, activation=-0.7)
    diagnosis = only(RULE, steady(SIGMOID, at=lambda step: sick if step else healthy))
    assert diagnosis.cause == cause
    assert (diagnosis.fixes[0].kind == "learning_rate") is (cause == "learning rate")


def test_it_says_nothing_where_the_signal_is_exactly_zero():
    gone = np.where(np.arange(9) == 0, 0.0, 0.1)
    assert RULE.evaluate(steady(SIGMOID, output_grad_norm=gone)) is None


def test_an_open_finding_stays_open_when_the_signal_becomes_exactly_zero():
    watcher = Watcher(ALL_RULES)
    for entry in steady(SIGMOID, **backward_signals(SIGMOID, activation=-0.7)):
        watcher.observe(entry)
    for step in range(20, 32):
        watcher.observe(snapshot(SIGMOID, step, output_grad_norm=0.0, input_grad_norm=0.0))
    (finding,) = watcher.findings
    assert finding.is_open


def test_layers_without_a_weight_are_no_ends_of_a_path():
    layers = (
        Layer(name="norm", kind="BatchNorm1d", depth=0, weighted=False),
        Layer(name="fc", kind="Linear", depth=1, inputs=(0,)),
        Layer(name="head", kind="Linear", depth=2, inputs=(1,)),
        Layer(name="scale", kind="LayerNorm", depth=3, weighted=False, inputs=(2,)),
    )
    signals = {"output_grad_norm": [1e-9, 0.1, 0.1, 1e9], "input_grad_norm": 0.1}
    assert not present(RULE, steady(layers, **signals))


class TestFixes:
    """On real nets."""

    def test_relu_with_he_revives_a_deep_sigmoid_net(self):
        sick = mlp(8, nn.Sigmoid, init=nn.init.xavier_normal_)
        run = train(sick)
        assert run.alarms == [("GW101", "activation")]
        finding = run.finding("GW101")
        assert finding.layers == tuple(str(index) for index in range(0, 16, 2))
        assert finding.step == 16

        healthy = mlp(8, nn.Sigmoid, init=nn.init.xavier_normal_)
        apply(finding.fixes[0], model=healthy)
        cured = train(healthy, sgd(healthy, 0.01))
        assert cured.alarms == []
        assert cured.losses[-1] < 0.8 * run.losses[-1]

    @pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU], ids=["tanh", "relu"])
    def test_the_matching_initialisation_revives_tiny_weights(self, activation):
        build = partial(mlp, 6, activation, init=partial(nn.init.normal_, std=0.01))
        run = train(build())
        assert run.alarms == [("GW101", "weights")]
        finding = run.finding("GW101")
        assert finding.layers == tuple(str(index) for index in range(0, 12, 2))

        healthy = build()
        apply(finding.fixes[0], model=healthy)
        cured = train(healthy, sgd(healthy, 0.01))
        assert cured.alarms == []
        assert cured.losses[-1] < 0.8 * run.losses[-1]

    def test_a_constant_factor_between_layers_is_wiring_and_goes_with_it(self):
        class Faint(nn.Module):
            def forward(self, x):
                return 1e-5 * x

        def build(middle: nn.Module) -> nn.Sequential:
            model = mlp(4)
            return nn.Sequential(*list(model)[:4], middle, *list(model)[4:])

        run = train(build(Faint()))
        assert run.alarms == [("GW101", "wiring")]
        assert train(build(nn.Identity())).alarms == []
