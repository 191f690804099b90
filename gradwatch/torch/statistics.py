"""Statistics: the figures of one step, turned into the packed arrays of a `Snapshot`.

Everything here runs on the host, on NumPy, after the copy.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from gradwatch.layer import Layer
from gradwatch.norms import decay_and_growth_log10, log10_ratio, root_sum_square
from gradwatch.sampling import LEAST_CALLS
from gradwatch.snapshot import ROW_OF, FloatArray
from gradwatch.torch.graph import Activation
from gradwatch.torch.passes import Pass
from gradwatch.torch.reading import Key
from gradwatch.torch.recurrent import packed_squares

Figures = Mapping[Key, NDArray[np.float64]]

SIGNAL_FIGURES = frozenset(
    {
        *("input_norm", "output_norm", "input_grad_norm", "output_grad_norm"),
        *("activation_in_norm", "activation_out_norm"),
        *("mean_slope", "saturation_fraction", "dead_fraction"),
        *("direction_spread", "logit_misfit_ratio"),
    }
)
"""Names of the figures that the signal hooks take, beside those over time."""

TIME_SQUARES = "time_squares"

_NONE: Mapping[int, float] = {}


class _Figures:
    """The signal figures of one pass that count, by row and name, parts in order of the calls."""

    def __init__(self, collected: Pass, figures: Figures) -> None:
        self._sizes = collected.sizes
        self._parts: dict[tuple[int, str], dict[int, float]] = defaultdict(dict)
        self.over_time: dict[int, dict[int, NDArray[np.float64]]] = defaultdict(dict)
        """Row → part → squares of the input gradient, shape (time,)."""
        for key, figure in figures.items():
            if key.name == TIME_SQUARES:
                self.over_time[key.row][key.part] = figure
            elif key.name in SIGNAL_FIGURES:
                self._parts[key.row, key.name][key.part] = figure.item()
        for key, known in collected.same_as.items():
            self._parts[key.row, key.name][key.part] = figures[known].item()
        for (row, name), parts in self._parts.items():
            if len(parts) > 1:
                counted = collected.counted_parts(row, parts)
                self._parts[row, name] = {part: parts[part] for part in sorted(counted)}

    def parts(self, row: int, name: str) -> Mapping[int, float]:
        """Part → figure."""
        return self._parts.get((row, name), _NONE)

    def norm(self, row: int, name: str, among: Iterable[int] | None = None) -> float:
        """Root of the sum of squares over all parts, or some of them; NaN without any."""
        parts = self.parts(row, name)
        if among is None:
            return root_sum_square(parts.values())
        return root_sum_square([parts[part] for part in among if part in parts])

    def rms(self, row: int, name: str, among: Iterable[int] | None = None) -> float:
        """Root of the mean square over all parts, or some of them; NaN without any."""
        parts = self.parts(row, name)
        wanted = parts if among is None else [part for part in among if part in parts]
        count = sum(self._sizes[Key(row, name, part)] for part in wanted)
        return self.norm(row, name, wanted) / math.sqrt(count) if count else math.nan


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
    counted = _Figures(collected, figures)
    activations = collected.activations_by_row()
    by_name: dict[str, dict[int, float]] = defaultdict(dict)
    for row, layer in enumerate(layers):
        calls = collected.call_count(row)
        by_name["forward_calls"][row] = calls
        if not calls:
            continue
        for statistics in (
            _sizes(collected, counted, row),
            _gradients(counted, row, activations.get(row, {})),
            _activations(counted, row, activations.get(row, {})),
            _time(collected, counted, row, repeated=layer.recurrent),
            _means(counted, row, ("direction_spread",)),
            _last(counted, row, "logit_misfit_ratio"),
        ):
            for name, figure in statistics.items():
                by_name[name][row] = figure
    with np.errstate(over="ignore"):
        for name, by_row in by_name.items():
            packed[ROW_OF[name], list(by_row)] = list(by_row.values())


def _sizes(collected: Pass, counted: _Figures, row: int) -> dict[str, float]:
    statistics = {
        "input_rms": counted.rms(row, "input_norm"),
        "output_rms": counted.rms(row, "output_norm"),
    }
    dtype = collected.output_dtypes.get(row)
    if dtype is not None and dtype.is_floating_point:
        statistics["tiny_log10"] = tiny_log10(dtype)
    return statistics


def _gradients(
    counted: _Figures, row: int, activations: Mapping[int, Activation]
) -> dict[str, float]:
    """Signals at the layer's output and input; the output is what its own activation is given."""
    at_output, parts = "output_grad_norm", None
    inside = {
        part: activation.position
        for part, activation in activations.items()
        if activation.inside and not activation.buried
    }
    if inside:
        first = min(inside.values())
        inner = [part for part, position in inside.items() if position == first]
        if not counted.parts(row, "activation_in_norm").keys().isdisjoint(inner):
            at_output, parts = "activation_in_norm", inner
    return {
        "output_grad_norm": counted.norm(row, at_output, parts),
        "output_grad_rms": counted.rms(row, at_output, parts),
        "input_grad_norm": counted.norm(row, "input_grad_norm"),
    }


