"""The probe on PyTorch: autograd with respect to what is watched, run eagerly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from gradwatch.keras.fans import TORCH_MODULE
from gradwatch.keras.passes import Pass
from gradwatch.keras.probe import Probe


class TorchTracer:
    """Watches tensors that autograd follows; sources are found in its graph."""

    def __init__(self) -> None:
        self._tags: dict[Any, int] = {}
        self._hooks = _hooks()

    def watch(self, tensor: Any) -> Any:
        """The tensor, of which autograd gives the gradient."""
        return tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()

    def tag(self, tensor: Any, call: int) -> Any:
        """The tensor as the output of a node that is known again."""
        alias = tensor.view_as(tensor)
        if alias.grad_fn is not None:
            self._tags[alias.grad_fn] = call
        return alias

    def sources(self, tensors: Sequence[Any]) -> set[int]:
        """The tags nearest to the tensors in the graph."""
        found: set[int] = set()
        seen: set[Any] = set()
        pending = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
        while pending:
            node = pending.pop()
            if node in seen:
                continue
            seen.add(node)
            if node in self._tags:
                found.add(self._tags[node])
            else:
                pending.extend(above for above, _ in node.next_functions if above is not None)
        return found

    def is_running(self) -> bool:
        """Whether no checkpoint runs now, which runs again in the backward pass."""
        return bool(_hooks() == self._hooks)

    def slope(self, function: Callable[[Any], Any], tensor: Any) -> Any:
        """Its gradient of ones."""
        with torch.enable_grad():
            leaf = tensor.detach().requires_grad_()
            outputs = function(leaf)
            (slopes,) = torch.autograd.grad(outputs, leaf, torch.ones_like(outputs))
        return slopes


def _hooks() -> Any:
    """What packs away the tensors that autograd saves now, None for nothing."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True)  # noqa: FBT003 -- positional only


class TorchProbe(Probe):
    """See `Probe`."""

    def run(self, state: Sequence[tuple[Any, Any]]) -> Any:
        """See `Probe.run`."""
        with _undisturbed(self._model), torch.enable_grad():
            collected = Pass(self._rows, TorchTracer())
            scaled, loss = self._forward(collected, state, self._batch)
            watched = list(collected.watched.values())
            gradients = torch.autograd.grad(scaled, watched, allow_unused=True) if watched else ()
        with torch.no_grad():
            by_key = dict(zip(collected.watched, gradients, strict=True))
            figures = {
                **collected.figures,
                **collected.gradient_figures(by_key, collected.logits()),
            }
            return self._vector(collected, figures, loss.detach(), state).detach()


@contextmanager
def _undisturbed(model: Any) -> Iterator[None]:
    """Keep PyTorch's random state, and the buffers of PyTorch modules that Keras layers wrap."""
    modules = [layer.module for layer in model._flatten_layers() if isinstance(layer, TORCH_MODULE)]
    buffers = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    is_used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call] # untyped in PyTorch
    devices = list(range(torch.cuda.device_count())) if is_used else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
