"""What a layer's outputs say of the network: whether examples still differ, what the loss takes."""

from __future__ import annotations

import torch
from torch import Tensor

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


def direction_spread(output: Tensor) -> Tensor | None:
    r"""How much the examples of a batch differ in direction: 1 for all ways, 0 for one.

    $1 - \lVert \frac1N \sum_n y_n / \lVert y_n \rVert \rVert^2$ of at most 64 examples and 2,048
    features of each. In a mean-field network $1 - q$, with $q$ the correlation of two examples, is
    its expectation (Schoenholz et al. 2017, eq. 5; Poole et al. 2016).

    Args:
        output: Shape (examples, ...), real.

    Returns:
        Shape (), float32; None for fewer than 8 examples or 4 features.
    """
    if output.ndim < 2 or len(output) < LEAST_EXAMPLES or output.is_complex():
        return None
    vectors = _in_memory_order(output.detach()[:MOST_EXAMPLES]).flatten(1)
    count, features = vectors.shape
    if features < LEAST_FEATURES:
        return None
    vectors = vectors[:, :: sampling_stride(features, MOST_FEATURES)].float()
    lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    # An example of length 0 points nowhere: it counts as different from all others. No product of
    # matrices here: under autocast it would be one of half precision.
    total = (vectors / lengths.clamp_min(torch.finfo(torch.float32).tiny)).sum(0)
    spread: Tensor = 1 - (total * total).sum() / count**2
    return spread.clamp_min(0)  # which rounding may pass


def _in_memory_order(examples: Tensor) -> Tensor:
    """The axes of each example in the order of the memory, so that flattening is a view."""
    if examples.is_contiguous():
        return examples
    strides = examples.stride()
    axes = sorted(range(1, examples.ndim), key=lambda axis: -strides[axis])
    return examples.permute(0, *axes)


def logits_of(output: Tensor, unit_axis: int) -> Tensor | None:
    """A few examples of a network's output, shape (examples, units), float32, apart from autograd.

    Args:
        output: Any shape.
        unit_axis: The axis that counts units.

    Returns:
        A copy; None where there is no second axis, or nothing.
    """
    if output.ndim < 2 or output.is_complex() or not output.numel():
        return None
    units = output.shape[unit_axis]
    examples = max(min(MOST_EXAMPLES, MOST_LOGITS // units), 1)
    rows = output.detach().movedim(unit_axis, -1)
    wanted = examples
    for axis in range(rows.ndim - 1):
        taken = min(rows.shape[axis], wanted)
        rows = rows.narrow(axis, 0, taken)
        wanted = -(-wanted // taken)
    few: Tensor = rows.reshape(-1, units)[:examples]
    return few.to(torch.float32, copy=True)


def logit_misfit_ratio(logits: Tensor, gradient: Tensor) -> Tensor:
    r"""How badly "a cross-entropy took probabilities for logits" explains the backward signal.

    Every loss leaves its own direction in $\partial L/\partial z$. With $p$ the softmax or sigmoid
    of $z$, $y$ the target that the signs of the gradient give away and $J$ the derivative of that
    softmax or sigmoid, a cross-entropy on logits gives $p - y$, a squared error on probabilities
    $J(p - y)$, and a cross-entropy that is given $p$ where it expects $z$ gives
    $J(\sigma(p) - y)$. The misfit of each is the part of the gradient that it leaves unexplained;
    scale, reduction and class weights do not matter.

    Args:
        logits: $z$, shape (examples, units), float32.
        gradient: $\partial L/\partial z$, same shape.

    Returns:
        Shape (): the smallest misfit of the wrong losses over the smallest of the others, far
        below 1 if probabilities were taken for logits; NaN where it cannot be told.
    """
    families = []
    if logits.numel() >= LEAST_SIGNALS:
        families.append((_misfit, _binary_directions(logits, gradient)))
    if logits.shape[1] > 1:
        # Two classes have one direction between them, so that only sizes tell the losses apart.
        by_class = _misfit_by_example if logits.shape[1] > 2 else _misfit
        families.append((by_class, _class_directions(logits, gradient)))
    if not families:
        return torch.full((), torch.nan, device=logits.device)
    wrong, right = (
        torch.stack(
            [misfit(gradient, way) for misfit, directions in families for way in directions[group]]
        ).amin()
        for group in (0, 1)
    )
    told = torch.maximum(wrong, right) > ROUNDING
    return torch.where(told, wrong / right, torch.full_like(wrong, torch.nan))


Directions = tuple[list[Tensor], list[Tensor]]
"""Directions of dL/dz under losses that took probabilities for logits, and under others."""


def _class_directions(logits: Tensor, gradient: Tensor) -> Directions:
    """One class of many: under each loss the target is where dL/dz / p is smallest."""
    probability = logits.softmax(1)
    pull = gradient / probability.clamp_min(LEAST_PROBABILITY)
    target = torch.zeros_like(logits).scatter_(1, pull.argmin(1, keepdim=True), 1.0)

    def through_softmax(signal: Tensor) -> Tensor:
        return probability * (signal - (probability * signal).sum(1, keepdim=True))

    squashed = logits.sigmoid()
    wrong = [
        through_softmax(probability.softmax(1) - target),
        squashed * (1 - squashed) * (squashed.softmax(1) - target),
    ]
    return wrong, [probability - target, through_softmax(probability - target)]


def _binary_directions(logits: Tensor, gradient: Tensor) -> Directions:
    """Each unit for itself: the target is 1 where the gradient is negative."""
    target = (gradient < 0).to(logits.dtype)
    probability = logits.sigmoid()
    slope = probability * (1 - probability)
    wrong = [slope * (probability.sigmoid() - target)]
    return wrong, [probability - target, slope * (probability - target)]


def _misfit(gradient: Tensor, direction: Tensor) -> Tensor:
    """Share of the gradient that no multiple of the direction explains, shape ()."""
    return _misfit_by_example(gradient.reshape(1, -1), direction.reshape(1, -1))


def _misfit_by_example(gradient: Tensor, direction: Tensor) -> Tensor:
    """That share where each example has a multiple of its own, shape ().

    Examples count by the size of their gradient: those that are learned have none, and what
    rounding leaves of it points anywhere.
    """
    along = (gradient * direction).sum(1, keepdim=True)
    size = (direction * direction).sum(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    rest = gradient - (along / size).clamp_min(0) * direction
    share: Tensor = torch.linalg.vector_norm(rest) / torch.linalg.vector_norm(gradient)
    return share
