"""Report: the verdict, the layers and the findings of a run, in a log, a terminal or a notebook."""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass, replace

from rich.console import Console, ConsoleOptions, RenderResult

from gradwatch.finding import SEVERITIES, Finding, Severity
from gradwatch.history import WARM_UP_SAMPLES, History
from gradwatch.report_rows import Fold, LayerRow, folded, layer_rows, table_snapshot
from gradwatch.report_words import counted, headline, severity_counts
from gradwatch.schedule import EARLY_STEPS, Overhead

PLAIN_WIDTH = 100
"""Columns of `str(report)` where standard output is no terminal."""

WINDOW_SIZE = 5
WINDOW_COUNT = 2
"""Samples in a window, and windows, that most rules wait for (`gradwatch.rules.Rule`)."""

SAMPLES_TO_VERDICT = WARM_UP_SAMPLES + WINDOW_SIZE + WINDOW_COUNT - 1
"""Samples after which most rules have their first verdict."""


@dataclass(frozen=True, repr=False)
class Report:
    """What was found, where and why; the verdict comes first.

    `str(report)` is plain text for a log, rich prints it in colour, a notebook shows it as HTML.

    Args:
        findings: All findings, resolved ones included.
        history: The observed steps.
        overhead: What gradwatch cost, None where it is not known.
        framework: "torch" or "keras": whose snippets are shown.
    """

    findings: tuple[Finding, ...]
    history: History
    overhead: Overhead | None = None
    framework: str = "torch"

    @property
    def verdict(self) -> str:
        """The state of the run in one sentence: what is wrong, healthy, or too early to say."""
        if self.severity in ("warning", "error"):
            return self._sick()
        blind = [finding for finding in self.open_findings if finding.code == "GW901"]
        if blind:
            return f"Nothing observed (GW901): {blind[0].message}"
        if not len(self.history):
            return "Nothing observed yet: no optimizer step was seen."
        return self._healthy() if has_verdict(self.history) else _too_early(self.history)

    @property
    def severity(self) -> Severity | None:
        """Severity of the worst open finding, None where there is none."""
        return self.open_findings[0].severity if self.open_findings else None

    @property
    def is_judged(self) -> bool:
        """Whether enough was observed for a verdict."""
        blind = any(finding.code == "GW901" for finding in self.open_findings)
        found = self.severity in ("warning", "error")
        return found or (has_verdict(self.history) and not blind)

    @property
    def open_findings(self) -> tuple[Finding, ...]:
        """Findings that are still there, worst first, then oldest first."""
        still_there = [finding for finding in self.findings if finding.is_open]
        return tuple(
            sorted(
                still_there,
                key=lambda finding: (-SEVERITIES.index(finding.severity), finding.step),
            )
        )

    @property
    def resolved_findings(self) -> tuple[Finding, ...]:
        """Findings that are gone, in the order in which they opened."""
        return tuple(finding for finding in self.findings if not finding.is_open)

    @property
    def rows(self) -> tuple[LayerRow | Fold, ...]:
        """Rows of the table of layers, in forward order, long runs folded."""
        return folded(layer_rows(self.history, self.findings))

    @property
    def table_step(self) -> int | None:
        """Step that the table of layers shows, None before the first sample."""
        snapshot = table_snapshot(self.history)
        return None if snapshot is None else snapshot.step

    def __repr__(self) -> str:
        return f"<Report: {self.verdict}>"

    def __str__(self) -> str:
        from gradwatch.terminal import report_view

        width, _ = shutil.get_terminal_size(fallback=(PLAIN_WIDTH, 24))
        console = Console(file=io.StringIO(), width=width, color_system=None, force_jupyter=False)
        options = replace(console.options, encoding="ascii")
        lines = console.render_lines(report_view(self), options, pad=False)
        return "\n".join("".join(segment.text for segment in line).rstrip() for line in lines)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from gradwatch.terminal import report_view

        yield report_view(self)

    def _repr_html_(self) -> str:
        from gradwatch.notebook import report_html

        return report_html(self)

    def _sick(self) -> str:
        worst, *others = self.open_findings
        lead = "the worst is " if others else ""
        return (
            f"{severity_counts(self.open_findings)}: {lead}{headline(worst)}, cause: {worst.cause}."
        )

    def _healthy(self) -> str:
        layers = counted(len(self.history.layers), "layer")
        steps = (
            counted(self.overhead.steps, "step")
            if self.overhead is not None
            else f"up to step {self.history[-1].step:,}"
        )
        found = severity_counts(self.open_findings) or "no finding"
        gone = len(self.resolved_findings)
        resolved = f", {counted(gone, 'finding')} resolved" if gone else ""
        return f"Healthy: {layers}, {steps}, {found}{resolved}."


def has_verdict(history: History) -> bool:
    """Whether there are enough samples for most rules to say anything."""
    with_signals = any(snapshot.has_signals for snapshot in history)
    windows = history.windows(
        "signals" if with_signals else "parameters",
        size=WINDOW_SIZE,
        count=WINDOW_COUNT,
        warm_up=WARM_UP_SAMPLES,
    )
    return len(windows) >= WINDOW_COUNT


def _too_early(history: History) -> str:
    seen = f"{len(history)} of {SAMPLES_TO_VERDICT} samples"
    if history.finished:
        return f"Too short for a verdict: the run ended after {seen}."
    step = sorted(EARLY_STEPS)[SAMPLES_TO_VERDICT - 1]
    return f"Too early for a verdict: {seen}; by default it comes after step {step}."
