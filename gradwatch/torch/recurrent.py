"""How the backward signal of a recurrent layer changes over time."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gradwatch.torch.reading import widest


def time_axis(gradient: Tensor, *, batch_first: bool) -> int:
    """The axis of a recurrent layer's input that counts time steps."""
    return 1 if batch_first and gradient.ndim == 3 else 0


def by_example(module: nn.Module, output: Tensor) -> Tensor:
    """A layer's output with the examples on the first axis, where a recurrent one has time there.

    Args:
        module: The layer.
        output: Its output, or the packed values of it.
    """
    time_first = isinstance(module, nn.RNNBase) and not module.batch_first and output.ndim == 3
    return output.transpose(0, 1) if time_first else output


def squares_over_time(gradient: Tensor, axis: int) -> Tensor:
    """Sum of the squared gradient at every time step, shape (time,)."""
    rest = [other for other in range(gradient.ndim) if other != axis]
    norms: Tensor = torch.linalg.vector_norm(gradient, dim=rest, dtype=widest(gradient))
    return norms.square()


def packed_squares(squares: NDArray[np.float64], batch_sizes: list[int]) -> NDArray[np.float64]:
    """Squares of the rows of a packed sequence, summed for each time step, shape (time,)."""
    starts = np.concatenate([[0], np.cumsum(batch_sizes)[:-1]])
    return np.asarray(np.add.reduceat(squares, starts))
