"""Parts: the trained parameters of one step, turned into the packed arrays of a `Snapshot`.

Everything here runs on the host, on NumPy, after the copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradwatch.layer import Layer
from gradwatch.norms import root_sum_square_by_row
from gradwatch.snapshot import ROW_OF, FloatArray, State

Array = NDArray[np.float64]

Rows = Iterable[int] | NDArray[np.bool_]
"""Some of the rows: their numbers, or a mask of shape (layers,)."""


@dataclass(frozen=True)
class Parts:
    """The trained parameters of a step, every array of shape (parts,).

    A norm is NaN where it was not read and +inf where it is not finite.

    Args:
        row: Row of each.
        decay: Largest share of the weights that weight decay alone takes off in this step.
        scale: Norm of the whole over the norm of the sample that the update is measured on.
        rounding: Relative step of its floating type.
        weight_norm: Norm before the step.
        grad_norm: Norm of the gradient, unscaled.
        before_norm: Norm before the step of what the update is measured on.
        after_norm: Its norm after the step.
        update_norm: Norm of the difference.
    """

    row: NDArray[np.intp]
    decay: Array
    scale: Array
    rounding: Array
    weight_norm: Array
    grad_norm: Array
    before_norm: Array
    after_norm: Array
    update_norm: Array

    def per_row(self, norms: Array, rows: int) -> Array:
        """Norm of each row from those of its parts, NaN where it has none, shape (rows,)."""
        return root_sum_square_by_row(norms, self.row, rows)


def store_parts(
    packed: FloatArray,
    parts: Parts,
    layers: Sequence[Layer],
    *,
    frozen_norm: Array | None = None,
) -> None:
    """Write the statistics that follow from the trained parameters of one step.

    They are `weight_norm`, `grad_norm`, `nonfinite_count`, `update_ratio` and `decay_ratio`, NaN
    for rows without a part.

    Args:
        packed: Shape (statistics, layers), changed in place.
        parts: The parameters.
        layers: The rows.
        frozen_norm: Norm of the weights of rows that do not train, shape (layers,), NaN for the
            others; None where none was read.
    """
    rows = len(layers)
    with np.errstate(all="ignore"):
        weights = parts.per_row(parts.weight_norm, rows)
        floor = 0.1 * np.sqrt([float(layer.fan_out) for layer in layers])
        size = np.maximum(weights, floor)
        update, decay = update_and_decay(parts)
        odd = np.isinf(parts.weight_norm) | np.isinf(parts.grad_norm)
        counts = np.bincount(parts.row, odd, minlength=rows)
        statistics = {
            "weight_norm": weights if frozen_norm is None else np.fmax(weights, frozen_norm),
            "grad_norm": parts.per_row(parts.grad_norm, rows),
            "nonfinite_count": np.where(np.isnan(weights), np.nan, counts),
            "update_ratio": _ratio(parts.per_row(update * parts.scale, rows), size),
            "decay_ratio": _ratio(parts.per_row(decay * parts.scale, rows), size),
        }
        for name, values in statistics.items():
            packed[ROW_OF[name]] = values


def update_and_decay(parts: Parts) -> tuple[Array, Array]:
    r"""(norm of the update without weight decay, norm of the decay) of each part, shape (parts,).

    Decay moves weights along -W. The part of the update along -W is taken for decay as far as the
    optimizer's decay can explain it, so a layer that nothing but decay moves has update 0. The dot
    product comes from $\lVert W + \Delta \rVert^2 = \lVert W \rVert^2 + 2 W \cdot \Delta + \lVert
    \Delta \rVert^2$.

    Args:
        parts: The parts; norms may be NaN and infinite.
    """
    before, after, moved = parts.before_norm, parts.after_norm, parts.update_norm
    splits = (parts.decay > 0) & (moved > 0) & (before > 0) & np.isfinite(moved * after)
    dot = 0.5 * ((after - before) * (after + before) - moved**2)
    shrink = np.where(splits, np.clip(-dot / before**2, 0.0, parts.decay), 0.0)
    rest = np.sqrt(np.maximum(moved**2 + 2 * shrink * dot + (shrink * before) ** 2, 0.0))
    is_rounding = (rest <= parts.rounding * before) & (rest <= 0.5 * moved)
    update = np.where(splits, np.where(is_rounding, 0.0, rest), moved)
    return update, np.where(splits, shrink * before, 0.0 * moved)


def states_of(
    trained: Rows, with_gradient: Rows, grad_norm: FloatArray, calls: FloatArray
) -> NDArray[np.int8]:
    """`State` of every row, shape (layers,), int8.

    A layer whose forward did not run but that has a gradient is trained: its weight is used from
    outside, as a tied one is.

    Args:
        trained: Rows of which a parameter is trained.
        with_gradient: Rows of which a parameter has a gradient.
        grad_norm: Gradient norms, shape (layers,).
        calls: Forward calls, shape (layers,), NaN where signals were not observed.
    """
    is_trained = _mask(trained, len(grad_norm))
    has_gradient = _mask(with_gradient, len(grad_norm))
    states = np.full(len(grad_norm), State.TRAINED, dtype=np.int8)
    states[grad_norm == 0] = State.ZERO_GRADIENT
    states[~has_gradient] = State.NO_GRADIENT
    states[(calls == 0) & ~(has_gradient & (grad_norm != 0))] = State.IDLE
    states[~is_trained] = State.FROZEN
    return states


def _mask(rows: Rows, count: int) -> NDArray[np.bool_]:
    mask = np.zeros(count, dtype=bool)
    # A list of booleans is a mask to NumPy, one of integers is the rows themselves.
    mask[list(rows)] = True
    return mask


def _ratio(norm: Array, size: Array) -> Array:
    return np.where(np.isfinite(norm), norm / size, norm)
