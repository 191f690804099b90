"""Signals: what flows forward and backward through the layers on a sampled step.

Two global module hooks are armed for the step and removed after it; nothing hangs on the model.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from gradwatch.torch.activations import unit_axis
from gradwatch.torch.aliases import aliased_inputs
from gradwatch.torch.graph import Span
from gradwatch.torch.internals import (
    is_in_backward,
    is_traced,
    is_transformed,
    saved_tensors_are_hooked,
    sequence_number,
)
from gradwatch.torch.passes import Pass, Run, floating_tensors
from gradwatch.torch.reading import Key
from gradwatch.torch.recurrent import by_example
from gradwatch.torch.rows import Rows
from gradwatch.torch.taps import Taps

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
        self._taps = Taps(on_fault)
        self._handles: list[Any] = []
        self._frames: list[_Frame] = []
        self._thread = 0
        self._pass = Pass()
        self._finished: Pass | None = None
        """The pass before the present one, if its backward pass is done."""
        self._run = Run(0)
        """The present call from outside; in between, one that nothing holds."""

    @property
    def is_armed(self) -> bool:
        """Whether the hooks are in place."""
        return bool(self._handles)

    @property
    def seconds(self) -> float:
        """Seconds spent in the hooks since the last `arm`."""
        return self._taps.seconds

    def arm(self) -> None:
        """Put the two global hooks in place."""
        if self._handles:
            return
        self._thread = threading.get_ident()
        self._rows.refresh()
        self._frames.clear()
        self._renew()
        self._finished = None
        self._taps.seconds = 0.0
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
            with self._taps.timed():
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
        self._taps.forget()

    def _before_forward(self, module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        if is_traced() or threading.get_ident() != self._thread or not self._rows.knows(module):
            return None
        with self._taps.timed():
            return self._enter(module, inputs)
        return None

    def _after_forward(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if is_traced() or threading.get_ident() != self._thread:
            return
        if any(frame.module is module for frame in reversed(self._frames)):
            with self._taps.timed():
                self._leave(module, output)

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

    def _count_detached(self, row: int) -> None:
        """A layer that runs without gradients inside a pass that has them, so no evaluation.

        Under a transform of torch.func, gradients cannot be followed either.
        """
        self._pass.order.setdefault(row)
        self._pass.detached_calls[row] += 1

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
            self._taps.take_norm(self._pass, self._key(row, "input_norm"), first)
        tap = partial(self._tap_input, frame.module, row, inputs[0] if inputs else None)
        aliased = aliased_inputs(frame.module, inputs, tap)
        self._open_span(frame)
        return aliased

    def _tap_input(self, module: nn.Module, row: int, sequence: Any, alias: Tensor) -> None:
        owner = self._pass
        self._taps.tap_gradient(owner, self._run, self._key(row, "input_grad_norm"), alias)
        if isinstance(module, nn.RNNBase):
            key = self._key(row, "time_squares")
            self._taps.tap_over_time(owner, key, module, sequence, alias)

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

    def _leave(self, module: nn.Module, output: Any) -> None:
        while self._frames[-1].module is not module:
            self._frames.pop()
        frame = self._frames.pop()
        if frame.span >= 0:
            self._pass.spans[frame.span].end = sequence_number()
        if frame.row >= 0:
            self._record(frame, output)
        elif frame.enabled and not is_in_backward():
            self._record_tied(module, output)
        if not self._frames and frame.enabled:
            if not is_in_backward() or self._opened_spans():
                self._walk(output)
            self._run = Run(0)

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
                self._taps.take_norm(owner, self._key(row, "output_norm"), tensor)
                examples = by_example(frame.module, tensor)
                self._taps.take_spread(owner, self._key(row, "direction_spread"), examples)
                if self._rows.is_last(row):
                    self._tap_logits(frame.module, row, tensor)
            owner.first_part[key.part] = first.part
            if tensor.grad_fn is not None:
                self._taps.tap_gradient(owner, self._run, key, tensor)
            elif tensor.requires_grad:
                self._taps.tap_leaf(owner, key, tensor)

    def _record_tied(self, module: nn.Module, output: Any) -> None:
        """The logits of a module whose weights are another row's, as those of a language model."""
        row = self._rows.tied_to(module)
        first = next(iter(floating_tensors(output)), None)
        if row is not None and first is not None:
            self._tap_logits(module, row, first)

    def _tap_logits(self, module: nn.Module, row: int, output: Tensor) -> None:
        if output.grad_fn is not None:
            key = self._key(row, "logit_misfit_ratio")
            self._taps.tap_logits(self._pass, key, output, unit_axis(module, output.shape))

    def _opened_spans(self) -> bool:
        """Whether a layer was seen in this run: a checkpoint may only repeat what was seen."""
        latest = itertools.takewhile(
            lambda span: span.run == self._run.number, reversed(self._pass.spans)
        )
        return any(span.row >= 0 for span in latest)

    def _walk(self, output: Any) -> None:
        owner = self._pass
        for activation in owner.walk(output).activations:
            layer = self._rows[owner.spans[activation.span].row].module()
            self._taps.tap_activation(owner, activation, layer)

    def _key(self, row: int, name: str) -> Key:
        return Key(row, name, self._pass.next_part(self._run.number))
