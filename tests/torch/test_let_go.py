"""Nothing of a pass is kept: no tensor, no graph, no hook; and a model can be copied in one."""

from __future__ import annotations

import gc
import io
import pickle
import weakref
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

import gradwatch
from gradwatch.torch.passes import ABANDONED_RUNS

from .observed import sum_of_squares


class Tapped(nn.Module):
    """Every module's call notes its output weakly."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.second = nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2)
        self.recurrent = nn.GRU(5, 5)

    def forward(self, x: Tensor, seen: list[weakref.ref[Tensor]]) -> Tensor:
        x = self.recurrent(x)[0][-1]
        hidden = self.first(x)
        active = self.act(hidden)
        output = self.second(active)
        seen.extend(weakref.ref(entry) for entry in (x, hidden, active, output))
        return output


class Tracer(torch.autograd.Function):
    """Leaves an object in the graph, to see how long the graph lives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Any) -> Tensor:
        ctx.token = token
        return x * 1

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class Token:
    pass


@pytest.fixture
def watched():
    model = Tapped()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradwatch.watch(model, optimizer, every=1, budget=None, verbose=0) as watch:
        yield model, optimizer, watch
    assert watch.history.limits == ()


def run(model: Tapped, seen: list[weakref.ref[Tensor]], token: Token | None = None) -> Tensor:
    output = model(torch.randn(4, 3, 5), seen)
    return Tracer.apply(output, token).square().sum()


@pytest.fixture(autouse=True)
def no_collector():
    """What is let go of only by the garbage collector is kept for too long."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive(references: list[weakref.ref[Any]]) -> int:
    return sum(entry() is not None for entry in references)


def test_activations_and_graph_go_with_the_loss_before_the_step_ends(watched):
    model, optimizer, watch = watched
    seen: list[weakref.ref[Tensor]] = []
    token = Token()
    loss = run(model, seen, token)
    watch.observe_loss(loss)
    loss.backward()
    graph = weakref.ref(token)
    del token
    assert graph() is not None
    watch.observe_loss(0.0)
    del loss
    assert alive(seen) == 0
    assert graph() is None
    optimizer.step()


def test_a_graph_that_never_sees_a_backward_pass_is_not_kept(watched):
    model, _, _ = watched
    seen: list[weakref.ref[Tensor]] = []
    for _ in range(5):
        token = Token()
        output = run(model, seen, token)
    graph = weakref.ref(token)
    del token
    assert graph() is not None
    del output
    assert graph() is None
    assert alive(seen) == 0


def test_micro_batches_do_not_pile_up(watched):
    model, optimizer, _ = watched
    seen: list[weakref.ref[Tensor]] = []
    for _ in range(5):
        run(model, seen).backward()
    assert alive(seen) == 0
    optimizer.step()


def test_an_evaluation_with_gradients_does_not_grow_memory():
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def tensors() -> int:
        return sum(issubclass(type(entry), Tensor) for entry in gc.get_objects())

    with gradwatch.watch(model, optimizer, every=1, budget=None, verbose=0) as watch:
        counts = []
        for _ in range(4):
            for _ in range(2 * ABANDONED_RUNS):
                model(torch.randn(3, 5))
            counts.append(tensors())
        sum_of_squares(model, torch.randn(3, 5)).backward()
        optimizer.step()
    assert counts[1:] == counts[:1] * 3
    assert (watch.history[-1].forward_calls == 1).all()


def hooks_of(model: nn.Module) -> list[Any]:
    found: list[Any] = []
    for module in model.modules():
        found += [*module._forward_hooks, *module._forward_pre_hooks]
        found += [*module._backward_hooks, *module._backward_pre_hooks]
    for parameter in model.parameters():
        found += list(parameter._backward_hooks or ())
    return found


class Handing(nn.Module):
    """Hands out its parameter itself."""

    def __init__(self) -> None:
        super().__init__()
        self.position, self.head = nn.ParameterList([torch.randn(5)]), nn.Linear(5, 2)
        self.give = Give()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.give())


class Give(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5))

    def forward(self) -> Tensor:
        return self.weight


def test_no_hook_is_left_on_a_parameter_that_a_layer_hands_out():
    model = Handing()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    global_hooks = len(torch_module._global_forward_hooks)
    with gradwatch.watch(model, optimizer, every=2, budget=None, verbose=0) as watch:
        for _ in range(3):
            sum_of_squares(model, torch.randn(3, 5)).backward()  # two micro-batches
            sum_of_squares(model, torch.randn(3, 5)).backward()
            optimizer.step()
        assert hooks_of(model) == []
        assert len(torch_module._global_forward_hooks) == global_hooks
    assert [snapshot.step for snapshot in watch.history] == [0, 2]


@pytest.mark.parametrize("copy", [deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("moment", ["armed", "after forward", "after backward"])
def test_a_model_can_be_copied_in_an_observed_step(copy, moment):
    model, inputs = Handing(), torch.randn(3, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradwatch.watch(model, optimizer, every=1, budget=None, verbose=0) as watch:
        loss = None
        if moment != "armed":
            loss = sum_of_squares(model, inputs)
        if moment == "after backward":
            loss.backward()
        twin = copy(model)
        if moment != "after backward":
            loss = sum_of_squares(model, inputs)
            loss.backward()
        assert hooks_of(twin) == []
        sum_of_squares(twin, inputs).backward()
        torch.save(model.state_dict(), io.BytesIO())
        optimizer.step()
    assert torch.equal(twin(inputs), model(inputs))
    counted = watch.history[-1].forward_calls
    assert (
        counted[[layer.name in ("give", "head") for layer in watch.history[-1].layers]] == 1
    ).all()
