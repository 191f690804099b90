"""Changes to a history that must not change a verdict, and what of a verdict must stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradwatch.history import History
from gradwatch.layer import Layer
from gradwatch.rules import Rule
from gradwatch.snapshot import ROW_OF, STATISTICS, Snapshot
from gradwatch.testing import history_of

GRADIENT_LIKE = tuple(
    statistic.name for statistic in STATISTICS if statistic.unit.startswith("dL/d")
)
"""Statistics that are proportional to the scale of the loss."""


@dataclass(frozen=True)
class Said:
    """What a diagnosis says, by the names of the layers: no figure in it."""

    cause: str
    severity: str
    layers: frozenset[str]
    explained: frozenset[str]


def said(rule: Rule, history: History) -> frozenset[Said] | None:
    """What the rule says of a history, None where it says nothing of either kind."""
    verdict = rule.evaluate(history)
    if verdict is None:
        return None
    layers = history.layers
    return frozenset(
        Said(
            diagnosis.cause,
            diagnosis.severity,
            frozenset(layers[row].name for row in diagnosis.rows),
            frozenset(layers[row].name for row in diagnosis.explained),
        )
        for diagnosis in verdict.present
    )


def scaled(history: History, factor: float, *, with_loss: bool = False) -> History:
    """The same run with a loss that is `factor` times as steep.

    Args:
        history: The run.
        factor: A power of two, so that nothing is rounded.
        with_loss: Whether the loss that was observed grows with it.
    """
    rows = [ROW_OF[name] for name in GRADIENT_LIKE]

    def steeper(snapshot: Snapshot) -> Snapshot:
        packed = snapshot.packed().copy()
        packed[rows] *= np.float32(factor)
        loss = snapshot.loss * factor if with_loss else snapshot.loss
        return _with(snapshot, packed=packed, loss=loss)

    return _each(history, steeper)


def renamed(history: History, name: Callable[[str], str] = "model.{}.odd name".format) -> History:
    """The same run of a model whose modules have other names."""

    def rename(layer: Layer) -> Layer:
        module = layer.activation_module
        return replace(layer, name=name(layer.name), activation_module=module and name(module))

    return _each(
        history,
        lambda snapshot: _with(snapshot, layers=[rename(layer) for layer in snapshot.layers]),
    )


def reordered(history: History, order: Sequence[int]) -> History:
    """The same run with the rows in another order of appearance, wired alike.

    Args:
        history: A run in which every snapshot has all rows.
        order: New row → old row.
    """
    new_row = {old: new for new, old in enumerate(order)}

    def reorder(snapshot: Snapshot) -> Snapshot:
        layers = [
            replace(
                snapshot.layers[old],
                inputs=tuple(sorted(new_row[source] for source in snapshot.layers[old].inputs)),
            )
            for old in order
        ]
        picked = list(order)
        return _with(
            snapshot,
            layers=layers,
            packed=snapshot.packed()[:, picked],
            states=snapshot.states[picked],
        )

    return _each(history, reorder)


def _each(history: History, change: Callable[[Snapshot], Snapshot]) -> History:
    changed = history_of(change(snapshot) for snapshot in history)
    changed.finished = history.finished
    changed.limits = history.limits
    return changed


def _with(snapshot: Snapshot, **changes: object) -> Snapshot:
    facts = {
        "packed": snapshot.packed(),
        "step": snapshot.step,
        "layers": snapshot.layers,
        "states": snapshot.states,
        "loss": snapshot.loss,
        "skipped": snapshot.skipped,
        **changes,
    }
    facts["layers"] = tuple(facts["layers"])
    return Snapshot.unpacked(facts.pop("packed"), **facts)
