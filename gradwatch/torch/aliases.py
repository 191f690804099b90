"""Aliases: what a layer is handed in place of its inputs, so that *its* dL/dx can be seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradwatch.torch.passes import is_observable

Hook = Callable[[Tensor], None]


def aliased_inputs(
    module: nn.Module, inputs: tuple[Any, ...], hook: Hook
) -> tuple[Any, ...] | None:
    """The inputs with an alias in place of each tensor that requires gradient, None without any.

    A hook on the input itself would see what other layers send back to it too. The same tensor
    given twice gets the same alias: MultiheadAttention asks whether q is k. Of a recurrent module
    the sequence alone gets one, whether it requires gradient or not.

    Args:
        module: The layer that is called.
        inputs: Its positional arguments.
        hook: Called with each alias.
    """
    if _detaches_in_place(module):
        return None
    aliases = _Aliases(hook, always=isinstance(module, nn.RNNBase))
    if isinstance(module, nn.RNNBase):
        replaced = (*map(aliases.replaced, inputs[:1]), *inputs[1:])
    else:
        replaced = tuple(map(aliases.replaced, inputs))
    return replaced if aliases.of else None


class _Aliases:
    """Aliases of the inputs of one call.

    Args:
        hook: Called with each alias.
        always: Whether a tensor that requires no gradient gets one too, which then does.
    """

    def __init__(self, hook: Hook, *, always: bool) -> None:
        self._hook = hook
        self._always = always
        self.of: dict[int, Tensor] = {}
        """Id of a tensor → its alias."""

    def replaced(self, argument: Any) -> Any:
        """The argument, or its alias."""
        if isinstance(argument, PackedSequence):
            return argument._replace(data=self.replaced(argument.data))
        if not is_observable(argument) or not (argument.requires_grad or self._always):
            return argument
        if id(argument) not in self.of:
            alias = self.of[id(argument)] = _alias(argument)
            self._hook(alias)
        return self.of[id(argument)]


def _alias(tensor: Tensor) -> Tensor:
    """A view of the whole tensor that requires gradient, with the tensor's own attributes."""
    alias = tensor.view_as(tensor)
    if not alias.requires_grad:
        alias.requires_grad_()
    if type(tensor) is Tensor:
        alias.__dict__.update(tensor.__dict__)
    return alias


def _detaches_in_place(module: nn.Module) -> bool:
    """Whether the layer may call `detach_` on its input, which PyTorch refuses for an alias."""
    code = getattr(type(module).forward, "__code__", None)
    return code is not None and "detach_" in code.co_names
