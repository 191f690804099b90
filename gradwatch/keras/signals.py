"""Signals: the figures of a probe, turned into the packed arrays of a `Snapshot`, on the host."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from ml_dtypes import finfo
from numpy.typing import NDArray

from gradwatch.keras.passes import NO_ROW, OUTPUTS_APART, Key
from gradwatch.keras.probe import LOSS, Traced
from gradwatch.layer import Layer
from gradwatch.norms import (
    decay_and_growth_log10,
    finite_or_inf,
    log10_ratio,
    root_sum_square,
)
from gradwatch.sampling import LEAST_CALLS
from gradwatch.snapshot import ROW_OF, FloatArray

MEANS = ("mean_slope", "saturation_fraction", "dead_fraction", "direction_spread")
"""Figures of which the mean over the calls counts."""

Figures = Mapping[Key, NDArray[np.float64]]


class _Figures:
    """The figures of one probe by row and name, in the order of the calls."""

    def __init__(self, figures: Figures, traced: Traced) -> None:
        self._sizes = traced.sizes
        self._parts: dict[tuple[int, str], dict[int, float]] = defaultdict(dict)
        self.over_time: dict[int, list[NDArray[np.float64]]] = defaultdict(list)
        for key, figure in figures.items():
            if key.name == "time_norms":
                self.over_time[key.row].append(figure)
            elif key.row != NO_ROW:
                self._parts[key.row, key.name][key.call] = float(figure[0])

    def parts(self, row: int, name: str) -> Mapping[int, float]:
        """Call → figure."""
        return self._parts.get((row, name), {})

    def norm(self, row: int, name: str, among: Iterable[int] | None = None) -> float:
        """Root of the sum of squares over all calls, or some of them; NaN without any."""
        parts = self.parts(row, name)
        wanted = parts if among is None else [call for call in among if call in parts]
        return root_sum_square([finite_or_inf(parts[call]) for call in wanted])

    def rms(self, row: int, name: str, among: Iterable[int] | None = None) -> float:
        """Root of the mean square over all calls, or some of them; NaN without any."""
        parts = self.parts(row, name)
        wanted = [call for call in (parts if among is None else among) if call in parts]
        count = sum(self._sizes[Key(row, name, call)] for call in wanted)
        return self.norm(row, name, wanted) / math.sqrt(count) if count else math.nan


def store_signals(
    packed: FloatArray, figures: Figures, traced: Traced, layers: Sequence[Layer]
) -> None:
    """Write the signal statistics of one probe.

    Args:
        packed: Shape (statistics, layers), changed in place.
        figures: The figures of the probe.
        traced: What they are.
        layers: The rows.
    """
    counted = _Figures(figures, traced)
    for row, layer in enumerate(layers):
        calls = traced.calls.get(row, 0)
        statistics = _weights(counted, row)
        if row not in traced.hidden:
            statistics["forward_calls"] = float(calls)
        if calls:
            statistics |= _sizes(counted, traced, row)
            statistics |= _gradients(counted, traced, row)
            statistics |= _activations(counted, traced, row)
            statistics |= _time(counted, traced, row, repeated=layer.recurrent)
        with np.errstate(over="ignore"):
            for name, figure in statistics.items():
                packed[ROW_OF[name], row] = np.float32(figure)


def loss_of(figures: Figures) -> float:
    """The loss on the probe's batch, +inf where it is not finite."""
    return finite_or_inf(float(figures[LOSS][0]))


def _weights(counted: _Figures, row: int) -> dict[str, float]:
    statistics = {}
    units = counted.norm(row, "unit_norm")
    if not math.isnan(units):
        spread = counted.norm(row, "spread_norm")
        statistics["unit_spread_ratio"] = spread / units if units else 0.0
    frozen = counted.norm(row, "frozen_norm")
    return statistics if math.isnan(frozen) else statistics | {"weight_norm": frozen}


def _sizes(counted: _Figures, traced: Traced, row: int) -> dict[str, float]:
    statistics = {
        "input_rms": counted.rms(row, "input_norm"),
        "output_rms": counted.rms(row, "output_norm"),
    }
    dtype = traced.dtypes.get(row)
    return statistics if dtype is None else statistics | {"tiny_log10": tiny_log10(dtype)}


def _gradients(counted: _Figures, traced: Traced, row: int) -> dict[str, float]:
    """Signals at input and output; the output is what an activation of its own is given.

    Further outputs of a call count too, as the states that a recurrent layer returns.
    """
    inside = traced.inside.get(row)
    name = "activation_in_norm" if inside else "output_grad_norm"
    norms = [counted.norm(row, name, inside)]
    if inside:
        further = [call for call in counted.parts(row, "output_grad_norm") if call >= OUTPUTS_APART]
        norms += [counted.norm(row, "output_grad_norm", further)] if further else []
    return {
        "output_grad_norm": root_sum_square([norm for norm in norms if not math.isnan(norm)]),
        "output_grad_rms": counted.rms(row, name, inside),
        "input_grad_norm": counted.norm(row, "input_grad_norm"),
    }


def _activations(counted: _Figures, traced: Traced, row: int) -> dict[str, float]:
    """Slopes, and the gains of activations one behind the other, added up."""
    by_position: dict[int, list[int]] = defaultdict(list)
    for number in counted.parts(row, "activation_out_norm"):
        by_position[traced.positions.get(number, 0)].append(number)
    gains = [
        log10_ratio(
            counted.norm(row, "activation_in_norm", numbers),
            counted.norm(row, "activation_out_norm", numbers),
        )
        for numbers in by_position.values()
    ]
    statistics = {"activation_gain_log10": sum(gains)} if gains else {}
    for name in MEANS:
        figures = counted.parts(row, name).values()
        if figures:
            statistics[name] = sum(figures) / len(figures)
    misfits = counted.parts(row, "logit_misfit_ratio")
    if misfits:
        statistics["logit_misfit_ratio"] = misfits[max(misfits)]
    return statistics


def _time(counted: _Figures, traced: Traced, row: int, *, repeated: bool) -> dict[str, float]:
    """Decay over time from the input gradient, or from repeated calls; the longest counts."""
    sequences = list(counted.over_time.get(row, ()))
    if not sequences and repeated:
        norms = _output_norms(counted, traced, row)
        sequences = [norms] if len(norms) >= LEAST_CALLS else []
    if not sequences:
        return {}
    decay, growth = decay_and_growth_log10(max(sequences, key=len))
    return {"time_decay_log10": decay, "time_growth_log10": growth}


def _output_norms(counted: _Figures, traced: Traced, row: int) -> NDArray[np.float64]:
    """Norm of dL/dy of each call, before an activation of its own, shape (calls,)."""
    inside = traced.inside.get(row)
    if inside:
        parts = counted.parts(row, "activation_in_norm")
        return np.asarray([parts[number] for number in inside if number in parts])
    by_call: dict[int, list[float]] = defaultdict(list)
    for call, figure in counted.parts(row, "output_grad_norm").items():
        by_call[call % OUTPUTS_APART].append(figure)
    return np.asarray([root_sum_square(by_call[call]) for call in sorted(by_call)])


def tiny_log10(dtype: str) -> float:
    """log10 of the smallest positive value of a floating type, subnormal ones included."""
    return float(np.log10(float(finfo(dtype).smallest_subnormal)))
