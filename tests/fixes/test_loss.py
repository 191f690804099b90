"""The loss that belongs to each kind of output."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradwatch.fixes.loss import bare_logits, loss_on_logits
from gradwatch.layer import Layer

from .nets import run_torch

LOGITS = torch.linspace(-3, 3, 12).view(4, 3)


def head(activation: str | None, module: str | None = None, *, units: int = 3) -> Layer:
    return Layer("head", "Linear", fan_out=units, activation=activation, activation_module=module)


def value(layer: Layer, targets: torch.Tensor) -> torch.Tensor:
    namespace = run_torch(loss_on_logits([layer]), model=nn.Identity())
    return namespace["loss_fn"](namespace["model"], (LOGITS, targets))


def test_a_sigmoid_output_gets_the_binary_cross_entropy():
    targets = torch.rand(4, 3)
    torch.testing.assert_close(
        value(head("sigmoid"), targets), F.binary_cross_entropy(LOGITS.sigmoid(), targets)
    )


def test_a_tanh_output_gets_the_binary_cross_entropy_of_targets_from_minus_one_to_one():
    targets = torch.rand(4, 3) * 2 - 1
    expected = F.binary_cross_entropy((LOGITS.tanh() + 1) / 2, (targets + 1) / 2)
    torch.testing.assert_close(value(head("tanh"), targets), expected)


def test_a_single_output_is_squashed_by_a_sigmoid():
    fix = bare_logits([head(None, units=1)])
    assert "take out the sigmoid" in fix.title
    assert "binary_cross_entropy_with_logits" in fix.snippets["torch"]


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_any_other_output_gets_the_cross_entropy_of_class_indices(activation):
    targets = torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(value(head(activation), targets), F.cross_entropy(LOGITS, targets))


@pytest.mark.parametrize(
    ("kind", "shape", "axis"),
    [("Linear", (4, 3), 1), ("Linear", (4, 6, 3), 2), ("Conv2d", (4, 3, 5, 5), 1)],
    ids=str,
)
def test_logits_of_tokens_and_of_maps_are_compared_class_by_class(kind, shape, axis):
    logits = torch.randn(shape)
    targets = torch.randint(3, [size for place, size in enumerate(shape) if place != axis])
    layer = Layer("head", kind, fan_out=3)
    namespace = run_torch(loss_on_logits([layer]), model=nn.Identity())
    expected = F.cross_entropy(logits.movedim(axis, 1), targets)
    torch.testing.assert_close(
        namespace["loss_fn"](namespace["model"], (logits, targets)), expected
    )


def test_targets_without_the_axis_of_a_single_output_fit():
    namespace = run_torch(loss_on_logits([head("sigmoid")]), model=nn.Linear(3, 1))
    assert namespace["loss_fn"](namespace["model"], (LOGITS, torch.ones(4))).shape == ()


def test_a_confidently_wrong_output_gets_a_gradient_of_about_one_again():
    model = nn.Sequential(nn.Linear(3, 1), nn.Sigmoid())
    nn.init.constant_(model[0].bias, 20.0)
    batch = (torch.zeros(1, 3), torch.zeros(1, 1))
    (squared,) = torch.autograd.grad(F.mse_loss(model(batch[0]), batch[1]), [model[0].bias])
    namespace = run_torch(
        loss_on_logits([Layer("0", "Linear", activation="sigmoid", activation_module="1")]),
        model=model,
    )
    (entropy,) = torch.autograd.grad(namespace["loss_fn"](model, batch), [model[0].bias])
    assert squared.item() < 1e-6
    assert entropy.item() == pytest.approx(1.0, abs=1e-3)


def test_a_function_in_forward_is_to_be_taken_out():
    code = loss_on_logits([head("sigmoid")]).snippets["torch"]
    assert "# Take out sigmoid after 'head': at the end of forward, or in front of" in code


def test_softmax_is_to_be_taken_out_behind_an_output_without_activation():
    code = loss_on_logits([head(None)]).snippets["torch"]
    assert "# Take out softmax after 'head': at the end of forward, or in front of" in code


@pytest.mark.parametrize(
    ("activation", "function", "loss"),
    [
        (None, "softmax", "CrossEntropyLoss"),
        ("softmax", "softmax", "CrossEntropyLoss"),
        ("sigmoid", "sigmoid", "BCEWithLogitsLoss"),
    ],
)
def test_what_is_applied_twice_is_named_with_the_loss_that_has_its_own(activation, function, loss):
    fix = bare_logits([head(activation)])
    assert f"take out the {function}" in fix.title
    assert fix.rationale.startswith(loss)


def test_a_loss_without_its_second_softmax_can_come_near_zero():
    model = nn.Sequential(nn.Identity(), nn.Softmax(-1))
    layer = Layer("0", "Linear", activation="softmax", activation_module="1")
    batch = (20 * torch.eye(3), torch.arange(3))
    before = F.cross_entropy(model(batch[0]), batch[1])
    namespace = run_torch(bare_logits([layer]), model=model)
    assert before > 0.5
    assert namespace["loss_fn"](model, batch) < 1e-6
