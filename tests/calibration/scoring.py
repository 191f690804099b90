"""What a run's findings are worth against its label, and the totals over many runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gradwatch import Finding

from .case import Case
from .training import Run, WatchFactory, train

COUNTERFACTUAL_GAIN = 0.3
"""Least P(fixed) - P(sick) that proves a sick label, in units of the chance loss."""


@dataclass(frozen=True)
class Result:
    """One case on one seed.

    Attributes:
        case: The label.
        seed: Of the run.
        run: Watched or not.
        fixed_progress: P of the counterfactual; None if there is none or it was not run.
    """

    case: Case
    seed: int
    run: Run
    fixed_progress: float | None = None

    @property
    def counts(self) -> bool:
        """Whether the label is proven, or was not put to the test."""
        if self.fixed_progress is None:
            return True
        return self.fixed_progress - self.run.progress >= COUNTERFACTUAL_GAIN

    @property
    def alarms(self) -> tuple[Finding, ...]:
        """Findings above a notice that were ever open."""
        return self.run.alarms

    @property
    def catches(self) -> tuple[Finding, ...]:
        """Alarms with an accepted code, which like false ones need only have been open once."""
        return tuple(finding for finding in self.alarms if finding.code in self.case.accepted)

    @property
    def caught_at_end(self) -> bool:
        """Whether a catch is still open at the end of the run."""
        return any(
            finding.is_open and finding.severity != "notice" and finding.code in self.case.accepted
            for finding in self.run.findings
        )

    @property
    def right_cause(self) -> bool:
        """Whether a catch names the expected cause."""
        pairs = {(code, self.case.cause) for code in self.case.codes} | set(self.case.also)
        return any((finding.code, finding.cause) in pairs for finding in self.catches)

    @property
    def right_layers(self) -> bool:
        """Whether a catch names exactly the expected layers; True if the label has none."""
        expected = set(self.case.layers)
        return not expected or any(set(finding.layers) == expected for finding in self.catches)

    @property
    def verdict(self) -> str:
        """The result in a few words."""
        if not self.case.sick:
            return "false alarm" if self.alarms else "silent"
        if not self.catches:
            return "other code" if self.alarms else "missed"
        if not self.right_cause:
            return "caught, wrong cause"
        return "caught" if self.right_layers else "caught, other layers"


@dataclass(frozen=True)
class Tally:
    """Totals of one detector."""

    caught: int
    missed: int
    false_alarms: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; NaN if there was nothing to find or flag."""
        total = 2 * self.caught + self.missed + self.false_alarms
        return 2 * self.caught / total if total else float("nan")


def evaluate(
    case: Case, seed: int, *, watch_factory: WatchFactory | None, counterfactual: bool = True
) -> Result:
    """Train a case, and its fixed twin if asked to and there is one."""
    run = train(case.build(seed), watch_factory)
    if case.fixed is None or not counterfactual:
        return Result(case, seed, run)
    return Result(case, seed, run, train(case.fixed(seed)).progress)


def scored(results: Iterable[Result]) -> list[Result]:
    """The results that enter totals: proven labels."""
    return [result for result in results if result.counts]


def tally(results: Iterable[Result], flags: Callable[[Result], bool]) -> Tally:
    """Totals of a detector that says yes or no to each result."""
    verdicts = [(result.case.sick, flags(result)) for result in scored(results)]
    return Tally(
        caught=verdicts.count((True, True)),
        missed=verdicts.count((True, False)),
        false_alarms=verdicts.count((False, True)),
    )


def flagged_by_gradwatch(result: Result) -> bool:
    """An alarm with an accepted code on a sick run, any alarm on a healthy one."""
    return bool(result.catches if result.case.sick else result.alarms)
