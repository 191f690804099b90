"""Passes: what the patched layers note while a probe's forward pass is traced."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

import keras
from keras import ops, tree

from gradwatch.keras.activations import activation_name
from gradwatch.keras.rows import Rows, unit_axis
from gradwatch.keras.spread import direction_spread, logit_misfit_ratio, logits_of
from gradwatch.keras.figures import norm
from gradwatch.layer import ONE_SIDED
from gradwatch.slopes import FLAT_SLOPE, SATURATING, largest_slope


NO_ROW = -1
"""Row of an activation that no layer comes before, as of one on the inputs."""

OUTPUTS_APART = 1_000_000
"""Added to the number of a call for each further output of it."""


class Key(NamedTuple):
    """What a figure belongs to.

    Args:
        row: Row of the layer.
        name: Name of the figure.
        call: Number of the call of a layer, in the order of the pass.
    """

    row: int
    name: str
    call: int = 0


class Tracer(Protocol):
    """What a backend does for a pass."""

    def watch(self, tensor: Any) -> Any:
        """The same values, of which the gradient can be asked for afterwards."""

    def tag(self, tensor: Any, call: int) -> Any:
        """The same values, known from here on as the output of a call."""

    def sources(self, tensors: Sequence[Any]) -> set[int]:
        """The calls whose tagged outputs lead to the tensors with no other tag in between."""

    def slope(self, function: Callable[[Any], Any], tensor: Any) -> Any:
        """The derivative of an elementwise function, of the tensor's shape."""


@dataclass
class Call:
    """One call of a layer.

    Args:
        row: Its row.
        sources: Calls that feed it directly.
        inside: Activations that ran inside it, of its own argument.
        output: The first floating output, before an activation inside.
    """

    row: int
    sources: set[int] = field(default_factory=set)
    inside: list[int] = field(default_factory=list)
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
        self.calls: list[Call] = []
        self.figures: dict[Key, Any] = {}
        """Figures of the forward pass."""
        self.watched: dict[Key, Any] = {}
        """Tensors whose gradients are asked for."""
        self.sizes: dict[Key, int] = {}
        self.dtypes: dict[int, str] = {}
        """Row → dtype of its output."""
        self.activations: dict[int, tuple[str, str | None]] = {}
        self._running: list[int] = []
        self._activation_count = 0

    @contextmanager
    def patched(self, model: Any) -> Iterator[None]:
        """For the duration, layers and activations report to this pass; nothing of it stays."""
        with ExitStack() as stack:
            whole: set[int] = set()
            for row, entry in enumerate(self._rows):
                if entry.composite:
                    continue
                layer = entry.layer
                stack.enter_context(_replaced(layer, "call", partial(self._call_layer, row)))
                whole.update(id(part) for part in layer._flatten_layers(include_self=False))
                own = getattr(layer, "activation", None)
                if callable(own) and activation_name(layer) and not entry.known.recurrent:
                    name = activation_name(layer) or ""
                    report = partial(self._call_own, name, row)
                    stack.enter_context(_replaced(layer, "activation", report))
            for operation in _operations(model):
                name = activation_name(operation)
                free = self._rows.row_of(operation) is None and id(operation) not in whole
                if free and name is not None:
                    report = partial(self._call_activation, name, operation)
                    stack.enter_context(_replaced(operation, "call", report))
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
        activations = {row: seen for row, seen in self.activations.items() if row != NO_ROW}
        return Wiring(order, frozenset(edges), activations)

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

    def _logits(self, row: int, output: Any) -> Any | None:
        if output is None:
            return None
        return logits_of(output, unit_axis(self._rows[row].layer, len(output.shape), output.shape))

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
        for key, gradient in gradients.items():
            if gradient is None:
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
        number = len(self.calls)
        call = Call(row, self._tracer.sources(_floating((args, kwargs))))
        self.calls.append(call)
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
        first = next(iter(_floating((args, kwargs))), None)
        if first is None:
            return args, kwargs
        key = Key(row, "input_norm", number)
        self._take_norm(key, first)
        alias = self._watch(Key(row, "input_grad_norm", number), first)

        def swapped(leaf: Any) -> Any:
            return alias if leaf is first else leaf

        return tree.map_structure(swapped, args), tree.map_structure(swapped, kwargs)

    def _watch_outputs(self, row: int, number: int, output: Any) -> Any:
        call = self.calls[number]
        replaced: dict[int, Any] = {}
        for place, tensor in enumerate(_floating(output)):
            values = tensor
            if place == 0:
                self._note_output(row, number, tensor)
            if not (call.inside and place == 0):
                key = Key(row, "output_grad_norm", number + place * OUTPUTS_APART)
                values = self._watch(key, tensor)
            replaced[id(tensor)] = self._tracer.tag(values, number)
        return tree.map_structure(lambda leaf: replaced.get(id(leaf), leaf), output)

    def _note_output(self, row: int, number: int, tensor: Any) -> None:
        """Figures of the first output; those of an activation inside are taken before it."""
        call = self.calls[number]
        if call.output is None:
            call.output = tensor
        self.dtypes[row] = keras.backend.standardize_dtype(call.output.dtype)
        self._take_norm(Key(row, "output_norm", number), call.output)
        spread = direction_spread(call.output)
        if spread is not None:
            self.figures[Key(row, "direction_spread", number)] = spread

    def _call_own(
        self, name: str, row: int, original: Callable[..., Any], tensor: Any, *args: Any, **kw: Any
    ) -> Any:
        """The activation of a layer's argument, which is given what the layer has summed up."""
        if not self._running or self.calls[self._running[-1]].row != row or not _is_floating(tensor):
            return original(tensor, *args, **kw)
        call = self.calls[self._running[-1]]
        call.inside.append(self._activation_count)
        if call.output is None:
            call.output = tensor
        self.activations.setdefault(row, (name, None))
        return self._activate(name, row, partial(original, *args, **kw), tensor)

    def _call_activation(
        self, name: str, owner: Any, original: Callable[..., Any], *args: Any, **kw: Any
    ) -> Any:
        """An activation that is a layer or an operation of its own: it belongs to the row before."""
        tensor = args[0] if args else None
        if not _is_floating(tensor):
            return original(*args, **kw)
        sources = self._tracer.sources([tensor])
        row = self.calls[max(sources)].row if sources else NO_ROW
        self.activations.setdefault(row, (name, getattr(owner, "name", None)))

        def rest(values: Any) -> Any:
            return original(values, *args[1:], **kw)

        return self._activate(name, row, rest, tensor)

    def _activate(
        self, name: str, row: int, function: Callable[[Any], Any], tensor: Any
    ) -> Any:
        number = self._activation_count
        self._activation_count += 1
        inside = self._watch(Key(row, "activation_in_norm", number), tensor)
        outside = function(inside)
        if tuple(outside.shape) == tuple(tensor.shape):
            self._take_slopes(name, row, number, function, tensor)
        return self._watch(Key(row, "activation_out_norm", number), outside)

    def _take_slopes(
        self, name: str, row: int, number: int, function: Callable[[Any], Any], tensor: Any
    ) -> None:
        if name == "softmax":
            probabilities = ops.stop_gradient(function(tensor))
            slopes = probabilities * (1 - probabilities)
        else:
            slopes = self._tracer.slope(function, tensor)
        slopes = ops.cast(slopes, "float32")
        size, flat = ops.abs(slopes), FLAT_SLOPE * largest_slope(name)
        self.figures[Key(row, "mean_slope", number)] = ops.mean(slopes)
        if name in SATURATING:
            share = ops.mean(ops.cast(size < flat, "float32"))
            self.figures[Key(row, "saturation_fraction", number)] = share
        if name in ONE_SIDED and len(slopes.shape) > 1 and row != NO_ROW:
            axis = unit_axis(self._rows[row].layer, len(slopes.shape), tuple(slopes.shape))
            rest = [other for other in range(len(slopes.shape)) if other != axis]
            dead = ops.mean(ops.cast(ops.max(size, axis=rest) < flat, "float32"))
            self.figures[Key(row, "dead_fraction", number)] = dead

    def _watch(self, key: Key, tensor: Any) -> Any:
        values = self._tracer.watch(tensor)
        self.watched[key] = values
        self.sizes[key] = _size(tensor)
        return values

    def _take_norm(self, key: Key, tensor: Any) -> None:
        self.figures[key] = norm(ops.stop_gradient(tensor))
        self.sizes[key] = _size(tensor)

    def call_counts(self) -> dict[int, int]:
        """Row → calls."""
        counts: dict[int, int] = defaultdict(int)
        for call in self.calls:
            counts[call.row] += 1
        return counts


