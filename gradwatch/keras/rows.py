"""Rows: which layers are observed, which variables are theirs, and what is known of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import keras

from gradwatch.keras.activations import activation_name
from gradwatch.layer import Layer

_RECURRENT = (keras.layers.RNN,)
_WHOLE = (*_RECURRENT, keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
"""Layers that are one row together with everything below them."""

_NORMALISATION = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.UnitNormalization,
)


@dataclass
class Row:
    """One layer that owns variables which can train.

    Args:
        layer: The layer; rows live no longer than a training.
        known: What is known of it so far.
        variables: Its variables, those of two or more dimensions first.
        composite: Whether other rows lie below it: then only its variables are observed.
    """

    layer: Any
    known: Layer
    variables: tuple[Any, ...]
    composite: bool
    inputs: set[int] = field(default_factory=set)

    def note(self, **known: Any) -> None:
        """Change what is known of the layer; the same object stays where nothing is new."""
        if any(getattr(self.known, name) != known[name] for name in known):
            self.known = replace(self.known, **known)


class Rows:
    """The rows of one built model, in the order in which its layers are defined.

    A row's name is the layer's where no other layer has it, so that a snippet finds the layer by
    it; else the layer's path, the names of the models and layers around it before its own.

    Args:
        model: The model.
    """

    def __init__(self, model: Any) -> None:
        self._row_of: dict[int, int] = {}
        self._row_of_variable: dict[int, int] = {}
        self._rows: list[Row] = []
        self._layers: tuple[Layer, ...] = ()
        self._ran: set[int] = set()
        self._feeding: set[int] = set()
        found = list(_walk(model))
        self._names = Counter(layer.name for layer, _ in found)
        self._taken: set[str] = set()
        for layer, path in found:
            self._append(layer, path)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def __getitem__(self, row: int) -> Row:
        return self._rows[row]

    def row_of(self, layer: Any) -> int | None:
        """The layer's row, None if it has none."""
        return self._row_of.get(id(layer))

    def row_of_variable(self, variable: Any) -> int | None:
        """The row of the first layer that owns the variable, None if no row does."""
        return self._row_of_variable.get(id(variable))

    def is_last(self, row: int) -> bool:
        """Whether it has run, and no other row reads what it gives."""
        return row in self._ran and row not in self._feeding

    def layers(self) -> tuple[Layer, ...]:
        """What is known of every row now; the same object as long as nothing changed."""
        for row in self._rows:
            row.note(inputs=tuple(sorted(row.inputs)), parameter_count=_count(row.variables))
        current = tuple(row.known for row in self._rows)
        if current != self._layers:
            self._layers = current
        return self._layers

    def learn(
        self,
        order: Iterable[int],
        edges: Iterable[tuple[int, int]],
        activations: Mapping[int, tuple[str, str | None]],
    ) -> None:
        """Take what a pass showed of how the rows hang together.

        Args:
            order: Rows in the order of their first call.
            edges: (row, row) pairs: the first feeds the second with no other row in between; a
                pair of the same row twice means that it feeds itself.
            activations: Row → (name of the activation that follows, name of its layer or None).
        """
        seen = list(order)
        self._ran.update(seen)
        unseen = [row for row in range(len(self._rows)) if row not in set(seen)]
        for depth, row in enumerate((*seen, *unseen)):
            self._rows[row].note(depth=depth)
        for source, end in edges:
            if source == end:
                self._rows[source].note(recurrent=True)
            else:
                self._rows[end].inputs.add(source)
                self._feeding.add(source)
        for row, (activation, module) in activations.items():
            self._rows[row].note(activation=activation, activation_module=module)

    def _append(self, layer: Any, path: str) -> None:
        variables = tuple(
            variable
            for variable in _own_variables(layer)
            if id(variable) not in self._row_of_variable and math.prod(variable.shape)
        )
        if not variables:
            return
        row = len(self._rows)
        ordered = tuple(sorted(variables, key=lambda variable: len(variable.shape) < 2))
        weighted, fan_in, fan_out = _fans(layer, ordered)
        recurrent = isinstance(layer, _RECURRENT)
        known = Layer(
            name=self._named(layer, path),
            kind=type(layer).__name__,
            depth=row,
            weighted=weighted,
            fan_in=fan_in,
            fan_out=fan_out,
            parameter_count=_count(ordered),
            activation=None if recurrent else activation_name(layer),
            recurrent=recurrent,
        )
        self._rows.append(Row(layer, known, ordered, _is_composite(layer)))
        self._row_of[id(layer)] = row
        self._row_of_variable.update({id(variable): row for variable in ordered})

    def _named(self, layer: Any, path: str) -> str:
        """The layer's name, or its path where several layers have the name, never taken twice."""
        wanted = layer.name if self._names[layer.name] == 1 else path
        name, number = wanted, 1
        while name in self._taken:
            name, number = f"{wanted}_{number}", number + 1
        self._taken.add(name)
        return name


