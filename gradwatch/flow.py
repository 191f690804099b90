"""Backward flow: how the signal changes from the outputs of a network to its inputs.

Everything here is a function of one `Snapshot`, so it is the same live and offline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradwatch.layer import Layer

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
        relu = np.asarray([layers[row].is_relu_like for row in self.rows], dtype=np.float32)
        relu[-1] = 0.0
        return relu


def forward_order(layers: tuple[Layer, ...]) -> tuple[int, ...]:
    """Rows sorted by depth."""
    return tuple(sorted(range(len(layers)), key=lambda row: (layers[row].depth, row)))


def backward_depth(snapshot: Snapshot) -> float:
    r"""Backward depth B of the network, NaN where no pair of layers was observed.

    $B = \min \log_{10}(\lVert \Delta_{in} \rVert / \max \lVert \Delta_{out} \rVert)$ over input
    layers and the output layers they lead to, with $\Delta = \partial L/\partial y$. Its slope per
    layer is $\frac12 \log_{10} \chi$ of mean-field theory (Schoenholz et al. 2017, eq. 14).
    """
    depths = [depth for _, _, depth in _end_pairs(snapshot)]
    return min(depths) if depths else float("nan")


def backward_growth(snapshot: Snapshot) -> float:
    """As `backward_depth`, but the largest: how much the signal grows on its way to the inputs."""
    depths = [depth for _, _, depth in _end_pairs(snapshot)]
    return max(depths) if depths else float("nan")


def backward_profile(snapshot: Snapshot) -> FloatArray:
    """log10 of the backward signal at each layer against the largest output layer's.

    Shape (layers,); NaN where it was not observed, -inf where it was exactly zero.
    """
    signal = snapshot.output_grad_norm
    outputs = [row for row in _output_rows(snapshot) if 0 < signal[row] < np.inf]
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
    layers = snapshot.layers
    weighted = [row for row, layer in enumerate(layers) if layer.weighted]
    first = [row for row in weighted if not layers[row].inputs]
    start = np.concatenate([snapshot.output_rms[first], snapshot.input_rms[first]])
    start = start[np.isfinite(start) & (start > 0)]
    outputs = snapshot.output_rms[weighted]
    outputs = outputs[np.isfinite(outputs) & (outputs > 0)]
    if not start.size or not outputs.size:
        return float("nan")
    return float(np.log10(outputs.max()) - np.log10(start.max()))


def worst_path(snapshot: Snapshot) -> Path | None:
    """The path between the pair of layers that gives B, None where nothing was observed."""
    pairs = _end_pairs(snapshot)
    if not pairs:
        return None
    start, end, depth = min(pairs, key=lambda pair: pair[2])
    rows = _dominant_rows(snapshot, start, end)
    activation = np.nan_to_num(snapshot.activation_gain_log10[list(rows)], neginf=-45.0)
    activation[-1] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.log10(snapshot.input_grad_norm) - np.log10(snapshot.output_grad_norm)
    weight = np.nan_to_num(gain[list(rows)], neginf=-45.0, posinf=0.0)
    weight[0] = 0.0
    return Path(rows, depth, activation.astype(np.float32), weight.astype(np.float32))


def upstream(layers: tuple[Layer, ...], rows: tuple[int, ...]) -> frozenset[int]:
    """The rows and everything nearer the inputs that feeds them."""
    reached: set[int] = set()
    pending = list(rows)
    while pending:
        row = pending.pop()
        if row not in reached:
            reached.add(row)
            pending.extend(layers[row].inputs)
    return frozenset(reached)


def downstream(layers: tuple[Layer, ...], rows: tuple[int, ...]) -> frozenset[int]:
    """The rows and everything nearer the outputs that they feed."""
    fed = consumers(layers)
    reached: set[int] = set()
    pending = list(rows)
    while pending:
        row = pending.pop()
        if row not in reached:
            reached.add(row)
            pending.extend(fed[row])
    return frozenset(reached)


def input_rows(layers: tuple[Layer, ...]) -> tuple[int, ...]:
    """Weighted rows that no row feeds: a normalisation of the inputs counts as a row."""
    return tuple(row for row, layer in enumerate(layers) if layer.weighted and not layer.inputs)


def consumers(layers: tuple[Layer, ...]) -> tuple[tuple[int, ...], ...]:
    """For each row, the rows that it feeds directly."""
    fed: list[list[int]] = [[] for _ in layers]
    for row, layer in enumerate(layers):
        for source in layer.inputs:
            fed[source].append(row)
    return tuple(tuple(rows) for rows in fed)


def _observed(snapshot: Snapshot) -> frozenset[int]:
    """Weighted rows whose backward signal is finite and not exactly zero."""
    signal = snapshot.output_grad_norm
    return frozenset(
        row
        for row, layer in enumerate(snapshot.layers)
        if layer.weighted and 0 < signal[row] < np.inf
    )


def _weighted_sources(layers: tuple[Layer, ...]) -> tuple[frozenset[int], ...]:
    """For each row, the weighted rows that feed it, directly or through unweighted rows."""
    sources: list[frozenset[int]] = [frozenset()] * len(layers)
    for row in forward_order(layers):
        found: set[int] = set()
        for source in layers[row].inputs:
            found |= {source} if layers[source].weighted else sources[source]
        sources[row] = frozenset(found - {row})
    return tuple(sources)


def _feeding(layers: tuple[Layer, ...], sources: tuple[frozenset[int], ...]) -> frozenset[int]:
    """Rows that a weighted row reads: a normalisation after the last layer leaves it the last."""
    return frozenset().union(*(sources[row] for row, layer in enumerate(layers) if layer.weighted))


def _output_rows(snapshot: Snapshot) -> tuple[int, ...]:
    feeding = _feeding(snapshot.layers, _weighted_sources(snapshot.layers))
    return tuple(
        row
        for row, layer in enumerate(snapshot.layers)
        if layer.weighted and row not in feeding and not np.isnan(snapshot.output_grad_norm[row])
    )


def _end_pairs(snapshot: Snapshot) -> list[tuple[int, int, float]]:
    """(input row, strongest output row that it leads to, B of the two), exact zeros skipped."""
    layers = snapshot.layers
    observed = _observed(snapshot)
    sources = _weighted_sources(layers)
    feeding = _feeding(layers, sources)
    known = np.isin(np.arange(len(layers)), list(observed))
    signal = np.log10(np.where(known, snapshot.output_grad_norm, 1.0))
    strongest: dict[int, int] = {}
    reach: dict[int, frozenset[int]] = {}
    for row in forward_order(layers):
        if not layers[row].weighted:
            continue
        starts = frozenset().union(*(reach.get(source, frozenset()) for source in sources[row]))
        if not sources[row]:
            starts = frozenset({row})
        reach[row] = starts
        if row in feeding or row not in observed:
            continue
        for start in starts - {row}:
            if start not in strongest or signal[row] > signal[strongest[start]]:
                strongest[start] = row
    return [
        (start, end, float(signal[start] - signal[end]))
        for start, end in strongest.items()
        if start in observed
    ]


def _dominant_rows(snapshot: Snapshot, start: int, end: int) -> tuple[int, ...]:
    """From `start`, always on to the consumer that hands back the most signal, up to `end`."""
    layers = snapshot.layers
    fed = consumers(layers)
    leads_to_end = upstream(layers, (end,))
    share = np.nan_to_num(snapshot.input_grad_norm, nan=0.0)
    rows = [start]
    while rows[-1] != end:
        onward = [
            row
            for row in fed[rows[-1]]
            if row in leads_to_end and layers[row].depth > layers[rows[-1]].depth
        ]
        if not onward:
            break
        rows.append(max(onward, key=lambda row: (share[row], -layers[row].depth)))
    return tuple(rows)
