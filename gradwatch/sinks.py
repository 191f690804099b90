"""Sinks: those that a watch writes to, made from the user's arguments."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from gradwatch.console import ConsoleSink
from gradwatch.errors import ArgumentError
from gradwatch.schedule import Schedule
from gradwatch.watcher import Sink


def make_sinks(
    log_dir: str | Path | None,
    *,
    name: str | None,
    verbose: int,
    framework: str,
    schedule: Schedule,
    held: bool = False,
) -> Iterator[Sink]:
    """TensorBoard where a directory is given, and the console unless silent.

    A sink is opened when it is taken, so that nothing is left open if another argument is wrong.

    Args:
        log_dir: Directory of the event files, None for none.
        name: Directory below it.
        verbose: 0 for no console.
        framework: "torch" or "keras": which snippets are written.
        schedule: Knows what watching cost.
        held: Whether the console holds its lines until it is told to release them.

    Raises:
        ArgumentError: If an argument or the directory cannot be used.
        MissingExtraError: If TensorBoard is not installed.
    """
    if not isinstance(verbose, int) or verbose not in (0, 1):
        raise ArgumentError(f"verbose={verbose!r} is neither 0, for silence, nor 1, for one line")
    if not isinstance(log_dir, str | os.PathLike | None) or log_dir == "":
        raise ArgumentError(
            f"log_dir={log_dir!r} is no path; pass TensorBoard's directory for this run, or None"
        )
    if not isinstance(name, str | None):
        raise ArgumentError(f'name={name!r} is not a string; pass one such as "generator", or None')
    if log_dir is not None:
        from gradwatch.tensorboard.sink import TensorBoardSink

        yield TensorBoardSink(log_dir, name, framework=framework)
    if verbose:
        yield ConsoleSink(
            verbose, framework=framework, overhead=lambda: schedule.overhead, held=held
        )
