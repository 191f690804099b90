"""Recording: the tensors of a probe's forward pass that are watched, and figures taken of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import keras
from keras import ops, tree

from gradwatch.keras.tensor_norms import norm

NO_ROW = -1
"""Row of an activation that no layer comes before, as of one on the inputs."""


class Key(NamedTuple):
    """What a figure belongs to.

    Args:
        row: Row of the layer.
        name: Name of the figure.
        call: Number of the call of a layer, or of an activation, in the order of the pass.
    """

    row: int
    name: str
    call: int = 0


class Tracer(Protocol):
    """What a backend does for a pass."""

    def watch(self, tensor: Any) -> Any:
        """The same values, of which the gradient can be asked for afterwards."""

    def tag(self, tensor: Any, call: int) -> Any:
        """The same values, known from here on as the output of a call."""

    def sources(self, tensors: Sequence[Any]) -> set[int]:
        """The calls whose tagged outputs lead to the tensors with no other tag in between."""

    def slope(self, function: Callable[[Any], Any], tensor: Any) -> Any:
        """The derivative of an elementwise function, of the tensor's shape."""

    def is_running(self) -> bool:
        """Whether the pass itself runs now, not a loop's body, a branch or a checkpoint in it."""


class Recorder:
    """Takes figures of tensors, and remembers those whose gradients are asked for.

    Args:
        tracer: The backend's part.
    """

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self.figures: dict[Key, Any] = {}
        """Figures of the forward pass."""
        self.watched: dict[Key, Any] = {}
        """Tensors whose gradients are asked for."""
        self.sizes: dict[Key, int] = {}
        """Elements of the tensors whose norms are taken."""

    def watch(self, key: Key, tensor: Any) -> Any:
        """The same values, of which the gradient's norm will be a figure."""
        values = self.tracer.watch(tensor)
        self.watched[key] = values
        self.sizes[key] = _size(tensor)
        return values

    def take_norm(self, key: Key, tensor: Any) -> None:
        """Take its norm."""
        self.figures[key] = norm(ops.stop_gradient(tensor))
        self.sizes[key] = _size(tensor)

    def can_follow(self, leaf: Any) -> bool:
        """Whether it is a floating tensor of this pass."""
        return is_floating(leaf) and self.tracer.is_running()


def floating(structure: Any) -> list[Any]:
    """The floating tensors in it, each once."""
    found: dict[int, Any] = {}
    for leaf in tree.flatten(structure):
        if is_floating(leaf):
            found.setdefault(id(leaf), leaf)
    return list(found.values())


def is_floating(leaf: Any) -> bool:
    """Whether it is a dense tensor with values that have a gradient."""
    if not keras.ops.is_tensor(leaf) or isinstance(leaf, keras.KerasTensor) or is_packed(leaf):
        return False
    return bool(keras.backend.is_float_dtype(keras.backend.standardize_dtype(leaf.dtype)))


def is_packed(leaf: Any) -> bool:
    """Whether it is a sparse or a ragged tensor, which says apart where its values belong."""
    return any(keras.ops.is_tensor(getattr(leaf, name, None)) for name in ("indices", "row_splits"))


def _size(tensor: Any) -> int:
    return math.prod(int(length) for length in tensor.shape)
