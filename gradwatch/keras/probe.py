"""Probe: a forward and backward pass on a small batch that leaves no trace in the training.

It runs in a `keras.StatelessScope`, so that no variable, statistic or seed of the model changes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import keras
import numpy as np
from keras import ops, tree
from numpy.typing import NDArray

from gradwatch.keras.fans import TORCH_MODULE
from gradwatch.keras.optimizers import optimizers_of
from gradwatch.keras.passes import Key, Pass, Wiring
from gradwatch.keras.recording import is_packed
from gradwatch.keras.rows import Row, Rows
from gradwatch.keras.tensor_norms import norm
from gradwatch.sampling import sampling_stride

MOST_EXAMPLES = 64
"""Examples of a training batch that are kept for the probe."""

COMPARED_UNITS = 64
"""Units of a layer, and weights of each, that are compared with each other."""

LOSS = Key(-1, "loss")


@dataclass
class Traced:
    """What the trace of a probe says, whatever the values.

    Args:
        keys: Key of each figure, and how many numbers it has, in the order of the vector.
        wiring: How the rows hang together.
        sizes: Elements of the tensors whose norms were taken.
        dtypes: Row → dtype of its output.
        calls: Row → how often it ran.
        inside: Rows with an activation of their own → the number of the activation in each call.
        positions: Number of an activation → its place among those that follow its layer in a row.
        hidden: Rows that ran, but only where nothing can be seen of them.
    """

    keys: list[tuple[Key, int]]
    wiring: Wiring
    sizes: dict[Key, int]
    dtypes: dict[int, str]
    calls: dict[int, int]
    inside: dict[int, list[int]] = field(default_factory=dict)
    positions: dict[int, int] = field(default_factory=dict)
    hidden: frozenset[int] = frozenset()


class Probe(ABC):
    """A pass on one batch, run again and again as the weights change.

    Args:
        model: The user's model, compiled and built.
        rows: Its rows.
        batch: (x, y, sample weight), the last two may be None.
    """

    def __init__(self, model: Any, rows: Rows, batch: tuple[Any, Any, Any]) -> None:
        self._model = model
        self._rows = rows
        self._given = batch
        self.traced: Traced | None = None

    @abstractmethod
    def run(self, state: Sequence[tuple[Any, Any]]) -> Any:
        """The figures as one vector of float32, yet to be copied to the host.

        Args:
            state: (variable, its present value) of every variable of the model, its optimizers and
                its metrics.
        """

    @cached_property
    def _batch(self) -> Any:
        """The batch in tensors, of as many examples as the model takes."""
        size = _batch_size_of(self._model)
        return tree.map_structure(lambda leaf: _constant(leaf, size), self._given)

    def _forward(
        self, collected: Pass, state: Sequence[tuple[Any, Any]], batch: tuple[Any, Any, Any]
    ) -> tuple[Any, Any]:
        """(the loss as its gradient is taken, the loss)."""
        model = self._model
        x, y, weight = batch
        scope = keras.StatelessScope(state_mapping=state, collect_losses=True)
        with scope, collected.patched(model):
            training = {"training": True} if model._call_has_training_arg else {}
            with collected.functions_patched():
                outputs = model(x, **training)
            loss = model._compute_loss(
                x=x, y=y, y_pred=outputs, sample_weight=weight, training=True
            )
            optimizer = model.optimizer
            return (loss if optimizer is None else optimizer.scale_loss(loss)), loss

    def _vector(
        self,
        collected: Pass,
        figures: Mapping[Key, Any],
        loss: Any,
        state: Sequence[tuple[Any, Any]],
    ) -> Any:
        """All figures one after the other; what they are is kept in `traced`."""
        with keras.StatelessScope(state_mapping=state):
            figures = {**figures, **self._spreads(), LOSS: loss}
        flat = {
            key: ops.reshape(ops.cast(entry, "float32"), (-1,)) for key, entry in figures.items()
        }
        inside: dict[int, list[int]] = {}
        for call in collected.calls:
            if call.inside:
                inside.setdefault(call.row, []).append(call.inside[0])
        self.traced = Traced(
            [(key, int(entry.shape[0])) for key, entry in flat.items()],
            collected.wiring(),
            dict(collected.sizes),
            dict(collected.dtypes),
            collected.call_counts(),
            inside,
            collected.positions(),
            frozenset(collected.hidden.difference(call.row for call in collected.calls)),
        )
        return ops.concatenate(list(flat.values()))

    def _spreads(self) -> dict[Key, Any]:
        """How much the units of each layer differ, and the weights of rows that do not train."""
        figures: dict[Key, Any] = {}
        for row, entry in enumerate(self._rows):
            units = _units(entry)
            if units is not None:
                figures[Key(row, "unit_norm")] = norm(units)
                figures[Key(row, "spread_norm")] = norm(units - ops.mean(units, 0, keepdims=True))
            if not any(variable.trainable for variable in entry.variables):
                for number, variable in enumerate(entry.variables):
                    figures[Key(row, "frozen_norm", number)] = norm(variable.value)
        return figures


def figures_of(vector: NDArray[np.floating[Any]], traced: Traced) -> dict[Key, NDArray[np.float64]]:
    """Key → figures of shape (n,), from the vector on the host."""
    figures, start = {}, 0
    for key, length in traced.keys:
        figures[key] = vector[start : start + length].astype(np.float64)
        start += length
    return figures


def state_of(model: Any) -> list[tuple[Any, Any]]:
    """(variable, value) of every variable that a step may read or write."""
    variables: dict[int, Any] = {}
    for group in (
        model.variables,
        model.metrics_variables,
        *(optimizer.variables for optimizer in optimizers_of(model)),
    ):
        variables.update({id(variable): variable for variable in group})
    return [(variable, variable.value) for variable in variables.values()]


def few(batch: Any) -> Any:
    """The first examples of a batch, in arrays of the same structure."""
    return tree.map_structure(_first, batch)


def _first(leaf: Any) -> Any:
    if leaf is None or not getattr(leaf, "ndim", 1):
        return leaf
    if not is_packed(leaf) or hasattr(leaf, "__getitem__"):
        return leaf[:MOST_EXAMPLES]
    kept = leaf.indices[:, 0] < MOST_EXAMPLES  # a tf.SparseTensor, which cannot be cut
    shape = (min(int(leaf.shape[0]), MOST_EXAMPLES), *leaf.shape[1:])
    return type(leaf)(leaf.indices[kept], leaf.values[kept], shape)


def _batch_size_of(model: Any) -> int | None:
    """Examples of each of the model's batches, None where any number will do."""
    fixed = list(tree.flatten(getattr(model, "inputs", None) or []))
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.RNN) and layer.stateful:
            fixed += tree.flatten(layer.states or [])
    return next((int(one.shape[0]) for one in fixed if len(one.shape) and one.shape[0]), None)


