"""Which steps are observed, within an overhead budget."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from gradwatch.errors import ArgumentError

EARLY_STEPS = frozenset({0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128})
"""Steps since the start of the watch that are always samples, exempt from the budget."""

SETTLED_STEP = 1000
LATE_INTERVAL = 100
CLOSER_STEPS = 8


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


class Schedule:
    """Decides before each step what to observe, and keeps count of what that cost.

    "auto" samples the early steps, then parameters every 10 and signals every 25 steps up to step
    1,000, both every 100 after; beyond step 128 intervals stretch until the cost of a sample over
    its interval stays within the budget, half of it for each kind. A whole number k samples
    exactly every k-th step and ignores the budget.

    Args:
        every: "auto" or the interval in steps.
        budget: Largest share of the training time, None for no limit.

    Raises:
        ArgumentError: If `every` or `budget` cannot be used.
    """

    def __init__(self, every: int | Literal["auto"] = "auto", budget: float | None = 0.01) -> None:
        if every != "auto" and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise ArgumentError(
                f'every={every!r} is neither "auto" nor a whole number of steps from 1 on'
            )
        if budget is not None and not 0 < budget <= 1:
            raise ArgumentError(
                f"budget={budget!r} is not a share of the training time in (0, 1]; "
                "pass None for no limit"
            )
        self._every = every
        self._budget = budget
        self._steps = 0
        self._counts = {Sample.PARAMETERS: 0, Sample.SIGNALS: 0}
        self._cost = {Sample.PARAMETERS: 0.0, Sample.SIGNALS: 0.0}
        self._last = {Sample.PARAMETERS: 0, Sample.SIGNALS: 0}
        self._closer_until = 0
        self._seconds = 0.0
        self._step_seconds = float("nan")
        self._elapsed = 0.0

    def plan(self, ahead: int = 0) -> Sample:
        """What to observe at the coming step, or `ahead` steps after it."""
        step = self._steps + ahead
        if self._every != "auto":
            return Sample.SIGNALS if step % self._every == 0 else Sample.NOTHING
        if step in EARLY_STEPS or step < self._closer_until:
            return Sample.SIGNALS
        if step <= max(EARLY_STEPS):
            return Sample.NOTHING
        for kind in (Sample.SIGNALS, Sample.PARAMETERS):
            if step - self._last[kind] >= self._interval(kind):
                return kind
        return Sample.NOTHING

    def look_closer(self) -> None:
        """Make the next 8 steps samples, after an event; not while it is looking closer already."""
        if self._steps >= self._closer_until:
            self._closer_until = self._steps + 1 + CLOSER_STEPS

    def close_step(self, sample: Sample, seconds: float, cost: float) -> None:
        """Count a finished step.

        Args:
            sample: What was observed at it.
            seconds: Seconds since the step before was finished, the cost included.
            cost: Seconds of them spent inside gradwatch.
        """
        if sample is not Sample.NOTHING:
            self._note(Sample.PARAMETERS, cost if sample is Sample.PARAMETERS else None)
        if sample is Sample.SIGNALS:
            self._note(Sample.SIGNALS, cost)
        if sample is Sample.NOTHING and self._steps:
            first = self._step_seconds != self._step_seconds
            self._step_seconds = seconds if first else 0.9 * self._step_seconds + 0.1 * seconds
        self._seconds += cost
        self._elapsed += seconds
        self._steps += 1

    @property
    def overhead(self) -> Overhead:
        """What gradwatch cost so far."""
        return Overhead(
            steps=self._steps,
            parameter_samples=self._counts[Sample.PARAMETERS],
            signal_samples=self._counts[Sample.SIGNALS],
            seconds=self._seconds,
            step_seconds=self._step_seconds,
            share=self._seconds / self._elapsed if self._elapsed else 0.0,
            parameter_interval=self._interval(Sample.PARAMETERS),
            signal_interval=self._interval(Sample.SIGNALS),
        )

    def _note(self, kind: Sample, cost: float | None) -> None:
        self._counts[kind] += 1
        self._last[kind] = self._steps
        if cost is not None:
            known = self._cost[kind]
            self._cost[kind] = 0.7 * known + 0.3 * cost if known else cost

    def _interval(self, kind: Sample) -> int:
        if self._every != "auto":
            return self._every
        usual = 10 if kind is Sample.PARAMETERS else 25
        base = usual if self._steps <= SETTLED_STEP else LATE_INTERVAL
        known = self._step_seconds == self._step_seconds and self._step_seconds > 0
        if self._budget is None or not known:
            return base
        return max(base, round(self._cost[kind] / (0.5 * self._budget * self._step_seconds)))
