"""Passes: what the patched layers note while a probe's forward pass is traced.

Activations are seen as layers, as operations of a functional model, as arguments of layers, and as
functions of Keras that the model calls; `gradwatch.keras.patches` says which are not. Nothing is
observed inside recurrent layers and attention, nor in the body of a loop, as of `keras.ops.scan`,
whose values exist there only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import keras
from keras import ops, tree

from gradwatch.keras.activation_calls import ActivationCall, ActivationCalls
from gradwatch.keras.activations import activation_name
from gradwatch.keras.layer_tree import WHOLE
from gradwatch.keras.patches import called_method, functions_replaced, operations_of, replaced
from gradwatch.keras.recording import NO_ROW, Key, Recorder, Tracer, floating
from gradwatch.keras.rows import Rows, unit_axis
from gradwatch.keras.spread import direction_spread, logit_misfit_ratio, logits_of
from gradwatch.keras.tensor_norms import norm

__all__ = ["NO_ROW", "OUTPUTS_APART", "Call", "Key", "Pass", "Wiring"]

OUTPUTS_APART = 1_000_000
"""Added to the number of a call for each further output of it."""


@dataclass
class Call:
    """One call of a layer.

    Args:
        row: Its row.
        sources: Calls that feed it directly.
        inside: Activations at its output that ran inside it.
        functions: Functions that ran inside it and may be at its output.
        output: The first floating output, before an activation inside.
    """

    row: int
    sources: set[int] = field(default_factory=set)
    inside: list[int] = field(default_factory=list)
    functions: list[int] = field(default_factory=list)
    output: Any = None


@dataclass(frozen=True)
class Wiring:
    """How the rows hang together: what `Rows.learn` takes."""

    order: tuple[int, ...]
    edges: frozenset[tuple[int, int]]
    activations: dict[int, tuple[str, str | None]]


class Pass:
    """One forward pass of a probe.

    Args:
        rows: The model's rows.
        tracer: The backend's part.
    """

    def __init__(self, rows: Rows, tracer: Tracer) -> None:
        self._rows = rows
        self._tracer = tracer
        self._recorder = Recorder(tracer)
        self._activations = ActivationCalls(rows, self._recorder)
        self._running: list[int] = []
        self.calls: list[Call] = []
        self.hidden: set[int] = set()
        """Rows that ran where the pass cannot follow: in a loop, a branch or a checkpoint."""
        self.dtypes: dict[int, str] = {}
        """Row → dtype of its output."""
        self.figures = self._recorder.figures
        """Figures of the forward pass."""
        self.watched = self._recorder.watched
        """Tensors whose gradients are asked for."""
        self.sizes = self._recorder.sizes
        """Elements of the tensors whose norms are taken."""

    @contextmanager
    def patched(self, model: Any) -> Iterator[None]:
        """While model and loss run, layers and activations report here; nothing of it stays."""
        with ExitStack() as stack:
            whole: set[int] = set()
            for row, entry in enumerate(self._rows):
                if entry.composite:
                    continue
                layer = entry.layer
                report = partial(self._call_layer, row)
                stack.enter_context(replaced(layer, called_method(layer), report))
                whole.update(id(part) for part in layer._flatten_layers(include_self=False))
                own = getattr(layer, "activation", None)
                if callable(own) and activation_name(layer) and not entry.known.recurrent:
                    report = partial(self._call_own, activation_name(layer) or "", row)
                    stack.enter_context(replaced(layer, "activation", report))
            for operation in operations_of(model):
                name = activation_name(operation)
                free = self._rows.row_of(operation) is None and id(operation) not in whole
                if free and name is not None:
                    report = partial(self._call_activation, name, operation)
                    stack.enter_context(replaced(operation, "call", report))
            yield
        self._activations.leave_out_weights_of_branches(
            {self.calls[source].row for call in self.calls for source in call.sources}
        )

    @contextmanager
    def functions_patched(self) -> Iterator[None]:
        """Functions report too: for the model alone, since losses are made of the same ones."""
        with functions_replaced(self._call_function):
            yield

    def wiring(self) -> Wiring:
        """Order, edges and activations by row."""
        order = tuple(dict.fromkeys(call.row for call in self.calls))
        place = {row: place for place, row in enumerate(order)}
        pairs = {
            (self.calls[source].row, call.row) for call in self.calls for source in call.sources
        }
        edges = {(source, end) for source, end in pairs if place[source] < place[end]}
        edges |= {(row, row) for row in self._recurrent_rows()}
        return Wiring(order, frozenset(edges), self._activations.by_row)

    def logits(self) -> dict[Key, Any]:
        """Key of what reaches a last layer's output → a few examples of that output."""
        feeding = {source for call in self.calls for source in call.sources}
        found: dict[Key, Any] = {}
        for number, call in enumerate(self.calls):
            few = None if number in feeding else self._logits(call.row, call.output)
            if few is not None:
                inside = call.inside[:1]
                name = "activation_in_norm" if inside else "output_grad_norm"
                found[Key(call.row, name, inside[0] if inside else number)] = few
        return found

    def gradient_figures(
        self, gradients: Mapping[Key, Any], logits: Mapping[Key, Any]
    ) -> dict[Key, Any]:
        """Figures of the backward pass.

        Args:
            gradients: Key of a watched tensor → its gradient, None where the loss does not depend
                on it.
            logits: What `logits` gave.
        """
        figures: dict[Key, Any] = {}
        inside = {number for call in self.calls for number in call.inside}
        for key, gradient in gradients.items():
            is_figure = self._activations.has_gradient_figure(key, inside)
            if gradient is None or not is_figure:
                continue
            figures[key] = norm(gradient)
            is_sequence = key.row != NO_ROW and self._rows[key.row].known.recurrent
            if key.name == "input_grad_norm" and is_sequence and len(gradient.shape) > 2:
                figures[key._replace(name="time_norms")] = _over_time(gradient)
            signal = self._logits(key.row, gradient) if key in logits else None
            ratio = None if signal is None else logit_misfit_ratio(logits[key], signal)
            if ratio is not None:
                figures[Key(key.row, "logit_misfit_ratio", key.call)] = ratio
        return figures

    def call_counts(self) -> dict[int, int]:
        """Row → calls."""
        return dict(Counter(call.row for call in self.calls))

    def _logits(self, row: int, output: Any) -> Any | None:
        if output is None:
            return None
        return logits_of(output, unit_axis(self._rows[row].layer, len(output.shape), output.shape))

    def _recurrent_rows(self) -> set[int]:
        """Rows of which one call feeds another, directly or through other rows."""
        upstream: dict[int, set[int]] = {}
        recurrent = set()
        for number, call in enumerate(self.calls):
            above: set[int] = set()
            for source in call.sources:
                above |= upstream.get(source, set())
            if call.row in above:
                recurrent.add(call.row)
            upstream[number] = above | {call.row}
        return recurrent

    def _call_layer(self, row: int, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._tracer.is_running():
            self.hidden.add(row)
            return original(*args, **kwargs)
        given = floating((args, kwargs))
        number = len(self.calls)
        self.calls.append(Call(row, self._tracer.sources(given)))
        args, kwargs = self._watch_input(row, number, args, kwargs)
        self._running.append(number)
        try:
            output = original(*args, **kwargs)
        finally:
            self._running.pop()
        return self._watch_outputs(row, number, output)

    def _watch_input(
        self, row: int, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        first = next(iter(floating((args, kwargs))), None)
        if first is None:
            return args, kwargs
        self._recorder.take_norm(Key(row, "input_norm", number), first)
        alias = self._recorder.watch(Key(row, "input_grad_norm", number), first)

        def swapped(leaf: Any) -> Any:
            return alias if leaf is first else leaf

        return tree.map_structure(swapped, args), tree.map_structure(swapped, kwargs)

    def _watch_outputs(self, row: int, number: int, output: Any) -> Any:
        call = self.calls[number]
        replacements: dict[int, Any] = {}
        for place, tensor in enumerate(floating(output)):
            values = tensor
            if place == 0:
                self._settle_functions(call, tensor)
                self._note_output(row, number, tensor)
            if not (call.inside and place == 0):
                key = Key(row, "output_grad_norm", number + place * OUTPUTS_APART)
                values = self._recorder.watch(key, tensor)
            replacements[id(tensor)] = self._tracer.tag(values, number)
        return tree.map_structure(lambda leaf: replacements.get(id(leaf), leaf), output)

    def _settle_functions(self, call: Call, output: Any) -> None:
        """A function is the layer's activation if what it gave is what the layer gives."""
        for number in call.functions:
            if not call.inside and self._activations[number].output is output:
                call.inside.append(number)
                call.output = self._activations[number].given
            else:
                self._activations.leave_out(number)

    def _note_output(self, row: int, number: int, tensor: Any) -> None:
        """Figures of the first output; those of an activation inside are taken before it."""
        call = self.calls[number]
        if call.output is None:
            call.output = tensor
        self.dtypes[row] = keras.backend.standardize_dtype(call.output.dtype)
        self._recorder.take_norm(Key(row, "output_norm", number), call.output)
        spread = direction_spread(call.output)
        if spread is not None:
            self.figures[Key(row, "direction_spread", number)] = spread

    def _call_own(
        self, name: str, row: int, original: Callable[..., Any], tensor: Any, *args: Any, **kw: Any
    ) -> Any:
        """The activation of a layer's argument, which is given what the layer has summed up."""
        is_inside = bool(self._running) and self.calls[self._running[-1]].row == row
        if not is_inside or not self._recorder.can_follow(tensor):
            return original(tensor, *args, **kw)
        call = self.calls[self._running[-1]]
        if call.output is None:
            call.output = tensor
        function = partial(original, *args, **kw)
        number, outside = self._activations.observe(
            ActivationCall(row, name, None), function, tensor
        )
        call.inside.append(number)
        return outside

    def _call_activation(
        self, name: str, owner: Any, original: Callable[..., Any], *args: Any, **kw: Any
    ) -> Any:
        """An activation that is a layer or an operation of its own."""
        tensor = args[0] if args else None
        if not self._recorder.can_follow(tensor):
            return original(*args, **kw)
        call = ActivationCall(self._row_before(tensor), name, getattr(owner, "name", None))
        return self._activations.observe(call, _of_first(original, args, kw), tensor)[1]

    def _call_function(self, name: str, original: Callable[..., Any], *args: Any, **kw: Any) -> Any:
        """An activation that is called as a function of Keras."""
        tensor = args[0] if args else None
        if self._activations.is_running or not self._recorder.can_follow(tensor):
            return original(*args, **kw)
        function = _of_first(original, args, kw)
        if not self._running:
            call = ActivationCall(self._row_before(tensor), name, None)
            return self._activations.observe(call, function, tensor)[1]
        running = self.calls[self._running[-1]]
        if isinstance(self._rows[running.row].layer, WHOLE):
            return original(*args, **kw)
        call = ActivationCall(running.row, name, None)
        number, outside = self._activations.observe(call, function, tensor)
        running.functions.append(number)
        return outside

    def positions(self) -> dict[int, int]:
        """Number of an activation → its place among those that follow its layer in a row."""
        inside = {number for call in self.calls for number in call.inside}
        return self._activations.positions(inside)

    def _row_before(self, tensor: Any) -> int:
        """Row of the nearest call that leads to the tensor: the latest, if there are several."""
        sources = self._tracer.sources([tensor])
        return self.calls[max(sources)].row if sources else NO_ROW


def _of_first(
    original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[[Any], Any]:
    """The call as a function of its first argument."""
    return lambda tensor: original(tensor, *args[1:], **kwargs)


def _over_time(gradient: Any) -> Any:
    """Norm of the gradient at every time step, shape (time,): Keras has the time on axis 1."""
    steps = ops.moveaxis(ops.cast(gradient, "float32"), 1, 0)
    steps = ops.reshape(steps, (steps.shape[0], -1))
    largest = ops.maximum(ops.max(ops.abs(steps), axis=1, keepdims=True), 1e-45)
    return largest[:, 0] * ops.sqrt(ops.sum(ops.square(steps / largest), axis=1))
