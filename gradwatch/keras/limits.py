"""Limits: what cannot be observed of a model, said before training begins."""

from __future__ import annotations

from typing import Any

import keras


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
