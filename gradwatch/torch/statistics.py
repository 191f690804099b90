"""Statistics: the figures of one step, turned into the packed arrays of a `Snapshot`.

Everything here runs on the host, on NumPy, after the copy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gradwatch.layer import Layer
from gradwatch.snapshot import ROW_OF, FloatArray
from gradwatch.torch.reading import Key
from gradwatch.torch.recurrent import LEAST_CALLS, decay_and_growth_log10, packed_squares
from gradwatch.torch.signals import Pass

Figures = Mapping[Key, NDArray[np.float64]]


@dataclass(frozen=True)
class _Grouped:
    """Figures by row and name, parts in order."""

    figures: dict[tuple[int, str], list[tuple[int, NDArray[np.float64]]]]

    @classmethod
    def of(cls, figures: Figures) -> _Grouped:
        grouped: dict[tuple[int, str], list[tuple[int, NDArray[np.float64]]]] = defaultdict(list)
        for key in sorted(figures, key=lambda key: key.part):
            grouped[key.row, key.name].append((key.part, figures[key]))
        return cls(dict(grouped))

    def parts(self, row: int, name: str) -> list[tuple[int, NDArray[np.float64]]]:
        return self.figures.get((row, name), [])

    def scalars(self, row: int, name: str) -> NDArray[np.float64]:
        return np.asarray([figure[0] for _, figure in self.parts(row, name)])

    def norm(self, row: int, name: str) -> float:
        """Root of the sum of squares over all parts, NaN without any."""
        return root_sum_square(self.scalars(row, name))


def root_sum_square(norms: Iterable[float] | NDArray[np.float64]) -> float:
    """The norm of parts whose norms are given; +inf if any is not finite, NaN without any."""
    values = np.asarray(list(norms), dtype=np.float64)
    if not values.size:
        return float("nan")
    if not np.isfinite(values).all():
        return float("inf")
    return float(np.hypot.reduce(values))


def store(packed: FloatArray, name: str, row: int, figure: float) -> None:
    """Write one figure; NaN stays "not observed", what is too large for float32 becomes +inf."""
    with np.errstate(over="ignore"):
        packed[ROW_OF[name], row] = np.float32(figure)


def store_signals(
    packed: FloatArray, collected: Pass, figures: Figures, layers: tuple[Layer, ...]
) -> None:
    """Write the signal statistics of one pass.

    Args:
        packed: Shape (statistics, layers), changed in place.
        collected: What the hooks noted.
        figures: The figures of the step.
        layers: The rows.
    """
    grouped = _Grouped.of(figures)
    for row, layer in enumerate(layers):
        calls = collected.calls.get(row) or collected.detached_calls.get(row, 0)
        store(packed, "forward_calls", row, calls)
        if not calls:
            continue
        _store_sizes(packed, collected, grouped, row)
        _store_gradients(packed, collected, grouped, row)
        _store_activations(packed, collected, grouped, row)
        _store_time(packed, collected, grouped, row, repeated=layer.recurrent)


def _store_sizes(packed: FloatArray, collected: Pass, grouped: _Grouped, row: int) -> None:
    for name, norm in (("input_rms", "input_norm"), ("output_rms", "output_norm")):
        store(packed, name, row, _rms(collected, grouped, row, norm))
    dtype = collected.output_dtypes.get(row)
    if dtype is not None and dtype.is_floating_point:
        store(packed, "tiny_log10", row, tiny_log10(dtype))


def _store_gradients(packed: FloatArray, collected: Pass, grouped: _Grouped, row: int) -> None:
    inside = [
        part
        for part, activation in enumerate(collected.activations)
        if activation.inside and collected.spans[activation.span].row == row
    ]
    output = grouped.norm(row, "output_grad_norm")
    if inside:
        into = dict(grouped.parts(row, "activation_in_norm"))
        output = root_sum_square(into[part][0] for part in inside if part in into)
    store(packed, "output_grad_norm", row, output)
    store(packed, "output_grad_rms", row, _rms(collected, grouped, row, "output_grad_norm"))
    store(packed, "input_grad_norm", row, grouped.norm(row, "input_grad_norm"))


def _store_activations(packed: FloatArray, collected: Pass, grouped: _Grouped, row: int) -> None:
    into = dict(grouped.parts(row, "activation_in_norm"))
    out_of = dict(grouped.parts(row, "activation_out_norm"))
    by_position: dict[int, list[int]] = defaultdict(list)
    for part in sorted(into.keys() & out_of.keys()):
        by_position[collected.activations[part].position].append(part)
    gains = []
    for parts in by_position.values():
        before = root_sum_square(into[part][0] for part in parts)
        after = root_sum_square(out_of[part][0] for part in parts)
        gains.append(log10_ratio(before, after))
    if gains:
        store(packed, "activation_gain_log10", row, float(np.sum(gains)))
    for name in ("mean_slope", "saturation_fraction", "dead_fraction"):
        figures = grouped.scalars(row, name)
        if figures.size:
            store(packed, name, row, float(figures.mean()))


def _store_time(
    packed: FloatArray, collected: Pass, grouped: _Grouped, row: int, *, repeated: bool
) -> None:
    """Decay over time from the input gradient, or from repeated calls of a layer that feeds itself.

    Of several calls of a recurrent module the longest counts.
    """
    sequences = []
    for part, squares in grouped.parts(row, "time_squares"):
        batch_sizes = collected.batch_sizes.get(Key(row, "time_squares", part))
        per_step = packed_squares(squares, batch_sizes) if batch_sizes else squares
        sequences.append(np.sqrt(per_step))
    calls = grouped.scalars(row, "output_grad_norm")
    if not sequences and repeated and calls.size >= LEAST_CALLS:
        sequences.append(calls)
    if sequences:
        decay, growth = decay_and_growth_log10(max(sequences, key=len))
        store(packed, "time_decay_log10", row, decay)
        store(packed, "time_growth_log10", row, growth)


def _rms(collected: Pass, grouped: _Grouped, row: int, name: str) -> float:
    parts = grouped.parts(row, name)
    count = sum(collected.sizes[Key(row, name, part)] for part, _ in parts)
    return grouped.norm(row, name) / np.sqrt(count) if count else float("nan")


def log10_ratio(numerator: float, denominator: float) -> float:
    """log10 of a ratio of norms; NaN for 0/0, inf/inf and anything not observed."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.log10(np.float64(numerator) / np.float64(denominator)))


def tiny_log10(dtype: torch.dtype) -> float:
    """log10 of the smallest positive value of a floating type, subnormal ones included."""
    limits = torch.finfo(dtype)
    return float(np.log10(limits.tiny) + np.log10(limits.eps))
