"""Samples: evenly spaced values of a variable or a gradient, as a step takes them every time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import ops

from gradwatch.sampling import SAMPLE_ELEMENTS, sampling_stride


def sample_of_variable(variable: Any, stride: int, *, is_scattered: bool) -> Any:
    """Evenly spaced values of a variable, float32; a cast before the stride would copy it whole.

    Args:
        variable: The variable.
        stride: Every how many values.
        is_scattered: Whether the step writes single rows of it. TensorFlow copies such a variable
            whole whenever it is read, but for a read of single values.
    """
    read = getattr(variable.value, "gather_nd", None) if is_scattered else None
    if read is None:
        return ops.cast(ops.reshape(variable.value, (-1,))[::stride], "float32")
    shape = tuple(variable.shape)
    places = np.unravel_index(np.arange(0, math.prod(shape), stride), shape)
    return ops.cast(read(np.stack(places, axis=-1).astype(np.int32)), "float32")


def sample_of_gradient(gradient: Any) -> Any:
    """Evenly spaced values of a gradient, at most 8192 of them; all, where it is small.

    Of slices it is their values as they are: rows that were looked up twice are not added up, which
    would be dense work.

    Args:
        gradient: Of any shape, or slices.
    """
    slices = slices_of(gradient)
    if slices is None:
        gradient = ops.convert_to_tensor(gradient, sparse=False)
        stride = sampling_stride(max(math.prod(gradient.shape), 1), SAMPLE_ELEMENTS)
        return ops.reshape(gradient, (-1,))[::stride]
    values = ops.reshape(slices, (-1,))
    # Odd, so as not to run down one column; how many slices there are, only the step knows.
    return values[:: 2 * (ops.shape(values)[0] // (2 * SAMPLE_ELEMENTS)) + 1]


def slices_of(gradient: Any) -> Any | None:
    """Values of the rows that a gradient of an embedding holds on TensorFlow; None for others."""
    values = getattr(gradient, "values", None)
    return values if ops.is_tensor(values) else None
