"""Observation: the figures of one execution, turned into a `Snapshot` on the host."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_dtypes import finfo
from numpy.typing import NDArray

from gradwatch.keras.figures import Layout
from gradwatch.keras.limits import limits_of_probe
from gradwatch.keras.probe import Traced, figures_of
from gradwatch.keras.rows import Rows
from gradwatch.keras.signals import loss_of, store_signals
from gradwatch.parts import Parts, states_of, store_parts
from gradwatch.snapshot import ROW_OF, Snapshot, empty_statistics

LOSS_DIGITS = 0.01
"""Largest relative error of a loss that is the difference of two sums over the epoch."""


@dataclass(frozen=True)
class ParameterFigures:
    """What the tap has computed.

    Args:
        observed: Steps of the execution that were observed.
        skipped: Steps since the figures before that the loss scaling has skipped.
        nonfinite: Steps since then in which the watched gradient's sample was not finite.
        peak_norm: Largest norm of that sample since then.
        columns: Figures of the variables by name, shape (variables,) each.
    """

    observed: int
    skipped: int
    nonfinite: int
    peak_norm: float
    columns: dict[str, NDArray[np.float64]]


class Observation:
    """Makes snapshots of one attachment's figures.

    Args:
        layout: Where the figures stand.
        rows: The model's rows.
    """

    def __init__(self, layout: Layout, rows: Rows) -> None:
        self._layout = layout
        self._rows = rows
        self._traced: Traced | None = None

    def learn(self, traced: Traced) -> list[str]:
        """What a trace of the probe could not see, in sentences; nothing of a trace that is known.

        Args:
            traced: What the trace says.
        """
        if traced is self._traced:
            return []
        self._traced = traced
        self._rows.learn(traced.wiring.order, traced.wiring.edges, traced.wiring.activations)
        return limits_of_probe(self._rows, traced)

    def parameters(self, carrier: NDArray[np.floating[Any]]) -> ParameterFigures:
        """The figures of a carrier."""
        counts = self._layout.counts(carrier)
        return ParameterFigures(
            observed=int(counts["observed"]),
            skipped=int(counts["skipped"]),
            nonfinite=int(counts["nonfinite"]),
            peak_norm=counts["peak_norm"],
            columns=self._layout.columns(carrier),
        )

    def snapshot(
        self,
        step: int,
        figures: ParameterFigures,
        *,
        losses: Sequence[float],
        probed: NDArray[np.floating[Any]] | None,
        wall_time: float,
    ) -> Snapshot:
        """The snapshot of an execution.

        Args:
            step: Its last optimizer step.
            figures: What the tap has computed.
            losses: Total and count of the epoch's loss before, then after it; or nothing.
            probed: The probe's figures, None without one.
            wall_time: Seconds since the epoch.
        """
        layers = self._rows.layers()
        packed: Any = empty_statistics(len(layers))
        parts = self._parts(figures.columns)
        store_parts(packed, parts, layers)
        loss = mean_loss(losses)
        if probed is not None and self._traced is not None:
            by_key = figures_of(probed, self._traced)
            store_signals(packed, by_key, self._traced, layers)
            loss = loss_of(by_key) if math.isnan(loss) else loss
        grad_norm = packed[ROW_OF["grad_norm"]]
        has_scale = figures.skipped > 0
        return Snapshot.unpacked(
            packed,
            step=step,
            layers=layers,
            states=states_of(
                self._rows_at(self._layout.applied),
                self._rows_at(self._layout.applied - self._layout.without_gradient),
                grad_norm,
                packed[ROW_OF["forward_calls"]],
            ),
            loss=loss,
            skipped=has_scale and bool(np.isinf(grad_norm).any()),
            wall_time=wall_time,
        )

    def _rows_at(self, places: Iterable[int]) -> set[int]:
        return {self._layout.watched[place].row for place in places}

    def _parts(self, columns: dict[str, NDArray[np.float64]]) -> Parts:
        """The trained parameters; a variable that no optimizer was given has no figures.

        What the step did beside the decay counts as being at right angles to it: that gives both
        back exactly.
        """
        watched = self._layout.watched
        before, rest, shrink = (columns[name] for name in ("before_norm", "rest_norm", "shrink"))
        shrink = np.where(np.isfinite(shrink), shrink, 0.0)
        grad_norm = columns["grad_norm"].copy()
        grad_norm[list(self._layout.without_gradient)] = np.nan
        with np.errstate(invalid="ignore", over="ignore"):
            after = np.hypot((1 - shrink) * before, rest)
            moved = np.where(shrink > 0, np.hypot(shrink * before, rest), rest)
        return Parts(
            row=np.asarray([entry.row for entry in watched], dtype=np.intp),
            decay=shrink,
            scale=np.sqrt([entry.size / entry.sampled for entry in watched]),
            rounding=np.asarray([float(finfo(entry.variable.dtype).eps) for entry in watched]),
            weight_norm=columns["weight_norm"],
            grad_norm=grad_norm,
            before_norm=before,
            after_norm=after,
            update_norm=moved,
        )


def mean_loss(losses: Sequence[float]) -> float:
    """Mean loss of an execution, from the epoch's sums before and after it.

    Args:
        losses: Total and count before, total and count after; or nothing.

    Returns:
        +inf where it is not finite; NaN where it is not known, as where the sums are so large that
        their difference has lost its digits.
    """
    if len(losses) != 4 or not math.isfinite(losses[0]):
        return math.nan
    total, count, total_after, count_after = losses
    if not math.isfinite(total_after):
        return math.inf
    rounding = float(np.spacing(np.float32(max(abs(total), abs(total_after)))))
    difference = total_after - total
    if not count_after > count or rounding > LOSS_DIGITS * abs(difference):
        return math.nan
    return difference / (count_after - count)
