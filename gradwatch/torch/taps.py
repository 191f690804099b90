"""Taps: figures of tensors, taken in the forward pass and by hooks in the backward pass."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradwatch.torch.activations import slope, slope_figures
from gradwatch.torch.graph import Activation
from gradwatch.torch.internals import hook_gradient
from gradwatch.torch.outputs import direction_spread, logit_misfit_ratio, logits_of
from gradwatch.torch.passes import Pass, Run
from gradwatch.torch.reading import Key
from gradwatch.torch.recurrent import squares_over_time, time_axis


class Taps:
    """Takes figures into a pass until it is closed, and counts the time that it takes.

    Args:
        on_fault: Called with what was raised; a tap never raises itself.
    """

    def __init__(self, on_fault: Callable[[Exception], None]) -> None:
        self._on_fault = on_fault
        self._newest: tuple[weakref.ref[Tensor], int, Pass, Key] | None = None
        """The tensor whose norm was taken last, its version, and where the figure is."""
        self.seconds = 0.0
        """Seconds spent so far."""

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Counts the time and hands a fault on: promise 2, a hook never breaks a run."""
        began = time.perf_counter()
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- see above
            self._on_fault(error)
        finally:
            self.seconds += time.perf_counter() - began

    def forget(self) -> None:
        """Let go of the pass whose figure was taken last."""
        self._newest = None

    def take_norm(self, owner: Pass, key: Key, values: Tensor) -> None:
        """Take a norm, unless it was the last one that was taken anyway."""
        owner.sizes[key] = values.numel()
        if self._newest is not None:
            tensor, version, taken_in, known = self._newest
            if tensor() is values and values._version == version and taken_in is owner:
                owner.same_as[key] = known
                return
        owner.same_as.pop(key, None)
        owner.reading.add_norm(key, values)
        self._newest = weakref.ref(values), values._version, owner, key

    def tap_gradient(self, owner: Pass, run: Run, key: Key, tensor: Tensor) -> None:
        """Take the norm of a tensor's gradient once there is one.

        A gradient that is itself to be differentiated (`create_graph`) does not end the pass: what
        it is for is yet to come, and replaces it.
        """

        def hook(gradient: Tensor) -> None:
            if not owner.closed:
                with self.timed():
                    owner.reached.add(run.number)
                    owner.backward_seen |= not torch.is_grad_enabled()
                    self.take_norm(owner, key, gradient)

        owner.hold(run)
        hook_gradient(tensor, hook)

    def tap_leaf(self, owner: Pass, key: Key, leaf: Tensor) -> None:
        """Take the norm of the gradient of a parameter that a layer hands out.

        Its hook would stay for ever, so it goes with the pass; it sees the sum over all calls.
        """

        def hook(gradient: Tensor) -> None:
            if not owner.closed:
                with self.timed():
                    self.take_norm(owner, key, gradient)

        owner.keep_leaf_hook(leaf, hook_gradient(leaf, hook))

    def take_spread(self, owner: Pass, key: Key, output: Tensor) -> None:
        """Take how much the examples of a layer's output differ in direction."""
        spread = direction_spread(output)
        if spread is not None:
            owner.reading.add(key, spread)

    def tap_logits(self, owner: Pass, key: Key, output: Tensor, unit_axis: int) -> None:
        """Take what the gradient of a network's output says of the loss, once there is one."""
        logits = logits_of(output, unit_axis)
        if logits is None:
            return

        def hook(gradient: Tensor) -> None:
            if owner.closed or gradient.is_complex() or torch.is_grad_enabled():
                return
            with self.timed():
                signal = logits_of(gradient, unit_axis)
                if signal is not None:
                    owner.reading.add(key, logit_misfit_ratio(logits, signal))

        hook_gradient(output, hook)

    def tap_over_time(
        self, owner: Pass, key: Key, module: nn.RNNBase, sequence: Any, alias: Tensor
    ) -> None:
        """Take the squared gradient of a recurrent module's input at every time step.

        Args:
            owner: Takes the figures.
            key: Their key.
            module: The module.
            sequence: Its input, a tensor or a packed sequence.
            alias: What stands for the input's tensor.
        """
        if isinstance(sequence, PackedSequence):
            owner.batch_sizes[key.part] = sequence.batch_sizes.tolist()
        batch_first = module.batch_first and not isinstance(sequence, PackedSequence)

        def hook(gradient: Tensor) -> None:
            if not owner.closed:
                with self.timed():
                    axis = time_axis(gradient, batch_first=batch_first)
                    owner.reading.add(key, squares_over_time(gradient.detach(), axis))

        hook_gradient(alias, hook)

    def tap_activation(self, owner: Pass, activation: Activation, layer: nn.Module | None) -> None:
        """Take the slopes of an activation now, and its gain in the backward pass.

        Args:
            owner: Takes the figures.
            activation: The activation; its node is let go of.
            layer: The layer that it belongs to.
        """
        span = owner.spans[activation.span]
        part = owner.next_part(span.run)
        owner.activations[part] = activation

        def hook(into: tuple[Tensor | None, ...], out_of: tuple[Tensor | None, ...]) -> None:
            if owner.closed or into[0] is None or out_of[0] is None:
                return
            with self.timed():
                self.take_norm(owner, Key(span.row, "activation_out_norm", part), out_of[0])
                self.take_norm(owner, Key(span.row, "activation_in_norm", part), into[0])

        activation.node.register_hook(hook)
        slopes = slope(activation.node, activation.name, readable=activation.readable)
        activation.node = None
        if slopes is not None:
            for name, figure in slope_figures(slopes, activation.name, layer).items():
                owner.reading.add(Key(span.row, name, part), figure)
