"""Histories for the authors of rules: layers in a chain, snapshots with the figures that matter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gradwatch.history import History
from gradwatch.layer import Layer
from gradwatch.snapshot import ROW_OF, FloatArray, Snapshot, State, empty_statistics

EARLY_STEPS = (0, 1, 2, 3, 4, 6, 8, 12, 16)
"""The steps at which a watch samples first; the ninth is the earliest with a lasting verdict."""

_QUIET: dict[str, float] = {
    "grad_norm": 0.1,
    "weight_norm": 8.0,
    "update_ratio": 1e-3,
    "decay_ratio": 0.0,
    "nonfinite_count": 0.0,
    "unit_spread_ratio": 1.0,
    "forward_calls": 1.0,
    "input_rms": 1.0,
    "output_rms": 1.0,
    "output_grad_norm": 0.1,
    "output_grad_rms": 0.003,
    "input_grad_norm": 0.1,
    "tiny_log10": -44.9,
}
"""Figures of a layer that nothing is wrong with; what is not named here is not observed."""


def chain(count: int, *, activation: str | None = None, **facts: Any) -> tuple[Layer, ...]:
    """Layers that feed each other in a row: `layer0`, `layer1` ...

    Args:
        count: Number of layers.
        activation: Activation after every layer but the last.
        **facts: Further fields of every `Layer`, for example `kind="Conv2d"`.
    """
    shared = {"kind": "Linear", "fan_in": 64, "fan_out": 64, "parameter_count": 4160, **facts}
    return tuple(
        Layer(
            name=f"layer{row}",
            depth=row,
            inputs=(row - 1,) if row else (),
            activation=activation if row < count - 1 else None,
            **shared,
        )
        for row in range(count)
    )


def snapshot(
    layers: Sequence[Layer],
    step: int = 0,
    *,
    loss: float = 1.0,
    states: State | Sequence[State] = State.TRAINED,
    skipped: bool = False,
    limits: tuple[str, ...] = (),
    **statistics: ArrayLike,
) -> Snapshot:
    """A snapshot of a healthy step, but for the figures given.

    Args:
        layers: The rows.
        step: Optimizer step.
        loss: Loss, NaN for none.
        states: One state for all layers, or one a layer.
        skipped: Whether the optimizer skipped the step.
        limits: What is not observed.
        **statistics: Statistic's name → one figure for all layers, or one a layer.

    Raises:
        KeyError: If a name is no statistic.
    """
    packed = empty_statistics(len(layers))
    for name, figures in {**_QUIET, **statistics}.items():
        packed[ROW_OF[name]] = np.asarray(figures, dtype=np.float32)
    return Snapshot.unpacked(
        packed,
        step=step,
        layers=tuple(layers),
        states=np.broadcast_to(np.asarray(states, dtype=np.int8), len(layers)).copy(),
        loss=loss,
        skipped=skipped,
        limits=limits,
    )


def backward_signals(
    layers: Sequence[Layer],
    *,
    activation: ArrayLike = 0.0,
    weights: ArrayLike = 0.0,
    other: ArrayLike = 0.0,
) -> dict[str, FloatArray]:
    """Backward statistics of a chain, from the gains along it, one for all layers or one a layer.

    Args:
        layers: A chain, input layer first.
        activation: log10 of the gain of the activation after each layer; where a layer has none,
            and after the last one, it is left out.
        weights: log10 of the gain of each layer's weights.
        other: log10 of the gain of whatever else lies between each layer and the next.

    Returns:
        Statistic's name → shape (layers,): arguments of `snapshot`.
    """
    count = len(layers)
    active = np.asarray([layer.activation is not None for layer in layers[:-1]] + [False])
    slopes = np.broadcast_to(activation, count)
    between = np.where(active, slopes, 0.0) + np.broadcast_to(other, count)
    back = np.broadcast_to(weights, count)
    output = np.full(count, -1.0)
    for row in range(count - 2, -1, -1):
        output[row] = output[row + 1] + back[row + 1] + between[row]
    return {
        "output_grad_norm": (10.0**output).astype(np.float32),
        "input_grad_norm": (10.0 ** (output + back)).astype(np.float32),
        "activation_gain_log10": np.where(active, slopes, np.nan).astype(np.float32),
    }


def history_of(snapshots: Iterable[Snapshot]) -> History:
    """A history that holds the snapshots, oldest first."""
    history = History()
    for entry in snapshots:
        history.append(entry)
    return history


def steady(
    layers: Sequence[Layer],
    *,
    steps: Iterable[int] = EARLY_STEPS,
    at: Callable[[int], dict[str, Any]] | None = None,
    **figures: Any,
) -> History:
    """A history whose figures do not change, long enough for a lasting verdict.

    Args:
        layers: The rows.
        steps: Sampled steps.
        at: Step → arguments of `snapshot` that hold at that step alone.
        **figures: Arguments of `snapshot` that hold at every step.
    """
    return history_of(
        snapshot(layers, step, **{**figures, **(at(step) if at is not None else {})})
        for step in steps
    )
