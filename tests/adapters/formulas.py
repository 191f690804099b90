"""Every statistic of a layer by its formula, from tensors that were written out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gradwatch.snapshot import STATISTICS

Array = NDArray[np.float64]

LEAST_REPEATS = 8
LARGEST_SLOPE = {"relu": 1.0, "sigmoid": 0.25, "tanh": 1.0}
TINY = 2.0**-149
"""Smallest positive float32."""


@dataclass
class Squash:
    """One activation after a layer: its slopes, and dL/d of what goes in and comes out."""

    name: str
    slopes: Array
    grad_in: Array
    grad_out: Array


@dataclass
class Call:
    """One call of a layer: input, output before the activation, and dL/d of both."""

    x: Array
    y: Array
    dy: Array
    dx: Array
    activations: list[Squash] = field(default_factory=list)
    over_time: Array | None = None
    """Norm of dL/dx at each time step."""


@dataclass
class Trained:
    """A layer's parameters, the gradients that its optimizer used, and where the step led."""

    before: list[Array]
    gradients: list[Array]
    after: list[Array]
    fan_out: int
    decay_share: float
    """Share of each weight that weight decay takes off in a step."""


def norm(*parts: Array) -> float:
    return float(np.sqrt(sum((part**2).sum() for part in parts)))


def rms(*parts: Array) -> float:
    return norm(*parts) / float(np.sqrt(sum(part.size for part in parts)))


def trained_statistics(layer: Trained) -> dict[str, float]:
    floor = max(norm(*layer.before), 0.1 * np.sqrt(layer.fan_out))
    updates, decays = [], []
    for before, after in zip(layer.before, layer.after, strict=True):
        moved = after - before
        # What of the step points along -W counts as decay, as far as the optimizer's decay goes.
        along = -(moved * before).sum() / max((before**2).sum(), 1e-300)
        share = np.clip(along, 0.0, layer.decay_share)
        updates.append(moved + share * before)
        decays.append(share * before)
    return {
        "grad_norm": norm(*layer.gradients),
        "weight_norm": norm(*layer.before),
        "update_ratio": norm(*updates) / floor,
        "decay_ratio": norm(*decays) / floor,
        "nonfinite_count": 0.0,
    }


def unit_spread_ratio(matrix: Array) -> float:
    """Of weights with the output units on the last axis."""
    units = matrix.reshape(-1, matrix.shape[-1])
    return norm(units - units.mean(axis=1, keepdims=True)) / norm(units)


def signal_statistics(calls: Sequence[Call]) -> dict[str, float]:
    statistics = {
        "forward_calls": float(len(calls)),
        "input_rms": rms(*(call.x for call in calls)),
        "output_rms": rms(*(call.y for call in calls)),
        "output_grad_norm": norm(*(call.dy for call in calls)),
        "output_grad_rms": rms(*(call.dy for call in calls)),
        "input_grad_norm": norm(*(call.dx for call in calls)),
        "tiny_log10": float(np.log10(TINY)),
        **_activations(calls),
        **_over_time(calls),
    }
    if len(calls[0].y) >= 8 and calls[0].y[0].size >= 4:
        spreads = [direction_spread(call.y) for call in calls]
        statistics["direction_spread"] = float(np.mean(spreads))
    return statistics


def _activations(calls: Sequence[Call]) -> dict[str, float]:
    every = [squash for call in calls for squash in call.activations]
    if not every:
        return {}
    in_turn = zip(*(call.activations for call in calls), strict=True)
    gains = [
        np.log10(norm(*(one.grad_in for one in same)) / norm(*(one.grad_out for one in same)))
        for same in in_turn
    ]
    flat = [(one, np.abs(one.slopes) < 0.05 * LARGEST_SLOPE[one.name]) for one in every]
    shares = [where.mean() for one, where in flat if one.name != "relu"]
    dead = [
        where.reshape(-1, where.shape[-1]).all(axis=0).mean()
        for one, where in flat
        if one.name == "relu"
    ]
    return {
        "activation_gain_log10": float(sum(gains)),
        "mean_slope": float(np.mean([one.slopes.mean() for one in every])),
        "saturation_fraction": float(np.mean(shares)) if shares else np.nan,
        "dead_fraction": float(np.mean(dead)) if dead else np.nan,
    }


def _over_time(calls: Sequence[Call]) -> dict[str, float]:
    norms = calls[0].over_time
    if norms is None and len(calls) >= LEAST_REPEATS:
        norms = np.asarray([norm(call.dy) for call in calls])
    if norms is None:
        return {}
    return {
        "time_decay_log10": float(np.log10(norms[0] / norms.max())),
        "time_growth_log10": float(np.log10(norms.max() / norms[-1])),
    }


def direction_spread(y: Array) -> float:
    vectors = y.reshape(len(y), -1)
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return float(1 - (directions.mean(axis=0) ** 2).sum())


def logit_misfit_ratio(last: Call) -> float:
    """Of three classes or more: each loss leaves a direction of its own in dL/dz."""
    z, dz = last.y, last.dy
    p, s = softmax(z), sigmoid(z)
    target = np.eye(z.shape[1])[(dz / p).argmin(axis=1)]
    binary = (dz < 0).astype(float)

    def jacobian(signal: Array) -> Array:
        return p * (signal - (p * signal).sum(axis=1, keepdims=True))

    def by_example(direction: Array) -> float:
        along = (dz * direction).sum(axis=1) / (direction**2).sum(axis=1)
        return norm(dz - np.maximum(along, 0.0)[:, None] * direction) / norm(dz)

    def overall(direction: Array) -> float:
        along = (dz * direction).sum() / (direction**2).sum()
        return norm(dz - max(along, 0.0) * direction) / norm(dz)

    wrong = min(
        overall(s * (1 - s) * (sigmoid(s) - binary)),
        by_example(jacobian(softmax(p) - target)),
        by_example(s * (1 - s) * (softmax(s) - target)),
    )
    right = min(
        overall(s - binary),
        overall(s * (1 - s) * (s - binary)),
        by_example(p - target),
        by_example(jacobian(p - target)),
    )
    return wrong / right if right else np.inf


def softmax(z: Array) -> Array:
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def complete(statistics: dict[str, float]) -> dict[str, float]:
    """Every statistic of a snapshot, NaN for what there is none of."""
    known = {statistic.name for statistic in STATISTICS}
    if not statistics.keys() <= known:
        raise KeyError(f"{sorted(statistics.keys() - known)} are no statistics of a snapshot")
    return {name: statistics.get(name, np.nan) for name in known}
