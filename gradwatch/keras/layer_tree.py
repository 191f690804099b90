"""The tree of a model's layers: their order, what is one row, and whose a variable is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import keras

from gradwatch.keras.fans import ATTENTION, TORCH_MODULE

WHOLE = (keras.layers.RNN, *ATTENTION)
"""Layers that are one row together with everything below them."""


def walk_layers(model: Any) -> Iterator[tuple[Any, str]]:
    """Every layer that may be a row, each once and in the order of definition.

    With it come the names of the layers around it below the model and its own, joined by "/".
    """
    seen: set[int] = set()

    def walk(layer: Any, joined: str) -> Iterator[tuple[Any, str]]:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        yield layer, joined or layer.name
        if not isinstance(layer, WHOLE):
            for below in _below(layer):
                yield from walk(below, f"{joined}/{below.name}" if joined else below.name)

    return walk(model, "")


def _below(layer: Any) -> list[Any]:
    """The layers right below it, a functional model's in the order of its graph."""
    ordered = list(layer.layers) if isinstance(layer, keras.Model) else []
    return ordered + [below for below in layer._layers if not any(below is one for one in ordered)]


def _tree(layer: Any) -> Iterator[Any]:
    """The layer and all below it, in order of definition: Keras turns round what is deeper."""
    yield layer
    for below in layer._layers:
        yield from _tree(below)


def own_variables(layer: Any) -> Iterator[Any]:
    """Variables that can train, each once, of all that is part of the layer's row.

    A variable that a layer below has too is that layer's: wrappers hold the kernel of what they
    wrap.
    """
    if isinstance(layer, WHOLE):
        variables = [variable for part in _tree(layer) for variable in _direct_variables(part)]
        elsewhere = set()
    else:
        variables = _direct_variables(layer)
        elsewhere = _variables_below(layer) if variables else set()
    for variable in {id(variable): variable for variable in variables}.values():
        if id(variable) not in elsewhere and _can_train(variable):
            yield variable


def _direct_variables(layer: Any) -> list[Any]:
    variables = list(layer._trainable_variables)
    if isinstance(layer, TORCH_MODULE):  # a frozen parameter of PyTorch is filed under these
        variables += layer._non_trainable_variables
    return variables


def _variables_below(layer: Any) -> set[int]:
    return {
        id(variable)
        for below in layer._flatten_layers(include_self=False)
        for variable in _direct_variables(below)
    }


def _can_train(variable: Any) -> bool:
    """Whether it takes a gradient: no integers, nothing empty, no scale of float8 training."""
    if getattr(variable, "overwrite_with_gradient", False):
        return False
    return bool(keras.backend.is_float_dtype(variable.dtype)) and math.prod(variable.shape) > 0


def is_composite(layer: Any) -> bool:
    """Whether layers below it, that are no part of its row, have variables of their own."""
    return not isinstance(layer, WHOLE) and bool(_variables_below(layer))
