"""One step of a net, watched and unwatched: the snapshot, after the two were found the same."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradwatch
from gradwatch import Snapshot

Loss = Callable[..., Tensor]


def observe(model: nn.Module, *inputs: Any, loss_of: Loss | None = None) -> Snapshot:
    """The snapshot of one step without a change of the parameters.

    Args:
        model: The net; a copy of it is stepped unwatched and must come out the same, bit for bit.
        inputs: What the loss gets beside the net.
        loss_of: (net, *inputs) → loss, before its backward; the sum of squared outputs by default.
    """

    def step(net: nn.Module, watch: gradwatch.torch.Watch | None = None) -> Tensor:
        loss = (loss_of or sum_of_squares)(net, *inputs)
        if watch is not None:
            watch.observe_loss(loss)
        loss.backward()
        return loss

    return observe_step(model, step)


def observe_step(model: nn.Module, step: Callable[..., Tensor]) -> Snapshot:
    """The snapshot of a step that runs its backward passes itself.

    Args:
        model: As in `observe`.
        step: (net, watch or None) → loss; everything up to the optimizer's step.
    """
    model.zero_grad()
    plain, random = deepcopy(model), torch.get_rng_state()
    expected = outcome(plain, step(plain, None))
    torch.set_rng_state(random)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradwatch.watch(model, optimizer, every=1, budget=None, verbose=0) as watch:
        found = outcome(model, step(model, watch))
        optimizer.step()
    assert watch.history.limits == ()
    assert found.keys() == expected.keys()
    different = [name for name in found if not torch.equal(found[name], expected[name])]
    assert different == []
    return watch.history[-1]


def outcome(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Loss, gradients, buffers and random state after a step."""
    gradients = {
        f"gradient of {name}": as_dense(parameter.grad)
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    buffers = {f"buffer {name}": values for name, values in model.named_buffers()}
    return {"loss": loss.detach(), **gradients, **buffers, "random state": torch.get_rng_state()}


def as_dense(gradient: Tensor) -> Tensor:
    return gradient.to_dense() if gradient.is_sparse else gradient


def sum_of_squares(model: nn.Module, *inputs: Any) -> Tensor:
    return first_tensor(model(*inputs)).square().sum()


def first_tensor(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    return first_tensor(next(iter(output.values() if isinstance(output, dict) else output)))


def by_name(snapshot: Snapshot, statistic: str) -> dict[str, float]:
    """Layer's name → a statistic."""
    values = getattr(snapshot, statistic)
    return {layer.name: float(value) for layer, value in zip(snapshot.layers, values, strict=True)}


def wiring(snapshot: Snapshot) -> dict[str, set[str]]:
    """Layer's name → names of the layers that feed it."""
    names = [layer.name for layer in snapshot.layers]
    return {layer.name: {names[row] for row in layer.inputs} for layer in snapshot.layers}


def activations(snapshot: Snapshot) -> dict[str, str | None]:
    """Layer's name → the activation that follows."""
    return {layer.name: layer.activation for layer in snapshot.layers}


def norm(*tensors: Tensor) -> float:
    """The L2 norm of several tensors together."""
    return float(torch.cat([values.detach().double().flatten() for values in tensors]).norm())


def rms(*tensors: Tensor) -> float:
    """The root mean square of several tensors together."""
    return norm(*tensors) / sum(values.numel() for values in tensors) ** 0.5


def reference(
    model: nn.Module, *inputs: Any, loss_of: Loss | None = None
) -> dict[str, list[Tensor | None]]:
    """Layer's name → dL/dy of each of its calls, by one plain `torch.autograd.grad`.

    It asks for the outputs of every module that owns parameters, so nothing of gradwatch is in it.
    """
    outputs: dict[str, list[Tensor]] = {}
    handles = []
    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            kept = outputs.setdefault(name or type(model).__name__, [])

            def keep(_module: nn.Module, _inputs: Any, output: Any, kept: Any = kept) -> None:
                kept.append(first_tensor(output))

            handles.append(module.register_forward_hook(keep))
    loss = (loss_of or sum_of_squares)(model, *inputs)
    for handle in handles:
        handle.remove()
    tensors = [output for kept in outputs.values() for output in kept]
    gradients = iter(torch.autograd.grad(loss, tensors, allow_unused=True))
    return {name: [next(gradients) for _ in kept] for name, kept in outputs.items()}


def chain() -> nn.Sequential:
    """Three layers with two activations."""
    return nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))


def assert_signals(snapshot: Snapshot, model: nn.Module, *inputs: Any, loss_of: Any = None) -> None:
    """Calls and signals are those of one plain forward and backward pass."""
    gradients = reference(model, *inputs, loss_of=loss_of)
    expected = {name: norm(*entries) for name, entries in gradients.items()}
    assert by_name(snapshot, "output_grad_norm") == pytest.approx(expected, rel=1e-4)
    calls = {name: len(entries) for name, entries in gradients.items()}
    assert by_name(snapshot, "forward_calls") == calls


def assert_one_pass(snapshot: Snapshot, model: nn.Sequential, inputs: Tensor) -> None:
    """All that is known of a `chain` is that of one pass with these inputs."""
    assert_signals(snapshot, model, inputs)
    assert snapshot.input_rms[0] == pytest.approx(rms(inputs), rel=1e-5)
    assert wiring(snapshot) == {"0": set(), "2": {"0"}, "4": {"2"}}
    assert activations(snapshot) == {"0": "tanh", "2": "relu", "4": None}
    slopes = 1 - torch.tanh(model[0](inputs)).detach() ** 2
    assert snapshot.mean_slope[0] == pytest.approx(float(slopes.mean()), rel=1e-4)
