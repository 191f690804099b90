"""Promise 1: training is untouched, and nothing is left behind."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks
from torch.utils._python_dispatch import TorchDispatchMode

import gradwatch


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Dropout(0.3),
        )
        self.head = nn.Linear(8 * 64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images.view(-1, 1, 8, 8)).flatten(1))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.attention = nn.MultiheadAttention(16, 2, dropout=0.1, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images.view(-1, 8, 8))
        attended, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.head(self.block(self.norm(tokens + attended)).mean(dim=1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 16, num_layers=2, dropout=0.1, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        states, _ = self.lstm(images.view(-1, 8, 8))
        return self.head(states[:, -1])


MODELS = [ConvNet, Transformer, Recurrent]
OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda model: torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3
    ),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3),
}


def train(model_type: type[nn.Module], optimizer_name: str, *, watched: bool) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = model_type()
    optimizer = OPTIMIZERS[optimizer_name](model)
    watch = gradwatch.watch(model, optimizer, every=1, verbose=0) if watched else None
    batches = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(6):
        images = torch.randn(16, 64, generator=batches)
        targets = torch.randint(0, 10, (16,), generator=batches)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), targets)
        if watch is not None:
            watch.observe_loss(loss)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    if watch is not None:
        watch.close()
        assert not watch.history.limits
        assert len(watch.history) == 6
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    return {**state, "losses": torch.stack(losses), "random state": torch.get_rng_state()}


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("model_type", MODELS)
def test_losses_parameters_and_random_state_are_bit_identical(model_type, optimizer_name):
    plain = train(model_type, optimizer_name, watched=False)
    watched = train(model_type, optimizer_name, watched=True)
    different = [name for name in plain if not torch.equal(plain[name], watched[name])]
    assert not different


def global_hooks() -> int:
    return sum(
        len(hooks)
        for hooks in (
            module_hooks._global_forward_hooks,
            module_hooks._global_forward_pre_hooks,
            module_hooks._global_backward_hooks,
            module_hooks._global_backward_pre_hooks,
            optimizer_hooks._global_optimizer_pre_hooks,
            optimizer_hooks._global_optimizer_post_hooks,
        )
    )


def hooks_on(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    on_modules = sum(
        len(module._forward_hooks)
        + len(module._forward_pre_hooks)
        + len(module._backward_hooks)
        + len(module._backward_pre_hooks)
        for module in model.modules()
    )
    on_tensors = sum(len(p._backward_hooks or ()) for p in model.parameters())
    return (
        on_modules
        + on_tensors
        + len(optimizer._optimizer_step_pre_hooks)
        + len(optimizer._optimizer_step_post_hooks)
    )


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(4, 64)).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("model_type", MODELS)
def test_after_close_no_hook_is_left(model_type):
    before = global_hooks()
    model = model_type()
    optimizer = OPTIMIZERS["sgd"](model)
    watch = gradwatch.watch(model, optimizer, every=1, verbose=0)
    step(model, optimizer)
    watch.close()
    watch.close()
    assert global_hooks() == before
    assert hooks_on(model, optimizer) == 0


@pytest.mark.parametrize("model_type", MODELS)
def test_between_samples_and_in_one_the_model_can_be_pickled_and_copied(model_type):
    model = model_type()
    optimizer = OPTIMIZERS["adamw"](model)
    with gradwatch.watch(model, optimizer, every=2, verbose=0):
        for _ in range(2):
            step(model, optimizer)
            assert hooks_on(model, optimizer) == 0
            copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
            assert copied.state_dict().keys() == model.state_dict().keys()
            copy.deepcopy(optimizer)


def test_a_copy_of_the_model_is_not_watched():
    model = ConvNet()
    optimizer = OPTIMIZERS["sgd"](model)
    with gradwatch.watch(model, optimizer, every=1, verbose=0) as watch:
        twin = copy.deepcopy(model)
        step(twin, OPTIMIZERS["sgd"](twin))
        assert len(watch.history) == 0
        step(model, optimizer)
        assert len(watch.history) == 1


def test_a_watch_does_not_keep_its_model_alive():
    before = global_hooks()
    model = ConvNet()
    optimizer = OPTIMIZERS["sgd"](model)
    gradwatch.watch(model, optimizer, every=1, verbose=0)
    step(model, optimizer)
    alive = weakref.ref(model)
    del model, optimizer
    gc.collect()
    assert alive() is None
    assert global_hooks() == before


def test_no_activation_or_graph_is_kept_after_the_step():
    model = ConvNet()
    optimizer = OPTIMIZERS["sgd"](model)
    with gradwatch.watch(model, optimizer, every=1, verbose=0) as watch:
        output = model(torch.randn(4, 64))
        loss = output.square().mean()
        watch.observe_loss(loss)
        loss.backward()
        optimizer.step()
        kept = [weakref.ref(output), weakref.ref(loss)]
        del output, loss
        gc.collect()
        assert [reference() for reference in kept] == [None, None]


class Counting(TorchDispatchMode):
    """Counts the operations that PyTorch runs, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def operations(*, watched: bool, every: int) -> list[str]:
    torch.manual_seed(0)
    model = Transformer()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=False)
    images = torch.randn(4, 64)
    watch = gradwatch.watch(model, optimizer, every=every, verbose=0) if watched else None
    step(model, optimizer)
    with Counting() as counted:
        optimizer.zero_grad()
        loss = model(images).square().mean()
        if watch is not None:
            watch.observe_loss(loss)
        loss.backward()
        optimizer.step()
    if watch is not None:
        watch.close()
    return counted.names


def test_an_unobserved_step_runs_no_operation_of_its_own():
    assert operations(watched=True, every=100) == operations(watched=False, every=100)


def test_an_observed_step_reads_nothing_back_one_by_one():
    names = operations(watched=True, every=1)
    assert len(names) > len(operations(watched=False, every=1))
    assert "_local_scalar_dense" not in names


def test_the_count_would_see_a_value_that_is_read_back():
    with Counting() as counted:
        torch.ones(3).sum().item()
    assert "_local_scalar_dense" in counted.names
