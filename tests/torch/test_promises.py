"""The promises: training is untouched, no trace is left, and an unobserved step costs next to
nothing."""

import copy
import gc
import io
import pickle
import threading
import weakref
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks
from torch.utils._python_dispatch import TorchDispatchMode

import gradwatch

from .training import (
    BATCH,
    NETS,
    OPTIMIZERS,
    Convolutional,
    perceptron,
    same,
    step,
    train,
)

GLOBAL_MODULE_HOOKS = tuple(
    name for name in vars(module_hooks) if name.startswith("_global_") and name.endswith("_hooks")
)

nets = pytest.mark.parametrize("net", NETS, ids=lambda net: net.__name__)
optimizers = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


class CountedOperations(TorchDispatchMode):
    """Counts the operations that PyTorch dispatches, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.counts[name] = self.counts.get(name, 0) + 1
        return function(*args, **(kwargs or {}))


def module_hook_counts() -> dict[str, int]:
    return {name: len(getattr(module_hooks, name)) for name in GLOBAL_MODULE_HOOKS}


def optimizer_hook_counts() -> tuple[int, int]:
    return (
        len(optimizer_hooks._global_optimizer_pre_hooks),
        len(optimizer_hooks._global_optimizer_post_hooks),
    )


def hooks_on(model: nn.Module) -> list[str]:
    """Where a hook hangs on a module or a parameter of the model, in words."""
    found = []
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute.endswith("_hooks") and value:
                found.append(f"{name}.{attribute}")
    for name, parameter in model.named_parameters():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            found.append(name)
    return found


# 1. Training is untouched


@nets
@optimizers
def test_training_is_bit_identical(net, optimizer):
    bare = train(net, optimizer, steps=12, watched=False)
    watched = train(net, optimizer, steps=12, watched=True, every=1)
    watched.assert_same(bare)
    assert len(watched.watch.history) == 12
    assert watched.watch.history[-1].has_signals


@nets
@optimizers
def test_training_is_bit_identical_under_deterministic_algorithms(net, optimizer, deterministic):
    bare = train(net, optimizer, steps=6, watched=False)
    train(net, optimizer, steps=6, watched=True, every=1).assert_same(bare)


def test_the_comparison_of_runs_can_fail():
    bare = train(Convolutional, OPTIMIZERS["sgd"], steps=3, watched=False)
    longer = train(Convolutional, OPTIMIZERS["adamw"], steps=3, watched=False)
    with pytest.raises(AssertionError):
        longer.assert_same(bare)


@nets
def test_gradients_that_the_user_sees_are_bit_identical(net):
    def gradients(*, watched: bool) -> list[torch.Tensor]:
        torch.manual_seed(2)
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if watched:
            gradwatch.watch(model, optimizer, every=1, verbose=0)
        model(net.inputs()).square().sum().backward()
        optimizer.step()
        return [parameter.grad for parameter in model.parameters()]

    assert same(gradients(watched=True), gradients(watched=False))


# 2. No trace


@nets
def test_nothing_but_the_two_optimizer_hooks_is_there_between_samples(net):
    modules, optimizers = module_hook_counts(), optimizer_hook_counts()
    model = net()
    attributes = {module: set(vars(module)) for module in model.modules()}
    optimizer = torch.optim.AdamW(model.parameters())
    watch = gradwatch.watch(model, optimizer, verbose=0)
    while len(watch.history) < 6:  # the step after the sample at step 6 is none
        model(net.inputs()).square().mean().backward()
        optimizer.step()
    assert module_hook_counts() == modules
    assert optimizer_hook_counts() == tuple(count + 1 for count in optimizers)
    assert hooks_on(model) == []
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert {module: set(vars(module)) for module in model.modules()} == attributes


@nets
def test_nothing_is_there_after_close(net):
    modules, optimizers = module_hook_counts(), optimizer_hook_counts()
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    watch = gradwatch.watch(model, optimizer, every=1, verbose=0)
    model(net.inputs()).square().mean().backward()
    optimizer.step()
    assert module_hook_counts() != modules
    watch.close()
    watch.close()
    assert module_hook_counts() == modules
    assert optimizer_hook_counts() == optimizers
    assert hooks_on(model) == []


@pytest.mark.parametrize("closed", [False, True], ids=["between samples", "after close"])
@pytest.mark.parametrize("every", ["auto", 1])
@nets
def test_model_and_optimizer_can_be_copied_and_pickled(net, closed, every):
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    watch = gradwatch.watch(model, optimizer, every=every, verbose=0)
    for _ in range(6):
        model(net.inputs()).square().mean().backward()
        optimizer.step()
    if closed:
        watch.close()
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert copied.state_dict().keys() == model.state_dict().keys()
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert copied.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    torch.save(model.state_dict(), io.BytesIO())
    torch.save(optimizer.state_dict(), io.BytesIO())


def test_a_deep_copy_is_not_watched():
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = gradwatch.watch(model, every=1, verbose=0)
    step(model, optimizer)
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    step(twin, twin_optimizer)
    assert len(watch.history) == 1
    step(model, optimizer)
    assert [snapshot.step for snapshot in watch.history] == [0, 1]
    assert (watch.history[-1].forward_calls == 1).all()


def test_a_second_watch_on_a_model_closes_the_first():
    counts = optimizer_hook_counts()
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = gradwatch.watch(model, optimizer, every=1, verbose=0)
    second = gradwatch.watch(model, optimizer, every=1, verbose=0)
    step(model, optimizer)
    assert (len(first.history), len(second.history)) == (0, 1)
    assert optimizer_hook_counts() == tuple(count + 1 for count in counts)


def test_a_model_that_is_dropped_without_close_goes_and_the_hooks_go_with_it():
    modules, optimizers = module_hook_counts(), optimizer_hook_counts()
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = gradwatch.watch(model, optimizer, every=1, verbose=0)
    step(model, optimizer)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert module_hook_counts() == modules
    assert optimizer_hook_counts() == optimizers
    assert len(watch.history) == 1


def test_a_watch_that_nobody_holds_goes_on():
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = []
    gradwatch.watch(model, optimizer, every=1, signals=False, verbose=0, on_finding=found.append)
    gc.collect()
    step(model, optimizer)
    assert [finding.code for finding in found] == ["GW902"]


def test_a_hundred_watches_leave_no_memory_behind():
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def cycle() -> None:
        with gradwatch.watch(model, optimizer, every=1, verbose=0):
            step(model, optimizer)

    for _ in range(5):
        cycle()
    before = object_count()
    for _ in range(100):
        cycle()
    assert object_count() - before < 100


def test_two_thousand_steps_do_not_grow_memory():
    model = perceptron(depth=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watch = gradwatch.watch(model, optimizer, every=3, verbose=0)
    for _ in range(800):  # then the history of 256 snapshots is full
        watch.observe_loss(step(model, optimizer))
    objects, tensors = object_count(), tensor_count()
    for _ in range(1200):
        watch.observe_loss(step(model, optimizer))
    assert object_count() - objects < 300
    assert tensor_count() <= tensors


def object_count() -> int:
    gc.collect()
    return len(gc.get_objects())


def tensor_count() -> int:
    return sum(issubclass(type(entry), torch.Tensor) for entry in gc.get_objects())


def test_the_graph_of_a_step_is_let_go_of():
    """A loss that was told, and the nodes of the pass, must not keep activations alive."""
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = gradwatch.watch(model, optimizer, every=1, verbose=0)
    hidden = model[0](torch.randn(BATCH, 4))
    alive = weakref.ref(hidden)
    loss = model[1:](hidden).square().mean()
    watch.observe_loss(loss)
    loss.backward()
    optimizer.step()
    del hidden, loss
    gc.collect()
    assert alive() is None


# 3. What a step costs


def test_an_unobserved_step_runs_no_operation_of_gradwatch():
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def operations() -> dict[str, int]:
        loss = model(torch.randn(BATCH, 4)).square().mean()
        with CountedOperations() as counted:
            watch.observe_loss(loss)
            loss.backward()
            optimizer.step()
        return counted.counts

    watch = gradwatch.watch(model, optimizer, verbose=0)
    sampled = operations()
    for _ in range(4):
        operations()
    assert len(watch.history) == 5
    unobserved = operations()  # step 5
    assert len(watch.history) == 5
    watch.close()
    assert unobserved == operations()
    assert sum(sampled.values()) > sum(unobserved.values())


def plain_step(model, optimizer, watch):
    loss = model(model.inputs()).square().mean()
    watch.observe_loss(loss)
    loss.backward()
    optimizer.step()


def closure_step(model, optimizer, watch):
    inputs = model.inputs()

    def closure():
        optimizer.zero_grad()
        loss = model(inputs).square().mean()
        watch.observe_loss(loss)
        loss.backward()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize("run", [plain_step, closure_step])
@pytest.mark.parametrize(
    "arguments",
    [
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "lr": torch.tensor(1e-3)},
        {"weight_decay": 0.1, "fused": True},
    ],
    ids=["decay", "tensor lr", "fused"],
)
@nets
def test_a_sampled_step_waits_for_no_number(net, run, arguments):
    """`_local_scalar_dense` is what `.item()`, `float()` and `bool()` of a tensor call."""

    def scalars(*, watched: bool) -> int:
        torch.manual_seed(3)
        model = net()
        optimizer = torch.optim.AdamW(model.parameters(), **arguments)
        watch = gradwatch.watch(model, optimizer, every=1, verbose=0)
        if not watched:
            watch.close()
        with CountedOperations() as counted:
            run(model, optimizer, watch)
            run(model, optimizer, watch)
        assert len(watch.history) == (2 if watched else 0)
        return counted.counts.get("_local_scalar_dense", 0)

    assert scalars(watched=True) == scalars(watched=False)


@pytest.mark.parametrize("fused", [False, True])
def test_a_sampled_step_under_a_gradient_scaler_waits_for_no_number(fused):
    def scalars(*, watched: bool) -> int:
        torch.manual_seed(3)
        model = perceptron()
        optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
        scaler = torch.amp.GradScaler("cpu")
        watch = gradwatch.watch(model, optimizer, every=1, verbose=0)
        if not watched:
            watch.close()
        with CountedOperations() as counted:
            scaler.scale(model(torch.randn(BATCH, 4)).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
        assert len(watch.history) == watched
        return counted.counts.get("_local_scalar_dense", 0)

    assert scalars(watched=True) == scalars(watched=False)


def test_a_read_of_a_tensor_would_be_counted():
    with CountedOperations() as counted:
        torch.ones(1).item()
    assert counted.counts["_local_scalar_dense"] == 1


# 11. Threads


def test_a_forward_pass_in_another_thread_is_ignored():
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = gradwatch.watch(model, optimizer, every=1, verbose=0)
    model(torch.randn(BATCH, 4)).square().mean().backward()
    thread = threading.Thread(target=lambda: model(torch.ones(1, 4)).sum().backward())
    thread.start()
    thread.join()
    optimizer.step()
    assert (watch.history[-1].forward_calls == 1).all()
    assert watch.history[-1].input_rms[0] != 1.0


def test_two_models_that_train_in_two_threads_do_not_disturb_each_other():
    """Hooks are global: each watch is told of the other's steps, in the middle of its own."""
    both_are_stepping = threading.Barrier(2, timeout=30)

    class Meets(torch.optim.SGD):
        def step(self, closure=None):
            both_are_stepping.wait()
            super().step(closure)
            both_are_stepping.wait()

    def run(model, optimizer):
        for _ in range(10):
            step(model, optimizer)

    models = [perceptron(), perceptron()]
    optimizers = [Meets(model.parameters(), lr=0.1) for model in models]
    watches = [
        gradwatch.watch(model, optimizer, every=1, signals=False, verbose=0)
        for model, optimizer in zip(models, optimizers, strict=True)
    ]
    threads = [
        threading.Thread(target=run, args=pair) for pair in zip(models, optimizers, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for watch in watches:
        watch.close()
    assert [len(watch.history) for watch in watches] == [10, 10]


# Odd models


class Prompt(nn.Module):
    """Returns its own parameter, as prompts, positions and temperatures do."""

    def __init__(self):
        super().__init__()
        self.prompt = nn.Parameter(torch.randn(4))

    def forward(self):
        return self.prompt


class Prompted(nn.Module):
    def __init__(self):
        super().__init__()
        self.prompt, self.layer = Prompt(), nn.Linear(4, 4)

    def forward(self, inputs):
        return self.layer(inputs + self.prompt())


def test_a_module_that_returns_its_parameter_gets_no_lasting_hook():
    model = Prompted()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = gradwatch.watch(model, optimizer, every=1, verbose=0)
    for _ in range(3):
        step(model, optimizer)
    assert hooks_on(model) == []
    watch.close()
    assert hooks_on(model) == []
    copy.deepcopy(model)
    pickle.dumps(model)


class Marked(torch.autograd.Function):
    """The identity; its node holds a marker, so that one can see whether a graph is alive."""

    alive: ClassVar[weakref.WeakSet[Any]] = weakref.WeakSet()

    class Marker:
        pass

    @staticmethod
    def forward(context, inputs):
        context.marker = Marked.Marker()
        Marked.alive.add(context.marker)
        return inputs.view_as(inputs)

    @staticmethod
    def backward(context, gradient):
        return gradient


class MarkedNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = perceptron()

    def forward(self, inputs):
        return Marked.apply(self.layers(inputs))


def test_an_evaluation_with_gradients_on_keeps_few_graphs():
    """A validation loop without `no_grad`, while the next step is a sample."""
    model = MarkedNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = gradwatch.watch(model, optimizer, every=1, verbose=0)
    step(model, optimizer)
    for _ in range(50):
        model(torch.randn(BATCH, 4))
    assert len(Marked.alive) < 5
    step(model, optimizer)
    watch.close()
    gc.collect()
    assert len(Marked.alive) == 0
