"""The attachment on TensorFlow: the figures are a variable of the graph, outside the optimizer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from gradwatch.keras.attachment import Arguments, Attachment, Copy, Execution
from gradwatch.keras.figures import StepFigures
from gradwatch.keras.probe import Probe
from gradwatch.keras.probe_tensorflow import TensorFlowProbe


class TensorFlowCopy:
    """See `Copy`. TensorFlow cannot be asked whether a tensor is there, so it always says yes."""

    def __init__(self, values: Any) -> None:
        with tf.device("CPU:0"):
            self._values = tf.identity(values)

    def is_ready(self) -> bool:
        """Whether it may be read."""
        return True

    def figures(self) -> NDArray[np.floating[Any]]:
        """The figures."""
        return np.asarray(self._values.numpy())


class TensorFlowAttachment(Attachment):
    """See `Attachment`."""

    end_of_data = (StopIteration, tf.errors.OutOfRangeError)

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._strategy = model.distribute_strategy
        with self._strategy.scope(), tf.init_scope():
            one = {
                "trainable": False,
                "synchronization": tf.VariableSynchronization.ON_READ,
                "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA,
            }
            self._carrier = tf.Variable(self.layout.empty(), **one)
            self._wanted = tf.Variable(False, **one)  # noqa: FBT003 -- its initial value
        self._is_wanted = False

    def make_probe(self, batch: tuple[Any, Any, Any]) -> Probe:
        """See `Attachment.make_probe`."""
        return TensorFlowProbe(self.model, self.rows, batch)

    def copy(self, values: Any) -> Copy:
        """See `Attachment.copy`."""
        return TensorFlowCopy(values)

    def _tap(self, optimizer: Any, original: Callable[..., Any]) -> Callable[..., Any]:
        def apply(grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> Any:
            gradients = list(grads)
            known = optimizer._trainable_variables if optimizer.built else ()
            variables = list(known if trainable_variables is None else trainable_variables)
            if not gradients or len(gradients) != len(variables):
                return original(gradients, trainable_variables)
            figures = self._before(optimizer, gradients, variables)
            outcome = original(gradients, variables)
            if figures is not None:
                self._after(figures)
            return outcome

        return apply

    def _before(
        self, optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]
    ) -> StepFigures | None:
        try:
            if not optimizer.built:
                with tf.init_scope(), self._strategy.scope():
                    optimizer.build(variables)
            carrier, wanted = tf.identity(self._carrier), tf.identity(self._wanted)
            figures = self._step_figures(optimizer, carrier, wanted)
            figures.before(self._summed(gradients), variables)
        except Exception as error:  # noqa: BLE001 -- promise 2: a fault never breaks a run
            self._fault(error)
            return None
        return figures

    def _after(self, figures: StepFigures) -> None:
        try:
            self._carrier.assign(figures.after())
        except Exception as error:  # noqa: BLE001 -- promise 2: a fault never breaks a run
            self._fault(error)

    def _summed(self, gradients: Sequence[Any]) -> list[Any]:
        """The gradients of all replicas together, as the optimizer will sum them up itself."""
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return list(gradients)
        present = [gradient for gradient in gradients if gradient is not None]
        summed = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, present))
        return [None if gradient is None else next(summed) for gradient in gradients]

    def _run(self, execution: Execution, arguments: Arguments) -> Any:
        if self._is_wanted != execution.observed:
            self._is_wanted = execution.observed
            self._assign(self._wanted, np.asarray(execution.observed))
        return self._original(*arguments)

    def _carried(self) -> Copy:
        copy = self.copy(self._carrier.read_value())
        self._start_anew()
        return copy

    def _start_anew(self) -> None:
        self._assign(self._carrier, self.layout.empty())

    def _assign(self, variable: Any, value: Any) -> None:
        """Set it on every replica."""
        if self._strategy.num_replicas_in_sync == 1:
            variable.assign(value)
            return
        for part in self._strategy.experimental_local_results(variable):
            part.assign(value)

    def _captured(self, arguments: Arguments) -> tuple[Any, Arguments]:
        (iterator,) = arguments
        batches = list(itertools.islice(iterator, self.span))
        if not batches:
            raise StopIteration
        results = self._strategy.experimental_local_results
        batch = tf.nest.map_structure(lambda leaf: results(leaf)[0], batches[0])
        return batch, (_iterator_over(batches, iterator),)


def _iterator_over(batches: list[Any], iterator: Any) -> Any:
    """The batches as an iterator of the same type, so that the step is traced only once."""
    if not isinstance(iterator, tf.data.Iterator):
        return batches
    try:
        spec = iterator.element_spec
        again = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=spec)
        next(iter(again))
    except Exception:  # noqa: BLE001 -- promise 2: Keras' step takes any form as a list
        return batches
    return iter(again)
