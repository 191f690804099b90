"""GW404 rank-collapse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from gradwatch.rules import ALL_RULES
from gradwatch.rules.gw404_rank_collapse import RankCollapse
from gradwatch.testing import backward_signals, chain, history_of, snapshot, steady
from gradwatch.watcher import Watcher

from .contract import ScaleFree, WindowedRule, alarms, below, only, present
from .real import mlp, sgd, train

RULE = RankCollapse()
LAYERS = chain(5, activation="relu")
PATIENT = range(0, 200, 10)
"""Steps that reach beyond the patience."""


def spread(*hidden: float, head: float = 0.5) -> dict:
    return {"direction_spread": [*hidden, head]}


COLLAPSED = spread(0.4, 0.01, 1e-5, 1e-6)
WELL = spread(0.4, 0.3, 0.2, 0.1)


class TestRankCollapse(ScaleFree, WindowedRule):
    rule = RULE
    layers = LAYERS
    sick = COLLAPSED
    well = WELL


def test_depth_is_to_blame_from_the_first_layer_that_collapsed():
    diagnosis = only(RULE, steady(LAYERS, steps=PATIENT, **COLLAPSED))
    assert (diagnosis.cause, diagnosis.severity, diagnosis.rows) == ("depth", "warning", (2, 3))
    assert diagnosis.explained == set(range(5))
    assert diagnosis.evidence["direction_spread"] == pytest.approx(1e-6)
    assert diagnosis.evidence["direction_spread_at_inputs"] == pytest.approx(0.4)
    assert [fix.kind for fix in diagnosis.fixes] == ["residual", "initialisation"]


@pytest.mark.parametrize(
    ("last", "fires"), [(1e-4, False), (below(1e-4), True), (np.nan, False), (0.0, True)]
)
def test_it_fires_below_its_threshold(last, fires):
    assert bool(present(RULE, steady(LAYERS, **spread(0.4, 0.3, 0.2, last)))) is fires


def test_what_recovers_before_the_head_is_not_meant():
    """A normalisation, or another branch, may bring the differences back."""
    assert not present(RULE, steady(LAYERS, **spread(0.4, 1e-6, 1e-6, 0.1)))


def test_every_layer_that_the_head_reads_has_to_agree():
    branches = (*LAYERS[:4], replace(LAYERS[4], inputs=(1, 3)))
    assert not present(RULE, steady(branches, **COLLAPSED))
    assert present(RULE, steady(branches, **spread(0.4, 1e-6, 1e-6, 1e-6)))


@pytest.mark.parametrize(("first", "fires"), [(0.009, False), (0.011, True)])
def test_inputs_that_agree_already_are_not_the_depths_doing(first, fires):
    assert bool(present(RULE, steady(LAYERS, **spread(first, 1e-5, 1e-5, 1e-5)))) is fires


@pytest.mark.parametrize(("loss", "fires"), [(0.79, False), (0.81, True), (np.nan, True)], ids=str)
def test_while_the_loss_falls_it_is_silent(loss, fires):
    history = steady(LAYERS, at=lambda step: {"loss": loss if step else 1.0}, **COLLAPSED)
    assert bool(present(RULE, history)) is fires


@pytest.mark.parametrize(("last_step", "severity"), [(99, "notice"), (100, "warning")])
def test_it_is_a_notice_for_a_hundred_steps(last_step, severity):
    steps = [*range(8), last_step - 1, last_step]
    assert only(RULE, steady(LAYERS, steps=steps, **COLLAPSED)).severity == severity


def test_with_a_dead_layer_behind_it_there_is_no_hope_and_no_patience():
    figures = {**COLLAPSED, "dead_fraction": [0.1, 0.1, 0.5, 1.0, np.nan]}
    assert only(RULE, steady(LAYERS, **figures)).severity == "warning"


def test_the_silence_behind_a_dead_layer_is_the_dead_layers_doing():
    figures = {**spread(0.4, 1e-6, 1e-6, 1e-6), "dead_fraction": [0.1, 1.0, 0.1, 0.1, np.nan]}
    assert not present(RULE, steady(LAYERS, **figures))


def test_a_unit_that_dies_in_a_collapsed_net_is_its_consequence():
    watcher = Watcher(ALL_RULES)
    dead = {"dead_fraction": [0.1, 0.1, 0.5, 1.0, np.nan]}
    for entry in steady(LAYERS, steps=PATIENT, **COLLAPSED, **dead):
        watcher.observe(entry)
    assert alarms(watcher.findings) == [("GW404", "depth")]


def test_a_signal_that_vanished_from_the_start_is_left_to_gw101():
    watcher = Watcher(ALL_RULES)
    for step in PATIENT:
        signals = backward_signals(LAYERS, weights=-1.2)
        watcher.observe(snapshot(LAYERS, step, **COLLAPSED, **signals))
    assert alarms(watcher.findings) == [("GW101", "weights")]


@pytest.mark.parametrize(("at_first", "cause"), [(0.011, "learning rate"), (0.009, "depth")])
def test_examples_that_differed_in_the_first_sample_were_trained_into_one_way(at_first, cause):
    well = spread(0.4, 0.3, at_first, at_first)
    history = steady(LAYERS, at=lambda step: {} if step else well, **COLLAPSED)
    diagnosis = only(RULE, history)
    assert diagnosis.cause == cause
    assert (diagnosis.fixes[0].kind == "learning_rate") is (cause == "learning rate")


def test_a_layer_that_came_late_was_not_well_at_first():
    first = snapshot(LAYERS[:1], 0, direction_spread=0.4)
    late = [snapshot(LAYERS, step, **COLLAPSED) for step in range(1, 12)]
    assert only(RULE, history_of([first, *late])).cause == "depth"


def test_behind_saturated_layers_it_is_their_doing():
    layers = chain(5, activation="tanh")
    assert present(RULE, steady(layers, **COLLAPSED))
    flat = {"saturation_fraction": [0.1, 0.9, 0.1, 0.1, np.nan]}
    assert not present(RULE, steady(layers, **COLLAPSED, **flat))


def test_behind_a_factor_of_zero_it_is_the_factors_doing():
    cut = {"output_grad_norm": [0.0, 0.0, 0.1, 0.1, 0.1], "input_grad_norm": [0, 0, 0, 0.1, 0.1]}
    assert not present(RULE, steady(LAYERS, **COLLAPSED, **cut))


@pytest.mark.parametrize(("rms", "code"), [(0.18, "GW404"), (0.05, "GW101")])
def test_with_weights_of_the_right_size_depth_is_left_to_blame(rms, code):
    """He's size for a fan-in of 64 is 0.177; much smaller weights explain the vanishing."""
    figures = {**COLLAPSED, **backward_signals(LAYERS, weights=-1.2)}
    watcher = Watcher(ALL_RULES)
    for entry in steady(LAYERS, weight_norm=rms * np.sqrt(4160), **figures):
        watcher.observe(entry)
    assert [found for found, _ in alarms(watcher.findings)] == [code]


