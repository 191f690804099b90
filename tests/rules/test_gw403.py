"""GW403 probabilities-as-logits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradwatch.rules.gw403_probabilities_as_logits import ProbabilitiesAsLogits
from gradwatch.testing import chain, steady

from .contract import ScaleFree, WindowedRule, below, only, present
from .real import cross_entropy, kinds, mlp, train

RULE = ProbabilitiesAsLogits()
LAYERS = chain(3, activation="relu")
THRESHOLD = np.float32(1 / 30)


def misfit(ratio: float) -> dict:
    return {"logit_misfit_ratio": [np.nan, np.nan, ratio]}


class TestProbabilitiesAsLogits(ScaleFree, WindowedRule):
    rule = RULE
    layers = LAYERS
    sick = misfit(1e-4)
    well = misfit(300.0)


def test_the_loss_is_to_blame_at_the_last_layer():
    diagnosis = only(RULE, steady(LAYERS, **misfit(1e-4)))
    assert (diagnosis.cause, diagnosis.severity, diagnosis.rows) == ("loss", "warning", (2,))
    assert diagnosis.explained == {0, 1, 2}
    assert diagnosis.evidence["logit_misfit_ratio"] == pytest.approx(1e-4)
    assert kinds(diagnosis.fixes)[0] == "loss"


@pytest.mark.parametrize(
    ("ratio", "fires"), [(below(1 / 30), True), (0.0334, False), (1.0, False), (np.nan, False)]
)
def test_it_fires_below_a_thirtieth_of_the_other_misfit(ratio, fires):
    assert bool(present(RULE, steady(LAYERS, **misfit(ratio)))) is fires


def test_a_threshold_of_its_own():
    assert not present(replace(RULE, misfit=1e-5), steady(LAYERS, **misfit(1e-4)))


def softmax_first(model, batch):
    return F.cross_entropy(model(batch[0]).softmax(-1), batch[1])


def sigmoid_first(model, batch):
    targets = F.one_hot(batch[1], 10).float()
    return F.binary_cross_entropy_with_logits(model(batch[0]).sigmoid(), targets)


class TestRealRuns:
    """On real nets."""

    @pytest.mark.parametrize("loss_fn", [softmax_first, sigmoid_first])
    def test_a_loss_that_squashes_twice_is_found_and_logits_cure_it(self, loss_fn):
        run = train(mlp(2), loss_fn=loss_fn)
        assert run.alarms == [("GW403", "loss")]
        assert run.finding("GW403").layers == ("4",)
        cured = train(mlp(2))
        assert cured.alarms == []

    @pytest.mark.parametrize(
        ("last", "loss_fn"),
        [(nn.Softmax(dim=-1), cross_entropy), (nn.Sigmoid(), cross_entropy)],
        ids=["softmax", "sigmoid"],
    )
    def test_the_squashing_may_be_in_the_model(self, last, loss_fn):
        run = train(nn.Sequential(*mlp(2), last), loss_fn=loss_fn)
        assert ("GW403", "loss") in run.alarms

    @pytest.mark.parametrize(
        "loss_fn",
        [
            lambda model, batch: F.mse_loss(
                model(batch[0]).softmax(-1), F.one_hot(batch[1], 10).float()
            ),
            lambda model, batch: F.nll_loss(model(batch[0]).log_softmax(-1), batch[1]),
            lambda model, batch: F.nll_loss(model(batch[0]).softmax(-1).log(), batch[1]),
            lambda model, batch: F.cross_entropy(model(batch[0]).log_softmax(-1), batch[1]),
            lambda model, batch: F.cross_entropy(model(batch[0]), batch[1], label_smoothing=0.1),
            lambda model, batch: F.multi_margin_loss(model(batch[0]), batch[1]),
            lambda model, batch: F.binary_cross_entropy(
                model(batch[0]).sigmoid(), F.one_hot(batch[1], 10).float()
            ),
            lambda model, batch: F.mse_loss(model(batch[0]), F.one_hot(batch[1], 10).float()),
            lambda model, batch: F.cross_entropy(model(batch[0]), batch[1], reduction="sum") / 64,
        ],
        ids=[
            *("squared error", "log-softmax", "log of softmax", "log-probabilities as logits"),
            *("label smoothing", "margin", "binary", "regression", "sum"),
        ],
    )
    def test_losses_that_take_what_they_are_given_are_left_alone(self, loss_fn):
        assert "GW403" not in {code for code, _ in train(mlp(2), loss_fn=loss_fn).alarms}

    def test_a_head_that_starts_at_zero_is_left_alone(self):
        model = mlp(2)
        torch.nn.init.zeros_(model[-1].weight)
        assert train(model).alarms == []
