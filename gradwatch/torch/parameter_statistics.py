"""Parameter statistics: the figures of an optimizer step, turned into the arrays of a `Snapshot`.

Everything here runs on the host, on NumPy, after the copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradwatch.layer import Layer
from gradwatch.snapshot import ROW_OF, FloatArray, State
from gradwatch.torch.parameters import Draft
from gradwatch.torch.reading import Key
from gradwatch.torch.statistics import Figures

Array = NDArray[np.float64]

_OF_PARTS = ("weight_norm", "grad_norm", "before_norm", "after_norm", "update_norm")
"""Figures of trained parameters."""

_OF_ROWS = ("frozen_norm", "spread_norm", "unit_norm")
"""Figures of rows."""

_Named = dict[str, list[tuple[Key, float]]]
"""Name of a figure → (key, figure) of each that was read, +inf where it is not finite."""


@dataclass(frozen=True)
class _Parts:
    """The trained parameters of a step, every array of shape (parts,), NaN where not read.

    Args:
        row: Row of each.
        decay: See `Part`, as the two that follow.
        scale: See there.
        rounding: See there.
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

    @classmethod
    def of(cls, draft: Draft, figures: _Named) -> _Parts:
        """The parts of a draft, with their figures."""
        parts = draft.parts
        read = {name: np.full(len(parts), np.nan) for name in _OF_PARTS}
        for name in _OF_PARTS:
            for key, figure in figures[name]:
                read[name][key.part] = figure
        whole = np.isnan(read["weight_norm"])
        read["weight_norm"][whole] = read["before_norm"][whole]
        for key, scale in figures["grad_scale"]:
            scaled = np.asarray([part.optimizer == key.part for part in parts], dtype=bool)
            read["grad_norm"][scaled] /= scale
        return cls(
            row=np.asarray([part.row for part in parts], dtype=np.intp),
            decay=np.asarray([part.decay for part in parts]),
            scale=np.asarray([part.scale for part in parts]),
            rounding=np.asarray([part.rounding for part in parts]),
            **read,
        )

    def per_row(self, norms: Array, rows: int) -> Array:
        """Norm of each row from those of its parts, shape (rows,)."""
        return _root_sum_square(norms, self.row, rows)


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
    rows = len(layers)
    with np.errstate(all="ignore"):
        named = _named(figures)
        parts = _Parts.of(draft, named)
        weights = parts.per_row(parts.weight_norm, rows)
        floor = 0.1 * np.sqrt([float(layer.fan_out) for layer in layers])
        size = np.maximum(weights, floor)
        update, decay = update_and_decay(parts)
        odd = np.isinf(parts.weight_norm) | np.isinf(parts.grad_norm)
        counts = np.bincount(parts.row, odd, minlength=rows)
        statistics = {
            "weight_norm": np.fmax(weights, _of_rows(named["frozen_norm"], rows)),
            "grad_norm": parts.per_row(parts.grad_norm, rows),
            "nonfinite_count": np.where(np.isnan(weights), np.nan, counts),
            "update_ratio": _ratio(parts.per_row(update * parts.scale, rows), size),
            "decay_ratio": _ratio(parts.per_row(decay * parts.scale, rows), size),
            "unit_spread_ratio": _spread(named, rows),
        }
        for name, values in statistics.items():
            packed[ROW_OF[name]] = values


def update_and_decay(parts: _Parts) -> tuple[Array, Array]:
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


def was_skipped(figures: Figures) -> bool:
    """Whether an optimizer skipped the step because a scaled gradient overflowed."""
    return any(key.name == "found_inf" and figure[0] > 0 for key, figure in figures.items())


def loss_of(figures: Figures) -> float:
    """The loss, NaN where none was told, +inf where it is not finite."""
    told = figures.get(Key(-1, "loss"))
    return math.nan if told is None else finite_or_inf(told[0])


def finite_or_inf(figure: float) -> float:
    """The figure, +inf for one that is not finite."""
    return float(figure) if math.isfinite(figure) else math.inf


def states_of(draft: Draft, grad_norm: FloatArray, calls: FloatArray) -> NDArray[np.int8]:
    """`State` of every row, shape (layers,), int8.

    A layer whose forward did not run but that has a gradient is trained: its weight is used from
    outside, as a tied one is.

    Args:
        draft: What was read.
        grad_norm: Gradient norms, shape (layers,).
        calls: Forward calls, shape (layers,), NaN where signals were not observed.
    """
    trained = _mask(draft.trained, len(grad_norm))
    has_gradient = _mask(draft.with_gradient, len(grad_norm))
    states = np.full(len(grad_norm), State.TRAINED, dtype=np.int8)
    states[grad_norm == 0] = State.ZERO_GRADIENT
    states[~has_gradient] = State.NO_GRADIENT
    states[(calls == 0) & ~(has_gradient & (grad_norm != 0))] = State.IDLE
    states[~trained] = State.FROZEN
    return states


def _mask(rows: Iterable[int], count: int) -> NDArray[np.bool_]:
    mask = np.zeros(count, dtype=bool)
    mask[list(rows)] = True
    return mask


def _named(figures: Figures) -> _Named:
    named: _Named = {name: [] for name in (*_OF_PARTS, *_OF_ROWS, "grad_scale")}
    for key, figure in figures.items():
        if key.name in named:
            named[key.name].append((key, finite_or_inf(figure[0])))
    return named


def _of_rows(figures: list[tuple[Key, float]], rows: int) -> Array:
    """Norm of each row from figures that belong to no trained parameter, shape (rows,)."""
    row = np.asarray([key.row for key, _ in figures], dtype=np.intp)
    norms = np.asarray([norm for _, norm in figures], dtype=np.float64)
    return _root_sum_square(norms, row, rows)


def _root_sum_square(norms: Array, row: NDArray[np.intp], rows: int) -> Array:
    """Root of the sum of the squares in each row, NaN where a row has none, shape (rows,)."""
    seen = ~np.isnan(norms)
    squares = np.bincount(row[seen], norms[seen] ** 2, minlength=rows)
    counts = np.bincount(row[seen], minlength=rows)
    return np.where(counts > 0, np.sqrt(squares), np.nan)


def _ratio(norm: Array, size: Array) -> Array:
    return np.where(np.isfinite(norm), norm / size, norm)


def _spread(figures: _Named, rows: int) -> Array:
    """0 where all units are the same, NaN where it was not read."""
    spread, units = (_of_rows(figures[name], rows) for name in ("spread_norm", "unit_norm"))
    ratio = np.where(units == 0, 0.0, spread / units)
    return np.where(np.isnan(spread) | np.isfinite(ratio), ratio, np.inf)
