"""GW902 observation-degraded."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch.history import History
from gradwatch.rules import ALL_RULES, Rule
from gradwatch.rules.gw902_observation_degraded import ObservationDegraded
from gradwatch.testing import backward_signals, chain, history_of, snapshot
from gradwatch.watcher import Watcher

from .contract import only, present
from .real import cross_entropy, digits, mlp, sgd

RULE = ObservationDegraded()
LAYERS = chain(3)
SIGMOID = chain(9, activation="sigmoid")
BLIND = "the model is compiled"
SHARDED = "parameters are sharded"


@dataclass(frozen=True)
class Broken(Rule):
    """A user's rule that fails."""

    code = "XX001"
    name = "broken"
    size = 1
    persistence = 1
    warm_up = 0

    def check(self, window):
        raise ZeroDivisionError("no layer")


def watched(**arguments):
    """The watch of a short real run."""
    model = mlp(2)
    optimizer = sgd(model)
    inputs, targets = (values[:64] for values in digits())
    with gradwatch.watch(model, optimizer, budget=None, verbose=0, **arguments) as watch:
        for _ in range(3):
            optimizer.zero_grad()
            cross_entropy(model, (inputs, targets)).backward()
            optimizer.step()
    return watch


def degraded(watch):
    return [finding for finding in watch.findings if finding.code == RULE.code]


def test_a_limit_is_a_notice_of_no_layer():
    diagnosis = only(RULE, history_of([snapshot(LAYERS, limits=(BLIND,))]))
    assert (diagnosis.cause, diagnosis.severity, diagnosis.rows) == ("wiring", "notice", ())
    assert diagnosis.message == f"Not everything is observed: {BLIND}."
    assert diagnosis.evidence == {"limits": 1.0}
    assert diagnosis.explained == frozenset()


def test_every_limit_is_named_once_in_the_order_in_which_it_was_noted():
    entries = [
        snapshot(LAYERS, 0, limits=(BLIND,)),
        snapshot(LAYERS, 1, limits=(BLIND, SHARDED)),
        snapshot(LAYERS, 2, limits=(SHARDED,)),
    ]
    diagnosis = only(RULE, history_of(entries))
    assert diagnosis.message == f"Not everything is observed: {BLIND}; {SHARDED}."
    assert diagnosis.evidence == {"limits": 2.0}


@pytest.mark.parametrize("samples", [0, 1, 20])
def test_no_limit_is_no_finding(samples):
    assert present(RULE, history_of(snapshot(LAYERS, step) for step in range(samples))) == ()


def test_a_limit_is_told_before_the_first_sample():
    history = History()
    history.limits = (BLIND,)
    assert only(RULE, history).cause == "wiring"


def test_it_opens_at_the_first_sample_and_stays():
    watcher = Watcher(ALL_RULES)
    watcher.degrade(BLIND)
    for step in range(30):
        watcher.observe(snapshot(LAYERS, step))
    (finding,) = watcher.findings
    assert (finding.code, finding.step, finding.is_open) == ("GW902", 0, True)


def test_it_explains_no_other_finding_away():
    watcher = Watcher(ALL_RULES)
    watcher.degrade(BLIND)
    for step in range(12):
        watcher.observe(snapshot(SIGMOID, step, **backward_signals(SIGMOID, activation=-0.7)))
    assert {finding.code for finding in watcher.findings} == {"GW101", "GW902"}


def test_a_fault_is_told_at_once_and_added_to_what_was_known(caplog):
    watcher = Watcher(ALL_RULES)
    watcher.degrade(BLIND)
    watcher.observe(snapshot(LAYERS, 0))
    with caplog.at_level(logging.WARNING, "gradwatch"):
        watcher.fault("a hook of fc1 raised KeyError", step=7)
    (finding,) = watcher.findings
    assert finding.step == 0
    assert finding.message.endswith(f"{BLIND}; a hook of fc1 raised KeyError.")
    assert "a hook of fc1 raised KeyError" in caplog.text


class TestRealRuns:
    def test_signals_that_are_off_are_told_and_those_that_are_on_are_not(self):
        (finding,) = degraded(watched(signals=False))
        assert "signals" in finding.message
        assert degraded(watched()) == []

    def test_a_rule_that_fails_is_named_and_training_goes_on(self):
        watch = watched(rules=["GW902", Broken()])
        (finding,) = degraded(watch)
        assert "XX001" in finding.message
        assert "no layer" in finding.message
        assert len(watch.history) == 3

    @pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
    def test_a_scripted_model_is_told(self):
        model = nn.Sequential(torch.jit.script(nn.Linear(64, 8)), nn.Linear(8, 10))
        watch = gradwatch.watch(model, sgd(model), verbose=0)
        watch.close()
        (finding,) = degraded(watch)
        assert "scripted" in finding.message
