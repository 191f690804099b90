"""Samples: consecutive snapshots of the same layers, each figure as one array over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gradwatch import flow
from gradwatch.layer import Layer
from gradwatch.snapshot import ROW_OF, FloatArray, Snapshot, State

Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Samples:
    """Consecutive snapshots, oldest first, that share their layers and limits.

    Args:
        layers: See `Snapshot`, as all that follow.
        steps: Shape (samples,), int64.
        states: Shape (samples, layers), int8.
        packed: Shape (samples, statistics, layers), float32, in the order of `STATISTICS`.
        losses: Shape (samples,), float64.
        skipped: Shape (samples,), bool.
        wall_times: Shape (samples,), float64.
        limits: What is not observed.
    """

    layers: tuple[Layer, ...]
    steps: NDArray[np.int64]
    states: NDArray[np.int8]
    packed: FloatArray
    losses: NDArray[np.float64]
    skipped: Flags
    wall_times: NDArray[np.float64]
    limits: tuple[str, ...] = ()

    @classmethod
    def of(cls, snapshots: Sequence[Snapshot]) -> Samples:
        """The samples that these snapshots are; at least one, and all of the same layers."""
        return cls(
            layers=snapshots[0].layers,
            steps=np.asarray([snapshot.step for snapshot in snapshots], dtype=np.int64),
            states=np.stack([snapshot.states for snapshot in snapshots]),
            packed=np.stack([snapshot.packed() for snapshot in snapshots]),
            losses=np.asarray([snapshot.loss for snapshot in snapshots], dtype=np.float64),
            skipped=np.asarray([snapshot.skipped for snapshot in snapshots], dtype=np.bool_),
            wall_times=np.asarray([snapshot.wall_time for snapshot in snapshots], dtype=np.float64),
            limits=snapshots[0].limits,
        )

    def __len__(self) -> int:
        return len(self.steps)

    def snapshots(self) -> list[Snapshot]:
        """Each sample as a snapshot whose figures are views of these arrays."""
        return [
            Snapshot.unpacked(
                self.packed[index],
                step=int(self.steps[index]),
                layers=self.layers,
                states=self.states[index],
                loss=float(self.losses[index]),
                skipped=bool(self.skipped[index]),
                limits=self.limits,
                wall_time=float(self.wall_times[index]),
            )
            for index in range(len(self))
        ]

    def statistic(self, name: str) -> FloatArray:
        """One statistic of every sample, shape (samples, layers)."""
        figures: FloatArray = self.packed[:, ROW_OF[name]]
        return figures

    def any_above(self, name: str, limit: float) -> Flags:
        """Whether a statistic is above a limit at any layer, shape (samples,); NaN is not."""
        return np.asarray((self.statistic(name) > limit).any(axis=1))

    def any_below(self, name: str, limit: float) -> Flags:
        """Whether a statistic is below a limit at any layer, shape (samples,); NaN is not."""
        return np.asarray((self.statistic(name) < limit).any(axis=1))

    def any_in(self, *states: State) -> Flags:
        """Whether any layer is in one of the states, shape (samples,)."""
        return np.asarray(np.isin(self.states, states).any(axis=1))

    @cached_property
    def backward_depth(self) -> NDArray[np.float64]:
        """`Snapshot.backward_depth` of every sample, shape (samples,)."""
        signal = self.statistic("output_grad_norm")
        return flow.backward_depths(self.layers, signal).astype(np.float64)

    @cached_property
    def backward_growth(self) -> NDArray[np.float64]:
        """`Snapshot.backward_growth` of every sample, shape (samples,)."""
        signal = self.statistic("output_grad_norm")
        return flow.backward_growths(self.layers, signal).astype(np.float64)

    @cached_property
    def forward_drift(self) -> NDArray[np.float64]:
        """`Snapshot.forward_drift` of every sample, shape (samples,)."""
        sizes = self.statistic("input_rms"), self.statistic("output_rms")
        return flow.forward_drifts(self.layers, *sizes).astype(np.float64)

    @cached_property
    def is_finite(self) -> Flags:
        """`Snapshot.is_finite` of every sample, shape (samples,)."""
        infinite = (self.statistic("nonfinite_count") > 0).any(axis=1) | np.isinf(self.losses)
        for name in ("output_rms", "output_grad_norm", "weight_norm"):
            infinite |= np.isinf(self.statistic(name)).any(axis=1)
        return np.asarray(~infinite)

    @cached_property
    def has_signals(self) -> Flags:
        """`Snapshot.has_signals` of every sample, shape (samples,)."""
        return np.asarray(~np.isnan(self.statistic("forward_calls")).all(axis=1))

    @cached_property
    def largest_update_ratio(self) -> NDArray[np.float64]:
        """Largest finite update ratio of any layer, -inf where there is none, shape (samples,)."""
        updates = self.statistic("update_ratio")
        known = np.where(np.isfinite(updates), updates, -np.inf)
        largest = known.max(axis=1, initial=-np.inf)
        return np.asarray(largest, dtype=np.float64)
