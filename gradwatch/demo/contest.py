"""The contest: trains the networks of one framework, and shows what gradwatch says of each."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich import box
from rich.console import Console, ConsoleRenderable, Group
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from gradwatch.demo.digits import Digits, load
from gradwatch.errors import ArgumentError
from gradwatch.report import Report
from gradwatch.terminal import LayersTable, finding_view, verdict_view

LEARNING_RATE = 0.02
MOMENTUM = 0.9


@dataclass(frozen=True)
class Contestant:
    """One of the networks, with everything else alike.

    Args:
        name: Also of its run in TensorBoard.
        description: In a few words.
        activation: "sigmoid" or "relu".
        he: Whether it is initialised by He's rule, and not by the framework's own.
    """

    name: str
    description: str
    activation: str
    he: bool


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Args:
        digits: What it learns.
        steps: Optimizer steps.
        seed: Of the weights and of the batches.
        log_dir: Directory of its run.
        on_step: Called after each step with the training loss at present.
    """

    digits: Digits
    steps: int
    seed: int
    log_dir: Path
    on_step: Callable[[float], None]


@dataclass(frozen=True)
class Outcome:
    """What became of a network.

    Args:
        contestant: The network.
        report: Of its watch.
        loss: Mean over all training images, after the last step.
        accuracy: On the test images, 0 to 1.
    """

    contestant: Contestant
    report: Report
    loss: float
    accuracy: float


class Framework(Protocol):
    """What the contest needs of a framework; a module of the demo is one."""

    @property
    def CONTESTANTS(self) -> tuple[Contestant, ...]:  # noqa: N802 -- a constant of the module
        """Both networks."""

    def train(self, contestant: Contestant, training: Training) -> Outcome:
        """Train one network from scratch, watched."""


def show(
    console: Console, framework: Framework, *, log_dir: Path | None, steps: int, seed: int
) -> tuple[Outcome, ...]:
    """Train both networks, and print what gradwatch says of them.

    Args:
        console: Where to print.
        framework: Trains them.
        log_dir: Directory of the two runs; None for a new one below `runs`.
        steps: Optimizer steps of each run.
        seed: Of the split, the weights and the batches.

    Raises:
        ArgumentError: If the directory holds such runs already.
    """
    directory = log_dir or Path("runs") / time.strftime("gradwatch-demo-%Y%m%d-%H%M%S")
    _check_vacant(directory, framework.CONTESTANTS)
    digits = load(seed)
    outcomes = []
    with _progress(console) as progress:
        for contestant in framework.CONTESTANTS:
            task = progress.add_task(contestant.name, total=steps, loss="-")

            def advance(loss: float, task: TaskID = task) -> None:
                progress.update(task, advance=1, loss=f"{loss:.3f}")

            training = Training(digits, steps, seed, directory, advance)
            outcomes.append(framework.train(contestant, training))
    for outcome in outcomes:
        console.print()
        title = f"[bold]{outcome.contestant.name}[/]: {outcome.contestant.description}"
        console.rule(title, align="left", style="dim")
        console.print(_short(outcome.report))
    console.print()
    console.print(_comparison(outcomes))
    console.print()
    console.print("Both runs, step by step:", style="dim")
    console.print(
        f"tensorboard --logdir {shlex.quote(str(directory))}", style="bold", soft_wrap=True
    )
    return tuple(outcomes)


def _check_vacant(directory: Path, contestants: tuple[Contestant, ...]) -> None:
    taken = [entry.name for entry in contestants if (directory / entry.name).exists()]
    if taken:
        raise ArgumentError(
            f"{str(directory)!r} holds a run {taken[0]!r} already; pass another --log-dir, or "
            "remove it"
        )


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeElapsedColumn(),
        console=console,
    )


def _short(report: Report) -> ConsoleRenderable:
    parts: list[ConsoleRenderable] = [verdict_view(report), Text(), LayersTable(report)]
    for finding in report.open_findings[:1]:
        parts += [Text(), finding_view(finding, report.framework, most_fixes=1)]
    return Group(*parts)


def _comparison(outcomes: list[Outcome]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("network", style="bold")
    table.add_column("final loss", justify="right")
    table.add_column("test accuracy", justify="right")
    table.add_column("verdict")
    for outcome in outcomes:
        table.add_row(
            outcome.contestant.name,
            f"{outcome.loss:.3f}",
            f"{100 * outcome.accuracy:.1f} %",
            verdict_view(outcome.report),
        )
    return table
