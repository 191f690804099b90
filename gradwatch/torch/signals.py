"""Signals: what flows forward and backward through the layers on a sampled step.

Two global module hooks are armed for the step and removed after it; nothing hangs on the model.
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.utils.rnn import PackedSequence

from gradwatch.torch.activations import slope, slope_figures
from gradwatch.torch.aliases import aliased_inputs
from gradwatch.torch.graph import Activation, Span
from gradwatch.torch.internals import (
    hook_gradient,
    is_in_backward,
    is_traced,
    is_transformed,
    saved_tensors_are_hooked,
    sequence_number,
)
from gradwatch.torch.passes import Pass, Run, floating_tensors
from gradwatch.torch.reading import Key
from gradwatch.torch.recurrent import squares_over_time, time_axis
from gradwatch.torch.rows import Rows

__all__ = ["Pass", "Signals"]

_OPAQUE = (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)


@dataclass(slots=True)
class _Frame:
    """A module that is running.

    Args:
        module: The module.
        enabled: Whether gradients were on when it was called.
        row: Its row, -1 for none.
        span: Its span, -1 for a module that is neither an observed layer nor a leaf.
    """

    module: nn.Module
    enabled: bool
    row: int = -1
    span: int = -1


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
        self._finished: Pass | None = None
        """The pass before the present one, if its backward pass is done."""
        self._run = Run(0)
        """The present call from outside; in between, one that nothing holds."""
        self._newest: tuple[weakref.ref[Tensor], int, Pass, Key] | None = None
        """The tensor whose norm was taken last, its version, and where the figure is."""
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
        self._renew()
        self._finished = None
        self.seconds = 0.0
        self._handles = [
            register_module_forward_pre_hook(self._before_forward),
            register_module_forward_hook(self._after_forward, always_call=True),
        ]

    def disarm(self) -> Pass:
        """Remove the hooks and give what the last pass with a backward collected."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._frames.clear()
        collected = self._pass
        if self._finished is not None and not collected.backward_seen:
            collected = self._finished
        self._renew()
        self._finished = None
        collected.close()
        return collected

    def see_loss(self, loss: Tensor) -> None:
        """Look at what lies between the model's output and the loss, if backward is yet to come."""
        if self._handles and not self._frames and not self._pass.backward_seen:
            with self._timed():
                self._walk(loss)

    def _renew(self) -> None:
        """Begin a pass; the one before stays until the new one has seen a backward pass too."""
        over = self._finished if self._pass.backward_seen else self._pass
        if self._pass.backward_seen:
            self._finished = self._pass
        if over is not None:
            over.close()
        self._pass = Pass()
        self._run = Run(0)
        self._newest = None

    def _before_forward(self, module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        if is_traced() or threading.get_ident() != self._thread or not self._rows.knows(module):
            return None
        with self._timed():
            return self._enter(module, inputs)
        return None

    def _after_forward(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if is_traced() or threading.get_ident() != self._thread:
            return
        if any(frame.module is module for frame in reversed(self._frames)):
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
        transformed = is_transformed()
        enabled = torch.is_grad_enabled() and not transformed
        if self._frames:
            enabled &= self._frames[0].enabled
        elif enabled:
            self._begin_run()
        frame = _Frame(module, enabled)
        self._frames.append(frame)
        row = self._rows.row_of(module)
        if row is None:
            if enabled and next(module.children(), None) is None:
                self._open_span(frame)
            return None
        if not enabled:
            if transformed or self._frames[0].enabled:
                self._count_detached(row)
            return None
        return self._enter_row(frame, row, inputs)

    def _begin_run(self) -> None:
        """A call from outside: of a new pass if the present one is over."""
        over = self._pass.backward_seen or self._pass.is_given_up()
        if over and not is_in_backward():
            self._renew()
        self._run = self._pass.begin_run()

    def _enter_row(
        self, frame: _Frame, row: int, inputs: tuple[Any, ...]
    ) -> tuple[Any, ...] | None:
        if is_in_backward():
            if self._pass.calls.get(row):
                return None
            self._pass.recomputed.add(row)
        frame.row = row
        self._pass.order.setdefault(row)
        if self._rows[row].composite:
            return None
        first = next(iter(floating_tensors(inputs)), None)
        if first is not None:
            self._take_norm(self._pass, self._key(row, "input_norm"), first)
        hook = partial(self._hook_input, frame.module, row, inputs[0] if inputs else None)
        aliased = aliased_inputs(frame.module, inputs, hook)
        self._open_span(frame)
        return aliased

    def _count_detached(self, row: int) -> None:
        """A layer that runs without gradients inside a pass that has them, so no evaluation.

        Under a transform of torch.func, gradients cannot be followed either.
        """
        self._pass.order.setdefault(row)
        self._pass.detached_calls[row] += 1

    def _key(self, row: int, name: str) -> Key:
        return Key(row, name, self._pass.next_part(self._run.number))

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
                run=self._run.number,
                checkpointed=saved_tensors_are_hooked(),
                opaque=isinstance(frame.module, _OPAQUE),
            )
        )

    def _hook_input(self, module: nn.Module, row: int, sequence: Any, alias: Tensor) -> None:
        """Hook an alias of one of the module's inputs."""
        self._hook(alias, self._key(row, "input_grad_norm"))
        if isinstance(module, nn.RNNBase):
            self._hook_over_time(module, row, sequence, alias)

    def _hook_over_time(self, module: Any, row: int, sequence: Any, alias: Tensor) -> None:
        key = self._key(row, "time_squares")
        if isinstance(sequence, PackedSequence):
            self._pass.batch_sizes[key.part] = sequence.batch_sizes.tolist()
        owner = self._pass

        def hook(gradient: Tensor) -> None:
            if not owner.closed:
                with self._timed():
                    axis = time_axis(module, gradient) if key.part not in owner.batch_sizes else 0
                    owner.reading.add(key, squares_over_time(gradient.detach(), axis))

        hook_gradient(alias, hook)

    def _hook(self, tensor: Tensor, key: Key) -> None:
        """Take the norm of a gradient into the present pass, never into a later one.

        A gradient that is itself to be differentiated (`create_graph`) does not end the pass: what
        it is for is yet to come, and replaces it.
        """
        owner, run = self._pass, self._run

        def hook(gradient: Tensor) -> None:
            if not owner.closed:
                with self._timed():
                    owner.reached.add(run.number)
                    owner.backward_seen |= not torch.is_grad_enabled()
                    self._take_norm(owner, key, gradient)

        owner.hold(run)
        hook_gradient(tensor, hook)

    def _hook_leaf(self, leaf: Tensor, key: Key) -> None:
        """Take the norm of the gradient of a parameter that a layer hands out.

        Its hook would stay for ever, so it goes with the pass; it sees the sum over all calls.
        """
        owner = self._pass

        def hook(gradient: Tensor) -> None:
            if not owner.closed:
                with self._timed():
                    self._take_norm(owner, key, gradient)

        owner.keep_leaf_hook(leaf, hook_gradient(leaf, hook))

    def _leave(self, module: nn.Module, output: Any) -> None:
        while self._frames[-1].module is not module:
            self._frames.pop()
        frame = self._frames.pop()
        if frame.span >= 0:
            self._pass.spans[frame.span].end = sequence_number()
        if frame.row >= 0:
            self._record(frame, output)
        if not self._frames and frame.enabled:
            if not is_in_backward() or self._opened_spans():
                self._walk(output)
            self._run = Run(0)

    def _opened_spans(self) -> bool:
        """Whether a layer was seen in this run: a checkpoint may only repeat what was seen."""
        latest = itertools.takewhile(
            lambda span: span.run == self._run.number, reversed(self._pass.spans)
        )
        return any(span.row >= 0 for span in latest)

    def _record(self, frame: _Frame, output: Any) -> None:
        row, owner = frame.row, self._pass
        owner.calls[row][self._run.number] += 1
        if frame.span < 0:
            return
        first: Key | None = None
        for tensor in floating_tensors(output):
            key = self._key(row, "output_grad_norm")
            if first is None:
                first = key
                owner.output_dtypes[row] = tensor.dtype
                self._take_norm(owner, self._key(row, "output_norm"), tensor)
            owner.first_part[key.part] = first.part
            if tensor.grad_fn is not None:
                self._hook(tensor, key)
            elif tensor.requires_grad:
                self._hook_leaf(tensor, key)

    def _take_norm(self, owner: Pass, key: Key, values: Tensor) -> None:
        """Take a norm, unless it was the last one that was taken anyway."""
        owner.sizes[key] = values.numel()
        if self._newest is not None:
            tensor, version, taken_in, known = self._newest
            if tensor() is values and values._version == version and taken_in is owner:
                owner.same_as[key] = known
                return
        owner.same_as.pop(key, None)
        owner.reading.add_norm(key, values.resolve_conj())
        self._newest = weakref.ref(values), values._version, owner, key

    def _walk(self, output: Any) -> None:
        for activation in self._pass.walk(output).activations:
            self._observe_activation(activation)

    def _observe_activation(self, activation: Activation) -> None:
        owner, span = self._pass, self._pass.spans[activation.span]
        part = owner.next_part(span.run)
        owner.activations[part] = activation

        def hook(into: tuple[Tensor | None, ...], out_of: tuple[Tensor | None, ...]) -> None:
            if owner.closed or into[0] is None or out_of[0] is None:
                return
            with self._timed():
                self._take_norm(owner, Key(span.row, "activation_out_norm", part), out_of[0])
                self._take_norm(owner, Key(span.row, "activation_in_norm", part), into[0])

        activation.node.register_hook(hook)
        slopes = slope(activation.node, activation.name, readable=activation.readable)
        activation.node = None
        if slopes is not None:
            module = self._rows[span.row].module()
            for name, figure in slope_figures(slopes, activation.name, module).items():
                owner.reading.add(Key(span.row, name, part), figure)
