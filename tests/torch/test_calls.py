"""Which calls count: those that the loss of the step depends on."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradwatch
from gradwatch import State

from .observed import (
    assert_one_pass,
    assert_signals,
    by_name,
    chain,
    observe,
    observe_step,
    rms,
    sum_of_squares,
    wiring,
)


class Detaching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.idle = nn.Linear(5, 5), nn.Linear(5, 2), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.body(x)
        return self.head(x)


def test_a_layer_under_no_grad_in_training_ran_and_an_idle_one_did_not():
    snapshot = observe(Detaching(), torch.randn(7, 5))
    assert by_name(snapshot, "forward_calls") == {"body": 1, "head": 1, "idle": 0}
    assert np.isnan(by_name(snapshot, "output_grad_norm")["body"])
    states = dict(zip((layer.name for layer in snapshot.layers), snapshot.states, strict=True))
    assert states == {
        "body": State.NO_GRADIENT,
        "head": State.TRAINED,
        "idle": State.IDLE,
    }


def test_an_output_that_is_detached_ran_without_gradient():
    class Cut(Detaching):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x).detach())

    snapshot = observe(Cut(), torch.randn(7, 5))
    assert by_name(snapshot, "forward_calls") == {"body": 1, "head": 1, "idle": 0}
    assert np.isnan(by_name(snapshot, "output_grad_norm")["body"])
    assert wiring(snapshot) == {"body": set(), "head": set(), "idle": set()}


def test_an_encoder_called_apart_whose_output_is_detached_ran():
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Linear(5, 3), nn.Linear(3, 5)

    snapshot = observe(
        Halves(),
        torch.randn(7, 5),
        loss_of=lambda model, x: model.decoder(model.encoder(x).detach()).square().sum(),
    )
    assert by_name(snapshot, "forward_calls") == {"encoder": 1, "decoder": 1}
    assert snapshot.states.tolist() == [State.NO_GRADIENT, State.TRAINED]


OTHER_PASSES = {
    "without gradients": torch.no_grad,
    "in inference mode": torch.inference_mode,
    "with gradients": torch.enable_grad,
}


@pytest.mark.parametrize("mode", OTHER_PASSES.values(), ids=OTHER_PASSES.keys())
@pytest.mark.parametrize("place", ["before", "between", "after"])
@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("kept", [False, True], ids=["dropped", "kept"])
def test_an_evaluation_around_the_training_pass_does_not_count(mode, place, batches, kept):
    model, inputs = chain(), torch.randn(7, 5)
    outputs: list[Any] = []

    def evaluate() -> None:
        with mode():
            for _ in range(batches):
                output = model(torch.full((3, 5), 1e6))
                outputs.append(output if kept else None)

    def step(model: nn.Module, watch: Any) -> Tensor:
        if place == "before":
            evaluate()
        loss = sum_of_squares(model, inputs)
        if place == "between":
            evaluate()
        loss.backward()
        if place == "after":
            evaluate()
        return loss

    assert_one_pass(observe_step(model, step), model, inputs)


def test_a_forward_pass_that_raises_does_not_count():
    model, inputs = chain(), torch.randn(7, 5)

    class Refuses(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 7:
                raise RuntimeError("out of memory")
            return super().forward(x)

    model[3] = Refuses()

    def step(model: nn.Module, watch: Any) -> Tensor:
        with pytest.raises(RuntimeError, match="out of memory"):
            model(torch.randn(9, 5))
        loss = sum_of_squares(model, inputs)
        loss.backward()
        return loss

    assert_one_pass(observe_step(model, step), model, inputs)


def test_after_an_interrupted_pass_the_step_after_next_is_right():
    model, inputs = chain(), torch.randn(7, 5)

    class Interrupted(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 7:
                raise KeyboardInterrupt
            return super().forward(x)

    model[3] = Interrupted()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradwatch.watch(model, optimizer, every=1, budget=None, verbose=0) as watch:
        with pytest.raises(KeyboardInterrupt):
            model(torch.randn(9, 5))
        for _ in range(2):
            optimizer.zero_grad()
            sum_of_squares(model, inputs).backward()
            optimizer.step()
    assert_one_pass(watch.history[-1], model, inputs)


def test_of_accumulated_gradients_the_last_micro_batch_is_seen():
    model, batches = chain(), torch.randn(3, 7, 5)

    def step(model: nn.Module, watch: Any) -> Tensor:
        for batch in batches:
            loss = sum_of_squares(model, batch)
            loss.backward()
        return loss

    assert_one_pass(observe_step(model, step), model, batches[-1])


def test_micro_batches_with_one_backward_pass_count_together():
    model, batches = chain(), torch.randn(3, 7, 5)

    def loss_of(model: nn.Module, *batches: Tensor) -> Tensor:
        return sum(sum_of_squares(model, batch) for batch in batches)

    snapshot = observe(model, *batches, loss_of=loss_of)
    assert_signals(snapshot, model, *batches, loss_of=loss_of)
    assert snapshot.input_rms[0] == pytest.approx(rms(batches), rel=1e-5)


class Routed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(5, 5) for _ in range(3))
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor, chosen: int) -> Tensor:
        return self.head(F.relu(self.experts[chosen](x)))


def test_an_expert_that_is_not_chosen_did_not_run():
    snapshot = observe(Routed(), torch.randn(7, 5), 1)
    calls = {"experts.0": 0, "experts.1": 1, "experts.2": 0, "head": 1}
    assert by_name(snapshot, "forward_calls") == calls
    assert [int(state) for state in snapshot.states[:3]] == [State.IDLE, State.TRAINED, State.IDLE]
    assert np.isfinite(snapshot.backward_depth)


def test_calls_in_other_threads_do_not_count():
    model, inputs = chain(), torch.randn(7, 5)

    def step(model: nn.Module, watch: Any) -> Tensor:
        thread = threading.Thread(target=lambda: model(torch.randn(3, 5)))
        thread.start()
        thread.join()
        loss = sum_of_squares(model, inputs)
        loss.backward()
        return loss

    assert_one_pass(observe_step(model, step), model, inputs)


def test_each_of_two_nets_sees_its_own_step():
    """A generator and a critic: each watch sees the pass of its own optimizer's step."""
    generator, critic = nn.Linear(4, 5), chain()
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.0) for model in (generator, critic)]
    facts: dict[str, Any] = {"every": 1, "budget": None, "verbose": 0}
    noise, real = torch.randn(7, 4), torch.randn(7, 5)
    with (
        gradwatch.watch(generator, optimizers[0], **facts) as made,
        gradwatch.watch(critic, optimizers[1], **facts) as judged,
    ):
        for _ in range(2):
            critic.zero_grad()
            critic_loss = critic(real).square().sum() + critic(generator(noise).detach()).sum()
            critic_loss.backward()
            optimizers[1].step()
            generator.zero_grad()
            critic(generator(noise)).sum().backward()
            optimizers[0].step()
    assert_signals(made.history[-1], generator, noise, loss_of=lambda g, z: critic(g(z)).sum())
    assert_signals(
        judged.history[-1],
        critic,
        real,
        generator(noise).detach(),
        loss_of=lambda model, a, b: model(a).square().sum() + model(b).sum(),
    )