def _constant(leaf: Any, size: int | None) -> Any:
    """The leaf as a tensor; of fixed size, its examples are used again or left out."""
    if leaf is None or is_packed(leaf):
        return leaf
    tensor = ops.convert_to_tensor(leaf)
    if size is None or not tensor.shape or int(tensor.shape[0]) == size:
        return tensor
    return ops.take(tensor, np.arange(size) % int(tensor.shape[0]), axis=0)


def _units(row: Row) -> Any | None:
    """Weights of evenly chosen units, shape (units, weights), at most 64 of each.

    None where there are no units to compare; an embedding's rows are looked up, not computed
    together, so they are none.
    """
    matrix = next((entry for entry in row.variables if len(entry.shape) > 1), None)
    if matrix is None or not row.known.weighted or "Embedding" in row.known.kind:
        return None
    axis = _axis_of_units(row, len(matrix.shape))
    count = int(matrix.shape[axis])
    if count < 2:
        return None
    weights = ops.moveaxis(ops.cast(matrix.value, "float32"), axis, 0)
    weights = weights[:: sampling_stride(count, COMPARED_UNITS)]
    weights = ops.reshape(weights, (int(weights.shape[0]), -1))
    return weights[:, :: sampling_stride(int(weights.shape[1]), COMPARED_UNITS)]


def _axis_of_units(row: Row, rank: int) -> int:
    """The axis of a kernel that counts output units."""
    if isinstance(row.layer, TORCH_MODULE):
        return 0
    return rank - (2 if "Transpose" in row.known.kind else 1)
