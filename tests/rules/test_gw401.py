"""GW401 detached-parameter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from gradwatch.layer import Layer
from gradwatch.rules import ALL_RULES
from gradwatch.rules.gw401_detached_parameter import DetachedParameter
from gradwatch.snapshot import State
from gradwatch.testing import chain, snapshot, steady
from gradwatch.watcher import Watcher

from .contract import WindowedRule, above, only, present
from .real import kinds, mlp, sgd, train

RULE = DetachedParameter()
LAYERS = chain(4)
UNREACHED = {
    "grad_norm": [np.nan, np.nan, 0.1, 0.1],
    "output_grad_norm": [np.nan, np.nan, 0.1, 0.1],
    "input_grad_norm": [np.nan, np.nan, np.nan, 0.1],
}


def cut(state=State.NO_GRADIENT):
    """States of a chain that is cut behind its second layer."""
    return [state, state, State.TRAINED, State.TRAINED]


DETACHED = {"states": cut(), **UNREACHED}


class TestDetachedParameter(WindowedRule):
    rule = RULE
    layers = LAYERS
    sick = DETACHED
    single_bad_window = "xxxxx"
    two_bad_windows = "xxxxxx"


def test_the_layers_before_the_cut_are_named():
    diagnosis = only(RULE, steady(LAYERS, **DETACHED))
    assert (diagnosis.cause, diagnosis.severity) == ("wiring", "error")
    assert diagnosis.rows == (0, 1)
    assert diagnosis.explained == {0, 1}
    assert diagnosis.evidence == {"layers_without_gradient": 2.0, "samples": 5}
    assert "the graph is cut" in diagnosis.message
    assert kinds(diagnosis.fixes) == ["wiring"]


def test_a_gradient_of_exactly_zero_is_told_from_one_that_is_missing():
    zero = np.asarray([0.0, 0.0, 0.1, 0.1])
    history = steady(LAYERS, states=cut(State.ZERO_GRADIENT), grad_norm=zero, output_grad_norm=zero)
    diagnosis = only(RULE, history)
    assert diagnosis.rows == (0, 1)
    assert "exactly zero" in diagnosis.message


@pytest.mark.parametrize("state", [State.FROZEN, State.IDLE, State.TRAINED])
def test_a_layer_that_does_not_ask_for_a_gradient_is_not_meant(state):
    assert present(RULE, steady(LAYERS, **{**DETACHED, "states": cut(state)})) == ()


@pytest.mark.parametrize("calls", [0.0, np.nan], ids=["did not run", "not observed"])
def test_a_layer_that_was_not_seen_running_is_not_meant(calls):
    history = steady(LAYERS, forward_calls=[1.0, calls, 1.0, 1.0], **DETACHED)
    assert only(RULE, history).rows == (0,)


def test_an_expert_that_is_routed_to_in_some_samples_only_is_not_meant():
    history = steady(
        LAYERS,
        at=lambda step: {"forward_calls": [1.0, 0.0 if step % 4 else 1.0, 1.0, 1.0]},
        **DETACHED,
    )
    assert only(RULE, history).rows == (0,)


def test_one_sample_with_a_gradient_is_enough():
    history = steady(
        LAYERS, at=lambda step: {"states": State.TRAINED if step == 8 else cut()}, **UNREACHED
    )
    assert present(RULE, history) == ()


@pytest.mark.parametrize("statistic", ["dead_fraction", "saturation_fraction"])
@pytest.mark.parametrize(("fraction", "fires"), [(0.95, True), (above(0.95), False)])
def test_an_exact_zero_behind_a_flat_activation_is_not_meant(statistic, fraction, fires):
    flat = {statistic: [np.nan, np.nan, fraction, np.nan]}
    history = steady(LAYERS, states=cut(State.ZERO_GRADIENT), **flat)
    assert bool(present(RULE, history)) is fires
    assert present(replace(RULE, flat=0.99), history)


def test_a_missing_gradient_behind_a_flat_activation_is_meant_all_the_same():
    history = steady(LAYERS, dead_fraction=[np.nan, np.nan, 1.0, np.nan], **DETACHED)
    assert only(RULE, history).rows == (0, 1)


def test_a_flat_activation_on_another_branch_excuses_nothing():
    layers = (
        Layer(name="cut", kind="Linear", depth=0),
        Layer(name="flat", kind="Linear", depth=1),
        Layer(name="head", kind="Linear", depth=2, inputs=(0, 1)),
    )
    history = steady(
        layers,
        states=[State.ZERO_GRADIENT, State.ZERO_GRADIENT, State.TRAINED],
        dead_fraction=[np.nan, 1.0, np.nan],
    )
    assert only(RULE, history).rows == (0,)


def test_equal_weights_explain_a_zero_gradient():
    watcher = Watcher(ALL_RULES)
    for step in range(12):
        watcher.observe(
            snapshot(
                LAYERS,
                step,
                states=cut(State.ZERO_GRADIENT),
                unit_spread_ratio=[1.0, 1.0, 0.0, 1.0],
            )
        )
    assert [finding.code for finding in watcher.findings] == ["GW402"]


class Net(nn.Module):
    """An encoder, two experts and a head.

    Args:
        between: What lies between the encoder and the rest.
        routed: Whether the second expert runs.
        activation: The activation behind the experts.
    """

    def __init__(self, between=lambda hidden: hidden, *, routed=True, activation=nn.Tanh):
        super().__init__()
        self.encoder = mlp(1)[:2]
        self.experts = nn.ModuleList(nn.Linear(32, 32) for _ in range(2))
        self.head = nn.Linear(32, 10)
        self.between, self.routed, self.activation = between, routed, activation()

    def forward(self, x):
        hidden = self.between(self.encoder(x))
        first, second = self.experts
        hidden = first(hidden) + (second(hidden) if self.routed else 0)
        return self.head(self.activation(hidden))


class TestRealRuns:
    @pytest.mark.parametrize(
        ("between", "words"),
        [(lambda hidden: hidden.detach(), "cut"), (lambda hidden: 0 * hidden, "exactly zero")],
        ids=["detached", "times zero"],
    )
    def test_a_cut_is_found_and_gone_once_it_is_taken_out(self, between, words):
        run = train(Net(between))
        assert run.alarms == [("GW401", "wiring")]
        finding = run.finding("GW401")
        assert finding.layers == ("encoder.0",)
        assert words in finding.message
        assert train(Net()).alarms == []

    def test_a_zero_factor_is_found_with_a_relu_behind_it(self):
        run = train(Net(lambda hidden: 0 * hidden, activation=nn.ReLU))
        assert run.alarms == [("GW401", "wiring")]

    def test_an_expert_that_is_never_routed_to_is_silent(self):
        assert train(Net(routed=False)).alarms == []

    def test_a_frozen_encoder_is_silent(self):
        model = Net(lambda hidden: hidden.detach())
        model.encoder.requires_grad_(False)
        assert train(model, sgd(model)).alarms == []

    def test_units_that_are_dead_behind_it_are_the_finding_instead(self):
        model = mlp(3)
        nn.init.constant_(model[2].bias, -1e3)
        run = train(model)
        assert "GW201" in {code for code, _ in run.alarms}
        assert "GW401" not in {code for code, _ in run.alarms}
