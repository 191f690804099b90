"""Slopes: when the slope f' of an activation counts as flat, the same for every framework."""

from __future__ import annotations

from gradwatch.layer import BOUNDED

FLAT_SLOPE = 0.05
"""A slope below this share of the activation's largest counts as flat."""

SATURATING = BOUNDED | {"softmax"}
"""Activations of which the share of flat slopes is a saturation."""

_LARGEST_SLOPE = {"sigmoid": 0.25, "softmax": 0.25, "hardsigmoid": 1 / 6}
"""Largest slope of each activation where it is not about 1."""


def largest_slope(activation: str) -> float:
    """Largest slope of an activation, 1 where it is about that.

    Args:
        activation: Lower-case name, as in `Layer.activation`.
    """
    return _LARGEST_SLOPE.get(activation, 1.0)
