"""Limits: what cannot be observed of a model, said before training begins."""

from __future__ import annotations

from typing import Any

import keras

from gradwatch.keras.probe import Traced
from gradwatch.keras.rows import Rows

NAMED = 3
"""Layers that a limit names one by one."""


def limits_of(model: Any) -> list[str]:
    """Why there are no signals of this model, a sentence each; nothing where there are."""
    own = [
        name
        for name in ("train_step", "compute_loss")
        if getattr(type(model), name) is not getattr(keras.Model, name)
    ]
    if own == ["train_step"] and getattr(model, "_compile_loss", None) is None:
        return [
            "the model has a train_step of its own and no compiled loss, so that forward and "
            "backward signals are not observed: pass a loss to compile(), or override "
            "compute_loss()"
        ]
    return []


def limits_of_probe(rows: Rows, traced: Traced) -> list[str]:
    """Which layers ran in a probe and have no signals, in a sentence; nothing where all have."""
    names = [rows[row].known.name for row in sorted(traced.hidden)]
    if not names:
        return []
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return [
        f"no forward or backward signals of {', '.join(names[:NAMED])}{rest}: the probe cannot "
        "look into a rematerialised layer (keras.RematScope, keras.remat), nor into a loop or a "
        "branch of the backend; gradients, weights and updates are observed"
    ]
