"""Sinks: those that a watch writes to, made from the user's arguments."""

from __future__ import annotations

from pathlib import Path

from gradwatch.console import ConsoleSink
from gradwatch.schedule import Schedule
from gradwatch.watcher import Sink


def make_sinks(
    log_dir: str | Path | None,
    *,
    name: str | None,
    verbose: int,
    framework: str,
    schedule: Schedule,
) -> list[Sink]:
    """The console, unless silent, and TensorBoard where a directory is given.

    Args:
        log_dir: Directory of the event files, None for none.
        name: Directory below it.
        verbose: 0 for no console.
        framework: "torch" or "keras": which snippets are written.
        schedule: Knows what watching cost.

    Raises:
        ArgumentError: If the directory cannot be used.
        MissingExtraError: If TensorBoard is not installed.
    """
    sinks: list[Sink] = []
    if log_dir is not None:
        from gradwatch.tensorboard.sink import TensorBoardSink

        sinks.append(TensorBoardSink(log_dir, name, framework=framework))
    if verbose:
        sinks.append(ConsoleSink(verbose, framework=framework, overhead=lambda: schedule.overhead))
    return sinks
