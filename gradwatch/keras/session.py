"""Session: what one callback does at every step of the training."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from gradwatch.history import is_event
from gradwatch.keras import randomness
from gradwatch.keras.attachment import Attachment, Copy, Execution
from gradwatch.keras.observation import Observation, ParameterFigures
from gradwatch.keras.probe import Probe, few
from gradwatch.schedule import Sample, Schedule
from gradwatch.watcher import Watcher

PEAK_FACTOR = 10.0
"""A watched gradient so many times larger than in the samples before makes the next steps samples.
"""

TIMED_PROBES = 3
"""The probes after the first, up to this one, are waited for; later ones are not."""

UNSEEN_SAMPLES = 3
"""Samples in a row without a call of the optimizer, after which GW902 says so."""


@dataclass
class _Pending:
    """An execution whose figures are on their way.

    Args:
        step: Its last optimizer step.
        sample: What this session wanted of it.
        execution: The execution.
        probe: The figures of the probe, None without one.
    """

    step: int
    sample: Sample
    execution: Execution
    probe: Copy | None = None

    def is_ready(self) -> bool:
        copies = self.execution.copies()
        return all(copy.is_ready() for copy in (*copies, *([self.probe] if self.probe else [])))


@dataclass
class _Clock:
    """Seconds of the execution that is under way.

    Args:
        opened: When it began, None between executions.
        own: Seconds of it that gradwatch took.
        once: Seconds of them that it will not take again.
        steps: Optimizer steps in it.
    """

    opened: float | None = None
    own: float = 0.0
    once: float = 0.0
    steps: int = 0


class Session:
    """Follows the executions of one model's training step for one callback.

    Args:
        watcher: Judges the snapshots.
        schedule: Says which steps are observed.
        batch: The user's batch for the probe, (x, y, sample weight), None for one of the training.
    """

    def __init__(
        self, watcher: Watcher, schedule: Schedule, batch: tuple[Any, Any, Any] | None
    ) -> None:
        self._watcher = watcher
        self._schedule = schedule
        self._batch = batch
        self.attachment: Attachment | None = None
        """What it observes, or has observed until it was detached."""
        self._probe: Probe | None = None
        self._pending: deque[_Pending] = deque()
        self._clock = _Clock()
        self._sample = Sample.NOTHING
        self._probed: Copy | None = None
        self._observes_signals = True
        self._is_observing = True
        self._is_due = False
        self._unseen = 0
        self._probes = 0
        self._probe_seconds = 0.0
        self._peak = 0.0
        self._micro_steps = 0
        self._epoch_end: int | None = None
        self._accumulation = 1
        self.is_finished = False
        """Whether the end was judged, until it is attached anew."""
        self.step = 0
        """Number of the coming optimizer step."""
        self.skipped_steps = 0
        """Steps that the loss scaling has skipped, up to the last sample."""
        self.wants_batch = batch is None

    def attach(self, attachment: Attachment, *, accumulation: int) -> None:
        """Observe the executions of this attachment from now on."""
        self.is_finished = False
        self._accumulation = accumulation
        self._is_observing = True
        attachment.observers.append(self)
        if attachment is self.attachment:
            return
        self.attachment = attachment
        self._probes = 0
        self._probe = None
        self._observation = Observation(attachment.layout, attachment.rows)
        if self._batch is not None and self._observes_signals:
            self._make_probe(self._batch, attachment)

    @property
    def is_attached(self) -> bool:
        """Whether the attachment hands it the executions."""
        return self.attachment is not None and self in self.attachment.observers

    def detach(self) -> None:
        """Let go of the attachment; the last session on it lifts it."""
        if self.attachment is None or not self.is_attached:
            return
        self.attachment.observers.remove(self)
        if not self.attachment.observers:
            self.attachment.lift()

    def begin_epoch(self, steps: int, micro_steps: int) -> None:
        """Learn from the optimizer how many steps it has made, which may have been restored.

        Args:
            steps: Its optimizer steps.
            micro_steps: Its calls, of which several may accumulate to a step.
        """
        self._clock = _Clock()  # of an execution that an exception has ended
        is_counted = self.step > 0 and (self.attachment is None or self.attachment.span == 1)
        known = self.step if is_counted else self._last_step + 1
        self.step = max(known, steps)
        self._micro_steps = micro_steps

    def expect(self, batches: int | None) -> None:
        """Learn after how many batches from here the epoch ends, None where nobody knows."""
        self._epoch_end = None if batches is None else self._micro_steps + batches

    @property
    def _last_step(self) -> int:
        history = self._watcher.history
        return history[-1].step if history else -1

    # What the attachment calls; see `Observer`.

    def begin(self, span: int) -> Sample:
        """Judge what has arrived, end the execution before, and plan the coming one."""
        if not self._is_observing:
            return Sample.NOTHING
        self._judge()
        self._close()
        before = self._micro_steps // self._accumulation
        self._micro_steps += self._batches_of(span)
        steps = self._micro_steps // self._accumulation - before
        self._clock = _Clock(opened=time.perf_counter(), steps=steps)
        self._sample = self._planned(steps)
        if self._sample is Sample.SIGNALS and self._probe is None:
            self._sample = Sample.PARAMETERS
        return self._sample

    def _batches_of(self, span: int) -> int:
        """Batches of the coming execution: the last of an epoch may find fewer than its span."""
        left = span if self._epoch_end is None else self._epoch_end - self._micro_steps
        return min(span, left) if left > 0 else span

    def _planned(self, steps: int) -> Sample:
        if not steps:
            return Sample.NOTHING
        is_due, self._is_due = self._is_due, False
        return Sample.SIGNALS if is_due else self._schedule.plan(span=steps)

    def take_batch(self, batch: Any, attachment: Attachment) -> None:
        """Make the probe of the first examples of a training batch."""
        if not self.wants_batch:
            return
        self.wants_batch = False
        try:
            self._batch = few(keras.utils.unpack_x_y_sample_weight(batch))
            self._make_probe(self._batch, attachment)
        except Exception as error:  # noqa: BLE001 -- promise 2: a fault never breaks a run
            self._no_signals(error)

    def run_probe(self, state: Sequence[tuple[Any, Any]], attachment: Attachment) -> None:
        """Run the probe; where it fails, only parameters are observed from here on."""
        if self._probe is None:
            return
        began = time.perf_counter()
        try:
            with randomness.kept():
                self._probed = attachment.copy(self._probe.run(state))
            if self._probe.traced is not None:
                for limit in self._observation.learn(self._probe.traced):
                    self._watcher.degrade(limit)
            self._time_probe(self._probed, began)
        except Exception as error:  # noqa: BLE001 -- promise 2: a fault never breaks a run
            self._sample = Sample.PARAMETERS
            self._no_signals(error)

    def _time_probe(self, probed: Copy, began: float) -> None:
        """Charge the probe: it is waited for twice, once compiled, to know what it takes."""
        self._probes += 1
        if self._probes == 1:
            self._clock.once = time.perf_counter() - began
            return
        if self._probes <= TIMED_PROBES:
            probed.figures()
            self._probe_seconds = time.perf_counter() - began
        else:  # what the host has not waited for
            self._clock.own += max(self._probe_seconds - (time.perf_counter() - began), 0.0)

    def end(self, execution: Execution, seconds: float) -> None:
        """Keep an observed execution until its figures have arrived."""
        if not self._is_observing:
            return
        self._clock.own += seconds
        if execution.observed:
            step = self.step + max(self._clock.steps, 1) - 1
            probed, self._probed = self._probed, None
            self._pending.append(_Pending(step, self._sample, execution, probed))

    def cancel(self) -> None:
        """Forget the execution that had no batch."""
        self._clock = _Clock()
        self._sample = Sample.NOTHING
        self._probed = None

    def interrupt(self) -> None:
        """The training has raised: leave the model as it was."""
        self.cancel()
        self.finish()

    def fault(self, error: Exception) -> None:
        """Promise 2: a fault of gradwatch ends the watching, never the training."""
        if self._is_observing:
            self._is_observing = self.wants_batch = False
            self._pending.clear()
            self._watcher.fault(
                f"gradwatch failed at step {self.step} and stopped observing: {error!r}", self.step
            )

    # What the callback calls.

    def observe_next(self) -> None:
        """Observe the coming step, whatever the schedule says."""
        self._is_due = True

    def pause(self) -> None:
        """The epoch is over: wait for the figures, and let the time until the next one pass."""
        if not self._is_observing:
            return
        try:
            self._judge(wait=True)
            self._close()
        except Exception as error:  # noqa: BLE001 -- promise 2: a fault never breaks a run
            self.fault(error)

    def finish(self) -> None:
        """The training is over: judge the end, and leave the model as it was."""
        self.pause()
        self.detach()
        self.is_finished = True
        self._watcher.finish(self.step)

    def leave_out_signals(self, limit: str) -> None:
        """Observe parameters only, for the reason that the limit gives."""
        self._observes_signals = self.wants_batch = False
        self._schedule.leave_out_signals()
        self._watcher.degrade(limit)

    def _close(self) -> None:
        """Count the execution that is over.

        What the figures cost inside the compiled step is what it took longer than a usual one.
        """
        clock, self._clock = self._clock, _Clock()
        if clock.opened is None or not clock.steps:
            return
        seconds = time.perf_counter() - clock.opened
        cost = clock.own
        usual = self._schedule.overhead.step_seconds * clock.steps
        if self._sample is not Sample.NOTHING and usual > 0:
            cost += max(seconds - clock.own - usual, 0.0)
        once = min(clock.once, cost)
        self._schedule.close_step(self._sample, seconds, cost, once=once, count=clock.steps)
        self.step += clock.steps
        self._sample = Sample.NOTHING

    def _judge(self, *, wait: bool = False) -> None:
        """Have the snapshots judged whose figures have arrived."""
        began = time.perf_counter()
        while self._pending and (wait or self._pending[0].is_ready()):
            self._take(self._pending.popleft())
        self._clock.own += time.perf_counter() - began

    def _take(self, arrived: _Pending) -> None:
        execution = arrived.execution
        if execution.carrier is None:
            return
        figures = self._observation.parameters(execution.carrier.figures())
        self._note_counts(figures)
        if arrived.sample is Sample.NOTHING:
            return
        if not figures.observed:
            self._note_unseen()
            return
        self._unseen = 0
        snapshot = self._observation.snapshot(
            arrived.step,
            figures,
            losses=[float(copy.figures()) for copy in execution.losses],
            probed=None if arrived.probe is None else arrived.probe.figures(),
            wall_time=execution.wall_time,
        )
        history = self._watcher.history
        if history and is_event(history[-1], snapshot):
            self._schedule.look_closer()
        self._watcher.observe(snapshot)

    def _note_counts(self, figures: ParameterFigures) -> None:
        self.skipped_steps += figures.skipped
        usual, self._peak = self._peak, max(figures.peak_norm, 0.5 * self._peak)
        if figures.nonfinite or (usual > 0 and figures.peak_norm > PEAK_FACTOR * usual):
            self._schedule.look_closer()

    def _note_unseen(self) -> None:
        self._unseen += 1
        if self._unseen == UNSEEN_SAMPLES:
            self._watcher.degrade(
                "the training step was never seen to call the optimizer: a train_step of your own "
                f"has to call optimizer.{getattr(self.attachment, 'attribute', 'apply')}, or no "
                "gradient is observed"
            )

    def _make_probe(self, batch: tuple[Any, Any, Any], attachment: Attachment) -> None:
        if self._observes_signals:
            self._probe = attachment.make_probe(batch)

    def _no_signals(self, error: Exception) -> None:
        self._probe = None
        self._observes_signals = False
        self._schedule.leave_out_signals()
        self._watcher.fault(
            f"the probe failed at step {self.step}, so that only parameters are observed, no "
            f"forward or backward signals: {error!r}; pass probe=(x, y) with a batch that the "
            "model and its compiled loss accept",
            self.step,
        )
