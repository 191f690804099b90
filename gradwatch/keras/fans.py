"""Fans: what the shapes of a layer's variables say of how it mixes its inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import keras

Shape = tuple[int, ...]


def layer_classes(*names: str) -> tuple[type[Any], ...]:
    """The layer classes of these names that the installed Keras has."""
    return tuple(getattr(keras.layers, name) for name in names if hasattr(keras.layers, name))


NORMALISATION = layer_classes(
    "BatchNormalization",
    "GroupNormalization",
    "LayerNormalization",
    "RMSNormalization",
    "UnitNormalization",
)
ATTENTION = layer_classes("MultiHeadAttention", "GroupQueryAttention")
TORCH_MODULE = layer_classes("TorchModuleWrapper")

_TRANSPOSED = layer_classes("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
_DEPTHWISE = layer_classes("DepthwiseConv1D", "DepthwiseConv2D")
_SEPARABLE = layer_classes("SeparableConv1D", "SeparableConv2D")


def fans_of(layer: Any, variables: Iterable[Any]) -> tuple[bool, int, int]:
    """Whether the layer mixes its inputs, its fan-in and its fan-out.

    Args:
        layer: A built layer.
        variables: Its variables, at least one; those of two or more dimensions first.
    """
    shapes = [shape_of(variable) for variable in variables]
    matrices = [shape for shape in shapes if len(shape) >= 2]
    if isinstance(layer, keras.layers.Embedding):
        return True, 1, int(layer.output_dim)
    if not matrices or isinstance(layer, (*NORMALISATION, keras.layers.PReLU)):
        return False, 1, max(math.prod(shape) for shape in shapes)
    if isinstance(layer, keras.layers.RNN) or hasattr(layer, "state_size"):
        return (True, *_recurrent_fans(getattr(layer, "cell", layer), matrices[0]))
    if isinstance(layer, _SEPARABLE):
        receptive = math.prod(matrices[0][:-2])
        return True, receptive * matrices[0][-2], receptive * matrices[-1][-1]
    projection = getattr(layer, "_query_dense", None) if isinstance(layer, ATTENTION) else layer
    if isinstance(projection, keras.layers.EinsumDense):
        kernels = [shape_of(variable) for variable in projection._trainable_variables]
        return (True, *_einsum_fans(projection.equation, kernels[0] if kernels else matrices[0]))
    return (True, *_kernel_fans(layer, matrices[0]))


def shape_of(variable: Any) -> Shape:
    """The variable's shape as plain numbers."""
    return tuple(int(size) for size in variable.shape)


def _kernel_fans(layer: Any, kernel: Shape) -> tuple[int, int]:
    """Fans of a kernel (*window, inputs, outputs), or of what its layer stores another way."""
    if isinstance(layer, TORCH_MODULE):
        receptive = math.prod(kernel[2:])
        fans = kernel[1] * receptive, kernel[0] * receptive
        return fans[::-1] if getattr(layer.module, "transposed", False) else fans
    *window, inputs, outputs = kernel
    receptive = math.prod(window)
    if isinstance(layer, _DEPTHWISE):
        return receptive, receptive * outputs
    if isinstance(layer, _TRANSPOSED):
        inputs, outputs = outputs, inputs
    return receptive * inputs, receptive * outputs


def _recurrent_fans(cell: Any, kernel: Shape) -> tuple[int, int]:
    """Fans of one gate, of a kernel (*window, inputs, gates x units); of the first cell's inputs.

    Args:
        cell: A cell, or several that are stacked.
        kernel: Shape of the kernel on the inputs.
    """
    size = getattr(cell, "units", None) or getattr(cell, "filters", None)
    size = size or getattr(cell, "output_size", None)
    units = int(size) if isinstance(size, int) else kernel[-1]
    return math.prod(kernel[:-1]), math.prod(kernel[:-2]) * units


def _einsum_fans(equation: str, kernel: Shape) -> tuple[int, int]:
    """Fans of an einsum's kernel.

    An axis that is in the inputs only is summed over, one in the outputs only is a feature; one in
    both repeats the kernel, as a group of a convolution does, and is in neither fan.
    """
    operands, output = equation.replace(" ", "").split("->")
    inputs, axes = operands.split(",")
    sizes = dict(zip(axes, kernel, strict=False))
    fan_in = math.prod(size for axis, size in sizes.items() if axis not in output)
    fan_out = math.prod(size for axis, size in sizes.items() if axis not in inputs)
    return fan_in, fan_out
