"""Layer rows: what a report says of each layer, and which rows it folds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gradwatch.finding import SEVERITIES, Finding, Severity
from gradwatch.flow import backward_profile, forward_order
from gradwatch.history import History
from gradwatch.layer import Layer
from gradwatch.snapshot import FloatArray, Snapshot, State

FOLD_ABOVE = 40
"""Rows up to which a table shows every layer."""

ENDS = 4
"""Rows at the start and at the end of a table that are never folded."""

AROUND = 1
"""Rows that stay on either side of a change of severity."""

USUAL_LOW_LOG10 = -6.0
"""Level of an empty bar; deeper networks stretch it, so that bars of different runs compare."""

USUAL_HIGH_LOG10 = 1.0
"""Level above the output layer's up to which a full bar is drawn; beyond, the scale stretches."""


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer at one observed step; NaN means "not observed".

    Args:
        layer: The layer.
        state: What its gradient was.
        severity: Worst open finding that names it, None where none does.
        backward_log10: log10 of the backward signal against the output layer's; -inf if exactly 0.
        update_ratio: See `Snapshot.update_ratio`.
        relative_grad: See `Snapshot.relative_grad`.
        flat_fraction: Share of dead units (one-sided activation) or saturated values (bounded one).
        flat_kind: Which of the two, None where neither was observed.
    """

    layer: Layer
    state: State
    severity: Severity | None
    backward_log10: float
    update_ratio: float
    relative_grad: float
    flat_fraction: float
    flat_kind: Literal["dead", "saturated"] | None


@dataclass(frozen=True, slots=True)
class Fold:
    """Consecutive unremarkable rows, shown as one.

    Args:
        rows: The rows it stands for, in forward order.
    """

    rows: tuple[LayerRow, ...]

    @property
    def backward_range(self) -> tuple[float, float] | None:
        """Smallest and largest finite backward signal (log10), None where none was observed."""
        levels = [row.backward_log10 for row in self.rows if math.isfinite(row.backward_log10)]
        return (min(levels), max(levels)) if levels else None


@dataclass(frozen=True, slots=True)
class Scale:
    """Levels (log10 against the output layer's) of an empty and of a full bar.

    Args:
        low: Level of an empty bar.
        high: Level of a full bar.
    """

    low: float
    high: float

    @classmethod
    def of(cls, rows: Iterable[LayerRow]) -> Scale:
        """The scale on which every finite level shows."""
        levels = [row.backward_log10 for row in rows if math.isfinite(row.backward_log10)]
        lowest, highest = min(levels, default=0.0), max(levels, default=0.0)
        low = min(USUAL_LOW_LOG10, math.floor(lowest) - 1.0)
        return cls(low, 0.0 if highest <= USUAL_HIGH_LOG10 else float(math.ceil(highest)))

    def share(self, level: float) -> float:
        """Share of a full bar that a level fills, 0 to 1."""
        if math.isnan(level):
            return 0.0
        return min(max((level - self.low) / (self.high - self.low), 0.0), 1.0)


def table_snapshot(history: History) -> Snapshot | None:
    """The newest step that observed signals, else the newest one; None before the first.

    A step that the optimizer skipped counts only if there is no other.
    """
    newest_first = list(reversed(history))
    taken = [snapshot for snapshot in newest_first if not snapshot.skipped]
    with_signals = [snapshot for snapshot in taken if snapshot.has_signals]
    return next(iter((*with_signals, *taken, *newest_first)), None)


def layer_rows(history: History, findings: Sequence[Finding]) -> tuple[LayerRow, ...]:
    """A row for each layer, in forward order; empty before the first snapshot."""
    snapshot = table_snapshot(history)
    if snapshot is None:
        return ()
    layers = history.layers
    severity = worst_severity(findings)
    backward = _at(backward_profile(snapshot), len(layers))
    update = _at(snapshot.update_ratio, len(layers))
    relative = _at(snapshot.relative_grad, len(layers))
    dead = _at(snapshot.dead_fraction, len(layers))
    saturated = _at(snapshot.saturation_fraction, len(layers))
    states = (*snapshot.states, *history[-1].states[len(snapshot.states) :])
    return tuple(
        LayerRow(
            layer=layers[row],
            state=State(states[row]),
            severity=severity.get(layers[row].name),
            backward_log10=backward[row],
            update_ratio=update[row],
            relative_grad=relative[row],
            flat_fraction=saturated[row] if math.isnan(dead[row]) else dead[row],
            flat_kind=_flat_kind(dead[row], saturated[row]),
        )
        for row in forward_order(layers)
    )


def worst_severity(findings: Iterable[Finding]) -> dict[str, Severity]:
    """Layer's name → severity of the worst open finding that names it."""
    worst: dict[str, Severity] = {}
    for finding in findings:
        for name in finding.layers if finding.is_open else ():
            worst[name] = max(finding.severity, worst.get(name, "notice"), key=SEVERITIES.index)
    return worst


def folded(rows: Sequence[LayerRow]) -> tuple[LayerRow | Fold, ...]:
    """The rows, with long runs of one severity folded in the middle if there are more than 40.

    The first and the last rows of the table stay, as does a row on either side of every change of
    severity, so the layers where something begins or ends are always named.
    """
    if len(rows) <= FOLD_ABOVE:
        return tuple(rows)
    changes = [
        index for index in range(1, len(rows)) if rows[index].severity != rows[index - 1].severity
    ]
    kept = set(range(ENDS)) | set(range(len(rows) - ENDS, len(rows)))
    for change in changes:
        kept |= set(range(change - AROUND, change + AROUND))
    shown: list[LayerRow | Fold] = []
    pending: list[LayerRow] = []
    for index, row in enumerate(rows):
        if index in kept:
            shown += _fold(pending)
            shown.append(row)
            pending = []
        else:
            pending.append(row)
    return tuple(shown)


def unfolded(rows: Iterable[LayerRow | Fold]) -> Iterator[LayerRow]:
    """Every row, those that stand behind a fold included."""
    for row in rows:
        yield from row.rows if isinstance(row, Fold) else (row,)


def _fold(rows: list[LayerRow]) -> list[LayerRow | Fold]:
    return [Fold(tuple(rows))] if len(rows) > 1 else [*rows]


def _flat_kind(dead: float, saturated: float) -> Literal["dead", "saturated"] | None:
    if not math.isnan(dead):
        return "dead"
    return None if math.isnan(saturated) else "saturated"


def _at(statistic: FloatArray, row_count: int) -> list[float]:
    """The statistic with NaN for rows that the snapshot did not have yet."""
    padded = np.full(row_count, np.nan, dtype=np.float32)
    padded[: len(statistic)] = statistic
    return [float(value) for value in padded]
