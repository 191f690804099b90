"""GW501 stalled-update."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.optim import SGD

import gradwatch
from gradwatch.rules import ALL_RULES
from gradwatch.rules.gw501_stalled_update import StalledUpdate
from gradwatch.snapshot import State
from gradwatch.testing import chain, steady
from gradwatch.watcher import Watcher

from .contract import WindowedRule, above, below, only, present
from .real import apply, cross_entropy, digits, kinds, mlp, train

RULE = StalledUpdate()
LAYERS = chain(4, activation="relu")
STALLED = {"update_ratio": 1e-7}


def fires(**figures):
    return bool(present(RULE, steady(LAYERS, **{**STALLED, **figures})))


class TestStalledUpdate(WindowedRule):
    rule = RULE
    layers = LAYERS
    sick = STALLED

    # A run that has moved once is not stalled any more, so it cannot reopen after healthy samples.
    test_it_is_resolved_once_the_figures_are_healthy_and_reopens = None
    test_a_single_bad_window_does_not_open_it_and_two_do = None

    def test_one_healthy_step_resolves_it_for_good(self):
        watcher = Watcher(ALL_RULES)
        self.run(watcher, (9, self.sick))
        assert self.found(watcher).is_open
        self.run(watcher, (1, self.well), (20, self.sick))
        assert self.found(watcher).resolved_step == 9

    def test_a_run_that_was_well_at_first_never_opens_it(self):
        watcher = Watcher(ALL_RULES)
        seen = self.run(watcher, (1, self.well), (20, self.sick))
        assert set(seen) == {None}


def test_the_learning_rate_is_to_blame_for_all_layers_that_train():
    states = [State.TRAINED, State.FROZEN, State.TRAINED, State.TRAINED]
    diagnosis = only(RULE, steady(LAYERS, states=states, **STALLED))
    assert (diagnosis.cause, diagnosis.severity) == ("learning rate", "warning")
    assert diagnosis.rows == (0, 2, 3)
    assert diagnosis.evidence["update_ratio"] == pytest.approx(1e-7)
    assert diagnosis.evidence["relative_grad"] == pytest.approx(0.1 / 8)
    assert diagnosis.evidence["elasticity"] == pytest.approx(0.8)
    assert kinds(diagnosis.fixes) == ["learning_rate"]


def test_the_median_layer_decides():
    slow, fast = 1e-7, 2e-5
    assert fires(update_ratio=[slow, slow, slow, fast])
    assert not fires(update_ratio=[slow, fast, fast, fast])


@pytest.mark.parametrize(
    ("update", "stalled"),
    [(below(1e-5), True), (above(1e-5), False)],
    ids=["below", "above"],
)
def test_it_fires_below_an_update_of_a_hundred_thousandth(update, stalled):
    assert fires(update_ratio=update) is stalled


def test_the_update_threshold_itself_is_still_healthy():
    history = steady(LAYERS, **STALLED)
    threshold = float(np.float32(1e-7))
    assert not present(replace(RULE, update=threshold), history)
    assert present(replace(RULE, update=above(threshold)), history)


@pytest.mark.parametrize(("largest", "stalled"), [(below(3e-5), True), (above(3e-5), False)])
def test_one_step_of_the_run_that_moved_a_layer_is_enough(largest, stalled):
    moved = [1e-7, 1e-7, 1e-7, largest]
    history = steady(LAYERS, at=lambda step: {"update_ratio": moved} if step == 0 else STALLED)
    assert bool(present(RULE, history)) is stalled


@pytest.mark.parametrize(
    ("grad", "loss", "stalled"),
    [
        (7.9e-3, 1.0, False),
        (8.1e-3, 1.0, True),
        (7.9e-3, 1e-4, False),
        (7.9e-3, float("nan"), False),
        (8.1e-3, float("nan"), True),
    ],
)
def test_there_has_to_be_something_to_learn(grad, loss, stalled):
    """Relative gradient above a thousandth (grad above 8e-3), or elasticity above 1."""
    assert fires(grad_norm=grad, loss=loss) is stalled


@pytest.mark.parametrize(("elasticity", "stalled"), [(31.6, True), (31.7, False)])
def test_a_steep_loss_is_left_alone(elasticity, stalled):
    assert fires(grad_norm=elasticity / 8) is stalled


@pytest.mark.parametrize("state", [State.FROZEN, State.IDLE, State.ZERO_GRADIENT])
def test_layers_that_do_not_train_are_not_stalled(state):
    assert RULE.evaluate(steady(LAYERS, states=state, **STALLED)).present == ()


@pytest.mark.parametrize(("update", "factor"), [(9e-6, 1e3), (1e-7, 1e4), (0.0, 1e6)])
def test_the_fix_raises_the_rate_to_a_thousandth_a_step(update, factor):
    fix = only(RULE, steady(LAYERS, update_ratio=update)).fixes[0]
    assert f"{factor:.6g}" in fix.title


class TestRealRuns:
    def test_a_larger_learning_rate_revives_a_stalled_run(self):
        sick = mlp(2)
        run = train(sick, SGD(sick.parameters(), lr=1e-6))
        assert run.alarms == [("GW501", "learning rate")]

        healthy = mlp(2)
        optimizer = SGD(healthy.parameters(), lr=1e-6)
        apply(run.finding("GW501").fixes[0], model=healthy, optimizer=optimizer)
        cured = train(healthy, optimizer)
        assert cured.alarms == []
        assert cured.losses[-1] < 0.9 * run.losses[-1]

    @pytest.mark.parametrize("zero_from", [0.5, 1.0], ids=["long at zero", "zero at the end"])
    def test_a_rate_that_decays_to_zero_is_not_meant(self, zero_from):
        model = mlp(2)
        optimizer = SGD(model.parameters(), lr=0.05)
        steps = 120
        decay = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.5 * (1 + np.cos(np.pi * min(step / steps / zero_from, 1.0)))
        )
        assert self.codes(model, optimizer, steps=steps, after_step=decay.step) == []
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)

    def test_a_run_that_has_converged_is_not_stalled(self):
        model = mlp(2)
        optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
        assert self.codes(model, optimizer, steps=200) == []
        with torch.no_grad():
            inputs, targets = (values[:64] for values in digits())
            assert cross_entropy(model, (inputs, targets)) < 0.02

    def codes(self, model, optimizer, *, steps=33, after_step=lambda: None):
        """Codes of a run on one batch."""
        inputs, targets = (values[:64] for values in digits())
        with gradwatch.watch(model, optimizer, every=1, verbose=0) as watch:
            for _ in range(steps):
                optimizer.zero_grad()
                loss = cross_entropy(model, (inputs, targets))
                watch.observe_loss(loss)
                loss.backward()
                optimizer.step()
                after_step()
        return [finding.code for finding in watch.findings]
