"""Signals: what flows forward and backward through the layers on a sampled step.

Two global module hooks are armed for the step and removed after it; nothing hangs on the model.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.utils.rnn import PackedSequence

from gradwatch.torch.activations import slope, slope_figures
from gradwatch.torch.graph import Activation, GraphWalk, Span
from gradwatch.torch.internals import (
    hook_gradient,
    is_in_backward,
    saved_tensors_are_hooked,
    sequence_number,
)
from gradwatch.torch.reading import Key, Reading
from gradwatch.torch.recurrent import squares_over_time, time_axis
from gradwatch.torch.rows import Rows, Wiring

_OPAQUE = (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)


@dataclass
class _Frame:
    """A module that is running.

    Args:
        module: The module.
        enabled: Whether gradients were on when it was called.
        row: Its row, -1 for none.
        span: Its span, -1 for a module that is neither an observed layer nor a leaf.
        first_input: Its first floating input, detached.
    """

    module: nn.Module
    enabled: bool
    row: int = -1
    span: int = -1
    first_input: Tensor | None = None


class Pass:
    """What one forward and backward pass gave: figures, calls, and the graph between them."""

    def __init__(self) -> None:
        self.reading = Reading()
        self.sizes: dict[Key, int] = {}
        """Elements of the tensors whose norms were taken."""
        self.spans: list[Span] = []
        self.calls: dict[int, int] = {}
        self.detached_calls: dict[int, int] = {}
        self.recomputed: set[int] = set()
        self.output_dtypes: dict[int, torch.dtype] = {}
        self.batch_sizes: dict[Key, list[int]] = {}
        self.activations: list[Activation] = []
        self.edges: set[tuple[int, int]] = set()
        self.order: list[int] = []
        self.backward_seen = False
        self.closed = False
        self.parts = itertools.count()
        """Numbers for the parts of keys: unique in a pass, rising with the order of the calls."""
        self.walk: GraphWalk | None = GraphWalk(self.spans, sequence_number())
        """Holds the nodes it has seen, so it goes when the pass is closed."""

    def wiring(self) -> Wiring:
        """Order, edges and activations by row.

        A reentrant checkpoint hides its layers from the graph around it: they are joined to their
        neighbours in the order of execution.
        """
        edges = {(self.spans[source].row, self.spans[end].row) for source, end in self.edges}
        fed = {end for _, end in edges}
        for source, end in itertools.pairwise(self.order):
            hidden = source in self.recomputed or end in self.recomputed
            if hidden and (
                (source in self.recomputed) != (end in self.recomputed) or end not in fed
            ):
                edges.add((source, end))
        activations = {
            self.spans[activation.span].row: (activation.name, activation.module_name)
            for activation in self.activations
            if activation.position == 0
        }
        return Wiring(tuple(self.order), frozenset(edges), activations)


class Signals:
    """Collects the signals of the last forward and backward pass before an optimizer step.

    Args:
        rows: The model's rows.
        on_fault: Called with what a hook raised; the hooks never raise themselves.
    """

    def __init__(self, rows: Rows, on_fault: Callable[[Exception], None]) -> None:
        self._rows = rows
        self._on_fault = on_fault
        self._handles: list[Any] = []
        self._frames: list[_Frame] = []
        self._thread = 0
        self._pass = Pass()
        self.seconds = 0.0
        """Seconds spent in the hooks since the last `arm`."""

    @property
    def is_armed(self) -> bool:
        """Whether the hooks are in place."""
        return bool(self._handles)

    def arm(self) -> None:
        """Put the two global hooks in place."""
        if self._handles:
            return
        self._thread = threading.get_ident()
        self._rows.refresh()
        self._frames.clear()
        self._pass = Pass()
        self.seconds = 0.0
        self._handles = [
            register_module_forward_pre_hook(self._before_forward),
            register_module_forward_hook(self._after_forward, always_call=True),
        ]

    def disarm(self) -> Pass:
        """Remove the hooks and give what the last pass collected."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._frames.clear()
        collected, self._pass = self._pass, Pass()
        collected.closed = True
        collected.walk = None
        return collected

    def see_loss(self, loss: Tensor) -> None:
        """Look at what lies between the model's output and the loss, if backward is yet to come."""
        if self._handles and not self._frames and not self._pass.backward_seen:
            with self._timed():
                self._walk(loss)

    def _before_forward(self, module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        if threading.get_ident() != self._thread or not self._rows.knows(module):
            return None
        with self._timed():
            return self._enter(module, inputs)
        return None

    def _after_forward(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() == self._thread and self._rows.knows(module):
            with self._timed():
                self._leave(module, output)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Counts the time and hands a fault on: promise 2, a hook never breaks a run."""
        began = time.perf_counter()
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- see above
            self._on_fault(error)
        finally:
            self.seconds += time.perf_counter() - began

    def _enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        enabled = torch.is_grad_enabled()
        recomputing = is_in_backward()
        if not self._frames and enabled and not recomputing and self._pass.backward_seen:
            self._pass = Pass()
        frame = _Frame(module, enabled)
        self._frames.append(frame)
        row = self._rows.row_of(module)
        if row is None:
            if enabled and next(module.children(), None) is None:
                self._open_span(frame)
            return None
        if not enabled:
            self._count_detached(row)
            return None
        if recomputing and self._pass.calls.get(row):
            return None
        if recomputing:
            self._pass.recomputed.add(row)
        frame.row = row
        self._note_order(row)
        if self._rows[row].composite:
            return None
        frame.first_input = next(floating_tensors(inputs), None)
        aliased = self._alias_inputs(module, row, inputs)
        self._open_span(frame)
        return aliased

    def _count_detached(self, row: int) -> None:
        """A layer that runs without gradients inside a pass that has them, so no evaluation."""
        if self._frames[0].enabled:
            self._note_order(row)
            self._pass.detached_calls[row] = self._pass.detached_calls.get(row, 0) + 1

    def _note_order(self, row: int) -> None:
        if row not in self._pass.order:
            self._pass.order.append(row)

    def _open_span(self, frame: _Frame) -> None:
        spans = self._pass.spans
        frame.span = len(spans)
        parent = next((outer.span for outer in reversed(self._frames[:-1]) if outer.span >= 0), -1)
        spans.append(
            Span(
                row=frame.row,
                start=sequence_number(),
                parent=parent,
                module_name=self._rows.name_of(frame.module),
                checkpointed=saved_tensors_are_hooked(),
                opaque=isinstance(frame.module, _OPAQUE),
            )
        )

    def _alias_inputs(
        self, module: nn.Module, row: int, inputs: tuple[Any, ...]
    ) -> tuple[Any, ...] | None:
        """The inputs with an alias in place of each tensor, hooked for *this* module's dL/dx.

        The same tensor given twice gets the same alias: MultiheadAttention asks whether q is k.
        """
        aliases: dict[int, Tensor] = {}
        over_time = isinstance(module, nn.RNNBase)

        def alias(tensor: Tensor) -> Tensor:
            if id(tensor) not in aliases:
                twin = tensor.view_as(tensor)
                if over_time and not twin.requires_grad:
                    twin.requires_grad_()
                hook_gradient(twin, self._hook("input_grad_norm", row))
                if over_time:
                    self._hook_over_time(module, row, inputs[0], twin)
                aliases[id(tensor)] = twin
            return aliases[id(tensor)]

        def replaced(argument: Any) -> Any:
            if isinstance(argument, PackedSequence):
                return argument._replace(data=replaced(argument.data))
            hookable = isinstance(argument, Tensor) and argument.is_floating_point()
            if hookable and (argument.requires_grad or over_time):
                return alias(argument)
            return argument

        replacement = (*map(replaced, inputs[:1]), *inputs[1:])
        if not over_time:
            replacement = tuple(map(replaced, inputs))
        return replacement if aliases else None

    def _hook_over_time(self, module: Any, row: int, argument: Any, alias: Tensor) -> None:
        key = Key(row, "time_squares", next(self._pass.parts))
        if isinstance(argument, PackedSequence):
            self._pass.batch_sizes[key] = argument.batch_sizes.tolist()
        owner = self._pass

        def hook(gradient: Tensor) -> None:
            if not owner.closed:
                with self._timed():
                    axis = time_axis(module, gradient) if key not in owner.batch_sizes else 0
                    owner.reading.add(key, squares_over_time(gradient.detach(), axis))

        hook_gradient(alias, hook)

    def _hook(self, name: str, row: int) -> Callable[[Tensor], None]:
        """A hook that takes the norm of a gradient into the present pass, never a later one."""
        owner = self._pass
        key = Key(row, name, next(owner.parts))

        def hook(gradient: Tensor) -> None:
            if not owner.closed:
                with self._timed():
                    owner.backward_seen = True
                    self._take_norm(owner, key, gradient)

        return hook

    def _leave(self, module: nn.Module, output: Any) -> None:
        while self._frames and self._frames[-1].module is not module:
            self._frames.pop()
        if not self._frames:
            return
        frame = self._frames.pop()
        if frame.span >= 0:
            self._pass.spans[frame.span].end = sequence_number()
        if frame.row >= 0:
            self._record(frame, output)
        if not self._frames and frame.enabled:
            self._walk(output)

    def _record(self, frame: _Frame, output: Any) -> None:
        row, owner = frame.row, self._pass
        owner.calls[row] = owner.calls.get(row, 0) + 1
        if frame.span < 0:
            return
        if frame.first_input is not None:
            self._take_norm(owner, Key(row, "input_norm", next(owner.parts)), frame.first_input)
        for index, tensor in enumerate(floating_tensors(output)):
            if index == 0:
                owner.output_dtypes[row] = tensor.dtype
                self._take_norm(owner, Key(row, "output_norm", next(owner.parts)), tensor)
            if tensor.requires_grad:
                hook_gradient(tensor, self._hook("output_grad_norm", row))

    def _take_norm(self, owner: Pass, key: Key, values: Tensor) -> None:
        owner.sizes[key] = values.numel()
        owner.reading.add_norm(key, values)

    def _walk(self, output: Any) -> None:
        outputs = [tensor for tensor in floating_tensors(output) if tensor.grad_fn is not None]
        if self._pass.walk is None:
            return
        trace = self._pass.walk.walk(outputs)
        self._pass.edges |= trace.edges
        for activation in trace.activations:
            self._observe_activation(activation)

    def _observe_activation(self, activation: Activation) -> None:
        owner, part = self._pass, len(self._pass.activations)
        owner.activations.append(activation)
        row = owner.spans[activation.span].row

        def hook(into: tuple[Tensor | None, ...], out_of: tuple[Tensor | None, ...]) -> None:
            if owner.closed or into[0] is None or out_of[0] is None:
                return
            with self._timed():
                owner.reading.add_norm(Key(row, "activation_in_norm", part), into[0])
                owner.reading.add_norm(Key(row, "activation_out_norm", part), out_of[0])

        activation.node.register_hook(hook)
        slopes = slope(activation.node) if activation.readable else None
        activation.node = None
        if slopes is not None:
            layer = self._rows[row].layer
            for name, figure in slope_figures(slopes, activation.name, layer).items():
                owner.reading.add(Key(row, name, part), figure)


def floating_tensors(structure: Any) -> Iterator[Tensor]:
    """The floating or complex tensors in nested tuples, lists, mappings and dataclasses."""
    if isinstance(structure, Tensor):
        if structure.is_floating_point() or structure.is_complex():
            yield structure
    elif isinstance(structure, Mapping):
        for member in structure.values():
            yield from floating_tensors(member)
    elif isinstance(structure, tuple | list):
        for member in structure:
            yield from floating_tensors(member)
    elif is_dataclass(structure) and not isinstance(structure, type):
        for entry in fields(structure):
            yield from floating_tensors(getattr(structure, entry.name))
