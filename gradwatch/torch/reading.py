"""Reading: every figure of a step in one vector, and one copy of it to the host."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradwatch.torch.internals import has_arrived

EXACT_ELEMENTS = 65_536
"""Up to here a norm is summed in float64; beyond, in float32, beside a float64 sample."""

SAMPLE_ELEMENTS = 4_096
"""Elements of a strided sample of a large tensor: at most 1.5 % error of an update ratio."""


class Key(NamedTuple):
    """What a figure belongs to.

    Args:
        row: Row of the layer, -1 for the whole step.
        name: Name of the figure.
        part: Which of several parts (parameters, calls) it is.
    """

    row: int
    name: str
    part: int = 0


class _Entry(NamedTuple):
    key: Key
    start: int
    length: int
    fallback: int
    scale: float


class Reading:
    """Collects figures as small tensors, then copies them to the host in one vector per device.

    Nothing here waits for a device: `send` starts the copy, `is_ready` asks whether it arrived.
    """

    def __init__(self) -> None:
        self._parts: dict[torch.device, list[Tensor]] = {}
        self._lengths: dict[torch.device, int] = {}
        self._entries: list[tuple[torch.device, _Entry]] = []
        self._sent: dict[torch.device, tuple[Tensor, Any | None]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing was taken yet."""
        return not self._entries

    def add(self, key: Key, figures: Tensor) -> None:
        """Take figures of shape () or (n,)."""
        start, length = self._put(figures)
        self._entries.append((figures.device, _Entry(key, start, length, -1, 1.0)))

    def add_norm(self, key: Key, values: Tensor) -> None:
        """Take the L2 norm of a tensor of any shape and floating or complex type.

        In float32 the squares of values below 1e-23 vanish and those above 1e19 overflow, so the
        norm of a large tensor has a float64 sample beside it, which replaces a norm of 0 or inf.
        """
        values = _real(values.detach())
        if values.numel() <= EXACT_ELEMENTS or values.dtype == torch.float64:
            self.add(key, torch.linalg.vector_norm(values, dtype=widest(values)))
            return
        norm = torch.linalg.vector_norm(values, dtype=torch.float32)
        sample = strided_sample(values)
        start, _ = self._put(norm)
        fallback, _ = self._put(torch.linalg.vector_norm(sample, dtype=widest(sample)))
        scale = math.sqrt(values.numel() / sample.numel())
        self._entries.append((values.device, _Entry(key, start, 1, fallback, scale)))

    def add_norms(self, keys: Iterable[Key], tensors: Iterable[Tensor]) -> None:
        """Take the L2 norms of many tensors, small ones in one batched call a type and device."""
        small: dict[tuple[torch.device, torch.dtype], list[tuple[Key, Tensor]]] = {}
        for key, tensor in zip(keys, tensors, strict=True):
            values = _real(tensor.detach())
            if 0 < values.numel() <= EXACT_ELEMENTS:
                small.setdefault((values.device, values.dtype), []).append((key, values))
            else:
                self.add_norm(key, values)
        for group in small.values():
            members = [values for _, values in group]
            norms = torch._foreach_norm(members, 2, widest(members[0]))
            for (key, _), norm in zip(group, norms, strict=True):
                self.add(key, norm)

    def send(self) -> None:
        """Start the copy of everything to the host; no figure may be added after it."""
        for device, parts in self._parts.items():
            vector = torch.cat(parts)
            if device.type != "cuda":
                self._sent[device] = (vector.to("cpu"), None)
                continue
            buffer = torch.empty(vector.shape, dtype=vector.dtype, pin_memory=True)
            buffer.copy_(vector, non_blocking=True)
            event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call] # untyped in PyTorch
            event.record(torch.cuda.current_stream(device))
            self._sent[device] = (buffer, event)
        self._parts.clear()

    def is_ready(self) -> bool:
        """Whether every copy has arrived."""
        return all(event is None or has_arrived(event) for _, event in self._sent.values())

    def wait(self) -> None:
        """Wait for the copies; only for the end of a run, never on the training path."""
        for _, event in self._sent.values():
            if event is not None:
                event.synchronize()

    def figures(self) -> dict[Key, NDArray[np.float64]]:
        """Key → figures of shape (n,), float64; call it once `is_ready`."""
        vectors = {
            device: buffer.numpy().astype(np.float64) for device, (buffer, _) in self._sent.items()
        }
        return {entry.key: _figure(vectors[device], entry) for device, entry in self._entries}

    def _put(self, figures: Tensor) -> tuple[int, int]:
        device = figures.device
        start = self._lengths.get(device, 0)
        length = figures.numel()
        self._parts.setdefault(device, []).append(figures.detach().reshape(-1))
        self._lengths[device] = start + length
        return start, length


def widest(values: Tensor) -> torch.dtype:
    """The widest floating type that the tensor's device can sum in."""
    return torch.float32 if values.device.type == "mps" else torch.float64


def strided_sample(values: Tensor) -> Tensor:
    """At most about 4,096 elements at an odd stride, shape (n,): a view where memory allows one.

    The odd stride keeps the sample from running down a single column of a matrix.
    """
    if values.numel() <= SAMPLE_ELEMENTS:
        return values.reshape(-1)
    stride = (values.numel() // SAMPLE_ELEMENTS) | 1
    return values.reshape(-1)[::stride]


def _real(values: Tensor) -> Tensor:
    if values.is_complex():
        return torch.view_as_real(values)
    return values


def _figure(vector: NDArray[np.float64], entry: _Entry) -> NDArray[np.float64]:
    figures = vector[entry.start : entry.start + entry.length]
    sampled = vector[entry.fallback] * entry.scale if entry.fallback >= 0 else 0.0
    if entry.fallback >= 0 and figures[0] in (0.0, np.inf) and 0 < sampled < np.inf:
        return np.asarray([sampled])
    return figures
