"""What a layer's outputs say of the network: whether examples still differ, what the loss takes.

The statistics of `gradwatch.snapshot` that are made of whole outputs, traced by `keras.ops`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import ops

from gradwatch.sampling import (
    LEAST_EXAMPLES,
    LEAST_FEATURES,
    LEAST_PROBABILITY,
    LEAST_SIGNALS,
    MOST_EXAMPLES,
    MOST_FEATURES,
    MOST_LOGITS,
    ROUNDING,
    sampling_stride,
)

TINY = float(np.finfo(np.float32).tiny)

Directions = tuple[list[Any], list[Any]]
"""Directions of dL/dz under losses that took probabilities for logits, and under others."""


def direction_spread(output: Any) -> Any | None:
    r"""How much the examples of a batch differ in direction: 1 for all ways, 0 for one.

    $1 - \lVert \frac1N \sum_n y_n / \lVert y_n \rVert \rVert^2$ of at most 64 examples and 2,048
    features of each; in a mean-field network its expectation is $1 - q$, with $q$ the correlation
    of two examples (Schoenholz et al. 2017, eq. 5).

    Args:
        output: Shape (examples, ...), of known sizes.

    Returns:
        Shape (), float32; None for fewer than 8 examples or 4 features.
    """
    if len(output.shape) < 2 or output.shape[0] < LEAST_EXAMPLES:
        return None
    features = math.prod(output.shape[1:])
    if features < LEAST_FEATURES:
        return None
    vectors = ops.reshape(ops.stop_gradient(output)[:MOST_EXAMPLES], (-1, features))
    vectors = ops.cast(vectors[:, :: sampling_stride(features, MOST_FEATURES)], "float32")
    lengths = ops.sqrt(ops.sum(ops.square(vectors), axis=1, keepdims=True))
    # An example of length 0 points nowhere: it counts as different from all others.
    total = ops.sum(vectors / ops.maximum(lengths, TINY), axis=0)
    count = min(int(output.shape[0]), MOST_EXAMPLES)
    return ops.maximum(1 - ops.sum(ops.square(total)) / count**2, 0.0)


def logits_of(output: Any, unit_axis: int) -> Any | None:
    """A few examples of a network's output, shape (examples, units), float32.

    Args:
        output: Any shape of known sizes.
        unit_axis: The axis that counts units.

    Returns:
        None where there is no second axis, or nothing.
    """
    if len(output.shape) < 2 or not math.prod(output.shape):
        return None
    units = int(output.shape[unit_axis])
    examples = max(min(MOST_EXAMPLES, MOST_LOGITS // units), 1)
    rows = ops.moveaxis(ops.stop_gradient(output), unit_axis, -1)
    wanted = examples
    for axis in range(len(rows.shape) - 1):
        taken = min(int(rows.shape[axis]), wanted)
        rows = rows[(*(slice(None),) * axis, slice(0, taken))]
        wanted = -(-wanted // taken)
    return ops.cast(ops.reshape(rows, (-1, units))[:examples], "float32")


def logit_misfit_ratio(logits: Any, gradient: Any) -> Any | None:
    r"""How badly "a cross-entropy took probabilities for logits" explains the backward signal.

    Each loss leaves a direction of its own in $\partial L/\partial z$: a cross-entropy on logits
    $p - y$, a squared error on probabilities $J(p - y)$, a cross-entropy that is given $p$ where it
    expects $z$ gives $J(\sigma(p) - y)$, with $J$ the derivative of the softmax or sigmoid $p$ and
    the target $y$ read from the signs of the gradient.

    Args:
        logits: $z$, shape (examples, units), float32.
        gradient: $\partial L/\partial z$, same shape.

    Returns:
        Shape (): the smallest misfit of the wrong losses over the smallest of the others, far
        below 1 if probabilities were taken for logits, NaN where it cannot be told; None for too
        few numbers.
    """
    families = []
    examples, units = (int(length) for length in logits.shape)
    # A multiple of the gradient says the same, and one of ordinary size keeps its digits.
    largest = ops.max(ops.abs(gradient))
    gradient = gradient / ops.where(largest > 0, largest, ops.ones_like(largest))
    if examples * units >= LEAST_SIGNALS:
        families.append((_misfit, _binary_directions(logits, gradient)))
    if units > 1:
        # Two classes have one direction between them, so that only sizes tell the losses apart.
        by_class = _misfit_by_example if units > 2 else _misfit
        families.append((by_class, _class_directions(logits, gradient)))
    if not families:
        return None
    wrong, right = (
        ops.min(
            ops.stack([misfit(gradient, way) for misfit, ways in families for way in ways[group]])
        )
        for group in (0, 1)
    )
    told = ops.maximum(wrong, right) > ROUNDING
    unknown = ops.full_like(wrong, np.nan)
    return ops.where(told, wrong / right, unknown)


def _class_directions(logits: Any, gradient: Any) -> Directions:
    """One class of many: under each loss the target is where dL/dz / p is smallest."""
    probability = ops.softmax(logits, axis=1)
    pull = gradient / ops.maximum(probability, LEAST_PROBABILITY)
    target = ops.one_hot(ops.argmin(pull, axis=1), int(logits.shape[1]), dtype="float32")

    def through_softmax(signal: Any) -> Any:
        return probability * (signal - ops.sum(probability * signal, axis=1, keepdims=True))

    squashed = ops.sigmoid(logits)
    wrong = [
        through_softmax(ops.softmax(probability, axis=1) - target),
        squashed * (1 - squashed) * (ops.softmax(squashed, axis=1) - target),
    ]
    return wrong, [probability - target, through_softmax(probability - target)]


def _binary_directions(logits: Any, gradient: Any) -> Directions:
    """Each unit for itself: the target is 1 where the gradient is negative."""
    target = ops.cast(gradient < 0, "float32")
    probability = ops.sigmoid(logits)
    slope = probability * (1 - probability)
    wrong = [slope * (ops.sigmoid(probability) - target)]
    return wrong, [probability - target, slope * (probability - target)]


def _misfit(gradient: Any, direction: Any) -> Any:
    """Share of the gradient that no multiple of the direction explains, shape ()."""
    return _misfit_by_example(ops.reshape(gradient, (1, -1)), ops.reshape(direction, (1, -1)))


def _misfit_by_example(gradient: Any, direction: Any) -> Any:
    """That share where each example has a multiple of its own, shape ()."""
    along = ops.sum(gradient * direction, axis=1, keepdims=True)
    size = ops.maximum(ops.sum(ops.square(direction), axis=1, keepdims=True), TINY)
    rest = gradient - ops.maximum(along / size, 0.0) * direction
    return ops.sqrt(ops.sum(ops.square(rest)) / ops.sum(ops.square(gradient)))
