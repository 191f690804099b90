"""Activations as autograd records them: which they are, and their slope f'."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradwatch.layer import BOUNDED, ONE_SIDED, Layer

FLAT_SLOPE = 0.05
"""A slope below this share of the activation's largest counts as flat."""

_ACTIVATION_OF_NODE = {
    "ReluBackward0": "relu",
    "ThresholdBackward0": "relu",
    "LeakyReluBackward0": "leaky_relu",
    "PreluKernelBackward0": "prelu",
    "EluBackward0": "elu",
    "CeluBackward0": "celu",
    "GeluBackward0": "gelu",
    "SiluBackward0": "silu",
    "MishBackward0": "mish",
    "SigmoidBackward0": "sigmoid",
    "TanhBackward0": "tanh",
    "HardsigmoidBackward0": "hardsigmoid",
    "HardswishBackward0": "hardswish",
    "SoftplusBackward0": "softplus",
    "LogSigmoidBackward0": "logsigmoid",
}

_LARGEST_SLOPE = {"sigmoid": 0.25, "hardsigmoid": 1 / 6}
"""Largest slope of each activation where it is not about 1."""


def activation_of(node: Any) -> str | None:
    """The activation that an autograd node is the derivative of, None for any other node."""
    name = type(node).__name__
    if name in _ACTIVATION_OF_NODE:
        return _ACTIVATION_OF_NODE[name]
    if name == "HardtanhBackward0":
        return "relu6" if node._saved_min_val == 0 else "hardtanh"
    if name == "ClampMinBackward0" and node._saved_min == 0:
        return "relu"
    if name == "ClampBackward1" and node._saved_min == 0:
        return "relu" if node._saved_max is None else "relu6"
    return None


def slope(node: Any) -> Tensor | None:
    """F' for every value: the node's own backward applied to ones; None if it is not to be had.

    It reads what autograd has saved anyway. A tensor changed in place after the forward pass can no
    longer be read.
    """
    (metadata,) = node._input_metadata
    ones = torch.ones(tuple(metadata.shape), dtype=metadata.dtype, device=metadata.device)
    try:
        with torch.no_grad():
            slopes = node(ones)
    except RuntimeError:
        return None
    return slopes if isinstance(slopes, Tensor) else None


def slope_figures(slopes: Tensor, activation: str, layer: Layer) -> dict[str, Tensor]:
    """Statistics of the slopes after one layer.

    Args:
        slopes: f', any shape with the batch first.
        activation: Name of the activation.
        layer: The layer before it, which says where the units are.

    Returns:
        `mean_slope`, and `saturation_fraction` or `dead_fraction` where the activation can
        saturate or die.
    """
    slopes = slopes.detach().abs()
    figures = {"mean_slope": slopes.mean(dtype=torch.float32)}
    flat = slopes < FLAT_SLOPE * _LARGEST_SLOPE.get(activation, 1.0)
    if activation in BOUNDED:
        figures["saturation_fraction"] = flat.mean(dtype=torch.float32)
    if activation in ONE_SIDED and slopes.ndim > 1:
        unit = unit_dimension(layer, slopes.ndim)
        rest = [axis for axis in range(slopes.ndim) if axis != unit % slopes.ndim]
        figures["dead_fraction"] = flat.all(dim=tuple(rest)).mean(dtype=torch.float32)
    return figures


def unit_dimension(layer: Layer, dimensions: int) -> int:
    """The axis that counts units: channels after a convolution, else the last."""
    spatial = layer.kind.rstrip("d")[-1:]
    if "Conv" in layer.kind and spatial.isdigit():
        return -(int(spatial) + 1) if dimensions > int(spatial) else 0
    if layer.kind.startswith(("BatchNorm", "InstanceNorm", "GroupNorm", "SyncBatchNorm")):
        return 1
    return -1
