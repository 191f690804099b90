"""GW901 nothing-observed."""

from __future__ import annotations

import pytest
from torch import nn

import gradwatch
from gradwatch.history import History
from gradwatch.rules import ALL_RULES
from gradwatch.rules.gw901_nothing_observed import NothingObserved
from gradwatch.snapshot import State
from gradwatch.testing import chain, snapshot, steady
from gradwatch.watcher import Watcher

from .contract import RuleContract, only, present
from .real import cross_entropy, digits, mlp, sgd

RULE = NothingObserved()
LAYERS = chain(3)
FROZEN = {"states": State.FROZEN}


class TestNothingObserved(RuleContract):
    rule = RULE
    layers = LAYERS
    sick = FROZEN
    opens_at = 4


def test_frozen_layers_are_said_to_be_frozen():
    diagnosis = only(RULE, steady(LAYERS, states=State.FROZEN))
    assert (diagnosis.cause, diagnosis.severity, diagnosis.rows) == ("wiring", "notice", ())
    assert "frozen" in diagnosis.message
    assert diagnosis.evidence == {"samples": 5.0}


@pytest.mark.parametrize("state", [State.IDLE, State.NO_GRADIENT])
def test_a_gradient_that_is_never_there_points_at_backward(state):
    message = only(RULE, steady(LAYERS, states=state)).message
    assert "backward()" in message
    assert "frozen" not in message


@pytest.mark.parametrize("state", [State.TRAINED, State.ZERO_GRADIENT])
def test_one_layer_with_a_gradient_in_one_sample_is_something(state):
    states = [State.FROZEN, state, State.IDLE]
    history = steady(
        LAYERS, steps=range(5), at=lambda step: {"states": states if step == 0 else State.FROZEN}
    )
    assert present(RULE, history) == ()


@pytest.mark.parametrize(("samples", "fires"), [(4, False), (5, True)])
def test_it_waits_for_five_samples(samples, fires):
    history = steady(LAYERS, steps=range(samples), states=State.FROZEN)
    assert bool(present(RULE, history)) is fires


def test_a_skipped_step_is_no_sample():
    history = steady(LAYERS, skipped=True, states=State.FROZEN)
    assert RULE.evaluate(history) is None


def test_no_sample_is_a_finding_only_once_the_run_is_over():
    history = History()
    assert RULE.evaluate(history) is None
    history.finished = True
    diagnosis = only(RULE, history)
    assert "no optimizer step" in diagnosis.message
    assert "torch.optim or keras.optimizers" in diagnosis.message
    assert diagnosis.evidence == {"samples": 0.0}


def test_a_run_that_ends_after_a_sample_or_two_is_no_finding():
    watcher = Watcher(ALL_RULES)
    watcher.observe(snapshot(LAYERS, 0))
    watcher.finish(0)
    assert watcher.findings == ()


class TestRealRuns:
    def test_another_models_optimizer_and_then_the_right_one(self):
        assert self.codes(mlp(2), optimizer_of=mlp(2)) == ["GW901"]
        model = mlp(2)
        assert self.codes(model, optimizer_of=model) == []

    def test_a_frozen_model(self):
        model = mlp(2)
        head = nn.Linear(10, 10)
        model.requires_grad_(False)
        assert self.codes(model, optimizer_of=head, head=head) == ["GW901"]

    def codes(self, model, *, optimizer_of, head=None):
        """Codes of a run in which `model` is watched and `optimizer_of` is stepped."""
        optimizer = sgd(optimizer_of)
        inputs, targets = (values[:64] for values in digits())
        trained = nn.Sequential(model, head) if head is not None else optimizer_of
        with gradwatch.watch(model, budget=None, verbose=0) as watch:
            for _ in range(8):
                optimizer.zero_grad()
                cross_entropy(trained, (inputs, targets)).backward()
                optimizer.step()
        return [finding.code for finding in watch.findings]
