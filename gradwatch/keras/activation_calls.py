"""Activation calls: what a pass notes where an activation runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras import ops

from gradwatch.keras.recording import NO_ROW, Key, Recorder
from gradwatch.keras.rows import Rows, unit_axis
from gradwatch.layer import ONE_SIDED
from gradwatch.slopes import FLAT_SLOPE, SATURATING, largest_slope


@dataclass
class ActivationCall:
    """One call of an activation.

    Args:
        row: Row of the layer that it follows.
        name: Of the activation.
        module: Name of the layer or operation that it is, None for a function.
        given: What it was given.
        output: What it gave.
    """

    row: int
    name: str
    module: str | None
    given: Any = None
    output: Any = None


class ActivationCalls:
    """The activations of one pass, numbered in the order of their calls.

    Args:
        rows: The model's rows.
        recorder: Takes the figures.
    """

    def __init__(self, rows: Rows, recorder: Recorder) -> None:
        self._rows = rows
        self._recorder = recorder
        self._calls: list[ActivationCall] = []
        self._left_out: set[int] = set()
        self.is_running = False
        """Whether one is under way, so that functions it is made of are no others."""

    @property
    def by_row(self) -> dict[int, tuple[str, str | None]]:
        """Row → (name of the first activation that follows it, name of its layer or None)."""
        found: dict[int, tuple[str, str | None]] = {}
        for number, call in enumerate(self._calls):
            if number not in self._left_out and call.row != NO_ROW:
                found.setdefault(call.row, (call.name, call.module))
        return found

    def __getitem__(self, number: int) -> ActivationCall:
        return self._calls[number]

    def observe(
        self, call: ActivationCall, function: Callable[[Any], Any], tensor: Any
    ) -> tuple[int, Any]:
        """(number of the call, what the function gives for the tensor)."""
        number = len(self._calls)
        self._calls.append(call)
        inside = self._recorder.watch(Key(call.row, "activation_in_norm", number), tensor)
        self.is_running = True
        try:
            outside = function(inside)
            if tuple(outside.shape) == tuple(tensor.shape):
                self._take_slopes(call, number, function, tensor)
        finally:
            self.is_running = False
        call.given = tensor
        call.output = self._recorder.watch(Key(call.row, "activation_out_norm", number), outside)
        return number, call.output

    def positions(self, inside: set[int]) -> dict[int, int]:
        """Number of each activation → how many activations of its row come right before it.

        Args:
            inside: Activations that ran inside their layer, before any that follows it.
        """
        positions: dict[int, int] = {}
        for number, call in enumerate(self._calls):
            earlier = [other for other in range(number) if self._calls[other].row == call.row]
            chained = [other for other in earlier if self._calls[other].output is call.given]
            before = [other for other in earlier if other in inside and number not in inside]
            positions[number] = 1 + max(
                (positions[other] for other in chained or before), default=-1
            )
        return positions

    def leave_out(self, number: int) -> None:
        """Say nothing of an activation after all, save what reaches its input."""
        self._left_out.add(number)
        row = self._calls[number].row
        for name in ("mean_slope", "saturation_fraction", "dead_fraction"):
            self._recorder.figures.pop(Key(row, name, number), None)

    def leave_out_weights_of_branches(self, feeding: set[int]) -> None:
        """Leave out each softmax before the end: it weighs other values, as in attention.

        Args:
            feeding: Rows that feed others.
        """
        for number, call in enumerate(self._calls):
            if call.name == "softmax" and call.row in feeding:
                self.leave_out(number)

    def has_gradient_figure(self, key: Key, inside: set[int]) -> bool:
        """Whether the gradient of a watched tensor is a figure.

        Args:
            key: Of the tensor.
            inside: Activations whose input is what their layer gives.
        """
        if key.call not in self._left_out:
            return True
        if key.name == "activation_in_norm":
            return key.call in inside
        return key.name != "activation_out_norm"

    def _take_slopes(
        self, call: ActivationCall, number: int, function: Callable[[Any], Any], tensor: Any
    ) -> None:
        name, row = call.name, call.row
        if name == "softmax":
            probabilities = ops.stop_gradient(function(tensor))
            slopes = probabilities * (1 - probabilities)
        else:
            slopes = self._recorder.tracer.slope(function, tensor)
        slopes = ops.cast(slopes, "float32")
        size, flat = ops.abs(slopes), FLAT_SLOPE * largest_slope(name)
        figures = self._recorder.figures
        figures[Key(row, "mean_slope", number)] = ops.mean(slopes)
        if name in SATURATING:
            share = ops.mean(ops.cast(size < flat, "float32"))
            figures[Key(row, "saturation_fraction", number)] = share
        if name in ONE_SIDED and len(slopes.shape) > 1 and row != NO_ROW:
            axis = unit_axis(self._rows[row].layer, len(slopes.shape), tuple(slopes.shape))
            rest = [other for other in range(len(slopes.shape)) if other != axis]
            dead = ops.mean(ops.cast(ops.max(size, axis=rest) < flat, "float32"))
            figures[Key(row, "dead_fraction", number)] = dead
