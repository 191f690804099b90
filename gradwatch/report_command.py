"""The command `gradwatch report`: stored runs → findings, on the console, as JSON or as a page."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from gradwatch.errors import ArgumentError, MissingExtraError
from gradwatch.replay import replay
from gradwatch.report import Report
from gradwatch.report_json import document, run_entry
from gradwatch.report_words import counted, printable
from gradwatch.rules import Rule
from gradwatch.run_reading import in_words, nothing_found, warnings_on_stderr
from gradwatch.tensorboard.reader import Recording, read
from gradwatch.tensorboard.search import Found, search

logger = logging.getLogger("gradwatch")

_Kept = tuple[Path, Recording, Report]
"""A run's directory, what is stored there, and what the rules say of it."""

HEALTHY = 0
FINDINGS = 1


@dataclass(frozen=True)
class ReportCommand:
    """Judges the runs at or below a directory.

    Args:
        rules: Rules to run.
        codes: Codes to report, None for all.
        as_json: Whether standard output gets one JSON document, and nothing else.
        html: Where a page of all runs is written, None for none.
    """

    rules: Sequence[Rule]
    codes: frozenset[str] | None = None
    as_json: bool = False
    html: Path | None = None

    def run(self, log_dir: Path, console: Console) -> int:
        """Report every run; what cannot be read is told on standard error.

        Args:
            log_dir: What TensorBoard is given.
            console: Where the reports go.

        Returns:
            0 if no run has an open finding above a notice, 1 if one has.

        Raises:
            ArgumentError: If no run could be read, or the page cannot be written.
            MissingExtraError: If TensorBoard or google-crc32c is not installed.
        """
        if self.html is not None:
            from gradwatch.tab.page_file import check_target

            check_target(self.html)
        with warnings_on_stderr():
            found = _found(log_dir)
            unread = list(found.troubles)
            entries: list[dict[str, Any]] = []
            kept: list[_Kept] = []
            for directory in found.directories:
                try:
                    recording = read(directory)
                    report = self._judged(recording)
                    self._show(directory, report, console)
                    entries.append(run_entry(str(directory), recording, report))
                except MissingExtraError:
                    raise
                except Exception as error:  # noqa: BLE001 -- one hostile run hides no other
                    unread.append(in_words(directory, error))
                    logger.warning("gradwatch: %s", unread[-1])
                    continue
                if self.html is not None:
                    kept.append((directory, recording, report))
        if not entries:
            raise ArgumentError(f"no run at or below {str(log_dir)!r} could be read")
        if self.html is not None:
            self._write_page(self.html, log_dir, kept, console)
        if self.as_json:
            console.out(document(str(log_dir), entries, unread, self.rules), highlight=False)
        severities = {entry["severity"] for entry in entries}
        return FINDINGS if severities & {"warning", "error"} else HEALTHY

    def _show(self, directory: Path, report: Report, console: Console) -> None:
        if not self.as_json:
            console.rule(escape(printable(str(directory))), align="left", style="dim")
            console.print(report)

    def _write_page(
        self, html: Path, log_dir: Path, kept: Sequence[_Kept], console: Console
    ) -> None:
        from gradwatch.tab.page import JudgedRun, page
        from gradwatch.tab.page_file import write_page
        from gradwatch.tab.stored_run import StoredRun

        judged = [
            JudgedRun(
                StoredRun(_run_name(directory, log_dir), "stored", recording, recording.troubles),
                report,
            )
            for directory, recording, report in kept
        ]
        octets = write_page(html, page(judged, title=f"GradWatch: {log_dir}"))
        told = Console(stderr=True, highlight=False) if self.as_json else console
        told.print(
            f"Written to {escape(printable(str(html)))}: {counted(len(judged), 'run')}, "
            f"{octets / 1e6:.1f} MB. Open it in a browser.",
            soft_wrap=True,
        )

    def _judged(self, recording: Recording) -> Report:
        replayed = replay(recording, self.rules)
        findings = tuple(
            finding
            for finding in replayed.findings
            if self.codes is None or finding.code in self.codes
        )
        return Report(findings, replayed.history, framework=replayed.framework)


def _found(log_dir: Path) -> Found:
    """The runs at or below a directory, at least one."""
    found = search(log_dir)
    for sentence in found.troubles:
        logger.warning("gradwatch: %s", sentence)
    if not found.directories:
        raise ArgumentError(nothing_found(log_dir, found))
    return found


def _run_name(directory: Path, log_dir: Path) -> str:
    """The run's name as TensorBoard has it: its directory below the one that was searched."""
    return printable(Path(os.path.relpath(directory, log_dir.expanduser())).as_posix())
