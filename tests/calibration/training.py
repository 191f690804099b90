"""The training loop that every case runs in, watched or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import gradwatch
from gradwatch import Finding, Snapshot, Watch

from .setups import Setup

WatchFactory = Callable[[nn.Module, Optimizer], Watch]

FINAL_LOSSES = 20


@dataclass(frozen=True)
class Run:
    """What one training run leaves behind.

    Attributes:
        losses: One per step.
        progress: P = 1 - final loss / chance loss, the mean of the last 20 losses (or yardsticks,
            where the setup has one) being final; clamped to [-1, 1], and -1 if it is not finite.
        findings: All of them as they were at the end, resolved ones included; empty if nothing
            watched.
        alarms: Those that were ever above a notice, as they were when they last were. The watch
            updates a finding in place, so `findings` alone forgets a warning that became a notice.
        history: The observed steps; empty if nothing watched.
    """

    losses: tuple[float, ...]
    progress: float
    findings: tuple[Finding, ...] = ()
    alarms: tuple[Finding, ...] = ()
    history: Sequence[Snapshot] = ()


def watched(model: nn.Module, optimizer: Optimizer) -> Watch:
    """The watch that the calibration uses: no overhead budget, nothing printed."""
    return gradwatch.watch(model, optimizer, budget=None, verbose=0)


def progress(losses: Sequence[float], chance_loss: float) -> float:
    """P of a run, from its losses."""
    final = losses[-FINAL_LOSSES:]
    mean = sum(final) / len(final)
    return max(-1.0, 1.0 - mean / chance_loss) if math.isfinite(mean) else -1.0


def train(setup: Setup, watch_factory: WatchFactory | None = None) -> Run:
    """Train to the end, watched if a factory of watches is given."""
    if setup.before_watch is not None:
        setup.before_watch()
    setup.model.train()
    if watch_factory is None:
        losses = run_steps(setup, None)
        return Run(losses, final_progress(setup, losses))
    alarms = Alarms()
    with watch_factory(setup.model, setup.optimizer) as watch:
        losses = run_steps(setup, watch, alarms)
    alarms.note(watch.findings)
    return Run(
        losses,
        final_progress(setup, losses),
        tuple(watch.findings),
        alarms.noted,
        tuple(watch.history),
    )


class Alarms:
    """What was ever above a notice, one finding for each code and cause."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], Finding] = {}

    def note(self, findings: Iterable[Finding]) -> None:
        """Keep the findings above a notice in place of their earlier states."""
        for finding in findings:
            if finding.severity != "notice":
                self._last[finding.code, finding.cause] = finding

    @property
    def noted(self) -> tuple[Finding, ...]:
        """In the order in which they first rose above a notice."""
        return tuple(self._last.values())


def final_progress(setup: Setup, losses: Sequence[float]) -> float:
    """P of a run that is over, by its yardstick if it has one."""
    if setup.yardstick is None:
        return progress(losses, setup.chance_loss)
    last = range(setup.steps - FINAL_LOSSES, setup.steps)
    with torch.no_grad():
        measured = [float(setup.yardstick(setup.model, setup.batch(step))) for step in last]
    return progress(measured, setup.chance_loss)


def run_steps(setup: Setup, watch: Watch | None, alarms: Alarms | None = None) -> tuple[float, ...]:
    """The loop itself; returns the loss of each step."""
    losses: list[Tensor] = []
    for step in range(setup.steps):
        setup.optimizer.zero_grad()
        with precision(setup):
            loss = setup.loss_fn(setup.model, setup.batch(step))
        if watch is not None:
            watch.observe_loss(loss)
        backward_and_step(setup, loss)
        if setup.after_step is not None:
            setup.after_step(step)
        if watch is not None and alarms is not None:
            alarms.note(watch.findings)
        losses.append(loss.detach())
    return tuple(torch.stack(losses).tolist())


def precision(setup: Setup) -> AbstractContextManager[object]:
    """Autocast where the setup asks for it."""
    if setup.autocast is None:
        return nullcontext()
    return torch.autocast("cpu", dtype=setup.autocast)


def backward_and_step(setup: Setup, loss: Tensor) -> None:
    """Backward and one optimizer step, through the loss scaler if there is one."""
    if setup.scaler is None:
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        setup.optimizer.step()
    else:
        setup.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # as above
        setup.scaler.step(setup.optimizer)
        setup.scaler.update()
    if setup.scheduler is not None:
        setup.scheduler.step()
