"""Rule: what every rule is made of; Diagnosis: what it says of one window."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from gradwatch import flow
from gradwatch.finding import Cause, Fix, Severity
from gradwatch.history import WARM_UP_SAMPLES, History, Window
from gradwatch.samples import Flags, Samples
from gradwatch.snapshot import Needs, Snapshot


class Deferred(Sequence[Fix]):
    """Fixes that are built when they are first looked at: their texts take longer than a check.

    Args:
        build: Makes them.
    """

    def __init__(self, build: Callable[[], tuple[Fix, ...]]) -> None:
        self._build = build

    @cached_property
    def _built(self) -> tuple[Fix, ...]:
        return self._build()

    def __len__(self) -> int:
        return len(self._built)

    def __getitem__(self, index: Any) -> Any:
        return self._built[index]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One cause that a rule sees in one window.

    Args:
        cause: What to blame; with the rule's code it is the identity of the finding.
        rows: Layers to change.
        severity: See `Finding`.
        message: What was seen, where and why, in one or two sentences; `{layers}` stands for the
            names of the layers.
        evidence: Figure's name → value, thresholds included.
        fixes: Changes that fit the cause, the most promising first.
        covers: Further rows whose symptoms this diagnosis explains; later rules in `PRECEDENCE`
            say nothing of them.
    """

    cause: Cause
    rows: tuple[int, ...]
    severity: Severity
    message: str
    evidence: Mapping[str, float]
    fixes: Sequence[Fix] = ()
    covers: frozenset[int] = frozenset()

    @property
    def explained(self) -> frozenset[int]:
        """The layers to change and those whose symptoms follow from them."""
        return self.covers | frozenset(self.rows)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule says of a history.

    Args:
        present: Diagnoses that every one of the last windows supports, one a cause.
        possible: Causes that the newest window or one before it supports; a finding with another
            cause is gone.
    """

    present: tuple[Diagnosis, ...]
    possible: frozenset[Cause]


def threshold(default: float, *, unit: str, source: str) -> Any:
    """A dataclass field that holds a rule's threshold.

    Args:
        default: The threshold.
        unit: Its unit, "1" for a ratio.
        source: The paper, or the calibration, it comes from.
    """
    return field(default=default, metadata={"unit": unit, "source": source})


@dataclass(frozen=True)
class Rule(ABC):
    """One problem, one file. Its thresholds are its fields, so `dataclasses.replace` sets them.

    A rule knows a `History` and nothing of frameworks, files or clocks. It fires when each of the
    last `persistence` windows of `size` samples supports the same cause on overlapping layers.
    """

    code: ClassVar[str]
    name: ClassVar[str]
    needs: ClassVar[Needs] = "signals"
    size: ClassVar[int] = 5
    persistence: ClassVar[int] = 2
    warm_up: ClassVar[int] = WARM_UP_SAMPLES

    @abstractmethod
    def check(self, window: Window) -> Iterable[Diagnosis]:
        """What this window alone shows, at most one diagnosis a cause."""

    def suspects(self, samples: Samples) -> Flags:
        """Which samples could lead to a finding, shape (samples,): all, unless a rule knows better.

        It may suspect too much, never too little: on a window none of whose samples is suspected,
        the rule has to be silent, whatever came before. So it need not run there. It counts only
        for the class that defines it: a subclass without its own runs at every sample.

        Args:
            samples: They share their layers; what is said of those that do not fit `needs` is
                ignored.
        """
        return np.ones(len(samples), dtype=np.bool_)

    def evaluate(self, history: History) -> Verdict | None:
        """The verdict on the newest samples, None while there are too few of them."""
        windows = history.windows(
            self.needs, size=self.size, count=self.persistence, warm_up=self.warm_up
        )
        if len(windows) < self.persistence:
            return None
        newest, *older = [tuple(self.check(window)) for window in windows]
        present = tuple(
            diagnosis
            for diagnosis in newest
            if all(_supports(earlier, diagnosis) for earlier in older)
        )
        possible = {diagnosis.cause for check in (newest, *older) for diagnosis in check}
        return Verdict(present, frozenset(possible))

    def thresholds(self) -> dict[str, float]:
        """Threshold's name → value."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}


def began_vanishing(window: Window, depth: float) -> bool:
    """Whether the backward signal vanished in the run's first window already.

    Then units that die or saturate later are a consequence, not a cause.

    Args:
        window: Any window of the run.
        depth: Backward depth B below which it counts as vanished, log10.
    """
    early = window.history.early
    return early is not None and early.median_of(lambda entry: entry.backward_depth) < depth


def flowed_at_first(history: History, depth: float) -> bool:
    """Whether the backward signal came through in the very first sample, before it was trained on.

    Then training has brought on what is wrong later.

    Args:
        history: The run.
        depth: Backward depth B above which it came through, log10.
    """
    first = history.first_signals
    return first is not None and first.backward_depth > depth


def large_inputs(snapshot: Snapshot | None, largest: float) -> dict[int, float]:
    """First layers whose inputs are too large to be left as they are, with the inputs' rms.

    Args:
        snapshot: A sample, None for none.
        largest: Rms above which inputs are too large.
    """
    if snapshot is None:
        return {}
    rms = snapshot.input_rms
    return {row: float(rms[row]) for row in flow.input_rows(snapshot.layers) if rms[row] > largest}


def _supports(earlier: tuple[Diagnosis, ...], diagnosis: Diagnosis) -> bool:
    same_cause = [entry for entry in earlier if entry.cause == diagnosis.cause]
    return any(not diagnosis.rows or set(entry.rows) & set(diagnosis.rows) for entry in same_cause)
