"""Checkpoints and saved tensors that are packed away: nothing is recomputed or fetched for us."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from .observed import (
    activations,
    assert_signals,
    by_name,
    chain,
    norm,
    observe,
    observe_step,
    reference,
    sum_of_squares,
    wiring,
)


class Checkpointed(nn.Module):
    """The activation comes before the layer in the checkpoint, and one comes after it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 2)
        self.drop = nn.Dropout(0.3)
        self.kind, self.runs = kind, 0

    def block(self, x: Tensor) -> Tensor:
        self.runs += 1
        return F.relu(self.drop(self.middle(torch.tanh(x))))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.kind == "none":
            x = self.block(x)
        else:
            x = checkpoint(self.block, x, use_reentrant=self.kind == "reentrant")
        return self.last(x)


@pytest.mark.parametrize("kind", ["none", "reentrant", "not reentrant"])
def test_checkpoints_are_seen_and_recomputed_once(kind):
    model, inputs = Checkpointed(kind), torch.randn(7, 5)
    random = torch.get_rng_state()
    snapshot = observe(model, inputs)
    assert model.runs == (1 if kind == "none" else 2)
    plain = Checkpointed("none")
    plain.load_state_dict(model.state_dict())
    torch.set_rng_state(random)
    assert_signals(snapshot, plain, inputs)
    assert wiring(snapshot) == {"first": set(), "middle": {"first"}, "last": {"middle"}}
    if kind != "reentrant":
        assert activations(snapshot) == {"first": "tanh", "middle": "relu", "last": None}


class FunctionalCheckpoint(nn.Module):
    """Only functions in the checkpoint, no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.runs = nn.Linear(5, 5), nn.Linear(5, 2), 0

    def between(self, x: Tensor) -> Tensor:
        self.runs += 1
        return torch.tanh(F.relu(x) * 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(checkpoint(self.between, self.first(x), use_reentrant=False))


def test_no_activation_in_a_checkpoint_is_recomputed_for_its_slope():
    model, inputs = FunctionalCheckpoint(), torch.randn(7, 5)
    snapshot = observe(model, inputs)
    assert model.runs == 2
    assert np.isnan(snapshot.mean_slope).all()
    assert snapshot.layers[0].activation == "relu"
    x = model.first(inputs)
    y = torch.tanh(F.relu(x) * 2)
    into, out_of = torch.autograd.grad(model.last(y).square().sum(), (x, y))
    # both activations, but not the factor between them
    gain = np.log10(norm(into) / norm(out_of)) - np.log10(2)
    assert snapshot.activation_gain_log10[0] == pytest.approx(gain, abs=1e-4)


def test_a_replay_of_a_checkpoint_leaves_the_layer_before_it_alone():
    """The layers are called one by one in the checkpoint, so each is a call from outside."""

    class Around(Checkpointed):
        def block(self, x: Tensor) -> Tensor:
            self.runs += 1
            return self.last(F.relu(self.middle(F.gelu(x))))

        def forward(self, x: Tensor) -> Tensor:
            with torch.utils.checkpoint.set_checkpoint_early_stop(False):
                return checkpoint(self.block, torch.tanh(self.first(x)), use_reentrant=False)

    model, inputs = Around("not reentrant"), torch.randn(7, 5)
    snapshot = observe(model, inputs)
    assert activations(snapshot) == {"first": "tanh", "middle": "relu", "last": None}
    assert by_name(snapshot, "forward_calls") == {"first": 1, "middle": 1, "last": 1}
    slope = 1 - torch.tanh(model.first(inputs)).detach() ** 2
    assert snapshot.mean_slope[0] == pytest.approx(float(slope.mean()), rel=1e-4)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_segments_of_a_deep_net(reentrant):
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                *(nn.Sequential(nn.Linear(5, 5), nn.Tanh()) for _ in range(8))
            )
            self.stem, self.head = nn.Linear(5, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(
                checkpoint_sequential(self.body, 4, self.stem(x), use_reentrant=reentrant)
            )

    class Plain(Deep):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(self.stem(x)))

    model, plain, inputs = Deep(), Plain(), torch.randn(7, 5)
    plain.load_state_dict(model.state_dict())
    snapshot = observe(model, inputs)
    assert_signals(snapshot, plain, inputs)
    gradients = reference(plain, inputs)
    depth = np.log10(norm(*gradients["stem"]) / norm(*gradients["head"]))
    assert snapshot.backward_depth == pytest.approx(depth, abs=1e-4)


def test_saved_tensors_that_are_moved_away_are_not_fetched_for_slopes():
    model, inputs, fetched = chain(), torch.randn(7, 5), []

    def fetch(values: Tensor) -> Tensor:
        fetched.append(values)
        return values

    def step(model: nn.Module, watch: Any) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(lambda values: values, fetch):
            loss = sum_of_squares(model, inputs)
        assert not fetched
        loss.backward()
        fetched.clear()
        return loss

    snapshot = observe_step(model, step)
    assert_signals(snapshot, model, inputs)
    assert np.isnan(snapshot.mean_slope).all()
    assert activations(snapshot) == {"0": "tanh", "2": "relu", "4": None}


def test_offloading_to_the_host_changes_no_signal():
    def loss_of(model: nn.Module, x: Tensor) -> Tensor:
        with torch.autograd.graph.save_on_cpu():
            return sum_of_squares(model, x)

    model, inputs = chain(), torch.randn(7, 5)
    assert_signals(observe(model, inputs, loss_of=loss_of), model, inputs)


def test_slopes_beside_a_checkpoint_can_be_read():
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(5, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.tanh(checkpoint(self.first, x, use_reentrant=False)))

    model, inputs = Beside(), torch.randn(7, 5)
    slope = 1 - torch.tanh(model.first(inputs)).detach() ** 2
    assert observe(model, inputs).mean_slope[0] == pytest.approx(float(slope.mean()), rel=1e-4)
