"""Reading of runs for a command: what it says of those that it cannot read, and where."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gradwatch.errors import ArgumentError
from gradwatch.report_words import counted, printable
from gradwatch.tensorboard.search import Found

logger = logging.getLogger("gradwatch")


def nothing_found(log_dir: Path, found: Found) -> str:
    """What is said of a directory without a run."""
    there = ""
    if found.foreign_files:
        files = counted(found.foreign_files, "event file")
        there = f" ({files} there, without anything of gradwatch that can be read)"
    return (
        f"no run of gradwatch at or below {str(log_dir)!r}{there}; pass the log_dir that watch() "
        "was given"
    )


def in_words(directory: Path, error: Exception) -> str:
    """What is said of a run that could not be read or judged."""
    if isinstance(error, ArgumentError):
        return str(error)
    return (
        f"{directory} cannot be judged ({error!r}); gradwatch should have said why: please report "
        "it with the event files"
    )


@contextmanager
def warnings_on_stderr() -> Iterator[None]:
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
