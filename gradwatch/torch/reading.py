"""Reading: every figure of a step in one vector, and one copy of it to the host."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradwatch.sampling import SAMPLE_ELEMENTS, sampling_stride
from gradwatch.torch.internals import has_arrived

EXACT_ELEMENTS = 65_536
"""Up to here a norm is summed in float64; beyond, in float32, beside a float64 sample."""

_SAFE_RMS = 1e-17
"""Below it, squares lose digits in float32 (smallest normal number 1.2e-38)."""

_SAFE_NORM = 1e18
"""Above it, a sum of squares may overflow in float32 (largest number 3.4e38)."""


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


class _Block(NamedTuple):
    """Figures that lie one after the other, one for each key, or all of them for a single key."""

    keys: Sequence[Key]
    device: torch.device
    start: int
    length: int
    fallback: int = -1
    elements: int = 0
    sampled: int = 0


class Reading:
    """Collects figures as small tensors, then copies them to the host in one vector per device.

    Nothing here waits for a device: `send` starts the copy, `is_ready` asks whether it arrived.
    """

    def __init__(self) -> None:
        self._single: dict[torch.device, tuple[list[Key], list[Tensor]]] = {}
        self._parts: dict[torch.device, list[Tensor]] = {}
        self._lengths: dict[torch.device, int] = {}
        self._blocks: list[_Block] = []
        self._sent: dict[torch.device, tuple[Tensor, Any | None]] = {}

    def add(self, key: Key, figures: Tensor) -> None:
        """Take figures of shape () or (n,)."""
        self.add_each([key], figures)

    def add_each(self, keys: Sequence[Key], figures: Tensor) -> None:
        """Take figures of shape (keys,), one for each key."""
        start, length = self._put(figures)
        self._blocks.append(_Block(keys, figures.device, start, length))

    def add_norm(self, key: Key, values: Tensor) -> None:
        """Take the L2 norm of a tensor of any shape and floating or complex type.

        In float32 the squares of values below 1e-17 lose digits and vanish, and those above 1e19
        overflow, so the norm of a large tensor has a float64 sample beside it for these cases.
        """
        values = plain(values)
        if values.numel() <= EXACT_ELEMENTS or values.dtype == torch.float64:
            keys, norms = self._single.setdefault(values.device, ([], []))
            keys.append(key)
            norms.append(torch.linalg.vector_norm(values, dtype=widest(values)))
            return
        sample = strided_sample(values)
        start, _ = self._put(torch.linalg.vector_norm(values, dtype=torch.float32))
        fallback, _ = self._put(torch.linalg.vector_norm(sample, dtype=widest(sample)))
        sizes = values.numel(), sample.numel()
        self._blocks.append(_Block([key], values.device, start, 1, fallback, *sizes))

    def add_norms(self, keys: Iterable[Key], tensors: Iterable[Tensor]) -> None:
        """Take the L2 norms of many tensors, small ones of a type, device and size at once."""
        alike: dict[tuple[torch.device, torch.dtype, int], tuple[list[Key], list[Tensor]]] = {}
        for key, tensor in zip(keys, tensors, strict=True):
            values = plain(tensor)
            if 0 < values.numel() <= SAMPLE_ELEMENTS:
                group = values.device, values.dtype, values.numel()
                group_keys, members = alike.setdefault(group, ([], []))
                group_keys.append(key)
                members.append(values)
            else:
                self.add_norm(key, values)
        for group_keys, members in alike.values():
            self.add_row_norms(group_keys, rows_of(members))

    def add_row_norms(self, keys: Sequence[Key], rows: Tensor) -> None:
        """Take the L2 norm of each row of a matrix of shape (keys, n)."""
        self.add_each(keys, torch.linalg.vector_norm(rows, dim=1, dtype=widest(rows)))

    def take(self, other: Reading) -> None:
        """Take over every figure of a reading that was not sent."""
        other._join_single()
        starts = {device: self._lengths.get(device, 0) for device in other._lengths}
        for device, parts in other._parts.items():
            self._parts.setdefault(device, []).extend(parts)
            self._lengths[device] = starts[device] + other._lengths[device]
        for block in other._blocks:
            shift = starts[block.device]
            fallback = block.fallback + shift if block.fallback >= 0 else -1
            self._blocks.append(block._replace(start=block.start + shift, fallback=fallback))

    def send(self) -> None:
        """Start the copy of everything to the host; no figure may be added after it."""
        self._join_single()
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
        figures: dict[Key, NDArray[np.float64]] = {}
        for block in self._blocks:
            vector = vectors[block.device]
            there = vector[block.start : block.start + block.length]
            if block.fallback >= 0:
                figures[block.keys[0]] = _sound(there, vector[block.fallback], block)
            elif len(block.keys) == 1:
                figures[block.keys[0]] = there
            else:
                figures.update(zip(block.keys, there.reshape(-1, 1), strict=True))
        return figures

    def _join_single(self) -> None:
        """Make one block of the norms that came one by one, which most do."""
        for keys, norms in self._single.values():
            self.add_each(keys, torch.stack(norms))
        self._single = {}

    def _put(self, figures: Tensor) -> tuple[int, int]:
        device = figures.device
        start = self._lengths.get(device, 0)
        length = figures.numel()
        self._parts.setdefault(device, []).append(figures.detach().reshape(-1))
        self._lengths[device] = start + length
        return start, length


def plain(values: Tensor) -> Tensor:
    """The tensor as real numbers that can be summed, apart from autograd.

    Of a sharded tensor it is this rank's shard, of a complex one its two parts.
    """
    values = values.detach()
    if hasattr(values, "to_local"):
        values = values.to_local()
    if values.is_complex():
        return torch.view_as_real(values.resolve_conj())
    return values.float() if values.element_size() == 1 else values


def rows_of(tensors: list[Tensor]) -> Tensor:
    """Copies of tensors of one device, type and size, shape (tensors, elements)."""
    if len(tensors) == 1:  # which flattening would only view
        return tensors[0].reshape(1, -1).clone()
    flatten: Any = torch._utils._flatten_dense_tensors
    joined: Tensor = flatten(tensors)
    return joined.view(len(tensors), -1)


def widest(values: Tensor) -> torch.dtype:
    """The widest floating type that the tensor's device can sum in."""
    return torch.float32 if values.device.type == "mps" else torch.float64


def strided_sample(values: Tensor) -> Tensor:
    """At most about 4,096 elements of a tensor, shape (n,): a view where its memory is dense.

    The elements are taken in the order of the memory, at a stride that shares no factor with the
    sizes, so the sample never runs down a single column.
    """
    if values.ndim > 1 and not values.is_contiguous():
        strides = values.stride()
        values = values.permute(sorted(range(values.ndim), key=lambda axis: -strides[axis]))
    if values.numel() <= SAMPLE_ELEMENTS:
        return values.reshape(-1)
    return values.reshape(-1)[:: sampling_stride(values.numel(), SAMPLE_ELEMENTS)]


def _sound(norm: NDArray[np.float64], sample_norm: float, block: _Block) -> NDArray[np.float64]:
    """The norm, or what the sample says of it where float32 could not hold the squares."""
    sampled = sample_norm * math.sqrt(block.elements / block.sampled)
    overflowed = np.isinf(norm[0]) and _SAFE_NORM < sampled < np.inf
    underflowed = norm[0] < _SAFE_RMS * math.sqrt(block.elements) and norm[0] < sampled
    return np.asarray([sampled]) if overflowed or underflowed else norm
