"""What gradwatch needs of PyTorch beyond its public, typed interface, in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LEAF_NODE: type = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined] # not in the stubs
"""Type of the autograd node at which a parameter's gradient is accumulated."""


def sequence_number() -> int:
    """The number that this thread's next autograd node gets; it only ever grows."""
    return int(torch._C._autograd._get_sequence_nr())


def is_in_backward() -> bool:
    """Whether a backward pass is running in this thread: a checkpoint recomputes its forward."""
    return torch._C._current_graph_task_id() != -1


def saved_tensors_are_hooked() -> bool:
    """Whether what autograd saves now is packed away (checkpointing, offloading)."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None  # noqa: FBT003 -- positional only


def hook_gradient(tensor: Tensor, hook: Callable[[Tensor], None]) -> None:
    """Call the hook with the gradient of the tensor, whenever one is computed."""
    tensor.register_hook(hook)  # type: ignore[no-untyped-call] # untyped in PyTorch


def has_arrived(event: Any) -> bool:
    """Whether a CUDA event has been reached; it does not wait."""
    return bool(event.query())
