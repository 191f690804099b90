"""The attachment on JAX: the figures travel with the state that the training step is given.

The state of the optimizer is two arrays longer inside the step only, so nothing of it is ever saved
with the model.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import keras
import numpy as np
from numpy.typing import NDArray

from gradwatch.keras.attachment import Arguments, Attachment, Copy, Execution
from gradwatch.keras.probe import Probe
from gradwatch.keras.probe_jax import JaxProbe

EXTRA = 2
"""Arrays that the step is given beside the optimizer's: the carrier, and whether to observe."""


class JaxCopy:
    """See `Copy`."""

    def __init__(self, values: Any) -> None:
        self._values = values
        values.copy_to_host_async()

    def is_ready(self) -> bool:
        """Whether it has arrived."""
        return bool(self._values.is_ready())

    def figures(self) -> NDArray[np.floating[Any]]:
        """The figures."""
        return np.asarray(self._values)


class JaxAttachment(Attachment):
    """See `Attachment`."""

    attribute = "stateless_apply"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        metrics = [id(variable) for variable in model.metrics_variables]
        self._total_places = [metrics.index(id(variable)) for variable in self._totals]
        self._groups = (
            list(model.trainable_variables),
            list(model.non_trainable_variables),
            list(model.optimizer.variables),
            list(model.metrics_variables),
        )
        self._carrier: Any = None
        self._flags: dict[bool, Any] = {}
        self._is_tapped = True
        self._has_run = False

    def make_probe(self, batch: tuple[Any, Any, Any]) -> Probe:
        """See `Attachment.make_probe`."""
        return JaxProbe(self.model, self.rows, batch)

    def copy(self, values: Any) -> Copy:
        """See `Attachment.copy`."""
        return JaxCopy(values)

    def _tap(self, optimizer: Any, original: Callable[..., Any]) -> Callable[..., Any]:
        def stateless_apply(
            optimizer_variables: Sequence[Any], grads: Sequence[Any], trainable_variables: Any
        ) -> tuple[list[Any], list[Any]]:
            if len(optimizer_variables) != len(optimizer.variables) + EXTRA:
                return original(optimizer_variables, grads, trainable_variables)  # type: ignore[no-any-return] # untyped in Keras
            *own, carrier, wanted = optimizer_variables
            figures = self._step_figures(optimizer, carrier, wanted)
            watched = optimizer._trainable_variables
            with _values(optimizer, own, trainable_variables):
                self._guarded(lambda: figures.before(list(grads), watched))
            trained, changed = original(own, grads, trainable_variables)
            with _values(optimizer, changed, trained):
                carrier = self._guarded(figures.after, otherwise=carrier)
            return trained, [*changed, carrier, wanted]

        return stateless_apply

    def _run(self, execution: Execution, arguments: Arguments) -> Any:
        if not self._is_tapped:
            return self._original(*arguments)
        state, iterator = arguments
        carrier = self._empty() if self._carrier is None else self._carrier
        wanted = self._flag(wanted=execution.observed)
        longer = (*state[:2], [*state[2], carrier, wanted], *state[3:])
        if self._has_run:
            logs, after = self._original(longer, iterator)
        else:
            logs, after = self._first_run(longer, state, iterator)
            if not self._is_tapped:
                return logs, after
        *own, self._carrier, self._flags[execution.observed] = after[2]
        return logs, (*after[:2], own, *after[3:])

    def _first_run(self, longer: Any, state: Any, iterator: Iterator[Any]) -> Any:
        """The first call, which traces; where the trace fails, the user's own step is run."""
        self._has_run = True
        first = next(iterator)
        try:
            return self._original(longer, itertools.chain([first], iterator))
        except Exception as error:
            if any(value.is_deleted() for value in state[0]):  # it has run, and not just traced
                raise
            self._is_tapped = False
            self.lift()
            self._original = self._made()
            vars(self.model)["train_function"] = self
            outcome = self._original(state, itertools.chain([first], iterator))
            self._fault(error)
            return outcome

    def _carried(self) -> Copy:
        carrier = self._carrier
        self._start_anew()
        return self.copy(carrier)

    def _start_anew(self) -> None:
        self._carrier = None

    def _captured(self, arguments: Arguments) -> tuple[Any, Arguments]:
        state, iterator = arguments
        batch = next(iterator)
        return batch, (state, itertools.chain([batch], iterator))

    def _state(self, arguments: Arguments) -> list[tuple[Any, Any]]:
        pairs: dict[int, tuple[Any, Any]] = {}
        for variables, values in zip(self._groups, arguments[0], strict=True):
            for variable, value in zip(variables, values, strict=True):
                pairs[id(variable)] = (variable, value)
        return list(pairs.values())

    def _losses_before(self, arguments: Arguments) -> list[Any]:
        return self._losses(arguments[0])

    def _losses_after(self, outcome: Any) -> list[Any]:
        return self._losses(outcome[1])

    def _losses(self, state: Sequence[Any]) -> list[Any]:
        """Copies: the step that follows is given the arrays themselves to overwrite."""
        return [state[3][place].copy() for place in self._total_places]

    def _empty(self) -> Any:
        return jax.device_put(self.layout.empty(), self._everywhere())

    def _flag(self, *, wanted: bool) -> Any:
        flag = self._flags.pop(wanted, None)
        return jax.device_put(np.asarray(wanted), self._everywhere()) if flag is None else flag

    def _everywhere(self) -> Any:
        """The same on every device, None without a distribution."""
        distribution = keras.distribution.distribution()
        if distribution is None:
            return None
        mesh = distribution.device_mesh.backend_mesh
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def _made(self) -> Any:
        if keras.distribution.distribution() is None or not self._is_tapped:
            return super()._made()
        # The step is compiled for a state of this structure, two arrays longer than the model's.
        attributes, plain = vars(self.model), self.model._get_state_sharding_spec

        def longer() -> Any:
            trained, rest, optimizer, metrics = plain()
            return trained, rest, [*optimizer, *[self._everywhere()] * EXTRA], metrics

        attributes["_get_state_sharding_spec"] = longer
        try:
            return super()._made()
        finally:
            del attributes["_get_state_sharding_spec"]

    def _guarded(self, trace: Callable[[], Any], otherwise: Any = None) -> Any:
        """What our part of the trace gives; the training goes on where it raises."""
        try:
            return trace()
        except Exception as error:  # noqa: BLE001 -- promise 2: a fault never breaks a run
            self._fault(error)
            return otherwise


def _values(optimizer: Any, own: Sequence[Any], trained: Sequence[Any]) -> keras.StatelessScope:
    """A scope in which the optimizer's variables, and those that it trains, have these values."""
    pairs = [
        *zip(optimizer.variables, own, strict=True),
        *zip(optimizer._trainable_variables, trained, strict=True),
    ]
    return keras.StatelessScope(state_mapping=pairs)
