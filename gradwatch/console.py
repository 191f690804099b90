"""ConsoleSink: one line when a finding opens, one when it is resolved, one at the end."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.text import Text

from gradwatch.finding import Finding
from gradwatch.history import History
from gradwatch.report import Report
from gradwatch.report_words import headline, printable
from gradwatch.schedule import Overhead
from gradwatch.snapshot import Snapshot
from gradwatch.terminal import COLOUR

REPORT_CALL = {"torch": "watch.report()", "keras": "callback.report()"}
"""Framework → what shows the whole report."""

MOST_OPENINGS = 3
"""Lines about one finding that comes and goes; what it does after that is left to the summary."""

START_OF_EMPTY_LINE = "\r\x1b[2K"


class ConsoleSink:
    """Writes a line to standard error when a finding opens or is resolved, and a last one at close.

    A line never breaks a progress bar: on a terminal it takes the bar's line, and the bar moves on
    to the next one with its next update.

    Args:
        verbose: 0 for silence, 1 for the lines.
        framework: "torch" or "keras": how the full report is asked for.
        console: Where to write, standard error by default.
        overhead: Gives what gradwatch cost so far.
        held: Whether lines wait for `release`, so that they never stand in the progress bar of
            another library.
    """

    def __init__(
        self,
        verbose: int = 1,
        framework: str = "torch",
        console: Console | None = None,
        overhead: Callable[[], Overhead] | None = None,
        *,
        held: bool = False,
    ) -> None:
        self._verbose = verbose
        self._framework = framework
        self._console = console
        self._overhead = overhead
        self._is_held = held
        self._held: list[Text] = []
        self._history = History()
        self._findings: tuple[Finding, ...] = ()
        self._open: set[tuple[str, str]] = set()
        self._openings: Counter[tuple[str, str]] = Counter()

    def write_snapshot(self, snapshot: Snapshot) -> None:
        """Keep the snapshot for the summary; nothing is written."""
        self._history.finished = False
        self._history.append(snapshot)

    def write_findings(self, changed: Sequence[Finding], findings: Sequence[Finding]) -> None:
        """Write a line for each finding that opened or was resolved, none for mere updates."""
        self._findings = tuple(findings)
        for finding in changed:
            identity = (finding.code, finding.cause)
            was_open = identity in self._open
            if finding.is_open and not was_open:
                self._open.add(identity)
                self._openings[identity] += 1
                if self._openings[identity] <= MOST_OPENINGS:
                    self._write(self._opened(finding))
            elif was_open and not finding.is_open:
                self._open.discard(identity)
                if self._openings[identity] <= MOST_OPENINGS:
                    self._write(_resolved(finding))

    def release(self) -> None:
        """Write the lines that were held."""
        lines, self._held = self._held, []
        for line in lines:
            self._put(line)

    def close(self) -> None:
        """Write the verdict of the run in a line; a run may go on after it."""
        self.release()
        self._history.finished = True
        overhead = self._overhead() if self._overhead is not None else None
        report = Report(self._findings, self._history, overhead, self._framework)
        colour = COLOUR[report.severity] if report.is_judged else "default"
        lead, colon, rest = _one_line(report.verdict).partition(":")
        more = f" See {self._report_call}." if report.findings else ""
        self._write(Text.assemble((lead, f"bold {colour}"), colon, rest, more))
        self.release()

    @property
    def _report_call(self) -> str:
        return REPORT_CALL.get(self._framework, "report()")

    def _opened(self, finding: Finding) -> Text:
        fix = f" Fix: {finding.fixes[0].title}." if finding.fixes else ""
        line = (
            f" at step {finding.step:,}: {headline(finding)}, cause: {finding.cause}."
            f"{fix} See {self._report_call}."
        )
        if self._openings[finding.code, finding.cause] == MOST_OPENINGS:
            line += " It comes and goes; no more lines about it."
        if finding.severity == "notice":
            return Text(f"notice{_one_line(line)}", "dim")
        colour = COLOUR[finding.severity]
        return Text.assemble((finding.severity, f"bold {colour}"), _one_line(line))

    def _write(self, line: Text) -> None:
        if self._verbose < 1:
            return
        if self._is_held:
            self._held.append(line)
        else:
            self._put(line)

    def _put(self, line: Text) -> None:
        """Write to standard error as it is now: a notebook or a live display may replace it."""
        console = self._console if self._console is not None else Console(stderr=True)
        with console.capture() as captured:
            console.print(Text.assemble(("gradwatch ", "dim"), line), soft_wrap=True)
        # rich would write past its own live displays here; sys.stderr is what they redirect.
        stream = console.file if self._console is not None else sys.stderr
        has_cursor = console.is_terminal and not console.is_jupyter and not console.legacy_windows
        stream.write((START_OF_EMPTY_LINE if has_cursor else "") + captured.get())
        stream.flush()


def _resolved(finding: Finding) -> Text:
    line = f"resolved at step {finding.resolved_step:,}: {headline(finding)}."
    return Text(_one_line(line), "green")


def _one_line(text: str) -> str:
    return " ".join(printable(text).splitlines())
