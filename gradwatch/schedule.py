"""Which steps are observed, within an overhead budget."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum
from numbers import Integral, Real
from typing import Literal

from gradwatch.errors import ArgumentError

EARLY_STEPS = frozenset({0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128})
"""Steps since the start of the watch that are always samples, exempt from the budget."""

LAST_EARLY_STEP = max(EARLY_STEPS)
SETTLED_STEP = 1000
LATE_INTERVAL = 100
CLOSER_STEPS = 8

OUTLIER_FACTOR = 4.0
"""A step counts in the average as no more than so many usual ones."""


class Sample(IntEnum):
    """What is observed at a step; signals come with parameters."""

    NOTHING = 0
    PARAMETERS = 1
    SIGNALS = 2


@dataclass(frozen=True, slots=True)
class Overhead:
    """What gradwatch cost so far.

    Args:
        steps: Optimizer steps seen.
        parameter_samples: Steps at which parameters were read, signal samples included.
        signal_samples: Steps at which forward and backward signals were read too.
        seconds: Seconds spent inside gradwatch.
        step_seconds: Mean seconds of a step that was not observed, NaN before the first.
        share: gradwatch's seconds over the seconds of the whole run since the watch began.
        parameter_interval: Steps between parameter samples now.
        signal_interval: Steps between signal samples now.
    """

    steps: int
    parameter_samples: int
    signal_samples: int
    seconds: float
    step_seconds: float
    share: float
    parameter_interval: int
    signal_interval: int


@dataclass(slots=True)
class _Kind:
    """What is known of one kind of sample.

    Args:
        count: Samples so far.
        last: Step of the newest one.
        cost: Moving average of the seconds that one takes, without the newest.
        newest: Seconds that the newest has taken so far, NaN before the first.
    """

    count: int = 0
    last: int = 0
    cost: float = field(default=math.nan)
    newest: float = field(default=math.nan)

    def note(self, step: int) -> None:
        self.count += 1
        self.last = step

    def charge(self, seconds: float) -> None:
        self.cost, self.newest = self.mean_cost, seconds

    @property
    def mean_cost(self) -> float:
        """Seconds, NaN before the first sample."""
        return self.newest if math.isnan(self.cost) else 0.7 * self.cost + 0.3 * self.newest


class Schedule:
    """Decides before each step what to observe, and keeps count of what that cost.

    "auto" samples the early steps, then parameters every 10 and signals every 25 steps up to step
    1,000, both every 100 after; beyond step 128 intervals stretch until the cost of a sample over
    its interval stays within the budget, half of it for each kind. A whole number k samples
    exactly every k-th step and ignores the budget.

    Args:
        every: "auto" or the interval in steps.
        budget: Largest share of the training time, None for no limit.
        signal_steps: The early steps that are signal samples; the others, and those that are
            looked at closer, are parameter samples.

    Raises:
        ArgumentError: If `every` or `budget` cannot be used.
    """

    def __init__(
        self,
        every: int | Literal["auto"] = "auto",
        budget: float | None = 0.01,
        *,
        signal_steps: frozenset[int] = EARLY_STEPS,
    ) -> None:
        self._every = _checked_interval(every)
        self._budget = _checked_budget(budget)
        self.signal_steps = signal_steps
        self._has_signals = True
        self._steps = 0
        self._kinds = {Sample.PARAMETERS: _Kind(), Sample.SIGNALS: _Kind()}
        self._closer_until = 0
        self._step_seconds = math.nan
        self._seconds = self._elapsed = 0.0
        self._budgeted_seconds = self._budgeted_elapsed = 0.0

    def plan(self, ahead: int = 0, *, span: int = 1) -> Sample:
        """What to observe at the coming step, or `ahead` steps after it.

        Args:
            ahead: Steps to look ahead.
            span: Steps that run at once; the fullest sample that any of them calls for.
        """
        step = self._steps + ahead
        return max(self._planned(step + later) for later in range(span))

    def _planned(self, step: int) -> Sample:
        if self._every is not None:
            return self._fullest if step % self._every == 0 else Sample.NOTHING
        if step in self.signal_steps and step <= LAST_EARLY_STEP:
            return self._fullest
        if step in EARLY_STEPS or step < self._closer_until:
            is_dense = self.signal_steps >= EARLY_STEPS
            return self._fullest if is_dense else Sample.PARAMETERS
        if step <= LAST_EARLY_STEP:
            return Sample.NOTHING
        if self._has_signals and self._is_due(Sample.SIGNALS, step):
            return Sample.SIGNALS
        return Sample.PARAMETERS if self._is_due(Sample.PARAMETERS, step) else Sample.NOTHING

    def look_closer(self) -> None:
        """Make the next 8 steps samples, after an event.

        Not while it is looking closer already, nor while earlier samples have overdrawn the budget.
        """
        if self._steps >= self._closer_until and not self._is_overdrawn:
            self._closer_until = self._steps + 1 + CLOSER_STEPS

    def leave_out_signals(self) -> None:
        """Plan parameter samples only from now on: signals cannot be observed."""
        self._has_signals = False

    def close_step(
        self, sample: Sample, seconds: float, cost: float, *, once: float = 0.0, count: int = 1
    ) -> None:
        """Count a finished step, or several that ran at once.

        Args:
            sample: What was observed at it.
            seconds: Seconds since the step before was finished, the cost included.
            cost: Seconds of them spent inside gradwatch.
            once: Seconds of the cost that no later sample will take, as those of a compilation.
            count: Steps.
        """
        if sample is Sample.NOTHING:
            self._average(seconds / count)
        else:
            self._kinds[Sample.PARAMETERS].note(self._steps)
            self._kinds[sample].charge(cost - once)
        if sample is Sample.SIGNALS:
            self._kinds[sample].note(self._steps)
        if self._steps > LAST_EARLY_STEP:
            self._budgeted_elapsed += seconds
            self._budgeted_seconds += cost if sample is not Sample.NOTHING else 0.0
        self._seconds += cost
        self._elapsed += seconds
        self._steps += count

    def charge_late(self, sample: Sample, cost: float) -> None:
        """Count seconds that the newest sample of a kind cost after its step was closed."""
        self._kinds[sample].newest += cost
        self._seconds += cost
        if self._kinds[sample].last > LAST_EARLY_STEP:
            self._budgeted_seconds += cost

    @property
    def overhead(self) -> Overhead:
        """What gradwatch cost so far."""
        return Overhead(
            steps=self._steps,
            parameter_samples=self._kinds[Sample.PARAMETERS].count,
            signal_samples=self._kinds[Sample.SIGNALS].count,
            seconds=self._seconds,
            step_seconds=self._step_seconds,
            share=self._seconds / self._elapsed if self._elapsed else 0.0,
            parameter_interval=self._interval(Sample.PARAMETERS),
            signal_interval=self._interval(Sample.SIGNALS),
        )

    @property
    def _fullest(self) -> Sample:
        return Sample.SIGNALS if self._has_signals else Sample.PARAMETERS

    @property
    def _is_overdrawn(self) -> bool:
        """Whether the samples since the early steps cost more than the budget allows."""
        allowed = math.inf if self._budget is None else self._budget * self._budgeted_elapsed
        return self._budgeted_seconds > allowed

    def _average(self, seconds: float) -> None:
        """Take in the time of an unobserved step; the run's first one is never typical.

        Nor is one that compiles anew or writes a checkpoint: it counts as a few usual ones.
        """
        if self._steps:
            known = not math.isnan(self._step_seconds)
            usual = min(seconds, OUTLIER_FACTOR * self._step_seconds)
            self._step_seconds = 0.9 * self._step_seconds + 0.1 * usual if known else seconds

    def _is_due(self, kind: Sample, step: int) -> bool:
        return step - self._kinds[kind].last >= self._interval(kind)

    def _interval(self, kind: Sample) -> int:
        if self._every is not None:
            return self._every
        usual = 10 if kind is Sample.PARAMETERS else 25
        base = usual if self._steps <= SETTLED_STEP else LATE_INTERVAL
        cost = self._kinds[kind].mean_cost
        if self._budget is None or not self._step_seconds > 0 or math.isnan(cost):
            return base
        share = self._budget if not self._has_signals else 0.5 * self._budget
        if self._is_overdrawn:
            share *= 0.5
        return max(base, math.ceil(cost / (share * self._step_seconds)))


def _checked_interval(every: object) -> int | None:
    if every == "auto":
        return None
    if isinstance(every, bool) or not isinstance(every, Integral) or every < 1:
        raise ArgumentError(
            f'every={every!r} is neither "auto" nor a whole number of steps from 1 on'
        )
    return int(every)


def _checked_budget(budget: object) -> float | None:
    if budget is None:
        return None
    if isinstance(budget, bool) or not isinstance(budget, Real) or not 0 < float(budget) <= 1:
        raise ArgumentError(
            f"budget={budget!r} is not a share of the training time in (0, 1]; "
            "pass None for no limit"
        )
    return float(budget)
