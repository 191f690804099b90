"""The command `gradwatch report`: stored runs → findings, on the console or as JSON."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from gradwatch.tensorboard.reader import Recording, read
from gradwatch.tensorboard.search import Found, search

logger = logging.getLogger("gradwatch")

HEALTHY = 0
FINDINGS = 1


@dataclass(frozen=True)
class ReportCommand:
    """Judges the runs at or below a directory.

    Args:
        rules: Rules to run.
        codes: Codes to report, None for all.
        as_json: Whether standard output gets one JSON document, and nothing else.
    """

    rules: Sequence[Rule]
    codes: frozenset[str] | None = None
    as_json: bool = False

    def run(self, log_dir: Path, console: Console) -> int:
        """Report every run; what cannot be read is told on standard error.

        Args:
            log_dir: What TensorBoard is given.
            console: Where the reports go.

        Returns:
            0 if no run has an open finding above a notice, 1 if one has.

        Raises:
            ArgumentError: If no run could be read.
            MissingExtraError: If TensorBoard or google-crc32c is not installed.
        """
        with _warnings_on_stderr():
            found = search(log_dir)
            unread = list(found.troubles)
            for sentence in unread:
                logger.warning("gradwatch: %s", sentence)
            if not found.directories:
                raise ArgumentError(_nothing_found(log_dir, found))
            entries: list[dict[str, Any]] = []
            for directory in found.directories:
                try:
                    entries.append(self._report(directory, console))
                except MissingExtraError:
                    raise
                except Exception as error:  # noqa: BLE001 -- one hostile run hides no other
                    unread.append(_in_words(directory, error))
                    logger.warning("gradwatch: %s", unread[-1])
        if not entries:
            raise ArgumentError(f"no run at or below {str(log_dir)!r} could be read")
        if self.as_json:
            console.out(document(str(log_dir), entries, unread, self.rules), highlight=False)
        severities = {entry["severity"] for entry in entries}
        return FINDINGS if severities & {"warning", "error"} else HEALTHY

    def _report(self, directory: Path, console: Console) -> dict[str, Any]:
        """The run's entry; shows the run, too, where a person reads."""
        recording = read(directory)
        report = self._judged(recording)
        if not self.as_json:
            console.rule(escape(printable(str(directory))), align="left", style="dim")
            console.print(report)
        return run_entry(str(directory), recording, report)

    def _judged(self, recording: Recording) -> Report:
        replayed = replay(recording, self.rules)
        findings = tuple(
            finding
            for finding in replayed.findings
            if self.codes is None or finding.code in self.codes
        )
        return Report(findings, replayed.history, framework=replayed.framework)


def _nothing_found(log_dir: Path, found: Found) -> str:
    there = ""
    if found.foreign_files:
        files = counted(found.foreign_files, "event file")
        there = f" ({files} there, without anything of gradwatch that can be read)"
    return (
        f"no run of gradwatch at or below {str(log_dir)!r}{there}; pass the log_dir that watch() "
        "was given"
    )


def _in_words(directory: Path, error: Exception) -> str:
    if isinstance(error, ArgumentError):
        return str(error)
    return (
        f"{directory} cannot be judged ({error!r}); gradwatch should have said why: please report "
        "it with the event files"
    )


@contextmanager
def _warnings_on_stderr() -> Iterator[None]:
    """Warnings on standard error while it lasts, no control character of a name among them."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Printable())
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(record.getMessage())
