"""Rows: which layers are observed, which variables are theirs, and what is known of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras

from gradwatch.keras.activations import activation_name
from gradwatch.keras.fans import NORMALISATION, fans_of
from gradwatch.keras.layer_tree import is_composite, own_variables, walk_layers
from gradwatch.layer import Layer


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
    """The rows of one model, append-only, in the order in which its layers are defined.

    A row's name is what a Keras snippet of a fix finds the layer by, its `layer_of`: the layer's
    name where no other layer of the model has it; else the names of the layers around it below the
    model and its own, joined by "/"; else Keras' own path, which may begin with the model's name.
    Where `layer_of` knows the layer by none of them, it has the joined names, numbered if another
    layer answers to them, so that a snippet never changes a wrong layer.

    Args:
        model: The model. Layers of it that are not built yet are found by `refresh`.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._row_of: dict[int, int] = {}
        self._row_of_variable: dict[int, int] = {}
        self._rows: list[Row] = []
        self._layers: tuple[Layer, ...] = ()
        self._ran: set[int] = set()
        """Rows that ran in a pass that was learned from."""
        self._feeding: set[int] = set()
        """Rows that feed another one."""
        self.refresh()

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

    def refresh(self) -> None:
        """Find layers and variables that were built or added since, and append their rows."""
        self._row_of_variable.clear()
        for index, row in enumerate(self._rows):
            row.variables = self._claimed(row.layer, index) or row.variables
            row.composite = is_composite(row.layer)
            weighted, fan_in, fan_out = fans_of(row.layer, row.variables)
            row.note(weighted=weighted, fan_in=fan_in, fan_out=fan_out)
        names: _Names | None = None
        for layer, joined in walk_layers(self._model):
            if id(layer) in self._row_of:
                continue
            variables = self._claimed(layer, len(self._rows))
            if variables:
                names = names or _Names(self._model, {row.known.name for row in self._rows})
                self._append(layer, names.name_of(layer, joined), variables)

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
        called = list(dict.fromkeys(order))
        seen = set(called)
        self._ran |= seen
        unseen = [row for row in range(len(self._rows)) if row not in seen]
        for depth, row in enumerate((*called, *unseen)):
            self._rows[row].note(depth=depth)
        for source, end in edges:
            if source == end:
                self._rows[source].note(recurrent=True)
            else:
                self._rows[end].inputs.add(source)
                self._feeding.add(source)
        for row, (activation, module) in activations.items():
            self._rows[row].note(activation=activation, activation_module=module)

    def _claimed(self, layer: Any, row: int) -> tuple[Any, ...]:
        """The layer's variables that no row before it owns, now this row's; a matrix first."""
        own = [
            variable
            for variable in own_variables(layer)
            if id(variable) not in self._row_of_variable
        ]
        self._row_of_variable.update({id(variable): row for variable in own})
        return tuple(sorted(own, key=lambda variable: len(variable.shape) < 2))

    def _append(self, layer: Any, name: str, variables: tuple[Any, ...]) -> None:
        row = len(self._rows)
        recurrent = isinstance(layer, keras.layers.RNN)
        weighted, fan_in, fan_out = fans_of(layer, variables)
        known = Layer(
            name=name,
            kind=_kind(layer),
            depth=row,
            weighted=weighted,
            fan_in=fan_in,
            fan_out=fan_out,
            parameter_count=_count(variables),
            activation=None if recurrent else activation_name(layer),
            recurrent=recurrent,
        )
        self._rows.append(Row(layer, known, variables, is_composite(layer)))
        self._row_of[id(layer)] = row


class _Names:
    """Gives each layer of a model a name of its own, see `Rows`.

    Args:
        model: The model.
        taken: Names that other rows have.
    """

    def __init__(self, model: Any, taken: set[str]) -> None:
        layers = list(model._flatten_layers())
        self._taken = taken
        self._count = Counter(layer.name for layer in layers)
        self._layer_of = {layer.name: layer for layer in layers}
        self._layer_of |= {layer.path: layer for layer in layers}

    def name_of(self, layer: Any, joined: str) -> str:
        """The layer's name, taken from now on."""
        wanted = [joined, layer.path]
        if self._count[layer.name] == 1:
            wanted.insert(0, layer.name)
        names = (name for name in wanted if name and self._layer_of.get(name) is layer)
        name = next((name for name in names if name not in self._taken), None)
        if name is None:
            name = self._numbered(joined)
        self._taken.add(name)
        return name

    def _numbered(self, joined: str) -> str:
        """The joined names, or a variant of them that no layer answers to."""
        name, number = joined, 0
        while name in self._taken or name in self._layer_of:
            number += 1
            name = f"{joined}_{number}"
        return name


def _kind(layer: Any) -> str:
    """Class name of the layer; of the cell for a bare `RNN`, which says nothing of its gates."""
    return type(layer.cell if type(layer) is keras.layers.RNN else layer).__name__


def _count(variables: Iterable[Any]) -> int:
    """Values that train; all of them where none does."""
    sizes = [(math.prod(variable.shape), variable.trainable) for variable in variables]
    return sum(size for size, trains in sizes if trains) or sum(size for size, _ in sizes)


def unit_axis(layer: Any, rank: int, shape: Sequence[int | None]) -> int:
    """The axis that counts units in what the layer gives: the last, or where its channels are.

    Where the values were reshaped or transposed on the way, it is the axis as long as the layer has
    units, and the last if there is none.

    Args:
        layer: The layer that comes before the values.
        rank: Axes of the values.
        shape: Their shape.
    """
    last = rank - 1
    units, axis = _units(layer)
    expected = rank + axis if axis < 0 else axis
    if not 0 <= expected <= last:
        return last
    if units is None or shape[expected] == units:
        return expected
    return next((axis for axis in range(1, last) if shape[axis] == units), last)


def _units(layer: Any) -> tuple[int | None, int]:
    """(number of units, None if unknown; the axis that counts them in the layer's own output)."""
    if isinstance(layer, NORMALISATION):
        axis = getattr(layer, "axis", -1)
        return None, axis if isinstance(axis, int) else -1
    units = getattr(layer, "filters", None) or getattr(layer, "units", None)
    window = getattr(layer, "kernel_size", None)
    if getattr(layer, "data_format", None) == "channels_first" and window:
        return units, -1 - len(window)
    return (units if isinstance(units, int) else None), -1
