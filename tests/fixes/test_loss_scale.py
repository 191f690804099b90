"""Half precision, with a loss whose gradients underflow in it."""

from __future__ import annotations

import pytest
import torch

from gradwatch.fixes.clipping import clip_gradients
from gradwatch.fixes.loss_scale import gradient_scaler

from .nets import faint_mlp, steep_mlp


def test_without_a_fix_the_gradients_are_zero():
    subject = faint_mlp(["fc1", "fc2"])
    with torch.autocast("cpu", dtype=torch.float16):
        loss = subject.loss_fn(subject.model, subject.batch)
    loss.backward()
    assert not subject.model.get_submodule("fc1").weight.grad.any()


def test_the_scale_is_divided_out_of_the_gradients_again():
    subject = faint_mlp(["fc1", "fc2"])
    weights = [subject.model.get_submodule("fc1").weight]
    (exact,) = torch.autograd.grad(subject.loss_fn(subject.model, subject.batch), weights)
    subject.run(gradient_scaler(subject.layers))
    assert weights[0].grad.norm().item() == pytest.approx(exact.norm().item(), rel=0.02)


def test_a_step_whose_scale_is_too_large_is_skipped_and_the_scale_halved():
    subject = steep_mlp(["fc1", "fc2"])
    before = subject.model.get_submodule("fc1").weight.clone()
    namespace = subject.run(gradient_scaler(subject.layers))
    assert subject.model.get_submodule("fc1").weight.equal(before)
    assert namespace["scaler"].get_scale() == 2.0**21


def test_clipping_keeps_the_direction():
    subject = steep_mlp(["fc1", "fc2"])
    weight = subject.model.get_submodule("fc1").weight
    (exact,) = torch.autograd.grad(subject.loss_fn(subject.model, subject.batch), [weight])
    subject.run(clip_gradients(subject.layers))
    cosine = torch.cosine_similarity(exact.flatten(), weight.grad.flatten(), dim=0)
    assert cosine.item() == pytest.approx(1.0, abs=1e-5)
    assert exact.norm() > 10