def _over_time(gradient: Any) -> Any:
    """Norm of the gradient at every time step, shape (time,): Keras has the time on axis 1."""
    steps = ops.moveaxis(ops.cast(gradient, "float32"), 1, 0)
    steps = ops.reshape(steps, (steps.shape[0], -1))
    largest = ops.maximum(ops.max(ops.abs(steps), axis=1, keepdims=True), 1e-45)
    return largest[:, 0] * ops.sqrt(ops.sum(ops.square(steps / largest), axis=1))


def _floating(structure: Any) -> list[Any]:
    """The floating tensors in it, each once."""
    found: dict[int, Any] = {}
    for leaf in tree.flatten(structure):
        if _is_floating(leaf):
            found.setdefault(id(leaf), leaf)
    return list(found.values())


def _is_floating(leaf: Any) -> bool:
    if not keras.ops.is_tensor(leaf) or isinstance(leaf, keras.KerasTensor):
        return False
    return bool(keras.backend.is_float_dtype(keras.backend.standardize_dtype(leaf.dtype)))


def _size(tensor: Any) -> int:
    count = 1
    for length in tensor.shape:
        count *= int(length)
    return count


def _operations(model: Any) -> Iterator[Any]:
    """Every layer and functional operation of the model, and of models inside it, each once."""
    seen: set[int] = set()
    for layer in model._flatten_layers():
        for operation in (layer, *(getattr(layer, "_operations", None) or ())):
            if id(operation) not in seen:
                seen.add(id(operation))
                yield operation


@contextmanager
def _replaced(owner: Any, name: str, report: Callable[..., Any]) -> Iterator[None]:
    """Have the instance's attribute report; the attribute is found as before afterwards."""
    attributes = vars(owner)
    original, own = getattr(owner, name), name in attributes
    attributes[name] = partial(report, original)
    try:
        yield
    finally:
        if own:
            attributes[name] = original
        else:
            del attributes[name]
