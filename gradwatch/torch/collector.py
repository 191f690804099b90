"""Collector: what is read of the observed steps, from the hooks to the snapshots."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, SupportsFloat

import numpy as np
from torch import Tensor
from torch.optim import Optimizer

from gradwatch.layer import Layer
from gradwatch.norms import finite_or_inf
from gradwatch.parts import states_of
from gradwatch.snapshot import ROW_OF, Snapshot, empty_statistics
from gradwatch.torch.internals import is_in_backward
from gradwatch.torch.parameter_statistics import loss_of, store_parameters, was_skipped
from gradwatch.torch.parameters import Draft, ParameterReader
from gradwatch.torch.reading import Key, plain, widest
from gradwatch.torch.rows import Rows
from gradwatch.torch.signals import Pass, Signals
from gradwatch.torch.statistics import store_signals


@dataclass
class _Observed:
    """A step that is being observed.

    Args:
        step: Its number.
        draft: What is read of its parameters.
        collected: Its signals, None for a parameter sample.
        loss: Loss as a number, NaN where none was told, or where it is a figure of the draft.
        has_loss: Whether a loss was told.
        layers: The rows at its end.
        wall_time: When it began, in seconds since the epoch.
    """

    step: int
    draft: Draft
    collected: Pass | None = None
    loss: float = float("nan")
    has_loss: bool = False
    layers: tuple[Layer, ...] = ()
    wall_time: float = field(default_factory=time.time)


class Collector:
    """Reads one step at a time, and gives its snapshot once the figures have arrived.

    Args:
        rows: The model's rows.
        signals: Collects forward and backward signals, None where they cannot be observed.
    """

    def __init__(self, rows: Rows, signals: Signals | None) -> None:
        self._rows = rows
        self._signals = signals
        self._parameters = ParameterReader(rows)
        self._observed: _Observed | None = None
        self._pending: deque[_Observed] = deque()
        self.unseen_passes = 0
        """Signal samples in a row in which a gradient came, but no layer's forward was seen."""

    @property
    def has_signals(self) -> bool:
        """Whether forward and backward signals can be observed."""
        return self._signals is not None

    @property
    def is_armed(self) -> bool:
        """Whether the signals of the coming pass are being collected."""
        return self._signals is not None and self._signals.is_armed

    def arm(self) -> None:
        """Collect the signals of the coming pass."""
        if self._signals is not None:
            self._signals.arm()

    def disarm(self) -> None:
        """Collect no signals."""
        if self._signals is not None and self._signals.is_armed:
            self._signals.disarm()

    def leave_out_signals(self) -> None:
        """Collect no signals from now on."""
        signals, self._signals = self._signals, None
        if signals is not None and signals.is_armed:
            signals.disarm()

    def see_loss(self, loss: object) -> None:
        """Look at what lies between the model's output and the loss."""
        if self._signals is not None and isinstance(loss, Tensor):
            self._signals.see_loss(loss)

    def before_step(self, step: int, optimizer: Optimizer, *, closure: bool) -> float:
        """Read what an optimizer is about to change; the signals of the last pass end here.

        Args:
            step: Number of the step.
            optimizer: The optimizer.
            closure: Whether gradients are computed inside its step.

        Returns:
            Seconds that the hooks of the pass took.
        """
        seconds = 0.0
        if self._observed is None:
            self._rows.refresh()
            self._observed = _Observed(step, self._parameters.draft())
            seconds = 0.0 if closure else self._end_pass(self._observed)
        self._parameters.before_step(self._observed.draft, optimizer, read_gradients=not closure)
        return seconds

    def after_step(self, *, closure: bool) -> float:
        """Read what an optimizer has changed.

        Args:
            closure: Whether gradients were computed inside its step.

        Returns:
            Seconds that the hooks of the pass took.
        """
        if self._observed is None:
            return 0.0
        seconds = self._end_pass(self._observed) if closure else 0.0
        self._parameters.after_step(self._observed.draft, read_gradients=closure)
        return seconds

    def take_loss(self, loss: Tensor | SupportsFloat | None) -> None:
        """Take the loss of the step that is being observed, the first one of several."""
        observed = self._observed
        if observed is None or observed.has_loss or loss is None:
            return
        observed.has_loss = True
        if isinstance(loss, Tensor):
            figures = plain(loss)
            observed.draft.reading.add(Key(-1, "loss"), figures.mean(dtype=widest(figures)))
        else:
            observed.loss = finite_or_inf(float(loss))

    def send(self) -> None:
        """End the observed step, if there is one: start the copy of its figures to the host."""
        observed, self._observed = self._observed, None
        if observed is None:
            return
        collected = observed.collected
        if collected is not None:
            self._send_signals(observed, collected)
        self._parameters.read_frozen(observed.draft)
        observed.draft.reading.send()
        observed.layers = self._rows.layers()
        self._pending.append(observed)

    def abandon(self) -> None:
        """Forget the step that is being observed."""
        self._observed = None

    def stop(self) -> None:
        """Let go of everything."""
        self.leave_out_signals()
        self.abandon()
        self._pending.clear()

    def wait(self) -> None:
        """Wait for the figures; only at the end of a run."""
        for observed in self._pending:
            observed.draft.reading.wait()

    def snapshots(self) -> Iterator[Snapshot]:
        """Snapshots of the steps whose figures have arrived."""
        while self._pending and self._pending[0].draft.reading.is_ready():
            yield _snapshot(self._pending.popleft())

    def _end_pass(self, observed: _Observed) -> float:
        """Take the signals that were collected up to now into the observed step.

        Where the optimizer steps inside backward, the pass goes on until the step is sent.
        """
        if self._signals is None or not self._signals.is_armed:
            return 0.0
        collected = self._signals.disarm()
        collected.closed = not is_in_backward()
        collected.reading.take(observed.draft.reading)
        observed.draft.reading = collected.reading
        observed.collected = collected
        return self._signals.seconds

    def _send_signals(self, observed: _Observed, collected: Pass) -> None:
        collected.closed = True
        if not collected.calls and not collected.detached_calls:
            self.unseen_passes += bool(observed.draft.with_gradient)
            observed.collected = None
            return
        self.unseen_passes = 0
        self._rows.learn(collected.wiring())
        self._parameters.read_spread(observed.draft)


def _snapshot(observed: _Observed) -> Snapshot:
    draft, layers = observed.draft, observed.layers
    figures = draft.reading.figures()
    packed: Any = empty_statistics(len(layers))
    store_parameters(packed, draft, figures, layers)
    if observed.collected is not None:
        store_signals(packed, observed.collected, figures, layers)
    loss = loss_of(figures)
    return Snapshot.unpacked(
        packed,
        step=observed.step,
        layers=layers,
        states=states_of(
            draft.trained,
            draft.with_gradient,
            packed[ROW_OF["grad_norm"]],
            packed[ROW_OF["forward_calls"]],
        ),
        loss=observed.loss if np.isnan(loss) else loss,
        skipped=was_skipped(figures),
        wall_time=observed.wall_time,
    )
