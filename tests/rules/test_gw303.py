"""GW303 oversized-update."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from torch.optim import Adam

from gradwatch.rules import ALL_RULES
from gradwatch.rules.gw303_oversized_update import OversizedUpdate
from gradwatch.testing import backward_signals, chain, snapshot, steady
from gradwatch.watcher import Watcher

from .contract import RuleContract, above, only, present
from .real import apply, kinds, mlp, train

RULE = OversizedUpdate()
LAYERS = chain(4, activation="relu")
MOVED = {"update_ratio": [0.1, 3.0, 0.1, 0.1]}
FLOOR = 0.8
"""0.1 sqrt(fan_out) of the layers."""


class TestOversizedUpdate(RuleContract):
    rule = RULE
    layers = LAYERS
    sick = MOVED
    opens_at = 0


def test_the_learning_rate_is_to_blame_for_the_layer_that_moved():
    diagnosis = only(RULE, steady(LAYERS, update_ratio=[0.1, 3.0, 0.1, 2.0]))
    assert (diagnosis.cause, diagnosis.severity, diagnosis.rows) == (
        "learning rate",
        "warning",
        (1, 3),
    )
    assert diagnosis.explained == {1, 2, 3}
    assert diagnosis.evidence == {"update_ratio": 3.0, "update_ratio_threshold": 1.0}
    assert kinds(diagnosis.fixes) == ["learning_rate", "learning_rate", "clipping"]


@pytest.mark.parametrize(("update", "fires"), [(1.0, False), (above(1.0), True)])
def test_it_fires_above_the_size_of_the_layer(update, fires):
    assert bool(present(RULE, steady(LAYERS, update_ratio=update))) is fires


@pytest.mark.parametrize(("weight_norm", "fires"), [(FLOOR / 2, False), (2 * FLOOR, True)])
def test_a_layer_that_starts_near_zero_has_no_size_to_be_compared_with(weight_norm, fires):
    history = steady(LAYERS, update_ratio=5.0, weight_norm=weight_norm)
    assert bool(present(RULE, history)) is fires


@pytest.mark.parametrize(("update", "times"), [(2.0, "0.001"), (800.0, "1e-05"), (np.inf, "1e-06")])
def test_the_suggested_rate_is_smaller_the_larger_the_update(update, times):
    assert times in only(RULE, steady(LAYERS, update_ratio=update)).fixes[0].title


@pytest.mark.parametrize(("rms", "cause"), [(30.0, "learning rate"), (above(30.0), "inputs")])
def test_large_inputs_are_to_blame_for_large_gradients(rms, cause):
    diagnosis = only(RULE, steady(LAYERS, input_rms=[rms, 1, 1, 1], **MOVED))
    assert diagnosis.cause == cause
    assert (kinds(diagnosis.fixes)[0] == "inputs") is (cause == "inputs")
    assert ("input_rms" in diagnosis.evidence) is (cause == "inputs")


def test_a_threshold_of_its_own():
    history = steady(LAYERS, update_ratio=3.0)
    assert not present(replace(RULE, update=4.0), history)


@pytest.mark.parametrize(
    "figures", [{"nonfinite_count": 1.0}, {"loss": np.inf}, {"update_ratio": np.nan}], ids=str
)
def test_it_leaves_nan_to_gw302(figures):
    assert not present(RULE, steady(LAYERS, **{"update_ratio": 5.0, **figures}))


def test_a_skipped_step_moved_nothing():
    assert RULE.evaluate(steady(LAYERS, update_ratio=5.0, skipped=True)) is None


def test_where_signals_explode_that_is_the_finding():
    watcher = Watcher(ALL_RULES)
    for step in range(9):
        watcher.observe(
            snapshot(LAYERS, step, update_ratio=5.0, **backward_signals(LAYERS, weights=1.5))
        )
    assert [finding.code for finding in watcher.findings] == ["GW301"]


class TestRealRuns:
    """On real nets."""

    def test_adam_at_a_rate_of_one_moves_layers_by_more_than_their_size(self):
        model = mlp(2)
        run = train(model, Adam(model.parameters(), lr=1.0))
        assert run.alarms[0] == ("GW303", "learning rate")
        finding = run.finding("GW303")
        assert finding.step == 0

        model = mlp(2)
        optimizer = Adam(model.parameters(), lr=1.0)
        apply(finding.fixes[0], optimizer=optimizer)
        cured = train(model, optimizer)
        assert cured.alarms == []
        assert cured.losses[-1] < 0.8 * cured.losses[0]
