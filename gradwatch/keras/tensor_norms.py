"""Norms of tensors inside a compiled step, with no square that under- or overflows.

Each value is divided by the largest of its tensor before it is squared. All of it is traced by the
backend, where an operation costs the more the more of them there are: norms of many tensors are
taken together, for as few operations as can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops


def norm(values: Any) -> Any:
    """L2 norm of a tensor, float32.

    Args:
        values: Any shape and real type.

    Returns:
        Shape (); infinite or NaN where the values are.
    """
    return norms([values])[0]


def norms(tensors: Sequence[Any]) -> Any:
    """L2 norm of each tensor, float32.

    Args:
        tensors: At least one, each of any shape and real type.

    Returns:
        Shape (tensors,); infinite or NaN where the values are.
    """
    tensors = [ops.cast(tensor, "float32") for tensor in tensors]
    units = _usable(ops.stack([ops.max(ops.abs(tensor)) for tensor in tensors]))
    squares = [
        ops.sum(ops.square(tensor / unit))
        for tensor, unit in zip(tensors, ops.unstack(units, num=len(tensors)), strict=True)
    ]
    return units * ops.sqrt(ops.stack(squares))


class Stretches:
    """Stretches of one long vector, each of which has figures of its own.

    Args:
        lengths: Elements of each, one after the other.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self._count = len(lengths)
        self._of_element = np.repeat(np.arange(self._count, dtype=np.int32), lengths)

    def sums(self, values: Any) -> Any:
        """Sum of each stretch, shape (stretches,), of values of shape (elements,)."""
        return ops.segment_sum(values, self._of_element, num_segments=self._count)

    def norms(self, values: Any) -> Any:
        """L2 norm of each stretch, shape (stretches,), of values of shape (elements,)."""
        largest = ops.segment_max(ops.abs(values), self._of_element, num_segments=self._count)
        units = _usable(largest)
        return units * ops.sqrt(self.sums(ops.square(values / self.spread(units))))

    def spread(self, figures: Any) -> Any:
        """The figure of its stretch for each element, shape (elements,)."""
        return ops.take(figures, self._of_element, axis=0)


def _usable(largest: Any) -> Any:
    """What values may be divided by: 1 where the largest of them is 0 or not finite."""
    usable = ops.logical_and(largest > 0, ops.isfinite(largest))
    return ops.where(usable, largest, ops.ones_like(largest))
