"""Backward flow: how the signal changes from the outputs of a network to its inputs.

Everything here is a function of one `Snapshot`, or of the arrays of many, so it is the same live
and offline.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from gradwatch.layer import Layer
from gradwatch.wiring import Rows, downstream, only_way, onward, upstream, wiring

if TYPE_CHECKING:
    from gradwatch.snapshot import FloatArray, Snapshot

RELU_GAIN_LOG10 = -0.15
"""log10 of the backward gain of a ReLU on centred inputs, 1/sqrt(2) (He et al. 2015, eq. 14)."""


@dataclass(frozen=True)
class Path:
    """The way along which most of the signal goes from an output layer to an input layer.

    Args:
        rows: Rows from the input layer to the output layer.
        depth_log10: Backward depth B between its two ends.
        activation_gain_log10: Gain of the activation after each row, 0 where there is none, and for
            the output layer's, shape (rows,).
        weight_gain_log10: Gain of each row's weights, 0 for the input layer's, shape (rows,).
    """

    rows: tuple[int, ...]
    depth_log10: float
    activation_gain_log10: FloatArray
    weight_gain_log10: FloatArray

    @property
    def rest_log10(self) -> float:
        """Gain of what lies between the layers and is neither weights nor an activation."""
        gains = np.concatenate([self.activation_gain_log10, self.weight_gain_log10])
        return self.depth_log10 - float(gains.sum(dtype=np.float64))

    def activation_deficit_log10(self, layers: tuple[Layer, ...]) -> FloatArray:
        """Activation gain beyond the -0.15 that a ReLU costs, shape (rows,)."""
        relu = self._relu_like(layers)
        return self.activation_gain_log10 - RELU_GAIN_LOG10 * relu

    def weight_deficit_log10(self, layers: tuple[Layer, ...]) -> FloatArray:
        """Weight gain short of what the ReLU before each row calls for, shape (rows,).

        A row after a ReLU-like activation should gain +0.15 (He et al. 2015), any other 0.
        """
        relu = self._relu_like(layers)
        before = np.concatenate([[0.0], relu[:-1]]).astype(np.float32)
        return self.weight_gain_log10 + RELU_GAIN_LOG10 * before

    def _relu_like(self, layers: tuple[Layer, ...]) -> FloatArray:
        relu: FloatArray = wiring(layers).relu_like[list(self.rows)]
        relu[-1] = 0.0
        return relu


def forward_order(layers: tuple[Layer, ...]) -> Rows:
    """Rows sorted by depth."""
    return wiring(layers).order


def input_rows(layers: tuple[Layer, ...]) -> Rows:
    """Weighted rows that no row feeds: a normalisation of the inputs counts as a row."""
    return wiring(layers).input_rows


def consumers(layers: tuple[Layer, ...]) -> tuple[Rows, ...]:
    """For each row, the rows that it feeds directly."""
    return wiring(layers).consumers


def backward_depth(snapshot: Snapshot) -> float:
    r"""Backward depth B of the network, NaN where no pair of layers was observed.

    $B = \min \log_{10}(\lVert \Delta_{in} \rVert / \max \lVert \Delta_{out} \rVert)$ over input
    layers and the output layers they lead to, with $\Delta = \partial L/\partial y$. Its slope per
    layer is $\frac12 \log_{10} \chi$ of mean-field theory (Schoenholz et al. 2017, eq. 14).
    """
    return float(backward_depths(snapshot.layers, snapshot.output_grad_norm))


def backward_growth(snapshot: Snapshot) -> float:
    """As `backward_depth`, but the largest: how much the signal grows on its way to the inputs."""
    return float(backward_growths(snapshot.layers, snapshot.output_grad_norm))


def backward_depths(layers: tuple[Layer, ...], output_grad_norm: FloatArray) -> FloatArray:
    """`backward_depth` of many samples, shape (...) for signals of shape (..., layers)."""
    levels = _end_levels(layers, output_grad_norm)
    return np.asarray(np.fmin.reduce(levels, axis=-1, initial=np.nan))


def backward_growths(layers: tuple[Layer, ...], output_grad_norm: FloatArray) -> FloatArray:
    """`backward_growth` of many samples, shape (...) for signals of shape (..., layers)."""
    levels = _end_levels(layers, output_grad_norm)
    return np.asarray(np.fmax.reduce(levels, axis=-1, initial=np.nan))


def backward_profile(snapshot: Snapshot) -> FloatArray:
    """log10 of the backward signal at each layer against the largest output layer's.

    Shape (layers,); NaN where it was not observed, -inf where it was exactly zero.
    """
    signal = snapshot.output_grad_norm
    outputs = [row for row in wiring(snapshot.layers).output_rows if 0 < signal[row] < np.inf]
    if not outputs:
        return np.full(len(snapshot.layers), np.nan, dtype=np.float32)
    reference = max(signal[row] for row in outputs)
    with np.errstate(divide="ignore", invalid="ignore"):
        profile: FloatArray = (np.log10(signal) - np.log10(reference)).astype(np.float32)
    return profile


def forward_drift(snapshot: Snapshot) -> float:
    """log10 of the largest growth of the signal on its way forward, NaN where not observed.

    The largest rms output of a weighted layer against the larger of the input layers' inputs and
    outputs, so that a small first layer before a normalisation is not taken for an explosion.
    """
    return float(forward_drifts(snapshot.layers, snapshot.input_rms, snapshot.output_rms))


def forward_drifts(
    layers: tuple[Layer, ...], input_rms: FloatArray, output_rms: FloatArray
) -> FloatArray:
    """`forward_drift` of many samples, shape (...) for sizes of shape (..., layers)."""
    wired = wiring(layers)
    first = list(wired.input_rows)
    largest = _largest_size(output_rms[..., list(wired.weighted_rows)])
    start = np.fmax(_largest_size(output_rms[..., first]), _largest_size(input_rms[..., first]))
    return np.asarray(np.log10(largest) - np.log10(start))


@lru_cache(maxsize=4)
def worst_path(snapshot: Snapshot) -> Path | None:
    """The path between the pair of layers that gives B, None where nothing was observed."""
    levels = _end_levels(snapshot.layers, snapshot.output_grad_norm)
    if np.isnan(levels).all():
        return None
    worst = int(np.nanargmin(levels))
    wired = wiring(snapshot.layers)
    ends = wired.ends[worst]
    end = int(ends[_known_levels(snapshot.output_grad_norm[ends]).argmax()])
    rows = _dominant_rows(snapshot, int(wired.starts[worst]), end)
    activation = np.nan_to_num(snapshot.activation_gain_log10[list(rows)], neginf=-45.0)
    activation[-1] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.log10(snapshot.input_grad_norm) - np.log10(snapshot.output_grad_norm)
    weight = np.nan_to_num(gain[list(rows)], neginf=-45.0, posinf=0.0)
    weight[0] = 0.0
    depth = float(levels[worst])
    return Path(rows, depth, activation.astype(np.float32), weight.astype(np.float32))


def _end_levels(layers: tuple[Layer, ...], signal: FloatArray) -> FloatArray:
    """B of each start against the strongest output row that it leads to, exact zeros skipped.

    Shape (..., starts); NaN where either was not observed.
    """
    wired = wiring(layers)
    if not wired.ends:
        return np.empty((*signal.shape[:-1], 0), dtype=np.float32)
    strongest = np.maximum.reduceat(
        _known_levels(signal[..., wired.flat_ends]), wired.end_offsets, axis=-1
    )
    start = _known_levels(signal[..., wired.starts])
    known = (start > -np.inf) & (strongest > -np.inf)
    with np.errstate(invalid="ignore"):
        return np.where(known, start - strongest, np.nan)


def _known_levels(signal: FloatArray) -> FloatArray:
    """log10 of the signal; -inf where it is exactly zero, not finite or not observed."""
    with np.errstate(invalid="ignore"):
        known = (signal > 0) & (signal < np.inf)
    levels: FloatArray = np.where(known, np.log10(np.where(known, signal, 1.0)), -np.inf)
    return levels


def _largest_size(sizes: FloatArray) -> FloatArray:
    """The largest finite size above zero, NaN where there is none: (...) of (..., layers)."""
    with np.errstate(invalid="ignore"):
        known = np.isfinite(sizes) & (sizes > 0)
    return np.asarray(np.fmax.reduce(np.where(known, sizes, np.nan), axis=-1, initial=np.nan))


def _dominant_rows(snapshot: Snapshot, start: int, end: int) -> Rows:
    """From `start`, always on to the consumer that hands back the most signal, up to `end`."""
    layers = snapshot.layers
    rows = only_way(layers, start, end)
    return _strongest_way(snapshot, start, end) if rows is None else rows


def _strongest_way(snapshot: Snapshot, start: int, end: int) -> Rows:
    layers, ways = snapshot.layers, onward(snapshot.layers, end)
    share = np.nan_to_num(snapshot.input_grad_norm, nan=0.0)
    rows = [start]
    while rows[-1] != end and ways[rows[-1]]:
        rows.append(max(ways[rows[-1]], key=lambda row: (share[row], -layers[row].depth)))
    return tuple(rows)


__all__ = [
    "RELU_GAIN_LOG10",
    "Path",
    "backward_depth",
    "backward_depths",
    "backward_growth",
    "backward_growths",
    "backward_profile",
    "consumers",
    "downstream",
    "forward_drift",
    "forward_drifts",
    "forward_order",
    "input_rows",
    "upstream",
    "worst_path",
]
