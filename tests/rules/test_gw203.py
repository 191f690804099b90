"""GW203 saturated-output."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradwatch.rules.gw203_saturated_output import SaturatedOutput
from gradwatch.testing import chain, snapshot, steady

from .contract import ScaleFree, WindowedRule, above, below, only, present
from .real import apply, digits, mlp, train

RULE = SaturatedOutput()
LAYERS = chain(2, activation="relu")
VALUES = 640


def output(*, saturation: float = 0.9, elasticity: float = 0.001, loss: float = 1.0) -> dict:
    """An output of 640 values of size 1, of which the loss has this elasticity."""
    norm = elasticity * loss / np.sqrt(VALUES)
    return {
        "saturation_fraction": [np.nan, saturation],
        "output_grad_norm": norm,
        "output_grad_rms": norm / np.sqrt(VALUES),
        "input_grad_norm": norm,
        "loss": loss,
    }


class TestSaturatedOutput(ScaleFree, WindowedRule):
    rule = RULE
    layers = LAYERS
    sick = output()
    well = output(saturation=0.1, elasticity=2.0)
    loss_scales_too = True


def test_the_loss_is_to_blame_at_the_output_layer():
    diagnosis = only(RULE, steady(LAYERS, **output()))
    assert (diagnosis.cause, diagnosis.severity, diagnosis.rows) == ("loss", "warning", (1,))
    assert diagnosis.explained == {0, 1}
    assert diagnosis.evidence["output_elasticity"] == pytest.approx(0.001, rel=1e-3)
    assert [fix.kind for fix in diagnosis.fixes] == ["loss"]


@pytest.mark.parametrize(
    ("saturation", "fires"), [(0.5, False), (above(0.5), True), (np.nan, False)]
)
def test_it_fires_above_a_saturation_of_one_half(saturation, fires):
    assert bool(present(RULE, steady(LAYERS, **output(saturation=saturation)))) is fires


@pytest.mark.parametrize(("elasticity", "fires"), [(0.0499, True), (0.0501, False)])
def test_it_fires_below_an_elasticity_of_a_twentieth(elasticity, fires):
    assert bool(present(RULE, steady(LAYERS, **output(elasticity=elasticity)))) is fires


def test_the_elasticity_threshold_itself_is_still_healthy():
    history = steady(LAYERS, **output())
    measured = float(snapshot(LAYERS, **output()).output_elasticity[1])
    assert not present(replace(RULE, elasticity=measured), history)
    assert present(replace(RULE, elasticity=above(measured)), history)


@pytest.mark.parametrize("loss", [np.nan, 0.0])
def test_it_needs_a_loss(loss):
    assert not present(RULE, steady(LAYERS, **{**output(), "loss": loss}))


def test_a_negative_loss_counts_by_its_size():
    assert present(RULE, steady(LAYERS, **{**output(), "loss": -1.0}))


def test_a_saturated_hidden_layer_is_not_meant():
    layers = chain(3, activation="tanh")
    flat = {**output(), "saturation_fraction": [0.1, 0.9, 0.1]}
    assert not present(RULE, steady(layers, **flat))


@pytest.mark.parametrize(("update", "fires"), [(below(1e-4), True), (above(1e-4), False)])
def test_an_activation_out_of_sight_counts_if_nothing_ever_moved(update, fires):
    unseen = output(saturation=np.nan)
    assert bool(present(RULE, steady(LAYERS, update_ratio=update, **unseen))) is fires


def test_a_net_that_moved_once_is_not_one_that_stands_still():
    history = steady(
        LAYERS,
        at=lambda step: {"update_ratio": 1e-3 if step == 1 else 1e-6},
        **output(saturation=np.nan),
    )
    assert not present(RULE, history)


@pytest.mark.parametrize(
    ("setting", "fires"),
    [({"saturation": 0.95}, False), ({"elasticity": 1e-4}, False), ({"still": 1e-2}, True)],
    ids=str,
)
def test_its_thresholds_are_settings(setting, fires):
    assert bool(present(replace(RULE, **setting), steady(LAYERS, **output()))) is fires


def test_confident_wrong_outputs_recover_under_a_loss_on_logits():
    inputs, targets = digits()
    samples = (inputs, F.one_hot(targets, 10).float())

    def build():
        model = nn.Sequential(*mlp(1), nn.Sigmoid())
        nn.init.constant_(model[-2].bias, 10.0)
        return model

    def squared_error(model, batch):
        return F.mse_loss(model(batch[0]), batch[1])

    def plain_sgd(model):
        return torch.optim.SGD(model.parameters(), lr=0.5)

    model = build()
    run = train(model, plain_sgd(model), samples=samples, loss_fn=squared_error)
    assert run.alarms == [("GW203", "loss")]
    finding = run.finding("GW203")
    assert (finding.layers, finding.step) == (("2",), 16)

    model = build()
    loss_on_logits = apply(finding.fixes[0], model=model)["loss_fn"]
    cured = train(model, plain_sgd(model), samples=samples, loss_fn=loss_on_logits)
    assert cured.alarms == []
    assert cured.losses[-1] < 0.2 * cured.losses[0]
    assert run.losses[-1] > 0.8 * run.losses[0]