def _walk(model: Any) -> Iterator[tuple[Any, str]]:
    """Every layer that may be a row, with its path, each once, in the order of definition."""
    seen: set[int] = set()

    def walk(layer: Any, path: str) -> Iterator[tuple[Any, str]]:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        yield layer, path
        if not isinstance(layer, _WHOLE):
            for below in _below(layer):
                yield from walk(below, f"{path}/{below.name}" if path else below.name)

    for layer, path in walk(model, ""):
        yield layer, path or layer.name


def _below(layer: Any) -> list[Any]:
    """The layers right below it, a functional model's in the order of its graph."""
    ordered = list(layer.layers) if isinstance(layer, keras.Model) else []
    return ordered + [below for below in layer._layers if not any(below is one for one in ordered)]


def _own_variables(layer: Any) -> list[Any]:
    """Variables that can train, of all that is part of the layer's row."""
    owners = layer._flatten_layers() if isinstance(layer, _WHOLE) else [layer]
    return [variable for owner in owners for variable in owner._trainable_variables]


def _is_composite(layer: Any) -> bool:
    """Whether layers below it, that are no part of its row, have variables of their own."""
    if isinstance(layer, _WHOLE):
        return False
    return any(below._trainable_variables for below in layer._flatten_layers(include_self=False))


def _count(variables: Iterable[Any]) -> int:
    """Values that train; all of them where none does."""
    sizes = [(math.prod(variable.shape), variable.trainable) for variable in variables]
    return sum(size for size, trains in sizes if trains) or sum(size for size, _ in sizes)


def _fans(layer: Any, variables: tuple[Any, ...]) -> tuple[bool, int, int]:
    """Whether the layer mixes its inputs, its fan-in and its fan-out."""
    shape = tuple(int(length) for length in variables[0].shape)
    kind = type(layer).__name__
    if isinstance(layer, keras.layers.Embedding):
        return True, 1, shape[-1]
    if len(shape) < 2 or isinstance(layer, _NORMALISATION):
        return False, 1, max(math.prod(variable.shape) for variable in variables)
    if isinstance(layer, _RECURRENT):
        units = getattr(layer, "units", None) or getattr(layer, "filters", None) or shape[-1]
        return True, math.prod(shape[:-1]), int(units) * math.prod(shape[:-2])
    if isinstance(layer, _WHOLE):
        return True, shape[0], math.prod(shape[1:])
    if isinstance(layer, keras.layers.EinsumDense):
        return (True, *_einsum_fans(layer.equation, shape))
    receptive = math.prod(shape[:-2])
    if "Depthwise" in kind or "Separable" in kind:
        return True, receptive, shape[-1] * receptive
    if "Transpose" in kind:
        return True, shape[-1] * receptive, shape[-2] * receptive
    return True, shape[-2] * receptive, shape[-1] * receptive


def _einsum_fans(equation: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """Fan-in: the kernel's axes that are summed over; fan-out: those that are in the output."""
    operands, output = equation.replace(" ", "").split("->")
    axes = operands.split(",")[1].replace(".", "")
    fan_in = math.prod(size for axis, size in zip(axes, shape, strict=False) if axis not in output)
    fan_out = math.prod(size for axis, size in zip(axes, shape, strict=False) if axis in output)
    return fan_in, fan_out


def unit_axis(layer: Any, rank: int, shape: Iterable[int]) -> int:
    """The axis that counts units: the last, or the first after the examples where that is set.

    Args:
        layer: The layer that comes before the values.
        rank: Axes of the values.
        shape: Their shape.
    """
    lengths = list(shape)
    axis = getattr(layer, "axis", None)
    if getattr(layer, "data_format", None) == "channels_first" or axis == 1:
        units = getattr(layer, "filters", None)
        return 1 if rank > 1 and units in (None, lengths[1]) else rank - 1
    return rank - 1
