"""GW102 vanishing-through-time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradwatch.layer import Layer
from gradwatch.rules import ALL_RULES
from gradwatch.rules.gw102_vanishing_through_time import VanishingThroughTime
from gradwatch.testing import steady
from gradwatch.watcher import Watcher

from .contract import ScaleFree, WindowedRule, above, below, only, present
from .real import apply, sgd, train

RULE = VanishingThroughTime()


def recurrent(kind: str) -> tuple[Layer, ...]:
    return (
        Layer(name="cell", kind=kind, depth=0, recurrent=True),
        Layer(name="head", kind="Linear", depth=1, inputs=(0,)),
    )


RNN = recurrent("RNN")
SICK = {"time_decay_log10": [-8.0, np.nan]}
HEALTHY = {"time_decay_log10": [-1.0, np.nan]}


class TestVanishingThroughTime(ScaleFree, WindowedRule):
    rule = RULE
    layers = RNN
    sick = SICK
    well = HEALTHY


def test_a_plain_recurrent_layer_gets_an_error_and_the_cause_time():
    diagnosis = only(RULE, steady(RNN, **SICK))
    assert (diagnosis.cause, diagnosis.severity, diagnosis.rows) == ("time", "error", (0,))
    assert diagnosis.evidence == {
        "time_decay_log10": -8.0,
        "time_decay_log10_threshold": -3.0,
    }
    assert [fix.kind for fix in diagnosis.fixes] == ["recurrent", "recurrent"]


@pytest.mark.parametrize(
    ("decay", "fires"), [(-3.0, False), (below(-3.0), True), (above(-3.0), False)]
)
def test_it_fires_below_three_decades(decay, fires):
    assert bool(present(RULE, steady(RNN, time_decay_log10=[decay, np.nan]))) is fires


def test_an_exactly_zero_signal_at_the_first_step_counts():
    diagnosis = only(RULE, steady(RNN, time_decay_log10=[-np.inf, np.nan]))
    assert diagnosis.severity == "error"


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize(("last_step", "severity"), [(99, "notice"), (100, "error")])
def test_gated_layers_get_a_hundred_steps_to_open_their_gates(kind, last_step, severity):
    history = steady(recurrent(kind), steps=[*range(9), last_step], **SICK)
    assert only(RULE, history).severity == severity


def test_the_hundred_steps_count_from_the_first_sample():
    history = steady(recurrent("LSTM"), steps=range(1000, 1010), **SICK)
    assert only(RULE, history).severity == "notice"


@pytest.mark.parametrize(
    ("last_loss", "severity"),
    [(0.79, "notice"), (0.8, "error"), (0.81, "error"), (np.nan, "error")],
)
def test_it_is_a_notice_while_the_loss_falls(last_loss, severity):
    history = steady(RNN, at=lambda step: {"loss": 1.0 if step == 0 else last_loss}, **SICK)
    assert only(RULE, history).severity == severity


@pytest.mark.parametrize("last_loss", [-20.0, 0.0])
def test_a_loss_that_is_not_positive_is_not_held_against_the_first_one(last_loss):
    history = steady(RNN, at=lambda step: {"loss": -10.0 if step == 0 else last_loss}, **SICK)
    assert only(RULE, history).severity == "error"


def test_one_plain_layer_among_gated_ones_is_not_waited_for():
    layers = (*recurrent("LSTM"), replace(RNN[0], name="plain", depth=2, inputs=(1,)))
    history = steady(layers, time_decay_log10=[-8.0, np.nan, -5.0])
    diagnosis = only(RULE, history)
    assert (diagnosis.severity, diagnosis.rows) == ("error", (0, 2))


@pytest.mark.parametrize(
    ("setting", "history", "severity"),
    [
        ({"patience": 10}, steady(recurrent("GRU"), steps=range(11), **SICK), "error"),
        ({"learning": 1.5}, steady(RNN, **SICK), "notice"),
        ({"decay": -9.0}, steady(RNN, **SICK), None),
    ],
    ids=["patience", "learning", "decay"],
)
def test_its_thresholds_are_settings(setting, history, severity):
    found = present(replace(RULE, **setting), history)
    assert [diagnosis.severity for diagnosis in found] == ([severity] if severity else [])


def test_it_explains_the_layers_before_it():
    layers = (
        Layer(name="embed", kind="Embedding", depth=0),
        Layer(name="cell", kind="RNN", depth=1, inputs=(0,), recurrent=True),
        Layer(name="head", kind="Linear", depth=2, inputs=(1,)),
    )
    history = steady(
        layers,
        time_decay_log10=[np.nan, -8.0, np.nan],
        output_grad_norm=[1e-6, 0.1, 0.1],
        input_grad_norm=[np.nan, 1e-6, 0.1],
    )
    watcher = Watcher(ALL_RULES)
    for entry in history:
        watcher.observe(entry)
    assert watcher.findings[0].code == "GW102"
    assert only(RULE, history).explained == {0, 1}


class Recall(nn.Module):
    """A tanh RNN read out at the last step; recurrent weights 0.4 times orthogonal."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.RNN(10, 32, batch_first=True)
        self.head = nn.Linear(32, 10)
        nn.init.orthogonal_(self.cell.weight_hh_l0, gain=0.4)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


def first_token():
    """Sequences of 40 steps whose first token is the answer."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(10, (512,), generator=generator)
    inputs = 0.02 * torch.randn(512, 40, 10, generator=generator)
    inputs[:, 0] = F.one_hot(targets, 10).float()
    return inputs, targets


@pytest.mark.parametrize("number", [0, 1], ids=["gated", "orthogonal"])
def test_each_fix_makes_the_finding_go_away(number):
    run = train(Recall(), samples=first_token())
    assert run.alarms == [("GW102", "time")]
    finding = run.finding("GW102")
    assert (finding.layers, finding.step) == (("cell",), 16)

    model = Recall()
    apply(finding.fixes[number], model=model)
    assert train(model, sgd(model, 0.0025), samples=first_token()).alarms == []
