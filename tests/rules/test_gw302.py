"""GW302 non-finite-value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD

from gradwatch.history import History
from gradwatch.rules import ALL_RULES
from gradwatch.rules.gw302_non_finite_value import NonFiniteValue
from gradwatch.testing import chain, history_of, snapshot, steady
from gradwatch.watcher import Watcher

from .changes import said
from .contract import RuleContract, above, below, only, present
from .real import apply, digits, mlp, train

RULE = NonFiniteValue()
LAYERS = chain(4, activation="relu")
GONE = {"nonfinite_count": 2.0, "grad_norm": np.inf}
"""Every gradient is NaN or infinite."""


def ending(*, every: int = 1, before: int = 4, **figures) -> History:
    """Healthy samples, then two with these figures."""
    steps = [every * number for number in range(before + 2)]
    last = steps[before:]
    return steady(LAYERS, steps=steps, at=lambda step: figures if step in last else {})


class TestNonFiniteValue(RuleContract):
    rule = RULE
    layers = LAYERS
    sick = GONE
    opens_at = 0


@pytest.mark.parametrize(
    "figures",
    [
        {"nonfinite_count": [0.0, 0.0, 1.0, 0.0]},
        {"output_rms": [1.0, 1.0, np.inf, 1.0]},
        {"output_grad_norm": [0.1, 0.1, np.inf, 0.1]},
        {"weight_norm": [1.0, 1.0, np.inf, 1.0]},
        {"loss": np.inf},
    ],
    ids=lambda figures: next(iter(figures)),
)
def test_any_value_that_is_not_finite_counts_at_once(figures):
    assert only(RULE, history_of([snapshot(LAYERS, **figures)])).severity == "error"


def test_values_that_were_not_observed_are_no_fault():
    unseen = {"nonfinite_count": np.nan, "output_rms": np.nan, "output_grad_norm": np.nan}
    assert not present(RULE, steady(LAYERS, loss=np.nan, **unseen))


def test_the_first_layer_in_forward_order_is_named_on_the_forward_side():
    history = ending(output_rms=[1.0, np.inf, np.inf, np.inf], output_grad_norm=np.inf)
    diagnosis = only(RULE, history)
    assert diagnosis.rows == (1,)
    assert "began at step 4, on the forward side" in diagnosis.message


def test_the_layer_nearest_the_outputs_is_named_on_the_backward_side():
    history = ending(output_grad_norm=[np.inf, np.inf, np.inf, 0.1])
    diagnosis = only(RULE, history)
    assert diagnosis.rows == (2,)
    assert "backward side" in diagnosis.message


def test_gradients_alone_name_every_layer_that_holds_one():
    diagnosis = only(RULE, ending(nonfinite_count=[1.0, 0.0, 2.0, 0.0]))
    assert diagnosis.rows == (0, 2)
    assert diagnosis.evidence["nonfinite_tensors"] == 3.0


def test_it_explains_every_layer():
    assert only(RULE, ending(nonfinite_count=[1.0, 0.0, 0.0, 0.0])).explained == {0, 1, 2, 3}


def test_it_names_the_step_where_it_began_and_keeps_it():
    diagnosis = only(RULE, ending(**GONE))
    assert diagnosis.evidence["first_nonfinite_step"] == 4.0
    assert diagnosis.evidence["last_finite_step"] == 3.0


def test_a_step_that_was_not_observed_leaves_an_interval_and_the_fastest_grower():
    grown = {"grad_norm": [0.1, 0.1, 5.0, 0.2]}

    def at(step):
        return GONE if step > 30 else grown if step == 30 else {}

    history = steady(LAYERS, steps=range(0, 60, 10), at=at)
    diagnosis = only(RULE, history)
    assert diagnosis.rows == (2,)
    assert "between steps 30 and 40" in diagnosis.message
    assert "every=1" in diagnosis.message


def test_without_two_finite_samples_the_first_layer_of_the_sample_is_named():
    history = history_of(
        [
            snapshot(LAYERS, 0),
            snapshot(LAYERS, 10, output_rms=[1.0, np.inf, np.inf, np.inf], **GONE),
        ]
    )
    assert only(RULE, history).rows == (1,)


def test_a_run_that_is_never_finite_says_so():
    diagnosis = only(RULE, steady(LAYERS, **GONE))
    assert diagnosis.message.startswith("NaN or infinity from the first sample on (step 0)")
    assert np.isnan(diagnosis.evidence["last_finite_step"])


@pytest.mark.parametrize(
    ("figures", "cause"),
    [
        ({"input_rms": [np.inf, 1, 1, 1], "output_rms": np.inf, **GONE}, "inputs"),
        ({"update_ratio": 0.5, "loss": np.inf, **GONE}, "learning rate"),
        ({"loss": np.inf, **GONE}, "loss"),
        ({"loss": np.inf, "output_rms": np.inf, **GONE}, "weights"),
        ({"loss": np.inf, "forward_calls": np.nan, "output_rms": np.nan, **GONE}, "weights"),
        ({"output_rms": np.inf, "tiny_log10": -7.22, **GONE}, "precision"),
        ({"output_rms": np.inf, "tiny_log10": -40.0, **GONE}, "weights"),
        (GONE, "weights"),
    ],
    ids=["inputs", "rate", "loss", "outputs", "unseen", "float16", "bfloat16", "weights"],
)
def test_the_cause_is_what_was_seen_with_it(figures, cause):
    assert only(RULE, ending(**figures)).cause == cause


@pytest.mark.parametrize(
    ("cause", "figures", "kinds"),
    [
        ("inputs", {"input_rms": np.inf, **GONE}, ["wiring", "inputs"]),
        ("loss", {"loss": np.inf, **GONE}, ["wiring", "clipping"]),
        (
            "precision",
            {"output_rms": np.inf, "tiny_log10": -7.22, **GONE},
            ["loss_scale", "loss_scale", "wiring"],
        ),
        (
            "learning rate",
            {"update_ratio": 0.5, **GONE},
            ["learning_rate", "clipping", "wiring"],
        ),
    ],
    ids=lambda entry: entry if isinstance(entry, str) else "",
)
def test_each_cause_has_its_fixes(cause, figures, kinds):
    diagnosis = only(RULE, ending(**figures))
    assert (diagnosis.cause, [fix.kind for fix in diagnosis.fixes]) == (cause, kinds)


@pytest.mark.parametrize(
    ("update", "cause"), [(below(0.3), "weights"), (above(0.3), "learning rate")]
)
def test_a_layer_that_ever_moved_by_three_tenths_blames_the_learning_rate(update, cause):
    history = steady(
        LAYERS,
        steps=range(6),
        at=lambda step: {"update_ratio": update} if step == 1 else GONE if step > 3 else {},
    )
    assert only(RULE, history).cause == cause


@pytest.mark.parametrize(
    ("setting", "figures", "cause"),
    [
        ({"large_update": 1e-4}, GONE, "learning rate"),
        ({"half": -41.0}, {"tiny_log10": -40.0, **GONE}, "precision"),
    ],
    ids=["large_update", "half"],
)
def test_its_thresholds_are_settings(setting, figures, cause):
    assert only(replace(RULE, **setting), ending(**figures)).cause == cause


def test_steps_that_a_scaler_skipped_do_not_count():
    history = steady(
        LAYERS, at=lambda step: {"skipped": True, **GONE} if step in {2, 3, 16} else {}
    )
    assert not present(RULE, history)


def test_a_skipped_step_in_between_does_not_hide_where_it_began():
    history = steady(
        LAYERS,
        steps=range(8),
        at=lambda step: {"skipped": True} if step == 5 else GONE if step > 2 else {},
    )
    assert only(RULE, history).evidence["first_nonfinite_step"] == 3.0


def test_an_earlier_episode_is_forgotten():
    history = steady(LAYERS, steps=range(9), at=lambda step: GONE if step in {2, 3, 8} else {})
    assert only(RULE, history).evidence["first_nonfinite_step"] == 8.0


def test_a_finite_sample_resolves_it():
    watcher = Watcher(ALL_RULES)
    watcher.observe(snapshot(LAYERS, 0, **GONE))
    watcher.observe(snapshot(LAYERS, 1))
    (finding,) = watcher.findings
    assert (finding.code, finding.resolved_step) == ("GW302", 1)


@pytest.mark.parametrize("samples", [200, 400])
def test_a_long_run_of_nan_keeps_its_verdict(samples):
    history = steady(LAYERS, steps=range(4), update_ratio=0.01)
    for step in range(4, samples):
        history.append(snapshot(LAYERS, step, **GONE))
    assert {entry.cause for entry in said(RULE, history)} == {"weights"}


def test_a_long_run_of_nan_keeps_the_step_where_it_began():
    history = steady(LAYERS, steps=range(4))
    for step in range(4, 400):
        history.append(snapshot(LAYERS, step, **GONE))
    assert only(RULE, history).evidence["first_nonfinite_step"] == 4.0


@pytest.mark.parametrize(("rms", "cause"), [(100.0, "inputs"), (1.0, "learning rate")])
def test_nan_after_large_steps_blames_large_inputs_first(rms, cause):
    history = steady(LAYERS, steps=range(3), update_ratio=0.5, input_rms=rms)
    history.append(snapshot(LAYERS, 3, **GONE))
    assert only(RULE, history).cause == cause


def test_the_fix_for_large_inputs_names_the_layer_that_reads_them():
    history = steady(LAYERS, steps=range(3), input_rms=[120.0, 1, 1, 1][: len(LAYERS)])
    history.append(snapshot(LAYERS, 3, **GONE))
    _, standardise = only(RULE, history).fixes
    assert standardise.kind == "inputs"
    assert LAYERS[0].name in standardise.snippets["torch"] + standardise.title
    assert "not finite" not in standardise.snippets["torch"]


def test_a_loss_that_alone_is_not_finite_is_named_as_such():
    message = only(RULE, ending(loss=np.inf)).message
    assert "loss" in message
    assert "gradient side" not in message


class TestRealRuns:
    """On real nets."""

    def test_nan_in_the_data_blames_the_inputs_until_it_is_taken_out(self):
        inputs, targets = digits()
        spoilt = inputs.clone()
        spoilt[::5, 3] = torch.nan
        run = train(mlp(2), samples=(spoilt, targets))
        assert run.alarms == [("GW302", "inputs")]
        assert run.finding("GW302").layers == ("0",)
        assert train(mlp(2), samples=(spoilt.nan_to_num(0.0), targets)).alarms == []

    def test_the_logarithm_of_zero_blames_the_loss_until_it_is_replaced(self):
        def log_of_probability(model, batch):
            logits, targets = 200.0 * model(batch[0]), batch[1]
            return -(F.one_hot(targets, 10) * logits.softmax(-1).log()).sum(-1).mean()

        run = train(mlp(2), loss_fn=log_of_probability, steps=5)
        assert run.alarms == [("GW302", "loss")]
        assert run.finding("GW302").step == 0
        assert train(mlp(2)).alarms == []

    @pytest.mark.filterwarnings("ignore:Anomaly Detection", "ignore:Error detected in")
    def test_the_first_fix_names_the_module_that_makes_the_first_nan(self, capsys):
        inputs, targets = digits()
        spoilt = inputs.clone()
        spoilt[:, 3] = torch.nan
        fix = train(mlp(2), samples=(spoilt, targets)).finding("GW302").fixes[0]
        with pytest.raises(RuntimeError, match="returned nan values"):
            apply(
                fix,
                model=mlp(2),
                loss_fn=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
                batch=(spoilt[:8], targets[:8]),
            )
        assert "0: its output is not finite" in capsys.readouterr().out.splitlines()

    def test_a_step_that_throws_the_weights_away_blames_the_learning_rate(self):
        model = mlp(1)
        run = train(model, SGD(model.parameters(), lr=1e20), steps=5)
        assert run.alarms == [("GW303", "learning rate"), ("GW302", "learning rate")]
        assert run.finding("GW302").step == 1

        model = mlp(1)
        optimizer = SGD(model.parameters(), lr=1e20)
        for _ in range(21):
            apply(run.finding("GW302").fixes[0], optimizer=optimizer)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
        assert train(model, optimizer).alarms == []

    def test_an_overflow_in_float16_blames_the_precision_and_bfloat16_cures_it(self):
        def build():
            return nn.Sequential(*list(mlp(1))[:2], Loud(), mlp(1)[2])

        class Loud(nn.Module):
            def forward(self, x):
                return x * 1e5

        run = train(build(), steps=3, autocast=torch.float16)
        assert run.alarms == [("GW302", "precision")]
        model = build()
        cured = train(model, SGD(model.parameters(), lr=1e-12), autocast=torch.bfloat16)
        assert "GW302" not in {finding.code for finding in cured.findings}
