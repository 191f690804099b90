"""GradWatch: the callback, and the arguments it takes."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import keras

from gradwatch.console import ConsoleSink
from gradwatch.errors import ArgumentError
from gradwatch.finding import Finding
from gradwatch.history import History
from gradwatch.keras.attaching import (
    AfterFirstStep,
    attach,
    attachment_of,
    is_ready,
    withdraw,
)
from gradwatch.keras.attachment import Attachment
from gradwatch.keras.limits import limits_of
from gradwatch.keras.optimizers import accumulation_of, leaves
from gradwatch.keras.session import Session
from gradwatch.report import Report
from gradwatch.rules import Rule, select
from gradwatch.schedule import EARLY_STEPS, Schedule
from gradwatch.sinks import make_sinks
from gradwatch.watcher import Sink, Watcher

PROBE_STEPS = frozenset({4, 16, 24, 32, 48, 64, 96, 128})
"""Early steps at which the probe runs: a pass of its own, so fewer than for the parameters."""

SHORT_RUN = 128
"""Trainings of fewer steps are probed at every early step, or they would get no verdict."""


class GradWatch(keras.callbacks.Callback):  # type: ignore[misc] # Keras ships no types
    """Says which layers do not learn while `fit` trains, why, and what to change.

    ```python
    callback = gradwatch.keras.GradWatch("runs/a")
    model.fit(x, y, callbacks=[callback])
    callback.report()
    ```

    Gradients, weights and updates are those of the training itself, computed inside the compiled
    step. Forward and backward signals come from a probe: a pass of its own on up to 64 examples, at
    few steps, of which no variable or random seed of the model takes notice. The training goes on
    as without the callback: bit by bit on JAX and PyTorch; on TensorFlow too, but for the last bit,
    which its graph optimizer may round the other way where a gradient has a second reader.

    Args:
        log_dir: Where TensorBoard events go, into the directory `name` below it; None for none. The
            directory of `keras.callbacks.TensorBoard` is fine.
        name: Name of that directory, "gradwatch" by default.
        update_freq: "auto" (dense in the first 128 steps, then sparse), "epoch" (the first step of
            each epoch), "batch" (every step), or an interval in optimizer steps. All but "auto" are
            kept exactly and ignore the budget.
        budget: Largest share of the training time that gradwatch may take after step 128, in
            (0, 1]; None for no limit.
        probe: (x, y) or (x, y, sample_weight): a batch for the probe, in the form in which `fit`
            takes it; None for the first examples of the first batch that is trained on.
        rules: Codes to report, or `Rule` objects to use in place of the built-in ones of the same
            code; None for all.
        on_finding: Called with every finding that opens or reopens.
        verbose: 0 for silence, 1 for a line when a finding opens or is resolved, written between
            epochs, and one at the end of training.

    Raises:
        ArgumentError: If an argument cannot be used; the message says what to do.
        MissingExtraError: If `log_dir` is given and TensorBoard is not installed.
    """

    def __init__(
        self,
        log_dir: str | Path | None = None,
        *,
        name: str | None = None,
        update_freq: int | Literal["auto", "epoch", "batch"] = "auto",
        budget: float | None = 0.01,
        probe: tuple[Any, ...] | None = None,
        rules: Sequence[str | Rule] | None = None,
        on_finding: Callable[[Finding], None] | None = None,
        verbose: int = 1,
    ) -> None:
        super().__init__()
        self._every, self._by_epoch = _interval(update_freq)
        self._budget = budget
        self._batch = _checked_probe(probe)
        self._sinks = partial(
            make_sinks, log_dir, name=name, verbose=verbose, framework="keras", held=True
        )
        self._selection = select(rules)
        self._on_finding = on_finding
        self._begin()
        self._watched: weakref.ref[Any] | None = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Findings, oldest first, resolved ones included."""
        return self._watcher.findings

    @property
    def history(self) -> History:
        """Snapshots of the observed steps, oldest first; `history[-1].grad_rms` and the like."""
        return self._watcher.history

    @property
    def skipped_steps(self) -> int:
        """Steps that the loss scaling of mixed precision has skipped, up to the last sample."""
        return self._session.skipped_steps

    def report(self) -> Report:
        """The verdict so far: print it, or leave it as the last line of a notebook cell."""
        return Report(
            findings=self.findings,
            history=self.history,
            overhead=self._schedule.overhead,
            framework="keras",
        )

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Begin to watch; a second training of the same model goes on with the same history."""
        model = self.model
        if self._watched is None:
            self._schedule.signal_steps = self._probe_steps()
        elif self._watched() is not model:
            self._begin_anew()
        elif self._session.is_finished:
            self._watcher.resume(self._reopened_sinks())
        self._watched = weakref.ref(model)
        for sentence in limits_of(model):
            self._session.leave_out_signals(sentence)
        self._attach(model)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write what was held, which now stands between two progress bars."""
        self._release()
        if self._session.is_attached and attachment_of(self.model) is not self._session.attachment:
            self._attach(self.model)  # a callback has compiled the model, or made its step anew
        try:
            self._count_steps(self.model.optimizer)
        except Exception as error:  # noqa: BLE001 -- promise 2: a fault never breaks a run
            self._session.fault(error)
        self._session.expect(self.params.get("steps"))
        if self._by_epoch:
            self._session.observe_next()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Judge all that the epoch has shown."""
        self._session.pause()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leave the model as it was, judge the end, write a line, close the event file."""
        self._session.finish()
        withdraw(self.model)

    def _attach(self, model: Any) -> None:
        try:
            self._join(model)
        except Exception as error:  # noqa: BLE001 -- promise 2: a fault never breaks a run
            self._session.fault(error)

    def _join(self, model: Any) -> None:
        """Join the callbacks that watch this training, or be the first."""
        self._session.detach()
        attachment = attachment_of(model)
        if attachment is not None and not self._is_of_this_training(attachment):
            attachment.abandon()
            attachment = None
        if attachment is None and not is_ready(model):
            AfterFirstStep(model, self._attach).install()
            return
        attachment = attachment or attach(model, self._session.attachment)
        self._session.attach(attachment, accumulation=accumulation_of(model.optimizer))
        attachment.training = self.params
        self._count_steps(model.optimizer)

    def _count_steps(self, optimizer: Any) -> None:
        """Learn how many steps the optimizer has made, where it can tell."""
        if optimizer is not None and optimizer.built:
            micro_steps = int(keras.ops.convert_to_numpy(leaves(optimizer)[0]._iterations))
            self._session.begin_epoch(micro_steps // accumulation_of(optimizer), micro_steps)

    def _is_of_this_training(self, attachment: Attachment) -> bool:
        """Whether it was made in this call of `fit`, which hands all callbacks one dictionary.

        One that a training has left that raised is not.
        """
        return attachment.training is self.params

    def _probe_steps(self) -> frozenset[int]:
        """The early steps at which the probe runs, for a training of this length."""
        epochs, steps = (self.params.get(name) for name in ("epochs", "steps"))
        return EARLY_STEPS if epochs and steps and epochs * steps < SHORT_RUN else PROBE_STEPS

    def _begin_anew(self) -> None:
        """Watch another model: with a history of its own."""
        if not self._session.is_finished:
            self._session.finish()
        self._begin()
        self._schedule.signal_steps = self._probe_steps()

    def _begin(self) -> None:
        self._schedule = Schedule(self._every, self._budget, signal_steps=PROBE_STEPS)
        self._watcher = Watcher(
            self._selection.rules,
            report_only=self._selection.report_only,
            on_finding=self._on_finding,
            sinks=self._open_sinks(),
        )
        self._session = Session(self._watcher, self._schedule, self._batch)

    def _open_sinks(self) -> list[Sink]:
        opened = list(self._sinks(schedule=self._schedule))
        self._consoles = [sink for sink in opened if isinstance(sink, ConsoleSink)]
        return opened

    def _reopened_sinks(self) -> list[Sink]:
        """A new event file, and the consoles that know what they have told."""
        told = self._consoles
        files = [sink for sink in self._open_sinks() if not isinstance(sink, ConsoleSink)]
        self._consoles = told
        return [*files, *told]

    def _release(self) -> None:
        for console in self._consoles:
            console.release()


def _interval(update_freq: Any) -> tuple[int | Literal["auto"], bool]:
    """(interval of the schedule, whether every epoch's first step is observed and no other)."""
    if update_freq == "batch":
        return 1, False
    if update_freq == "epoch":
        return sys.maxsize, True
    if update_freq == "auto":
        return "auto", False
    is_whole = isinstance(update_freq, Integral) and not isinstance(update_freq, bool)
    if is_whole and int(update_freq) >= 1:
        return int(update_freq), False
    raise ArgumentError(
        f'update_freq={update_freq!r} is none of "auto", "epoch", "batch" and a whole number of '
        "steps from 1 on"
    )


def _checked_probe(probe: object) -> tuple[Any, Any, Any] | None:
    if probe is None:
        return None
    if not isinstance(probe, tuple | list) or not 1 <= len(probe) <= 3:
        raise ArgumentError(
            f"probe is a {type(probe).__name__}; pass a batch as (x, y) or (x, y, sample_weight), "
            "or None for the first batch that is trained on"
        )
    x, y, weight = (*probe, None, None)[:3]
    lengths = {len(leaf) for leaf in keras.tree.flatten((x, y, weight)) if hasattr(leaf, "__len__")}
    if len(lengths) > 1:
        raise ArgumentError(
            f"probe: its arrays hold {sorted(lengths)} examples; pass one batch, of the same "
            "examples in each"
        )
    return x, y, weight
