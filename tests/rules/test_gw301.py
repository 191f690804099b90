"""GW301 exploding-gradient."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD

from gradwatch.rules import ALL_RULES
from gradwatch.rules.gw301_exploding_gradient import ExplodingGradient
from gradwatch.testing import backward_signals, chain, history_of, snapshot, steady
from gradwatch.watcher import Watcher

from .contract import RuleContract, ScaleFree, above, only, present
from .real import apply, kinds, mlp, sgd, train

RULE = ExplodingGradient()
LAYERS = chain(9, activation="relu")
LSTM = chain(3, kind="LSTM", recurrent=True)
INF = float("inf")
BAD = {"grad_norm": INF, "nonfinite_count": 2.0, "output_rms": INF, "loss": INF}


def growth(decades, layers=LAYERS):
    """Backward signals that grow by so many decades, the same at each layer but the first."""
    return backward_signals(layers, weights=decades / (len(layers) - 1))


class TestExplodingGradient(ScaleFree, RuleContract):
    rule = RULE
    layers = LAYERS
    sick = growth(4.0)
    opens_at = 0


def test_it_explains_every_layer():
    diagnosis = only(RULE, steady(LAYERS, **growth(4.0)))
    assert diagnosis.severity == "error"
    assert diagnosis.explained == set(range(9))
    assert diagnosis.evidence["growth_log10"] == pytest.approx(4.0, abs=1e-3)


@pytest.mark.parametrize(("decades", "fires"), [(2.99, False), (3.01, True)])
def test_it_fires_above_three_decades_on_the_way_back(decades, fires):
    assert bool(present(RULE, steady(LAYERS, **growth(decades)))) is fires


@pytest.mark.parametrize(("largest", "fires"), [(999.0, False), (1001.0, True)])
def test_it_fires_above_three_decades_on_the_way_forward(largest, fires):
    forward = {"output_rms": [1.0] * 8 + [largest]}
    assert bool(present(RULE, steady(LAYERS, **forward))) is fires


@pytest.mark.parametrize(("decades", "fires"), [(3.0, False), (above(3.0), True), (np.nan, False)])
def test_it_fires_above_three_decades_over_time(decades, fires):
    assert bool(present(RULE, steady(LSTM, time_growth_log10=decades))) is fires


def test_the_growth_threshold_itself_is_still_healthy():
    history = steady(LAYERS, **growth(2.0))
    measured = history[-1].backward_growth
    assert not present(replace(RULE, growth=measured), history)
    assert present(replace(RULE, growth=measured - 1e-6), history)


@pytest.mark.parametrize("way", ["on the way back", "on the way forward"])
def test_the_way_of_the_larger_growth_is_named(way):
    forward = {"output_rms": [1.0] * 8 + [1e5 if way.endswith("forward") else 1e3]}
    assert way in only(RULE, steady(LAYERS, **growth(4.0), **forward)).message


@pytest.mark.parametrize(
    ("layers", "cause"), [(19, "weights"), (31, "depth")], ids=["much each", "a little each"]
)
def test_weights_or_depth_by_what_one_layer_gains(layers, cause):
    """Four decades over 18 layers are 0.22 a layer, over 30 they are 0.13."""
    net = chain(layers)
    diagnosis = only(RULE, steady(net, **growth(4.0, net)))
    assert diagnosis.cause == cause
    assert kinds(diagnosis.fixes) == ["initialisation", "normalisation", "residual", "clipping"]


def test_only_layers_with_a_third_of_the_largest_gain_are_named():
    weights = np.asarray([0.0, 0.3, 3.0, 0.0, 1.1, 0.9, 0.0, 0.0, 0.0])
    history = steady(LAYERS, **backward_signals(LAYERS, weights=weights))
    assert only(RULE, history).rows == (2, 4)
    assert only(replace(RULE, culprit_share=0.25), history).rows == (2, 4, 5)


def test_time_names_the_recurrent_layer_and_no_other():
    diagnosis = only(RULE, steady(LSTM, time_growth_log10=[np.nan, 5.0, 2.0]))
    assert (diagnosis.cause, diagnosis.rows) == ("time", (1,))
    assert kinds(diagnosis.fixes) == ["clipping", "recurrent"]


@pytest.mark.parametrize(("began", "cause"), [(1.4, "learning rate"), (1.6, "weights")])
def test_a_net_that_was_well_at_first_has_a_learning_rate_that_is_too_large(began, cause):
    history = steady(LAYERS, at=lambda step: growth(began if step == 0 else 4.0))
    diagnosis = only(RULE, history)
    assert diagnosis.cause == cause
    assert (kinds(diagnosis.fixes)[0] == "learning_rate") is (cause == "learning rate")


def test_nothing_observed_is_nothing_found():
    unseen = {"output_rms": np.nan, "output_grad_norm": np.nan, "input_grad_norm": np.nan}
    assert present(RULE, steady(LAYERS, **unseen)) == ()


@pytest.mark.parametrize("skipped", [True, False])
def test_a_skipped_step_does_not_count(skipped):
    assert bool(present(RULE, steady(LAYERS, skipped=skipped, **growth(4.0)))) is not skipped


@pytest.mark.parametrize("finite", [1, 4])
def test_an_explosion_that_ended_in_nan_keeps_its_name(finite):
    watcher = Watcher(ALL_RULES)
    for step in range(finite + 20):
        watcher.observe(snapshot(LAYERS, step, **(growth(4.0) if step < finite else BAD)))
    (finding,) = watcher.findings
    assert (finding.code, finding.cause, finding.step) == ("GW301", "weights", 0)
    assert finding.is_open


def test_nan_after_a_healthy_run_is_no_explosion():
    history = history_of(snapshot(LAYERS, step, **(BAD if step > 5 else {})) for step in range(9))
    assert present(RULE, history) == ()


class Unrolled(nn.Module):
    """An Elman net over the eight rows of a digit, six times in a row."""

    def __init__(self, scale):
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.RNN(8, 32, nonlinearity="relu", batch_first=True)
        self.head = nn.Linear(32, 10)
        nn.init.orthogonal_(self.rnn.weight_hh_l0, gain=scale)

    def forward(self, x):
        hidden, _ = self.rnn(x.reshape(-1, 8, 8).repeat(1, 6, 1))
        return self.head(hidden[:, -1])


class TestRealRuns:
    def test_the_matching_initialisation_tames_weights_that_are_too_large(self):
        def build():
            return mlp(12, init=partial(nn.init.normal_, std=2.5 * (2 / 32) ** 0.5))

        sick = build()
        run = train(sick, sgd(sick, 1e-3))
        assert run.alarms == [("GW301", "weights")]
        finding = run.finding("GW301")
        assert finding.step == 0

        healthy = build()
        apply(finding.fixes[0], model=healthy)
        cured = train(healthy, sgd(healthy, 0.01))
        assert cured.alarms == []
        assert np.isnan(run.losses[-1])
        assert cured.losses[-1] < 2.3

    def test_a_recurrent_matrix_that_is_too_large_explodes_over_time(self):
        sick = Unrolled(2.0)
        run = train(sick, SGD(sick.parameters(), lr=1e-9))
        assert ("GW301", "time") in run.alarms
        (layer,) = [finding.layers for finding in run.findings if finding.cause == "time"]
        assert layer == ("rnn",)
        healthy = Unrolled(1.0)
        cured = train(healthy, SGD(healthy.parameters(), lr=1e-3))
        assert "GW301" not in {code for code, _ in cured.alarms}

    def test_a_smaller_learning_rate_keeps_a_net_that_was_well_at_first_well(self):
        model = mlp(6, seed=1)
        run = train(model, sgd(model, 1.0))
        assert run.alarms == [("GW303", "learning rate"), ("GW301", "learning rate")]

        model = mlp(6, seed=1)
        optimizer = sgd(model, 1.0)
        for _ in range(2):
            apply(run.finding("GW301").fixes[0], optimizer=optimizer)
        cured = train(model, optimizer)
        assert cured.alarms == []
        assert cured.losses[-1] < cured.losses[0]


@pytest.mark.parametrize(
    ("setting", "causes"),
    [
        ({"growth": 5.0}, []),
        ({"gentle": 0.8}, ["depth"]),
        ({"well_at_first": 5.0}, ["learning rate"]),
    ],
    ids=str,
)
def test_its_thresholds_are_settings(setting, causes):
    found = present(replace(RULE, **setting), steady(LAYERS, **growth(4.0)))
    assert [diagnosis.cause for diagnosis in found] == causes


def test_time_and_weights_are_two_diagnoses():
    figures = {**growth(4.0), "time_growth_log10": [5.0, *[np.nan] * 8]}
    found = present(RULE, steady(LAYERS, **figures))
    assert [diagnosis.cause for diagnosis in found] == ["time", "weights"]


def test_a_first_sample_without_signals_is_not_taken_for_well():
    names = ("output_grad_norm", "input_grad_norm", "output_rms", "input_rms", "forward_calls")
    unseen = dict.fromkeys(names, np.nan)
    history = steady(LAYERS, at=lambda step: growth(4.0) if step else unseen)
    assert only(RULE, history).cause == "weights"


def test_layers_without_a_weight_are_not_to_blame():
    norm = replace(LAYERS[2], kind="LayerNorm", weighted=False)
    layers = (*LAYERS[:2], norm, replace(LAYERS[3], activation=None))
    signals = {"output_grad_norm": [1e4, 1, 1, 1], "input_grad_norm": [1e4, 1e4, 1e9, 1]}
    assert only(RULE, steady(layers, **signals)).rows == (1,)


def test_growth_between_layers_that_each_shrink_is_found_too():
    other = np.where(np.arange(9) == 3, 6.0, 0.0)
    signals = backward_signals(LAYERS, weights=-0.1, other=other)
    assert present(RULE, steady(LAYERS, output_rms=0.5, **signals))


def test_an_explosion_that_ends_in_an_infinite_loss_is_one_finding():
    watcher = Watcher(ALL_RULES)
    for step in range(8):
        loss = INF if step > 3 else 1.0
        watcher.observe(snapshot(LAYERS, step, loss=loss, **growth(4.0)))
    assert [finding.code for finding in watcher.findings] == ["GW301"]