def _activations(
    counted: _Figures, row: int, activations: Mapping[int, Activation]
) -> dict[str, float]:
    """Slopes, and the gains of activations one behind the other, added up."""
    by_position: dict[int, list[int]] = defaultdict(list)
    for part in counted.parts(row, "activation_in_norm"):
        if not activations[part].buried:
            by_position[activations[part].position].append(part)
    gains = [
        log10_ratio(
            counted.norm(row, "activation_in_norm", parts),
            counted.norm(row, "activation_out_norm", parts),
        )
        for parts in by_position.values()
    ]
    statistics = {"activation_gain_log10": sum(gains)} if gains else {}
    return statistics | _means(counted, row, ("mean_slope", "saturation_fraction", "dead_fraction"))


def _last(counted: _Figures, row: int, name: str) -> dict[str, float]:
    """The figure of the last call, which is the nearest to the loss, if there is one."""
    parts = counted.parts(row, name)
    return {name: parts[max(parts)]} if parts else {}


def _means(counted: _Figures, row: int, names: Iterable[str]) -> dict[str, float]:
    """Means over the calls, of the statistics that were observed."""
    parts = {name: counted.parts(row, name).values() for name in names}
    return {name: sum(figures) / len(figures) for name, figures in parts.items() if figures}


def _time(collected: Pass, counted: _Figures, row: int, *, repeated: bool) -> dict[str, float]:
    """Decay over time from the input gradient, or from repeated calls of a layer that feeds itself.

    Of several calls of a recurrent module the longest counts.
    """
    sequences: list[NDArray[np.float64]] = []
    over_time = counted.over_time.get(row, {})
    for part in collected.counted_parts(row, over_time):
        batch_sizes = collected.batch_sizes.get(part)
        squares = over_time[part]
        per_step = packed_squares(squares, batch_sizes) if batch_sizes else squares
        sequences.append(np.sqrt(per_step))
    if not sequences and repeated:
        by_call: dict[int, list[float]] = defaultdict(list)
        for part, figure in counted.parts(row, "output_grad_norm").items():
            by_call[collected.first_part[part]].append(figure)
        norms = [root_sum_square(by_call[call]) for call in sorted(by_call)]
        sequences = [np.asarray(norms)] if len(norms) >= LEAST_CALLS else []
    if not sequences:
        return {}
    decay, growth = decay_and_growth_log10(max(sequences, key=len))
    return {"time_decay_log10": decay, "time_growth_log10": growth}


def tiny_log10(dtype: torch.dtype) -> float:
    """log10 of the smallest positive value of a floating type, subnormal ones included."""
    limits = torch.finfo(dtype)
    return float(np.log10(limits.tiny) + np.log10(limits.eps))
