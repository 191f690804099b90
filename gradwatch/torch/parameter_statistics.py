"""Parameter statistics: the figures of an optimizer step, turned into the arrays of a `Snapshot`.

Everything here runs on the host, on NumPy, after the copy.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gradwatch.layer import Layer
from gradwatch.snapshot import FloatArray, State
from gradwatch.torch.parameters import Draft, Part
from gradwatch.torch.reading import Key
from gradwatch.torch.statistics import Figures, root_sum_square, store

Norms = Mapping[int, float]
"""Part → norm."""

_NONE: Norms = {}

_NAMES = frozenset(
    {
        "after_norm",
        "before_norm",
        "frozen_norm",
        "grad_norm",
        "grad_scale",
        "spread_norm",
        "unit_norm",
        "update_norm",
        "weight_norm",
    }
)
"""Figures that are read here; the rest are signals."""


def store_parameters(
    packed: FloatArray, draft: Draft, figures: Figures, layers: Sequence[Layer]
) -> None:
    """Write the parameter statistics of one step.

    Args:
        packed: Shape (statistics, layers), changed in place.
        draft: What was read.
        figures: Its figures.
        layers: The rows.
    """
    norms: dict[tuple[int, str], dict[int, float]] = defaultdict(dict)
    for key, figure in figures.items():
        if key.name in _NAMES:
            norms[key.row, key.name][key.part] = float(figure[0])
    scales = norms[-1, "grad_scale"]
    trained = draft.trained
    for row, layer in enumerate(layers):
        _store_spread(packed, norms, row)
        if row not in trained:
            store(packed, "weight_norm", row, root_sum_square(norms[row, "frozen_norm"].values()))
            continue
        weights = {**norms[row, "before_norm"], **norms[row, "weight_norm"]}
        gradients = {
            part: norm / scales.get(draft.parts[part].optimizer, 1.0)
            for part, norm in norms[row, "grad_norm"].items()
        }
        size = root_sum_square(weights.values())
        store(packed, "weight_norm", row, size)
        store(packed, "grad_norm", row, root_sum_square(gradients.values()))
        store(packed, "nonfinite_count", row, _nonfinite(weights, gradients))
        update, decay = _update_and_decay(draft.parts, norms, row)
        floor = 0.1 * math.sqrt(layer.fan_out)
        store(packed, "update_ratio", row, _ratio(update, max(size, floor)))
        store(packed, "decay_ratio", row, _ratio(decay, max(size, floor)))


def was_skipped(figures: Figures) -> bool:
    """Whether an optimizer skipped the step because a scaled gradient overflowed."""
    return any(key.name == "found_inf" and figure[0] > 0 for key, figure in figures.items())


def loss_of(figures: Figures) -> float:
    """The loss, NaN where none was told, +inf where it is not finite."""
    told = figures.get(Key(-1, "loss"))
    return float("nan") if told is None else finite_or_inf(float(told[0]))


def finite_or_inf(figure: float) -> float:
    """The figure, +inf for one that is not finite."""
    return figure if math.isfinite(figure) else math.inf


def states_of(draft: Draft, grad_norm: FloatArray, calls: FloatArray) -> NDArray[np.int8]:
    """`State` of every row, shape (layers,), int8.

    A layer whose forward did not run but that has a gradient is trained: its weight is used from
    outside, as a tied one is.

    Args:
        draft: What was read.
        grad_norm: Gradient norms, shape (layers,).
        calls: Forward calls, shape (layers,), NaN where signals were not observed.
    """
    trained = draft.trained
    states = np.full(len(grad_norm), State.TRAINED, dtype=np.int8)
    for row, norm in enumerate(grad_norm):
        has_gradient = row in draft.with_gradient
        if row not in trained:
            states[row] = State.FROZEN
        elif calls[row] == 0 and not (has_gradient and norm):
            states[row] = State.IDLE
        elif not has_gradient:
            states[row] = State.NO_GRADIENT
        elif norm == 0:
            states[row] = State.ZERO_GRADIENT
    return states


def _store_spread(packed: FloatArray, norms: Mapping[tuple[int, str], Norms], row: int) -> None:
    spread = norms.get((row, "spread_norm"))
    units = norms.get((row, "unit_norm"))
    if spread and units:
        ratio = spread[0] / units[0] if units[0] else 0.0
        store(packed, "unit_spread_ratio", row, finite_or_inf(ratio))


def _update_and_decay(
    parts: Sequence[Part], norms: Mapping[tuple[int, str], Norms], row: int
) -> tuple[float, float]:
    """(norm of the update without weight decay, norm of the decay part) of one row."""
    befores = norms.get((row, "before_norm"), _NONE)
    afters = norms.get((row, "after_norm"), _NONE)
    moved, decayed = [], []
    for number, norm in norms.get((row, "update_norm"), _NONE).items():
        part = parts[number]
        update, decay = _split(norm, befores[number], afters.get(number, math.nan), part)
        moved.append(update * part.scale)
        decayed.append(decay * part.scale)
    return root_sum_square(moved), root_sum_square(decayed)


def _split(moved: float, before: float, after: float, part: Part) -> tuple[float, float]:
    r"""(update, decay) of one parameter.

    Decay moves weights along -W. The part of the update along -W is taken for decay as far as the
    optimizer's decay can explain it, so a layer that nothing but decay moves has update 0. The dot
    product comes from $\lVert W + \Delta \rVert^2 = \lVert W \rVert^2 + 2 W \cdot \Delta + \lVert
    \Delta \rVert^2$.

    Args:
        moved: Norm of the whole update.
        before: Norm of the weights before it.
        after: Norm of the weights after it.
        part: What bounds the decay, and the rounding.
    """
    if not (part.decay > 0 and moved > 0 and before > 0 and math.isfinite(moved * after)):
        return moved, 0.0
    dot = 0.5 * ((after - before) * (after + before) - moved * moved)
    shrink = min(max(-dot / before**2, 0.0), part.decay)
    rest = math.sqrt(max(moved**2 + 2 * shrink * dot + (shrink * before) ** 2, 0.0))
    is_rounding = rest <= part.rounding * before and rest <= 0.5 * moved
    return (0.0 if is_rounding else rest), shrink * before


def _ratio(norm: float, size: float) -> float:
    return norm / size if math.isfinite(norm) else norm


def _nonfinite(weights: Norms, gradients: Norms) -> int:
    return sum(
        not math.isfinite(weights[part]) or not math.isfinite(gradients.get(part, 0.0))
        for part in weights
    )
