"""Watch: what `gradwatch.watch` gives; it ties hooks, schedule and watcher together."""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from gradwatch.errors import ArgumentError
from gradwatch.finding import Finding
from gradwatch.history import History
from gradwatch.report import Report
from gradwatch.rules import Rule, select
from gradwatch.schedule import Sample, Schedule
from gradwatch.sinks import make_sinks
from gradwatch.snapshot import ROW_OF, Snapshot, empty_statistics
from gradwatch.torch.limits import limits_of
from gradwatch.torch.optimizers import Optimizers
from gradwatch.torch.parameters import Draft, ParameterReader, states_of, store_parameters
from gradwatch.torch.reading import Key
from gradwatch.torch.rows import Rows
from gradwatch.torch.signals import Pass, Signals
from gradwatch.torch.statistics import store_signals
from gradwatch.watcher import Watcher

_WATCHES: weakref.WeakKeyDictionary[nn.Module, Watch] = weakref.WeakKeyDictionary()
"""The open watch of each model: a second one on the same model closes the first."""

SPIKE_FACTOR = 3.0
"""A loss so many times the one sampled before makes the next steps samples."""


@dataclass
class _Observed:
    """A step that is being observed.

    Args:
        step: Its number.
        draft: What is read of its parameters.
        collected: Its signals, None for a parameter sample.
        loss: Loss as a number, or as a figure of the draft (then NaN here).
        wall_time: When it was closed, in seconds since the epoch.
    """

    step: int
    draft: Draft
    collected: Pass | None
    loss: float = float("nan")
    wall_time: float = field(default_factory=time.time)


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
        if not isinstance(model, nn.Module):
            raise ArgumentError(f"model is a {type(model).__name__}, not a torch.nn.Module")
        if next(model.parameters(), None) is None:
            raise ArgumentError(
                f"model {type(model).__name__} has no parameters, so no gradient can vanish in it"
            )
        self._schedule = Schedule(every, budget)
        limits = limits_of(model, signals=signals, compiled=compiled)
        selection = select(rules)
        self._rows = Rows(model)
        self._optimizers = Optimizers(self._rows, optimizer)
        self._parameters = ParameterReader(self._rows)
        self._signals = Signals(self._rows, self._signals_failed) if limits.signals else None
        earlier = _WATCHES.get(model)
        if earlier is not None:
            earlier.close()
        self._watcher = Watcher(
            selection.rules,
            report_only=selection.report_only,
            on_finding=on_finding,
            sinks=make_sinks(
                log_dir, name=name, verbose=verbose, framework="torch", schedule=self._schedule
            ),
        )
        for sentence in limits.sentences:
            self._watcher.degrade(sentence)
        self._step = initial_step
        self._loss: Tensor | float | None = None
        self._sample = Sample.NOTHING
        self._observed: _Observed | None = None
        self._pending: deque[_Observed] = deque()
        self._cost = 0.0
        self._is_open = True
        self._closed_at = time.perf_counter()
        self._handles = [
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
        ]
        _WATCHES[model] = self
        self._finalizer = weakref.finalize(model, self.close)
        self._begin_step()

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
        self._loss = loss
        if self._sample is Sample.SIGNALS and isinstance(loss, Tensor):
            signals = self._signals
            if signals is not None:
                signals.see_loss(loss)

    def report(self) -> Report:
        """The verdict so far: print it, or leave it as the last line of a notebook cell."""
        self._drain()
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
        if not self._is_open:
            return
        self._is_open = False
        self._finalizer.detach()
        for handle in self._handles:
            handle.remove()
        if self._signals is not None:
            self._signals.disarm()
        for observed in self._pending:
            observed.draft.reading.wait()
        with self._guarded():
            self._drain()
        self._watcher.finish(self._step)

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _begin_step(self) -> None:
        self._sample = self._planned(self._schedule.plan())
        self._cost = 0.0
        if self._sample is Sample.SIGNALS and self._signals is not None:
            self._signals.arm()
        elif self._signals is not None and self._signals.is_armed:
            self._signals.disarm()

    def _planned(self, sample: Sample) -> Sample:
        blind = self._signals is None and sample is Sample.SIGNALS
        return Sample.PARAMETERS if blind else sample

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._optimizers.accepts(optimizer):
            return
        if self._optimizers.has_stepped(optimizer):
            self._close_step()
        if self._sample is not Sample.NOTHING:
            with self._guarded():
                self._open_observation()
                self._parameters.before_step(
                    self._observation.draft, optimizer, read_gradients=not _closure(args, kwargs)
                )

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._optimizers.accepts(optimizer):
            return
        if self._sample is not Sample.NOTHING:
            with self._guarded():
                closure = _closure(args, kwargs)
                if closure:
                    self._harvest()
                self._parameters.after_step(self._observation.draft, read_gradients=closure)
        if self._optimizers.step(optimizer):
            self._close_step()
        elif self._signals is not None and self._schedule.plan(ahead=1) is Sample.SIGNALS:
            self._signals.arm()

    @property
    def _observation(self) -> _Observed:
        if self._observed is None:
            raise RuntimeError("no step is being observed")
        return self._observed

    def _open_observation(self) -> None:
        """Begin to observe this step; the signals of its last backward pass end here."""
        if self._observed is None:
            self._observed = _Observed(self._step, Draft(), None)
            self._harvest()

    def _harvest(self) -> None:
        """Take the signals that were collected up to now into the observation."""
        if self._signals is None or not self._signals.is_armed:
            return
        collected = self._signals.disarm()
        self._cost += self._signals.seconds
        if self._observation.draft.reading.is_empty:
            self._observation.draft.reading = collected.reading
        self._observation.collected = collected

    def _close_step(self) -> None:
        observed, self._observed = self._observed, None
        if observed is not None:
            with self._guarded():
                self._send(observed)
        self._loss = None
        if self._pending:
            with self._guarded():
                self._drain()
        now = time.perf_counter()
        self._schedule.close_step(self._sample, now - self._closed_at, self._cost)
        self._closed_at = now
        self._step += 1
        self._optimizers.close()
        if self._is_open:
            self._begin_step()

    def _send(self, observed: _Observed) -> None:
        if observed.collected is not None:
            self._rows.learn(observed.collected.wiring())
            self._parameters.read_spread(observed.draft)
        self._parameters.read_frozen(observed.draft)
        if isinstance(self._loss, Tensor):
            observed.draft.reading.add(Key(-1, "loss"), self._loss.detach().mean())
        elif self._loss is not None:
            observed.loss = float(self._loss)
        observed.draft.reading.send()
        observed.draft.layers = self._rows.layers()
        self._pending.append(observed)

    def _drain(self) -> None:
        """Turn the observations whose figures have arrived into snapshots."""
        while self._pending and self._pending[0].draft.reading.is_ready():
            snapshot = self._snapshot(self._pending.popleft())
            previous = self.history[-1] if len(self.history) else None
            if previous is not None and _is_event(previous, snapshot):
                self._schedule.look_closer()
            self._watcher.observe(snapshot)

    def _snapshot(self, observed: _Observed) -> Snapshot:
        draft = observed.draft
        figures = draft.reading.figures()
        packed = empty_statistics(len(draft.layers))
        skipped = store_parameters(packed, draft, figures)
        if observed.collected is not None:
            store_signals(packed, observed.collected, figures, draft.layers)
        loss = figures.get(Key(-1, "loss"))
        states = states_of(draft, packed[ROW_OF["grad_norm"]], packed[ROW_OF["forward_calls"]])
        return Snapshot.unpacked(
            packed,
            step=observed.step,
            layers=draft.layers,
            states=states,
            loss=observed.loss if loss is None else _finite_or_inf(float(loss[0])),
            skipped=skipped,
            wall_time=observed.wall_time,
        )

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Promise 2: a fault of gradwatch ends the watching, never the training."""
        began = time.perf_counter()
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- see above
            self._stop(f"gradwatch failed at step {self._step} and stopped observing: {error!r}")
        finally:
            self._cost += time.perf_counter() - began

    def _stop(self, why: str) -> None:
        for handle in self._handles:
            handle.remove()
        if self._signals is not None:
            self._signals.disarm()
            self._signals = None
        self._sample = Sample.NOTHING
        self._observed = None
        self._pending.clear()
        self._watcher.fault(why, self._step)

    def _signals_failed(self, error: Exception) -> None:
        """A hook raised: go on with parameters only."""
        if self._signals is not None:
            self._signals.disarm()
            self._signals = None
            why = f"a signal hook failed at step {self._step}, parameters only from here: {error!r}"
            self._watcher.fault(why, self._step)


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


def _closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether `optimizer.step(closure)` was called: then gradients are computed inside the step."""
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    return closure is not None


def _is_event(previous: Snapshot, snapshot: Snapshot) -> bool:
    """Whether a gradient has just turned exactly zero, or the loss has jumped."""
    rows = len(previous.layers)
    turned_zero = (snapshot.grad_norm[:rows] == 0) & (previous.grad_norm > 0)
    return bool(turned_zero.any()) or snapshot.loss > SPIKE_FACTOR * abs(previous.loss)


def _finite_or_inf(loss: float) -> float:
    return loss if np.isfinite(loss) else float("inf")
