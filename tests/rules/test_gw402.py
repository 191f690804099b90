"""GW402 symmetric-initialisation."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from torch import nn

from gradwatch.layer import Layer
from gradwatch.rules.gw402_symmetric_initialisation import SymmetricInitialisation
from gradwatch.snapshot import State
from gradwatch.testing import chain, steady

from .contract import WindowedRule, above, below, only, present
from .real import apply, kinds, mlp, sgd, train

RULE = SymmetricInitialisation()
LAYERS = chain(4, activation="tanh")
ALIKE = {"unit_spread_ratio": [1.0, 1e-7, 0.0, 1.0]}


class TestSymmetricInitialisation(WindowedRule):
    rule = RULE
    layers = LAYERS
    sick = ALIKE
    single_bad_window = "xxxxx"
    two_bad_windows = "xxxxxx"


def test_the_weights_of_the_layers_with_equal_units_are_to_blame():
    diagnosis = only(RULE, steady(LAYERS, **ALIKE))
    assert (diagnosis.cause, diagnosis.severity) == ("weights", "error")
    assert diagnosis.rows == (1, 2)
    assert diagnosis.evidence["unit_spread_ratio"] == pytest.approx(1e-7)
    assert kinds(diagnosis.fixes) == ["initialisation"]


def test_what_lies_before_and_behind_is_explained_and_other_branches_are_not():
    layers = (
        *chain(3),
        Layer(name="side", kind="Linear", depth=3),
        Layer(name="head", kind="Linear", depth=4, inputs=(2, 3)),
    )
    diagnosis = only(RULE, steady(layers, unit_spread_ratio=[1.0, 0.0, 1.0, 1.0, 1.0]))
    assert diagnosis.rows == (1,)
    assert diagnosis.explained == {0, 1, 2, 4}


@pytest.mark.parametrize(("norms", "zero"), [(0.0, True), ([8.0, 0.0, 3.0, 8.0], False)])
def test_it_says_so_if_all_those_weights_are_zero(norms, zero):
    message = only(RULE, steady(LAYERS, weight_norm=norms, **ALIKE)).message
    assert ("(zero)" in message) is zero


@pytest.mark.parametrize(("spread", "fires"), [(below(1e-5), True), (above(1e-5), False)])
def test_it_fires_below_a_spread_of_a_hundred_thousandth(spread, fires):
    assert bool(present(RULE, steady(LAYERS, unit_spread_ratio=spread))) is fires


def test_the_spread_threshold_itself_is_still_healthy():
    spread = float(np.float32(1e-7))
    history = steady(LAYERS, unit_spread_ratio=spread)
    assert not present(replace(RULE, spread=spread), history)
    assert present(replace(RULE, spread=above(spread)), history)


def test_a_layer_whose_spread_is_unknown_is_not_named():
    history = steady(LAYERS, unit_spread_ratio=[np.nan, 0.0, 1.0, np.nan])
    assert only(RULE, history).rows == (1,)


@pytest.mark.parametrize(
    ("state", "fires"),
    [
        (State.TRAINED, True),
        (State.ZERO_GRADIENT, True),
        (State.NO_GRADIENT, True),
        (State.FROZEN, False),
        (State.IDLE, False),
    ],
)
def test_only_a_layer_that_should_train_is_meant(state, fires):
    assert bool(present(RULE, steady(LAYERS, states=state, **ALIKE))) is fires


def test_a_layer_that_did_not_run_is_not_meant():
    history = steady(LAYERS, forward_calls=[1.0, 0.0, 1.0, 1.0], **ALIKE)
    assert only(RULE, history).rows == (2,)


def test_one_sample_in_which_the_units_differ_is_enough():
    history = steady(LAYERS, at=lambda step: {} if step == 8 else ALIKE)
    assert present(RULE, history) == ()


class TestRealRuns:
    @pytest.mark.parametrize("constant", [0.0, 0.1])
    def test_random_weights_revive_layers_of_one_constant(self, constant):
        build = partial(mlp, 2, nn.Tanh, init=partial(nn.init.constant_, val=constant))
        run = train(build())
        assert ("GW402", "weights") in run.alarms
        finding = run.finding("GW402")
        assert "0" in finding.layers

        healthy = build()
        apply(finding.fixes[0], model=healthy)
        cured = train(healthy)
        assert cured.alarms == []
        assert cured.losses[-1] < 0.8 * run.losses[-1]

    def test_a_head_that_starts_at_zero_is_broken_up_by_its_first_step(self):
        model = mlp(2)
        nn.init.zeros_(model[-1].weight)
        run = train(model, sgd(model))
        assert run.alarms == []
        assert run.losses[-1] < 0.5 * run.losses[0]
