"""Checks of what was read: a stored file may hold anything, and JSON knows no types of its own."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from gradwatch.layer import Layer

LARGEST_INTEGER = 2**63
"""Integers beyond it fit no array."""


def check_types(entry: Any) -> None:
    """Nothing, if every field of a dataclass is of the type that it declares.

    Args:
        entry: An instance whose fields are numbers, strings, literals, tuples, mappings or further
            dataclasses.

    Raises:
        ValueError: If a field is not, or holds an integer that fits no array.
    """
    kind: Any = type(entry)
    for name, hint in _hints(kind).items():
        value = getattr(entry, name)
        if not _conforms(value, hint):
            raise ValueError(f"{type(entry).__name__}.{name} cannot be {_short(value)}")


def check_layers(layers: tuple[Layer, ...]) -> None:
    """Nothing, if the layers can be the rows of a run.

    Raises:
        ValueError: If a field has another type, a size is negative, or an input is no row.
    """
    for layer in layers:
        check_types(layer)
        if min(layer.fan_in, layer.fan_out, layer.parameter_count) < 0:
            raise ValueError(f"layer {_short(layer.name)} has a negative size")
        if not all(0 <= row < len(layers) for row in layer.inputs):
            raise ValueError(f"layer {_short(layer.name)} reads a layer that is not there")


def _conforms(value: object, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin in (Union, types.UnionType):
        return any(_conforms(value, argument) for argument in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_conforms(part, arguments[0]) for part in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            _conforms(key, arguments[0]) and _conforms(part, arguments[1])
            for key, part in value.items()
        )
    return _is_of(value, hint)


def _is_of(value: object, kind: Any) -> bool:
    """Whether a value is of a class: a bool is no number here, but an integer is a float."""
    if isinstance(kind, type) and is_dataclass(kind):
        return type(value) is kind and _is_sound(value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and _fits(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and _fits(value)
    return isinstance(value, kind)


def _is_sound(value: object) -> bool:
    check_types(value)
    return True


def _fits(number: float) -> bool:
    return isinstance(number, float) or -LARGEST_INTEGER <= number < LARGEST_INTEGER


@lru_cache
def _hints(kind: Any) -> Mapping[str, Any]:
    hints = get_type_hints(kind)
    return {entry.name: hints[entry.name] for entry in fields(kind)}


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."
