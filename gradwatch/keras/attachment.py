"""Attachment: stands in for a model's training step while callbacks watch it.

It taps the optimizers, hands on every call of the step unchanged, and reads what a step has left
behind at the next call. One attachment serves all callbacks on a model.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gradwatch.keras.figures import Layout, StepFigures
from gradwatch.keras.optimizers import optimizers_of
from gradwatch.keras.probe import Probe, state_of
from gradwatch.keras.rows import Rows
from gradwatch.schedule import Sample

Arguments = tuple[Any, ...]


class Copy(Protocol):
    """A copy of figures on its way to the host."""

    def is_ready(self) -> bool:
        """Whether it has arrived."""

    def figures(self) -> NDArray[np.floating[Any]]:
        """The figures; waits for them if they have not arrived."""


@dataclass
class Execution:
    """One call of the training step, of one optimizer step or several.

    Args:
        observed: Whether figures are taken of it.
        carrier: What the tap has computed.
        losses: Total and count of the loss before it, then after it.
        wall_time: When it began, in seconds since the epoch.
    """

    observed: bool = False
    carrier: Copy | None = None
    losses: list[Copy] = field(default_factory=list)
    wall_time: float = field(default_factory=time.time)

    def copies(self) -> list[Copy]:
        """All that is on its way."""
        return [*self.losses, *([] if self.carrier is None else [self.carrier])]


class Observer(Protocol):
    """The session of a callback, as the attachment sees it; none of it raises."""

    wants_batch: bool
    """Whether a batch of the training is yet to be captured for its probe."""

    def begin(self, span: int) -> Sample:
        """What to observe of the coming execution of so many steps."""

    def take_batch(self, batch: Any, attachment: Attachment) -> None:
        """Take the coming batch of the training."""

    def run_probe(self, state: Sequence[tuple[Any, Any]], attachment: Attachment) -> None:
        """Run its probe on the values that the coming execution starts from."""

    def end(self, execution: Execution, seconds: float) -> None:
        """Take an execution, and the seconds that gradwatch took of it."""

    def fault(self, error: Exception) -> None:
        """Something in gradwatch failed; nothing is observed from here on."""

    def cancel(self) -> None:
        """There was no batch for the execution that it has begun."""

    def interrupt(self) -> None:
        """The training has raised."""


class Attachment(ABC):
    """See the module; it is found again as the model's `train_function`.

    Args:
        model: The user's model, compiled and built.
    """

    attribute = "apply"
    """Method of the optimizer that is tapped."""

    end_of_data: tuple[type[BaseException], ...] = (StopIteration,)
    """What the training step raises where there is no further batch."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.rows = Rows(model)
        self.layout = Layout(
            [
                (variable, row)
                for variable in model.trainable_variables
                if (row := self.rows.row_of_variable(variable)) is not None
            ]
        )
        self.observers: list[Observer] = []
        self.training: object = None
        """What is the same for all callbacks of the call of `fit` that it stands in for."""
        self.span = int(getattr(model, "steps_per_execution", 1) or 1)
        self._optimizers = optimizers_of(model)
        self._taps: list[tuple[dict[str, Any], Any, Any]] = []
        """(attributes of an optimizer, its tap, what the user had set in its place or None)."""
        self._original: Any = None
        """The training step that is traced with the taps in place."""
        self._plain: Any = None
        """The one that it stands in for, which gets its place back."""
        self._history: Any = None
        self._variables = _variables_of(model)
        self._totals = _loss_variables(model)

    def install(self) -> None:
        """Tap the optimizers and stand in for the training step."""
        self._plain = vars(self.model).get("train_function")
        self._history = getattr(self.model, "history", None)
        for optimizer in self._optimizers:
            attributes = vars(optimizer)
            stale = getattr(attributes.get(self.attribute), "attachment", None)
            if isinstance(stale, Attachment):
                stale.lift()
            own = attributes.get(self.attribute)
            tap = self._tap(optimizer, getattr(optimizer, self.attribute))
            vars(tap)["attachment"] = self
            attributes[self.attribute] = tap
            self._taps.append((attributes, tap, own))
        if self._original is None:
            self._original = self._made()
        else:
            self._start_anew()
        vars(self.model)["train_function"] = self

    def may_return(self) -> bool:
        """Whether it may stand in once more, which spares a trace.

        Its step is as good as the one that it stood in for: Keras makes a new one after `compile`.
        """
        return (
            self._plain is not None
            and vars(self.model).get("train_function") is self._plain
            and [id(entry) for entry in self._optimizers]
            == [id(entry) for entry in optimizers_of(self.model)]
            and self._variables == _variables_of(self.model)
        )

    def lift(self) -> None:
        """Leave the model as it was. What another attachment has put in place since stays."""
        self.observers.clear()
        for attributes, tap, own in self._taps:
            if attributes.get(self.attribute) is tap:
                del attributes[self.attribute]
                if own is not None:
                    attributes[self.attribute] = own
        self._taps.clear()
        if vars(self.model).get("train_function") is self:
            vars(self.model)["train_function"] = self._plain

    def __call__(self, *arguments: Any) -> Any:
        """The training step, handed on."""
        if self.model.history is not self._history:  # the training that it stood in for has raised
            self.abandon()
            self.model.make_train_function()
            return self.model.train_function(*arguments)
        try:
            return self._call(arguments)
        except self.end_of_data:
            for observer in tuple(self.observers):
                observer.cancel()
            raise
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Leave the model as it was, and have judged what was seen: the training has raised."""
        for observer in tuple(self.observers):
            observer.interrupt()
        self.lift()

    def _call(self, arguments: Arguments) -> Any:
        if any(observer.wants_batch for observer in self.observers):
            batch, arguments = self._captured(arguments)
            self._hand_out(batch)
        began = time.perf_counter()
        execution = Execution()
        try:
            self._begin(execution, arguments)
        except Exception as error:  # noqa: BLE001 -- promise 2: a fault never breaks a run
            self._fault(error)
        seconds = time.perf_counter() - began
        outcome = self._run(execution, arguments)
        began = time.perf_counter()
        try:
            self._end(execution, outcome, seconds, began)
        except Exception as error:  # noqa: BLE001 -- promise 2: a fault never breaks a run
            self._fault(error)
        return outcome

    def _hand_out(self, batch: Any) -> None:
        try:
            for observer in self.observers:
                observer.take_batch(batch, self)
        except Exception as error:  # noqa: BLE001 -- promise 2: a fault never breaks a run
            self._fault(error)

    def _begin(self, execution: Execution, arguments: Arguments) -> None:
        samples = [(observer, observer.begin(self.span)) for observer in self.observers]
        execution.observed = any(sample is not Sample.NOTHING for _, sample in samples)
        for observer, sample in samples:
            if sample is Sample.SIGNALS:
                observer.run_probe(self._state(arguments), self)
        if execution.observed and self._totals:
            execution.losses = self._loss_copies(self._losses_before(arguments))

    def _end(self, execution: Execution, outcome: Any, seconds: float, began: float) -> None:
        if execution.observed:
            execution.carrier = self._carried()
            if self._totals:
                execution.losses += self._loss_copies(self._losses_after(outcome))
        seconds += time.perf_counter() - began
        for observer in tuple(self.observers):
            observer.end(execution, seconds)

    def _fault(self, error: Exception) -> None:
        for observer in tuple(self.observers):
            observer.fault(error)

    def _step_figures(self, optimizer: Any, carrier: Any, wanted: Any) -> StepFigures:
        return StepFigures(self.layout, optimizer, carrier, wanted)

    def _loss_copies(self, values: Sequence[Any]) -> list[Copy]:
        return [self.copy(value) for value in values]

    # What differs between the backends.

    @abstractmethod
    def make_probe(self, batch: tuple[Any, Any, Any]) -> Probe:
        """A probe on (x, y, sample weight)."""

    @abstractmethod
    def copy(self, values: Any) -> Copy:
        """Start the copy of a tensor to the host."""

    @abstractmethod
    def _tap(self, optimizer: Any, original: Callable[..., Any]) -> Callable[..., Any]:
        """What stands in for the optimizer's method."""

    @abstractmethod
    def _run(self, execution: Execution, arguments: Arguments) -> Any:
        """Call the training step, figures wanted or not."""

    @abstractmethod
    def _carried(self) -> Copy:
        """The figures that the tap has left, which starts anew."""

    @abstractmethod
    def _start_anew(self) -> None:
        """Forget the figures of a training that is over."""

    @abstractmethod
    def _captured(self, arguments: Arguments) -> tuple[Any, Arguments]:
        """(the coming batch, arguments that still hand it to the training step).

        It raises what the data raise, which are the user's, and nothing else.
        """

    def _state(self, arguments: Arguments) -> list[tuple[Any, Any]]:
        """(variable, value) of all that the coming step may read or write."""
        return state_of(self.model)

    def _losses_before(self, arguments: Arguments) -> list[Any]:
        """Total and count of the loss before the coming step."""
        return [variable.value for variable in self._totals]

    def _losses_after(self, outcome: Any) -> list[Any]:
        """Total and count of the loss after the step."""
        return [variable.value for variable in self._totals]

    def _made(self) -> Any:
        """A training step that is traced with the taps in place."""
        self.model.make_train_function(force=True)
        return self.model.train_function


def _variables_of(model: Any) -> list[int]:
    """What tells the model's variables, and which of them train, from those of another time."""
    return [id(variable) for variable in (*model.variables, *model.trainable_variables)]


def _loss_variables(model: Any) -> list[Any]:
    """Total and count of the mean loss of the epoch; empty where there is none."""
    tracker = getattr(model, "_loss_tracker", None)
    variables = [getattr(tracker, name, None) for name in ("total", "count")]
    return [] if any(variable is None for variable in variables) else variables
