"""Series: one statistic of a stored run by layer and step, as levels (log10) that can be compared.

A level is -inf where the figure is exactly zero, +inf where it is not finite, and NaN where it was
not observed. Steps that the optimizer skipped are left out: their gradients overflowed by design.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradwatch.layer import Layer
from gradwatch.samples import Flags
from gradwatch.snapshot import FloatArray, State
from gradwatch.tensorboard.packed import Chunk
from gradwatch.tensorboard.reader import Recording
from gradwatch.wiring import wiring

Levels = NDArray[np.float64]
Steps = NDArray[np.int64]

RELATIVE_TO_OUTPUT = "output_grad_norm"
"""The statistic of which only ratios between the layers of one run are promised."""

OF_GRADIENTS = frozenset({"output_grad_norm", "grad_norm", "update_ratio"})
"""Statistics that are zero where a layer ran and no gradient came."""

UNASKED = (State.FROZEN, State.IDLE)
"""States in which no gradient is asked of a layer, so that none was observed."""


@dataclass(frozen=True, eq=False)
class Series:
    """One statistic of a run at the samples that observed it.

    Args:
        names: Names of the layers, in forward order.
        steps: Shape (samples,), increasing.
        levels: log10 of the statistic, shape (samples, layers).
    """

    names: tuple[str, ...]
    steps: Steps
    levels: Levels

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True, eq=False)
class LossSeries:
    """The losses of a run at the steps that have one; +inf if not finite.

    Args:
        steps: Shape (samples,), increasing.
        losses: Shape (samples,).
    """

    steps: Steps
    losses: NDArray[np.float64]


def series_of(recording: Recording, statistic: str) -> Series:
    """A statistic of a run; of the backward signal, the profile against the output layer.

    Args:
        recording: The run.
        statistic: Name of a stored statistic whose figures are positive, or log10 already.
    """
    names = layer_names(recording)
    column = {name: index for index, name in enumerate(names)}
    steps, levels = [np.empty(0, dtype=np.int64)], [np.empty((0, len(names)))]
    for chunk in _chunks(recording):
        own = _levels(chunk, statistic)
        taken = ~chunk.skipped[: chunk.kept] & ~np.isnan(own).all(axis=1)
        wide = np.full((int(taken.sum()), len(names)), np.nan)
        wide[:, [column[layer.name] for layer in chunk.rows.layers]] = own[taken]
        steps.append(chunk.steps[: chunk.kept][taken])
        levels.append(wide)
    return Series(names, np.concatenate(steps), np.concatenate(levels))


def loss_series(recording: Recording) -> LossSeries:
    """The losses of a run."""
    chunks = list(_chunks(recording))
    steps = [chunk.steps[: chunk.kept] for chunk in chunks]
    losses = [chunk.losses[: chunk.kept] for chunk in chunks]
    all_steps = np.concatenate([np.empty(0, dtype=np.int64), *steps])
    all_losses = np.concatenate([np.empty(0), *losses])
    known = ~np.isnan(all_losses)
    return LossSeries(all_steps[known], all_losses[known])


def stored_bits(recording: Recording) -> str:
    """A digest of every sample: the same for two runs that stored the same bits at the same steps.

    Wall times, which differ whenever a run is repeated, are left out.
    """
    digest = hashlib.sha256()
    for chunk in _chunks(recording):
        samples = chunk.samples()
        names = "\n".join(layer.name for layer in samples.layers).encode(
            "utf-8", "backslashreplace"
        )
        for row, step in enumerate(samples.steps):
            digest.update(b"%d %d " % (step, len(names)) + names)
            digest.update(samples.packed[row].tobytes() + samples.states[row].tobytes())
            digest.update(samples.losses[row].tobytes() + samples.skipped[row].tobytes())
    return digest.hexdigest()


def layer_names(recording: Recording) -> tuple[str, ...]:
    """Names of all layers that a run ever had, in the forward order of its last rows.

    Those that its last rows lack, of a session before it was resumed, come after them.
    """
    versions: list[tuple[Layer, ...]] = []
    for chunk in _chunks(recording):
        if not versions or versions[-1] is not chunk.rows.layers:
            versions.append(chunk.rows.layers)
    ordered = (layers[row].name for layers in reversed(versions) for row in wiring(layers).order)
    return tuple(dict.fromkeys(ordered))


def _chunks(recording: Recording) -> Iterator[Chunk]:
    return (chunk for part in recording.parts for chunk in part.chunks if chunk.kept)


def _levels(chunk: Chunk, statistic: str) -> Levels:
    """log10 of a statistic, shape (kept snapshots, layers)."""
    figures = chunk.statistic(statistic)
    if statistic.endswith("_log10"):
        return figures.astype(np.float64)
    levels = _log10(figures)
    if statistic in OF_GRADIENTS:
        levels[np.isin(chunk.states[: chunk.kept], UNASKED)] = np.nan
        levels[_cut_off(chunk, statistic) & np.isnan(levels)] = -np.inf
    if statistic == RELATIVE_TO_OUTPUT:
        return _against_output(levels, chunk.rows.layers)
    return levels


def _cut_off(chunk: Chunk, statistic: str) -> Flags:
    """Where a layer ran and no gradient came, shape (kept snapshots, layers)."""
    cut_off = chunk.states[: chunk.kept] == State.NO_GRADIENT
    if statistic == RELATIVE_TO_OUTPUT:
        cut_off &= chunk.statistic("forward_calls") > 0
    return np.asarray(cut_off)


def _log10(figures: FloatArray) -> Levels:
    """-inf of an exact zero, NaN of what is below zero or was not observed."""
    with np.errstate(divide="ignore", invalid="ignore"):
        levels: Levels = np.log10(figures.astype(np.float64))
    return levels


def _against_output(levels: Levels, layers: tuple[Layer, ...]) -> Levels:
    """Levels less that of the strongest output layer of each sample.

    Where that one is zero or not finite, a layer whose signal is zero or not finite, too, keeps its
    level, and the others have none: a run that ends in NaN differs from one that does not.
    """
    outputs = levels[:, list(wiring(layers).output_rows)]
    known = np.where(np.isfinite(outputs), outputs, -np.inf)
    strongest = known.max(axis=1, initial=-np.inf, keepdims=True)
    with np.errstate(invalid="ignore"):
        relative = np.where(np.isfinite(strongest), levels - strongest, np.nan)
    return np.where(np.isinf(levels), levels, relative)