def test_layers_behind_a_sigmoid_share_a_mean_by_nature():
    layers = chain(5, activation="sigmoid")
    assert not present(RULE, steady(layers, **COLLAPSED))


def scaled_down(weight: torch.Tensor) -> None:
    """A tenth of He's size, so that forty residual branches together keep the signal's."""
    nn.init.kaiming_normal_(weight)
    with torch.no_grad():
        weight.mul_(0.1)


class Residual(nn.Module):
    """Adds what goes in to what comes out."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*modules)

    def forward(self, x):
        return x + self.body(x)


def with_skips(model: nn.Sequential) -> nn.Sequential:
    """The MLP with a residual path around every pair of layer and activation but the first."""
    first, head = model[:2], model[-1]
    pairs = [model[place : place + 2] for place in range(2, len(model) - 1, 2)]
    return nn.Sequential(*first, *[Residual(*pair) for pair in pairs], head)


class TestRealRuns:
    """On real nets."""

    def test_forty_narrow_layers_collapse_and_residual_paths_cure_them(self):
        model = mlp(40, width=16)
        run = train(model, sgd(model, 0.02))
        assert run.alarms == [("GW404", "depth")]
        assert run.losses[-1] > 2.2
        model = with_skips(mlp(40, width=16, init=scaled_down))
        cured = train(model, sgd(model, 0.002), steps=120)
        assert cured.alarms == []
        assert cured.losses[-1] < 1.8

    def test_forty_wide_layers_do_not(self):
        model = mlp(40, width=96)
        run = train(model, sgd(model, 1e-3), steps=120)
        assert "GW404" not in {finding.code for finding in run.findings}
