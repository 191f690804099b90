"""Session: what a watch does at every step of the training, from the first to the last."""

from __future__ import annotations

import time
from typing import SupportsFloat

from torch import Tensor
from torch.optim import Optimizer

from gradwatch.history import is_event
from gradwatch.schedule import Sample, Schedule
from gradwatch.torch.collector import Collector
from gradwatch.torch.hooks import StepHooks
from gradwatch.torch.optimizers import Optimizers
from gradwatch.torch.rows import Rows
from gradwatch.torch.signals import Signals
from gradwatch.watcher import Watcher

UNSEEN_PASSES = 2
"""Signal samples in a row without a forward pass, after which signals are given up."""


class Session:
    """Follows the steps of one model's optimizers: observes some, and has them judged.

    Args:
        rows: The model's rows.
        optimizers: The optimizers that train it.
        watcher: Judges the snapshots.
        schedule: Says which steps are observed.
        signals: Whether forward and backward signals can be observed.
        first_step: Number of the first step.
    """

    def __init__(
        self,
        rows: Rows,
        optimizers: Optimizers,
        watcher: Watcher,
        schedule: Schedule,
        *,
        signals: bool,
        first_step: int,
    ) -> None:
        self._optimizers = optimizers
        self._watcher = watcher
        self._schedule = schedule
        self._collector = Collector(rows, Signals(rows, self._signals_failed) if signals else None)
        if not signals:
            schedule.leave_out_signals()
        self._step = first_step
        self._sample = Sample.NOTHING
        self._loss: Tensor | SupportsFloat | None = None
        self._takes_losses = True
        self._signal_seconds = 0.0
        self._closed_at = time.perf_counter()
        self._is_observing = True
        self._is_closed = False
        self._hooks = StepHooks(self)
        try:
            self._begin_step()
        except Exception as error:  # noqa: BLE001 -- promise 2: a fault never breaks a run
            self.on_fault(error)

    def observe_loss(self, loss: object) -> None:
        """Take the loss of the present step; one that is no number ends the taking of losses."""
        if not self._takes_losses:
            return
        if not isinstance(loss, Tensor | SupportsFloat):
            self._takes_losses = False
            kind = type(loss).__name__
            self._fault(f"observe_loss was given a {kind}, which is no number; no loss is observed")
            return
        self._loss = loss
        if self._sample is Sample.SIGNALS:
            self._collector.see_loss(loss)

    def drain(self) -> None:
        """Judge what has arrived."""
        try:
            self._judge_arrived()
        except Exception as error:  # noqa: BLE001 -- promise 2: a fault never breaks a run
            self.on_fault(error)

    def close(self) -> None:
        """Remove every trace, and judge the end."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._hooks.remove()
            self._collector.disarm()
            if self._is_observing and self._optimizers.any_stepped:
                self._close_step()
            self._collector.wait()
            self._judge_arrived()
            self._stop()
        except Exception as error:  # noqa: BLE001 -- promise 2: a fault never breaks a run
            self.on_fault(error)
        self._watcher.finish(self._step)

    def concerns(self, optimizer: Optimizer) -> bool:
        """Whether the optimizer trains the model."""
        accepted = self._optimizers.accepts(optimizer)
        stranger, self._optimizers.stranger = self._optimizers.stranger, None
        if stranger is not None:
            self._watcher.degrade(
                f"{stranger} trains the model too, and its steps are not observed: "
                "pass every optimizer, or None"
            )
        return accepted

    def before_step(self, optimizer: Optimizer, *, closure: bool) -> None:
        """Read what the optimizer is about to change, if the step is a sample."""
        if self._optimizers.has_stepped(optimizer):
            self._close_step()
            self._begin_step(late=True)
        if self._sample is not Sample.NOTHING:
            seconds = self._collector.before_step(self._step, optimizer, closure=closure)
            self._signal_seconds += seconds
            self._collector.take_loss(self._loss)
        self._loss = None

    def after_step(self, optimizer: Optimizer, *, closure: bool) -> None:
        """Read what the optimizer has changed; end the step once every optimizer has stepped."""
        if self._sample is not Sample.NOTHING:
            self._signal_seconds += self._collector.after_step(closure=closure)
            self._collector.take_loss(self._loss)
        self._loss = None
        if self._optimizers.step(optimizer):
            self._close_step()
            self._begin_step()
        elif self._schedule.plan(ahead=1) is Sample.SIGNALS:
            self._collector.arm()

    def abandon_step(self) -> None:
        """Forget a step that raised."""
        self._collector.abandon()

    def on_fault(self, error: Exception) -> None:
        """Promise 2: a fault of gradwatch ends the watching, never the training."""
        if not self._is_observing:
            return
        try:
            self._stop()
        except Exception as another:  # noqa: BLE001 -- the way out of a fault may be broken too
            error = another
        self._fault(f"gradwatch failed at step {self._step} and stopped observing: {error!r}")

    def _begin_step(self, *, late: bool = False) -> None:
        """Plan the coming step; `late` says that its forward pass may have run already."""
        self._sample = self._schedule.plan() if self._is_observing else Sample.NOTHING
        if self._sample is not Sample.SIGNALS:
            self._collector.disarm()
        elif late and not self._collector.is_armed:
            self._sample = Sample.PARAMETERS
        else:
            self._collector.arm()

    def _close_step(self) -> None:
        self._optimizers.close()
        self._collector.send()
        late = self._judge_arrived()
        if self._collector.unseen_passes >= UNSEEN_PASSES:
            self._leave_out_signals()
            self._watcher.degrade(
                "no layer was seen running, as in a model that was compiled after the watch began: "
                "only parameters are observed, no forward or backward signals"
            )
        now = time.perf_counter()
        cost = self._hooks.take_seconds() + self._signal_seconds - late
        self._schedule.close_step(self._sample, now - self._closed_at, cost)
        self._closed_at, self._signal_seconds = now, 0.0
        self._step += 1

    def _judge_arrived(self) -> float:
        """Have the snapshots judged that have arrived; seconds that late ones took."""
        late, began = 0.0, time.perf_counter()
        for snapshot in self._collector.snapshots():
            history = self._watcher.history
            if history and is_event(history[-1], snapshot):
                self._schedule.look_closer()
            self._watcher.observe(snapshot)
            now = time.perf_counter()
            if snapshot.step < self._step:
                kind = Sample.SIGNALS if snapshot.has_signals else Sample.PARAMETERS
                self._schedule.charge_late(kind, now - began)
                late += now - began
            began = now
        return late

    def _leave_out_signals(self) -> None:
        self._collector.leave_out_signals()
        self._schedule.leave_out_signals()

    def _signals_failed(self, error: Exception) -> None:
        """A hook raised: go on with parameters only."""
        if self._collector.has_signals:
            self._leave_out_signals()
            self._fault(
                f"a signal hook failed at step {self._step}, parameters only from here: {error!r}"
            )

    def _fault(self, what: str) -> None:
        self._watcher.fault(what, self._step)

    def _stop(self) -> None:
        self._is_observing = self._takes_losses = False
        self._sample = Sample.NOTHING
        self._loss = None
        self._hooks.remove()
        self._collector.stop()
