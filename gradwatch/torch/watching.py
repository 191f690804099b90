"""Watch: what `gradwatch.watch` gives, and the arguments it takes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from operator import index
from pathlib import Path
from types import TracebackType
from typing import Literal, SupportsIndex

from torch import Tensor, nn
from torch.optim import Optimizer

from gradwatch.errors import ArgumentError
from gradwatch.finding import Finding
from gradwatch.history import History
from gradwatch.report import Report
from gradwatch.rules import Rule, select
from gradwatch.schedule import Schedule
from gradwatch.sinks import make_sinks
from gradwatch.torch.limits import is_reporting_rank, limits_of
from gradwatch.torch.optimizers import Optimizers
from gradwatch.torch.rows import Rows
from gradwatch.torch.session import Session
from gradwatch.watcher import Watcher

_WATCHES: weakref.WeakKeyDictionary[nn.Module, Watch] = weakref.WeakKeyDictionary()
"""The open watch of each model: a second one on the same model closes the first."""


class Watch:
    """Watches one model while it trains; made by `gradwatch.watch`, which says what it takes."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        *,
        log_dir: str | Path | None = None,
        name: str | None = None,
        every: int | Literal["auto"] = "auto",
        budget: float | None = 0.01,
        signals: bool = True,
        compiled: Literal["skip", "graph", "eager"] = "skip",
        rules: Sequence[str | Rule] | None = None,
        on_finding: Callable[[Finding], None] | None = None,
        verbose: int = 1,
        initial_step: int = 0,
    ) -> None:
        _check_model(model)
        first_step = _checked_step(initial_step)
        self._schedule = Schedule(every, budget)
        limits = limits_of(model, signals=signals, compiled=compiled)
        selection = select(rules)
        rows = Rows(model)
        optimizers = Optimizers(rows, optimizer)
        self._watcher = Watcher(
            selection.rules,
            report_only=selection.report_only,
            on_finding=on_finding,
            sinks=make_sinks(
                log_dir if is_reporting_rank() else None,
                name=name,
                verbose=verbose if is_reporting_rank() else 0,
                framework="torch",
                schedule=self._schedule,
            ),
        )
        # Every argument is right from here on, so the earlier watch may go.
        earlier = _WATCHES.get(model)
        if earlier is not None:
            earlier.close()
        for sentence in limits.sentences:
            self._watcher.degrade(sentence)
        self._session = Session(
            rows,
            optimizers,
            self._watcher,
            self._schedule,
            signals=limits.signals,
            first_step=first_step,
        )
        self._finalizer = weakref.finalize(model, self._session.close)
        _WATCHES[model] = self

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Findings, oldest first, resolved ones included."""
        return self._watcher.findings

    @property
    def history(self) -> History:
        """Snapshots of the observed steps, oldest first; `history[-1].grad_rms` and the like."""
        return self._watcher.history

    def observe_loss(self, loss: Tensor | float) -> None:
        """Tell the loss of the present step; optional, best before `backward`.

        Before it, gradwatch also sees what lies between the model's output and the loss, such as a
        sigmoid in the loss function.

        Args:
            loss: Scalar; a tensor is fine, and reading it waits for nothing.
        """
        self._session.observe_loss(loss)

    def report(self) -> Report:
        """The verdict so far: print it, or leave it as the last line of a notebook cell."""
        self._session.drain()
        return Report(
            findings=self.findings,
            history=self.history,
            overhead=self._schedule.overhead,
            framework="torch",
        )

    def close(self) -> None:
        """Remove every trace from model and optimizer, judge the end, close the event file.

        Closing twice is fine.
        """
        self._finalizer.detach()
        self._session.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def watch(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    *,
    log_dir: str | Path | None = None,
    name: str | None = None,
    every: int | Literal["auto"] = "auto",
    budget: float | None = 0.01,
    signals: bool = True,
    compiled: Literal["skip", "graph", "eager"] = "skip",
    rules: Sequence[str | Rule] | None = None,
    on_finding: Callable[[Finding], None] | None = None,
    verbose: int = 1,
    initial_step: int = 0,
) -> Watch:
    """A watch on a PyTorch model: which layers do not learn, why, and what to change.

    Call it once before the training loop, or use it as a context manager. Training goes on exactly
    as without it: same losses, parameters and random numbers. A second watch on the same model
    closes the first, so a notebook cell can be run twice.

    Args:
        model: The model that trains.
        optimizer: Its optimizer, or several; None watches every optimizer that holds a parameter
            of the model.
        log_dir: Where TensorBoard events go, into the directory `name` below it; None for none.
        name: Name of that directory, "gradwatch" by default.
        every: "auto" (dense in the first 128 steps, then sparse) or an interval in steps, which is
            kept exactly and ignores the budget.
        budget: Largest share of the training time that gradwatch may take after step 128, in
            (0, 1]; None for no limit.
        signals: Whether to observe forward and backward signals on sampled steps, not only
            gradients, weights and updates.
        compiled: What to do with a compiled model. "skip": observe its parameters only.
        rules: Codes to report, or `Rule` objects to use in place of the built-in ones of the same
            code; None for all.
        on_finding: Called with every finding that opens or reopens.
        verbose: 0 for silence, 1 for a line when a finding opens or is resolved.
        initial_step: Number of the first step, for a resumed run.

    Returns:
        The watch; its `findings`, `history` and `report()` say what was seen, `close()` ends it.

    Raises:
        ArgumentError: If an argument cannot be used; the message says what to do.
        MissingExtraError: If `log_dir` is given and TensorBoard is not installed.
    """
    return Watch(
        model,
        optimizer,
        log_dir=log_dir,
        name=name,
        every=every,
        budget=budget,
        signals=signals,
        compiled=compiled,
        rules=rules,
        on_finding=on_finding,
        verbose=verbose,
        initial_step=initial_step,
    )


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"model is a {type(model).__name__}, not a torch.nn.Module; "
            "pass the module whose parameters the optimizer trains"
        )
    if next(model.parameters(), None) is None:
        raise ArgumentError(
            f"model {type(model).__name__} has no parameters, so no gradient can vanish in it; "
            "pass the module that trains"
        )


def _checked_step(initial_step: object) -> int:
    if not isinstance(initial_step, bool) and isinstance(initial_step, SupportsIndex):
        step = index(initial_step)
        if step >= 0:
            return step
    raise ArgumentError(
        f"initial_step={initial_step!r} is not a step; pass a whole number from 0 on"
    )
