"""Activations: the name of what a layer, an operation or a function computes."""

from __future__ import annotations

from typing import Any

import keras

_SPELLINGS = {
    "swish": "silu",
    "hard_sigmoid": "hardsigmoid",
    "hard_silu": "hardswish",
    "hard_swish": "hardswish",
    "hard_tanh": "hardtanh",
    "log_sigmoid": "logsigmoid",
    "leakyrelu": "leaky_relu",
    "logsigmoid": "logsigmoid",
    "hardsilu": "hardswish",
}
"""What Keras calls an activation → its name in `Layer.activation`."""

KNOWN = frozenset(
    {
        *("relu", "relu6", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish"),
        *("hardswish", "sigmoid", "tanh", "softsign", "hardtanh", "hardsigmoid"),
        *("softplus", "logsigmoid", "softmax"),
    }
)
"""Activations that are known again by name; all but softmax work on each value for itself."""


def activation_name(owner: Any) -> str | None:
    """Name of the activation that a layer has as an argument, or is; None for none.

    Args:
        owner: A layer, or an operation of a functional model such as `keras.ops.relu`.
    """
    function = getattr(owner, "activation", None)
    if callable(function):
        return function_name(function)
    name = _spelled(type(owner).__name__)
    if name not in KNOWN:
        return None
    if name != "relu":
        return name
    return relu_name(getattr(owner, "negative_slope", 0), getattr(owner, "max_value", None))


def function_name(function: Any) -> str | None:
    """Name of an activation function; that of the function itself where it is not a known one."""
    if function is keras.activations.linear:
        return None
    if isinstance(function, keras.layers.Layer):
        return activation_name(function)
    name = getattr(function, "__name__", None) or type(function).__name__
    return _spelled(name)


def _spelled(name: str) -> str:
    lower = name.lower()
    return _SPELLINGS.get(lower, lower)


def relu_name(negative_slope: Any = 0, max_value: Any = None, **_: Any) -> str:
    """Name of a ReLU: with a slope on the negative side a leaky one, with a bound of 6 ReLU6."""
    if negative_slope:
        return "leaky_relu"
    return "relu6" if max_value == 6 else "relu"
