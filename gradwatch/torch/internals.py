"""What gradwatch needs of PyTorch beyond its public, typed interface, in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LEAF_NODE: type = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined] # not in the stubs
"""Type of the autograd node at which a parameter's gradient is accumulated."""

_SAVED = ("_raw_saved_self", "_raw_saved_result", "_raw_saved_self_or_result")

_TRACING_MODES = (
    torch._C._TorchDispatchModeKey.FAKE,
    torch._C._TorchDispatchModeKey.PROXY,
    torch._C._TorchDispatchModeKey.FUNCTIONAL,
)


def sequence_number() -> int:
    """The number that this thread's next autograd node gets; it only ever grows."""
    return int(torch._C._autograd._get_sequence_nr())


def is_in_backward() -> bool:
    """Whether a backward pass is running in this thread: a checkpoint recomputes its forward."""
    return torch._C._current_graph_task_id() != -1


def is_traced() -> bool:
    """Whether a tracer, a compiler or fake tensors are at work: no tensor of now may be kept."""
    if torch.compiler.is_compiling():  # first: a compiler cannot follow the other questions
        return True
    if torch._C._is_tracing():
        return True
    if not torch._C._len_torch_dispatch_stack():
        return False
    return any(torch._C._get_dispatch_mode(mode) is not None for mode in _TRACING_MODES)


def is_transformed() -> bool:
    """Whether a transform of torch.func runs: tensors wrapped by it must not outlive it."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def saved_tensors_are_hooked() -> bool:
    """Whether what autograd saves now is packed away (checkpointing, offloading)."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None  # noqa: FBT003 -- positional only


def has_packed_tensors(node: Any) -> bool | None:
    """Whether what the node saved is packed away, so that reading it would recompute or copy.

    None where this version of PyTorch does not tell.
    """
    for name in _SAVED:
        saved = getattr(node, name, None)
        if saved is not None:
            return saved.unpack_hook is not None if hasattr(saved, "unpack_hook") else None
    return False


def hook_gradient(tensor: Tensor, hook: Callable[[Tensor], None]) -> Any:
    """Call the hook with the gradient of the tensor, whenever one is computed.

    Returns:
        A handle; only a leaf tensor outlives its graph, so only its hook has to be removed.
    """
    return tensor.register_hook(hook)  # type: ignore[no-untyped-call] # untyped in PyTorch


def has_arrived(event: Any) -> bool:
    """Whether a CUDA event has been reached; it does not wait."""
    return bool(event.query())
