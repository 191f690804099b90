"""The probe on TensorFlow: a gradient tape in a function of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import record

from gradwatch.keras.passes import Pass
from gradwatch.keras.probe import Probe
from gradwatch.keras.rows import Rows


class TensorFlowTracer:
    """Watches by a tape; sources are found in the graph.

    Args:
        tape: The tape that records the forward pass.
    """

    def __init__(self, tape: tf.GradientTape) -> None:
        self._tape = tape
        self._graph = tf.compat.v1.get_default_graph()
        self._tags: dict[int, int] = {}
        self._kept: list[Any] = []
        """Keeps the operations alive, for their ids are the keys."""
        self._sources_of: dict[int, frozenset[int]] = {}
        self._latest = -1

    def watch(self, tensor: Any) -> Any:
        """The tensor, watched by the tape from here on."""
        alias = _alias(tensor)
        self._tape.watch(alias)
        return alias

    def tag(self, tensor: Any, call: int) -> Any:
        """The tensor as the output of an operation that is known again."""
        self._latest = call
        alias = _alias(tensor)
        if not _is_eager(alias):
            self._tags[id(alias.op)] = call
            self._kept.append(alias.op)
        return alias

    def sources(self, tensors: Sequence[Any]) -> set[int]:
        """The tags nearest to the tensors; run eagerly, the layer that ran last."""
        if not tf.inside_function():
            return {self._latest} if tensors and self._latest >= 0 else set()
        traced = [tensor for tensor in tensors if not _is_eager(tensor)]  # the rest is given
        return set().union(*(self._walk(tensor.op) for tensor in traced))

    def is_running(self) -> bool:
        """Whether operations go to the graph that the pass is traced into, or are eager.

        A checkpoint hides its forward pass from the tape, and runs again when the tape is read.
        """
        is_recorded = self._tape._recording and record.could_possibly_record()
        return is_recorded and tf.compat.v1.get_default_graph() is self._graph

    def slope(self, function: Callable[[Any], Any], tensor: Any) -> Any:
        """Its gradient of ones."""
        with self._tape.stop_recording():
            tensor = tf.stop_gradient(tensor)
            with tf.GradientTape() as tape:
                tape.watch(tensor)
                outputs = function(tensor)
            return tape.gradient(
                outputs, tensor, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )

    def _walk(self, start: Any) -> set[int]:
        found: set[int] = set()
        seen: set[int] = set()
        pending = [start]
        while pending:
            operation = pending.pop()
            if id(operation) in seen:
                continue
            seen.add(id(operation))
            self._kept.append(operation)
            if id(operation) in self._tags:
                found.add(self._tags[id(operation)])
            else:
                pending.extend(source.op for source in operation.inputs)
        return found


def _is_eager(tensor: Any) -> bool:
    return isinstance(tensor, tf.__internal__.EagerTensor)


def _alias(tensor: Any) -> Any:
    """The same values; a loss finds the logits behind them as Keras has noted them down."""
    alias = tf.identity(tensor)
    if hasattr(tensor, "_keras_logits"):
        alias._keras_logits = tensor._keras_logits
    return alias


class TensorFlowProbe(Probe):
    """See `Probe`; the layers of a model that cannot be traced are taken for a chain."""

    def __init__(self, model: Any, rows: Rows, batch: tuple[Any, Any, Any]) -> None:
        super().__init__(model, rows, batch)
        self._variables: list[Any] = []
        self._function: Any = None

    def run(self, state: Sequence[tuple[Any, Any]]) -> Any:
        """See `Probe.run`; the values are those of the variables when it runs."""
        if self._function is None:
            self._variables = [variable for variable, _ in state]
            batch = self._batch  # made before the trace, which must not own its tensors
            self._function = tf.function(partial(self._figures, batch), autograph=False)
            return self._first_run()
        return self._function()

    def _first_run(self) -> Any:
        """The run that traces; a model for eager runs is run so where it cannot be traced."""
        try:
            return self._function()
        except Exception:
            if not self._model.run_eagerly:
                raise
        self._function = partial(self._figures, self._batch)
        return self._function()

    def _figures(self, batch: tuple[Any, Any, Any]) -> Any:
        state = [(variable, tf.convert_to_tensor(variable.value)) for variable in self._variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            collected = Pass(self._rows, TensorFlowTracer(tape))
            scaled, loss = self._forward(collected, state, batch)
        gradients = tape.gradient(scaled, list(collected.watched.values()))
        by_key = dict(zip(collected.watched, gradients, strict=True))
        figures = {
            **collected.figures,
            **collected.gradient_figures(by_key, collected.logits()),
        }
        return self._vector(collected, figures, loss, state)
