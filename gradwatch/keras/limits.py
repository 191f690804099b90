"""Limits: what cannot be observed of a model, said before training begins."""

from __future__ import annotations

from typing import Any

import keras


def limits_of(model: Any) -> list[str]:
    """What is missing for this model, a sentence each."""
    sentences = []
    own_step = type(model).train_step is not keras.Model.train_step
    has_own_step = own_step and type(model) is not keras.Sequential
    if has_own_step and getattr(model, "_compile_loss", None) is None:
        sentences.append(
            "the model has a train_step of its own and no compiled loss, so that forward and "
            "backward signals are not observed: pass a loss to compile(), or override "
            "compute_loss()"
        )
    return sentences
