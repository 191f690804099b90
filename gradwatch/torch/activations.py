"""Activations as autograd records them: which they are, and their slope f'."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gradwatch.layer import BOUNDED, ONE_SIDED
from gradwatch.slopes import FLAT_SLOPE, SATURATING, largest_slope
from gradwatch.torch.internals import has_packed_tensors

GATES = BOUNDED | {"softmax"}
"""What weighs another branch when it is multiplied into it; it is no activation then."""

_ACTIVATION_OF_NODE = {
    "ReluBackward": "relu",
    "ThresholdBackward": "relu",
    "LeakyReluBackward": "leaky_relu",
    "PreluKernelBackward": "prelu",
    "EluBackward": "elu",
    "CeluBackward": "celu",
    "GeluBackward": "gelu",
    "SiluBackward": "silu",
    "MishBackward": "mish",
    "SigmoidBackward": "sigmoid",
    "TanhBackward": "tanh",
    "HardsigmoidBackward": "hardsigmoid",
    "HardswishBackward": "hardswish",
    "SoftplusBackward": "softplus",
    "LogSigmoidBackward": "logsigmoid",
    "SoftmaxBackward": "softmax",
}


def activation_of(node: Any) -> str | None:
    """The activation that an autograd node is the derivative of, None for any other node."""
    name = type(node).__name__
    known = _ACTIVATION_OF_NODE.get(name[:-1])
    if known is not None:
        return known
    if name.startswith("Hardtanh"):
        return "relu6" if node._saved_min_val == 0 else "hardtanh"
    if name == "ClampMinBackward0" and node._saved_min == 0:
        return "relu"
    if name == "ClampBackward1" and node._saved_min == 0:
        return "relu" if node._saved_max is None else "relu6"
    return None


def slope(node: Any, activation: str, *, readable: bool) -> Tensor | None:
    """F' for every value: the node's own backward applied to ones; None if it is not to be had.

    It reads what autograd has saved anyway. A tensor that was changed in place after the forward
    pass, or packed away by a checkpoint, cannot be read. For a softmax it is the slope of each
    value by its own logit, p (1 - p).

    Args:
        node: The autograd node of the activation.
        activation: Its name.
        readable: Whether the saved tensors are likely to be readable, for versions of PyTorch that
            cannot tell of each node.
    """
    try:
        packed = has_packed_tensors(node)
        if packed or (packed is None and not readable):
            return None
        with torch.no_grad():
            if activation == "softmax":
                probabilities: Tensor = node._saved_result
                return probabilities * (1 - probabilities)
            (metadata,) = node._input_metadata
            ones = torch.ones(tuple(metadata.shape), dtype=metadata.dtype, device=metadata.device)
            slopes = node(ones)
    except RuntimeError:
        return None
    if isinstance(slopes, tuple):
        slopes = slopes[0]
    return slopes if isinstance(slopes, Tensor) else None


def slope_figures(slopes: Tensor, activation: str, module: nn.Module | None) -> dict[str, Tensor]:
    """Statistics of the slopes after one layer.

    Args:
        slopes: f', any shape with the batch first.
        activation: Name of the activation.
        module: The layer before it, which says where the units are.

    Returns:
        `mean_slope`, and `saturation_fraction` or `dead_fraction` where the activation can
        saturate or die.
    """
    slopes = slopes.detach()
    if not slopes.numel():
        return {}
    size = slopes.abs()
    flat = FLAT_SLOPE * largest_slope(activation)
    signed = size if slopes.is_complex() else slopes
    figures = {"mean_slope": signed.mean(dtype=torch.float32)}
    if activation in SATURATING:
        figures["saturation_fraction"] = (size < flat).mean(dtype=torch.float32)
    if activation in ONE_SIDED and slopes.ndim > 1:
        unit = unit_axis(module, slopes.shape)
        rest = [axis for axis in range(slopes.ndim) if axis != unit]
        figures["dead_fraction"] = (size.amax(dim=rest) < flat).mean(dtype=torch.float32)
    return figures


def unit_axis(module: nn.Module | None, shape: torch.Size) -> int:
    """The axis that counts units: channels after a convolution, else usually the last.

    Where the values were reshaped or transposed on the way, it is the axis as long as the layer has
    units, and the last if there is none.
    """
    last = len(shape) - 1
    units, axis = _units(module)
    expected = last + 1 + axis if axis < 0 else axis
    if units is None or (0 <= expected <= last and shape[expected] == units):
        return min(max(expected, 0), last)
    return next((axis for axis in range(1, last) if shape[axis] == units), last)


def _units(module: Any) -> tuple[int | None, int]:
    """(number of units, None if unknown; the axis that counts them in the layer's own output)."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.out_channels, -1 - len(module.kernel_size)
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return module.num_features, 1
    if isinstance(module, nn.GroupNorm):
        return module.num_channels, 1
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[-1], -1
    units = getattr(module, "out_features", None)
    return (units if isinstance(units, int) else None), -1
