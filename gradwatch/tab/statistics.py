"""Statistics: what the heatmap can show, each with its title, its scale and its source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gradwatch.snapshot import ROW_OF, STATISTICS, FloatArray, Needs
from gradwatch.tensorboard.packed import Chunk

Scale = Literal["log", "linear", "log10", "diverging"]
"""log: drawn by its log10; log10: one already; diverging: a log10 that is normal near 0."""


@dataclass(frozen=True, slots=True)
class TabStatistic:
    """One entry of the list above the heatmap.

    Args:
        name: As in `Snapshot`.
        title: What it is called.
        unit: Unit, "1" for a ratio.
        scale: How it is drawn.
        needs: "signals" if only samples with signals can have it.
        meaning: What it says, in one sentence.
        sources: Stored statistics that it is read from.
        of: Chunk → its values, shape (kept snapshots, layers).
    """

    name: str
    title: str
    unit: str
    scale: Scale
    needs: Needs
    meaning: str
    sources: tuple[str, ...]
    of: Callable[[Chunk], FloatArray]


def _grad_rms(chunk: Chunk) -> FloatArray:
    return chunk.statistic("grad_norm") / _root_counts(chunk)


def _weight_rms(chunk: Chunk) -> FloatArray:
    return chunk.statistic("weight_norm") / _root_counts(chunk)


def _relative_grad(chunk: Chunk) -> FloatArray:
    fan_out = np.asarray([layer.fan_out for layer in chunk.rows.layers], dtype=np.float32)
    floor = np.float32(0.1) * np.sqrt(fan_out)
    size: FloatArray = np.maximum(chunk.statistic("weight_norm"), floor)
    return chunk.statistic("grad_norm") / size


def _elasticity(chunk: Chunk) -> FloatArray:
    losses = np.abs(chunk.losses[: chunk.kept, np.newaxis])
    size = np.where(losses == 0, np.nan, losses)
    product = chunk.statistic("grad_norm").astype(np.float64) * chunk.statistic("weight_norm")
    return (product / size).astype(np.float32)


def _root_counts(chunk: Chunk) -> NDArray[np.float32]:
    counts = [max(layer.parameter_count, 1) for layer in chunk.rows.layers]
    return np.sqrt(np.asarray(counts, dtype=np.float32))


def _stored(name: str, title: str, scale: Scale) -> TabStatistic:
    statistic = STATISTICS[ROW_OF[name]]
    return TabStatistic(
        name=name,
        title=title,
        unit=statistic.unit,
        scale=scale,
        needs=statistic.needs,
        meaning=statistic.meaning,
        sources=(name,),
        of=lambda chunk: chunk.statistic(name),
    )


TAB_STATISTICS: tuple[TabStatistic, ...] = (
    _stored("output_grad_norm", "Backward signal", "log"),
    _stored("output_grad_rms", "Backward signal, one value", "log"),
    _stored("input_grad_norm", "Backward signal handed on", "log"),
    _stored("grad_norm", "Gradient norm", "log"),
    TabStatistic(
        "grad_rms",
        "Gradient, one value",
        "dL/dW",
        "log",
        "parameters",
        "Size of one gradient value: the gradient norm over the root of the parameter count.",
        ("grad_norm",),
        _grad_rms,
    ),
    TabStatistic(
        "relative_grad",
        "Gradient against weights",
        "1",
        "log",
        "parameters",
        "Gradient norm over weight norm; layers that start at zero are held against a floor.",
        ("grad_norm", "weight_norm"),
        _relative_grad,
    ),
    TabStatistic(
        "elasticity",
        "Elasticity",
        "1",
        "log",
        "parameters",
        "Relative change of the loss per relative change of a layer; needs the loss.",
        ("grad_norm", "weight_norm"),
        _elasticity,
    ),
    _stored("update_ratio", "Update ratio", "log"),
    _stored("decay_ratio", "Weight decay ratio", "log"),
    _stored("weight_norm", "Weight norm", "log"),
    TabStatistic(
        "weight_rms",
        "Weight, one value",
        "W",
        "log",
        "parameters",
        "Size of one weight: the weight norm over the root of the parameter count.",
        ("weight_norm",),
        _weight_rms,
    ),
    _stored("activation_gain_log10", "Activation gain (log10)", "diverging"),
    _stored("mean_slope", "Mean activation slope", "linear"),
    _stored("saturation_fraction", "Saturated values", "linear"),
    _stored("dead_fraction", "Dead units", "linear"),
    _stored("input_rms", "Input size", "log"),
    _stored("output_rms", "Output size", "log"),
    _stored("direction_spread", "Spread of directions", "log"),
    _stored("unit_spread_ratio", "Spread of units", "log"),
    _stored("time_decay_log10", "Decay through time (log10)", "diverging"),
    _stored("time_growth_log10", "Growth through time (log10)", "diverging"),
    _stored("logit_misfit_ratio", "Misfit to logits", "log"),
    _stored("nonfinite_count", "NaN or infinity", "linear"),
    _stored("forward_calls", "Forward calls", "linear"),
    _stored("tiny_log10", "Smallest number (log10)", "log10"),
)
"""Every statistic of the heatmap, the most telling first."""

STATISTIC_OF: dict[str, TabStatistic] = {statistic.name: statistic for statistic in TAB_STATISTICS}
"""Statistic's name → its entry."""
