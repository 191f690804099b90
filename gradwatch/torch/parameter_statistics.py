"""Parameter statistics: the figures of an optimizer step, turned into the arrays of a `Snapshot`.

Everything here runs on the host, on NumPy, after the copy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gradwatch.layer import Layer
from gradwatch.norms import finite_or_inf, root_sum_square_by_row
from gradwatch.parts import Parts, store_parts
from gradwatch.snapshot import ROW_OF, FloatArray
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
    named = _named(figures)
    with np.errstate(all="ignore"):
        frozen_norm = _of_rows(named["frozen_norm"], rows)
        store_parts(packed, _parts_of(draft, named), layers, frozen_norm=frozen_norm)
        packed[ROW_OF["unit_spread_ratio"]] = _spread(named, rows)


def _parts_of(draft: Draft, figures: _Named) -> Parts:
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
    return Parts(
        row=np.asarray([part.row for part in parts], dtype=np.intp),
        decay=np.asarray([part.decay for part in parts]),
        scale=np.asarray([part.scale for part in parts]),
        rounding=np.asarray([part.rounding for part in parts]),
        **read,
    )


def was_skipped(figures: Figures) -> bool:
    """Whether an optimizer skipped the step because a scaled gradient overflowed."""
    return any(key.name == "found_inf" and figure[0] > 0 for key, figure in figures.items())


def loss_of(figures: Figures) -> float:
    """The loss, NaN where none was told, +inf where it is not finite."""
    told = figures.get(Key(-1, "loss"))
    return math.nan if told is None else finite_or_inf(told[0])


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
    return root_sum_square_by_row(norms, row, rows)


def _spread(figures: _Named, rows: int) -> Array:
    """0 where all units are the same, NaN where it was not read."""
    spread, units = (_of_rows(figures[name], rows) for name in ("spread_norm", "unit_norm"))
    ratio = np.where(units == 0, 0.0, spread / units)
    return np.where(np.isnan(spread) | np.isfinite(ratio), ratio, np.inf)
