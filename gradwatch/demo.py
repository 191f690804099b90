"""Demo: handwritten digits, a network that does not learn beside the same one that does."""

from __future__ import annotations

import shlex
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
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
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

import gradwatch
from gradwatch.errors import ArgumentError
from gradwatch.report import Report
from gradwatch.terminal import LayersTable, finding_view, verdict_view

BATCH = 64
LEARNING_RATE = 0.02
MOMENTUM = 0.9
FINAL_LOSSES = 20


@dataclass(frozen=True)
class Digits:
    """1,797 images of handwritten digits, 8 x 8, standardised, a quarter of them for the test.

    Args:
        images: For training, shape (images, 1, 8, 8).
        labels: Shape (images,).
        test_images: Shape (test images, 1, 8, 8).
        test_labels: Shape (test images,).
    """

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class Contestant:
    """One of the networks, with everything else alike.

    Args:
        name: Also of its run in TensorBoard.
        description: In a few words.
        activation: Its activation.
        initialise: Sets its weights, None for PyTorch's defaults.
    """

    name: str
    description: str
    activation: type[nn.Module]
    initialise: Callable[[nn.Module], None] | None


@dataclass(frozen=True)
class Outcome:
    """What became of a network.

    Args:
        contestant: The network.
        report: Of its watch.
        loss: Mean of the last 20 training losses.
        accuracy: On the test images, 0 to 1.
    """

    contestant: Contestant
    report: Report
    loss: float
    accuracy: float


def he_initialise(module: nn.Module) -> None:
    """He et al. 2015, equation 10: weights of standard deviation sqrt(2 / fan_in), biases zero."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


CONTESTANTS = (
    Contestant("sigmoid", "sigmoid, PyTorch's default initialisation", nn.Sigmoid, None),
    Contestant("relu", "ReLU, He initialisation", nn.ReLU, he_initialise),
)


def show(console: Console, *, log_dir: Path | None, steps: int, seed: int) -> tuple[Outcome, ...]:
    """Train both networks, and print what gradwatch says of them.

    Args:
        console: Where to print.
        log_dir: Directory of the two runs; None for a new one below `runs`.
        steps: Optimizer steps of each run.
        seed: Of the split, the weights and the batches.

    Raises:
        ArgumentError: If the directory holds such runs already.
    """
    directory = _vacant(log_dir or Path("runs") / time.strftime("gradwatch-demo-%Y%m%d-%H%M%S"))
    digits = load(seed)
    outcomes = []
    with _one_thread(), _progress(console) as progress:
        for contestant in CONTESTANTS:
            task = progress.add_task(contestant.name, total=steps, loss="-")

            def advance(loss: float, task: TaskID = task) -> None:
                progress.update(task, advance=1, loss=f"{loss:.3f}")

            outcomes.append(
                train(
                    contestant, digits, steps=steps, seed=seed, log_dir=directory, on_step=advance
                )
            )
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


def load(seed: int) -> Digits:
    """The digits that scikit-learn brings along."""
    pixels, labels = load_digits(return_X_y=True)
    pixels = ((pixels - pixels.mean()) / pixels.std()).astype(np.float32)
    parts = train_test_split(pixels, labels, test_size=0.25, random_state=seed, stratify=labels)
    images, test_images, labels, test_labels = map(torch.from_numpy, parts)
    return Digits(
        images=images.view(-1, 1, 8, 8),
        labels=labels,
        test_images=test_images.view(-1, 1, 8, 8),
        test_labels=test_labels,
    )


def lenet(activation: type[nn.Module]) -> nn.Sequential:
    """LeNet-5 (LeCun et al. 1998) for images of 8 x 8, logits of shape (images, 10)."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 6, 3, padding=1),
            act1=activation(),
            pool1=nn.AvgPool2d(2),
            conv2=nn.Conv2d(6, 16, 3, padding=1),
            act2=activation(),
            pool2=nn.AvgPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(64, 120),
            act3=activation(),
            fc2=nn.Linear(120, 84),
            act4=activation(),
            head=nn.Linear(84, 10),
        )
    )


def train(
    contestant: Contestant,
    digits: Digits,
    *,
    steps: int,
    seed: int,
    log_dir: Path,
    on_step: Callable[[float], None],
) -> Outcome:
    """Train one network from scratch, watched.

    Args:
        contestant: The network.
        digits: What it learns.
        steps: Optimizer steps.
        seed: Of the weights and of the batches.
        log_dir: Directory of its run.
        on_step: Called with the loss after each step.
    """
    torch.manual_seed(seed)
    model = lenet(contestant.activation)
    if contestant.initialise is not None:
        model.apply(contestant.initialise)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    losses = []
    # No budget: steps of a millisecond would leave room for no sample after step 128.
    with gradwatch.watch(
        model, optimizer, log_dir=log_dir, name=contestant.name, budget=None, verbose=0
    ) as watch:
        for images, labels in _batches(digits, steps, seed):
            loss = F.cross_entropy(model(images), labels)
            watch.observe_loss(loss)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            optimizer.step()
            losses.append(loss.item())
            on_step(losses[-1])
    final = losses[-FINAL_LOSSES:]
    return Outcome(contestant, watch.report(), sum(final) / len(final), _accuracy(model, digits))


def _batches(digits: Digits, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(digits.labels), (BATCH,), generator=generator)
        yield digits.images[rows], digits.labels[rows]


def _accuracy(model: nn.Module, digits: Digits) -> float:
    with torch.no_grad():
        right = model(digits.test_images).argmax(dim=1) == digits.test_labels
    return float(right.float().mean())


@contextmanager
def _one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from threads, which wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _vacant(directory: Path) -> Path:
    taken = [
        contestant.name for contestant in CONTESTANTS if (directory / contestant.name).exists()
    ]
    if taken:
        raise ArgumentError(
            f"{str(directory)!r} holds a run {taken[0]!r} already; pass another --log-dir, or "
            "remove it"
        )
    return directory


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
