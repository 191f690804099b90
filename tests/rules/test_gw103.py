"""GW103 half-precision-underflow."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from gradwatch.rules.gw103_half_precision_underflow import HalfPrecisionUnderflow
from gradwatch.snapshot import State
from gradwatch.testing import backward_signals, chain, steady

from .changes import scaled
from .contract import StrictlyWindowedRule, only, present
from .real import apply, cross_entropy, mlp, train

RULE = HalfPrecisionUnderflow()
LAYERS = chain(6, activation="relu")
FLOAT16, BFLOAT16, FLOAT32 = -7.22, -40.0, -44.9

HEALTHY = {"tiny_log10": FLOAT16}
ALL_ZERO = {
    "tiny_log10": FLOAT16,
    "states": State.ZERO_GRADIENT,
    "grad_norm": 0.0,
    "update_ratio": 0.0,
    "output_grad_norm": 0.0,
    "output_grad_rms": 0.0,
    "input_grad_norm": 0.0,
}


def fading(headroom: float, *, decay: float = -1.0) -> dict:
    """A signal that loses one decade a layer, and ends so far above what float16 can hold."""
    signals = backward_signals(LAYERS, weights=decay)
    weakest = 10.0 ** (FLOAT16 + headroom)
    return {
        **signals,
        "tiny_log10": FLOAT16,
        "output_grad_rms": signals["output_grad_norm"] * weakest / signals["output_grad_norm"][0],
    }


class TestHalfPrecisionUnderflow(StrictlyWindowedRule):
    rule = RULE
    layers = LAYERS
    sick = ALL_ZERO
    well = HEALTHY


def test_gradients_that_are_all_zero_are_an_error_on_every_trained_layer():
    diagnosis = only(RULE, steady(LAYERS, **ALL_ZERO))
    assert (diagnosis.cause, diagnosis.severity) == ("precision", "error")
    assert diagnosis.rows == tuple(range(6))
    assert diagnosis.explained == set(range(6))
    assert [fix.kind for fix in diagnosis.fixes] == ["loss_scale", "loss_scale"]
    assert "exactly zero" in diagnosis.message


@pytest.mark.parametrize("tiny", [BFLOAT16, FLOAT32, -10.0])
def test_other_types_than_float16_do_not_underflow(tiny):
    assert not present(RULE, steady(LAYERS, **{**ALL_ZERO, "tiny_log10": tiny}))


def test_half_is_a_setting():
    history = steady(LAYERS, **{**ALL_ZERO, "tiny_log10": BFLOAT16})
    assert present(replace(RULE, half=-41.0), history)


def test_one_float16_layer_is_enough():
    tiny = [FLOAT32, FLOAT16, FLOAT32, FLOAT32, FLOAT32, FLOAT32]
    diagnosis = only(RULE, steady(LAYERS, **{**ALL_ZERO, "tiny_log10": tiny}))
    assert diagnosis.rows == tuple(range(6))


def test_one_layer_that_still_trains_is_no_underflow_of_everything():
    states = [State.ZERO_GRADIENT] * 5 + [State.TRAINED]
    assert not present(RULE, steady(LAYERS, **{**ALL_ZERO, "states": states}))


@pytest.mark.parametrize("state", [State.FROZEN, State.IDLE])
def test_layers_that_do_not_train_do_not_count(state):
    states = [state] + [State.ZERO_GRADIENT] * 5
    calls = [float(state is State.FROZEN)] + [1.0] * 5
    history = steady(LAYERS, **{**ALL_ZERO, "states": states, "forward_calls": calls})
    assert only(RULE, history).rows == (1, 2, 3, 4, 5)


def test_a_wholly_frozen_net_does_not_underflow():
    assert not present(RULE, steady(LAYERS, **{**ALL_ZERO, "states": State.FROZEN}))


@pytest.mark.parametrize(("headroom", "fires"), [(0.99, True), (1.01, False)])
def test_a_fading_signal_has_to_come_within_a_decade_of_the_smallest_value(headroom, fires):
    history = steady(LAYERS, **fading(headroom))
    assert bool(present(RULE, history)) is fires


@pytest.mark.parametrize(("decay", "fires"), [(-0.71, True), (-0.69, False)])
def test_a_signal_at_the_edge_has_to_fade_on_its_way(decay, fires):
    history = steady(LAYERS, **fading(0.5, decay=decay))
    assert bool(present(RULE, history)) is fires


@pytest.mark.parametrize(
    ("setting", "headroom"), [({"headroom": 2.0}, 1.9), ({"depth": -6.0}, 0.5)]
)
def test_depth_and_headroom_are_settings(setting, headroom):
    history = steady(LAYERS, **fading(headroom))
    assert bool(present(replace(RULE, **setting), history)) is not bool(present(RULE, history))


def test_a_loss_scale_silences_it():
    history = steady(LAYERS, **fading(0.5))
    assert present(RULE, history)
    assert not present(RULE, scaled(history, 2.0**16))


def test_many_zeros_in_a_healthy_gradient_mean_nothing():
    history = steady(LAYERS, tiny_log10=FLOAT16, dead_fraction=0.7, output_grad_rms=1e-4)
    assert not present(RULE, history)


def test_a_backward_signal_that_was_not_observed_is_no_fault():
    history = steady(LAYERS, tiny_log10=FLOAT16, states=State.NO_GRADIENT, output_grad_rms=np.nan)
    assert not present(RULE, history)


def faint_loss(model, batch):
    return 2e-7 * cross_entropy(model, batch)


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=1e-3)


class TestFixes:
    """On a real net under autocast, with a loss so small that every gradient is zero."""

    build = staticmethod(partial(mlp, 4))

    def sick(self):
        model = self.build()
        run = train(model, adam(model), loss_fn=faint_loss, autocast=torch.float16)
        assert run.alarms == [("GW103", "precision")]
        finding = run.finding("GW103")
        assert (len(finding.layers), finding.step) == (5, 16)
        return finding

    def test_the_gradient_scaler_of_the_snippet(self):
        fix = self.sick().fixes[0]
        model = self.build()
        optimizer = adam(model)
        batch = (torch.randn(8, 64), torch.zeros(8, dtype=torch.long))
        names = apply(fix, model=model, optimizer=optimizer, loss_fn=faint_loss, batch=batch)
        run = train(
            model, optimizer, loss_fn=faint_loss, autocast=torch.float16, scaler=names["scaler"]
        )
        assert run.alarms == []
        assert run.losses[-1] < run.losses[0]

    def test_bfloat16(self):
        self.sick()
        model = self.build()
        run = train(model, adam(model), loss_fn=faint_loss, autocast=torch.bfloat16)
        assert run.alarms == []
        assert run.losses[-1] < run.losses[0]
