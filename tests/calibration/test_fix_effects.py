"""How fixes are pasted into a run and what is made of it; the committed table against the rules."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradwatch.fixes.activation import leaky_relu, relu_with_he
from gradwatch.fixes.clipping import clip_gradients
from gradwatch.fixes.initialisation import matching_initialisation
from gradwatch.fixes.inputs import standardise_inputs
from gradwatch.fixes.learning_rate import lower_learning_rate, raise_learning_rate, warm_up
from gradwatch.fixes.loss import bare_logits
from gradwatch.fixes.loss_scale import gradient_scaler
from gradwatch.fixes.normalisation import insert_normalisation
from gradwatch.layer import Layer

from .families import mlp
from .fix_application import (
    activations_as_modules,
    label,
    needs_an_edit,
    paste,
    scale_learning_rate,
)
from .fix_effects import Effect, rival_table, suggestion_table
from .setups import adam, cross_entropy_of_probabilities
from .tasks import raw_digits

HIDDEN = [
    Layer(
        f"hidden.{index}",
        "Linear",
        fan_in=64,
        fan_out=64,
        activation="relu",
        activation_module=f"activations.{index}",
    )
    for index in range(2)
]
HEAD = Layer("head", "Linear", fan_in=64, fan_out=10)

small = partial(mlp, 0, hidden=2)


def parameters(setup) -> set[int]:
    return {id(parameter) for parameter in setup.model.parameters()}


def held(setup) -> set[int]:
    groups = setup.optimizer.param_groups
    return {id(parameter) for group in groups for parameter in group["params"]}


def test_the_optimizer_holds_the_parameters_that_a_fix_adds():
    setup = small(optimizer=adam(3e-3))
    pasted = paste(setup, insert_normalisation(HIDDEN)).setup
    assert len(parameters(pasted)) == 10
    assert held(pasted) == parameters(pasted)
    assert isinstance(pasted.optimizer, torch.optim.Adam)
    assert pasted.optimizer.param_groups[0]["lr"] == 3e-3


def test_a_fix_of_the_learning_rate_keeps_its_optimizer():
    pasted = paste(small(), lower_learning_rate(HIDDEN, factor=0.1)).setup
    assert pasted.optimizer.param_groups[0]["lr"] == pytest.approx(0.005)


def test_a_warm_up_is_stepped_with_the_run():
    pasted = paste(replace(small(), steps=10), warm_up(HIDDEN))
    pasted.progress()
    assert pasted.setup.scheduler.last_epoch == 10


def test_the_inputs_of_every_batch_are_those_of_the_fix():
    setup = replace(small(task=raw_digits), steps=20)
    before = [setup.batch(step) for step in range(20)]
    pasted = paste(setup, standardise_inputs(HIDDEN[:1], input_rms=100.0)).setup
    after = [pasted.batch(step) for step in range(20)]
    assert torch.cat([inputs for inputs, _ in after]).std() == pytest.approx(1.0, abs=0.15)
    assert [targets.equal(old) for (_, targets), (_, old) in zip(after, before, strict=True)] == [
        True
    ] * 20


def test_the_loss_is_that_of_the_fix():
    setup = small(loss_fn=cross_entropy_of_probabilities)
    batch = setup.batch(0)
    before = setup.loss_fn(setup.model, batch)
    pasted = paste(setup, bare_logits([HEAD])).setup
    expected = F.cross_entropy(setup.model(batch[0]), batch[1])
    assert pasted.loss_fn(pasted.model, batch).equal(expected)
    assert not before.equal(expected)


@pytest.mark.parametrize("fix", [clip_gradients, gradient_scaler])
def test_the_body_of_the_loop_runs_at_every_step(fix):
    setup = replace(small(), steps=60)
    untrained = torch.cat([p.detach().flatten().clone() for p in setup.model.parameters()])
    assert paste(setup, fix(HIDDEN)).progress() > 0.3
    trained = torch.cat([p.detach().flatten() for p in setup.model.parameters()])
    assert not trained.equal(untrained)


def test_functions_between_layers_become_modules_that_do_the_same():
    setup = small(activation=torch.tanh)
    x = setup.batch(0)[0]
    before = setup.model(x)
    changed = activations_as_modules(setup).model
    assert [type(module) for module in changed.activations] == [nn.Tanh, nn.Tanh]
    assert changed(x).equal(before)


def test_the_learning_rate_is_scaled_with_its_schedule():
    setup = paste(small(), warm_up(HIDDEN)).setup
    before = setup.scheduler.base_lrs[0]
    scale_learning_rate(setup, 0.2)
    assert setup.scheduler.base_lrs == [pytest.approx(0.2 * before)]


@pytest.mark.parametrize(
    ("fix", "by_hand"),
    [
        (relu_with_he([replace(HIDDEN[0], activation="tanh", activation_module=None)]), True),
        (relu_with_he([replace(HIDDEN[0], activation="tanh")]), False),
        (leaky_relu(HIDDEN), False),
        (insert_normalisation([Layer("rnn", "LSTM")]), True),
        (matching_initialisation(HIDDEN), False),
    ],
)
def test_what_needs_an_edit_of_the_code_is_known(fix, by_hand):
    assert needs_an_edit(fix) is by_hand


@pytest.mark.parametrize(
    ("fix", "words"),
    [
        (lower_learning_rate(HIDDEN, factor=1e-5), "Lower the learning rate"),
        (raise_learning_rate(HIDDEN, factor=1000.0), "Raise the learning rate"),
        (matching_initialisation(HIDDEN), "Initialise for the activation that follows"),
        (leaky_relu(HIDDEN), "Replace the one-sided activations by a leaky ReLU"),
    ],
)
def test_a_label_leaves_out_what_depends_on_the_case(fix, words):
    assert label(fix) == words


def test_a_fix_that_could_not_be_tried_says_so_and_others_give_means():
    make = partial(Effect, "case", 0, "GW101", "weights", before=0.1)
    effects = [
        make("A rival", "", 0, after=0.1),
        make("One", "residual", 1, after=0.9, after_lower=0.5, lr_factor=0.2),
        make("One", "residual", 1, after=0.5, after_lower=0.1, lr_factor=0.2),
        make("Two", "activation", 2, after=None),
    ]
    assert suggestion_table(effects).splitlines()[2:] == [
        "| GW101 weights | 1 | One | 2 | 0.20 | 0.60 | 0.20 | 2 of 2 |",
        "| GW101 weights | 2 | Two | 1 | - | - | - | not tried |",
    ]
    assert rival_table(effects).splitlines()[2:] == ["| A rival | 1 | 0.00 | 0 of 1 |"]
