"""History: a bounded window of snapshots, and the queries that rules ask."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from gradwatch.layer import Layer
from gradwatch.medians import nan_median
from gradwatch.snapshot import STATISTICS, FloatArray, Needs, Snapshot, State

WARM_UP_SAMPLES = 3
"""Samples that windows leave out: at steps 0 to 2 a healthy net can look sick (7 false alarms)."""

EARLY_SAMPLES = 8
"""Samples with signals at the start of the run that are kept to the end of it."""

MOST_WINDOWS = 8
"""Windows that keep their medians: rules of several sizes ask for the last two each."""

SPIKE_FACTOR = 3.0
"""A loss so many times the one sampled before makes the next steps samples."""


class _Sample(NamedTuple):
    """A snapshot, its number in the run, and whether it has signals, asked for only once."""

    number: int
    snapshot: Snapshot
    has_signals: bool


class History(Sequence[Snapshot]):
    """Snapshots, oldest first; the oldest are dropped beyond `maxlen`.

    Args:
        maxlen: Most snapshots kept.
    """

    def __init__(self, maxlen: int = 256) -> None:
        self._samples: deque[_Sample] = deque(maxlen=maxlen)
        self._appended = 0
        self.first_step = 0
        """Step of the first snapshot."""
        self.first_loss = float("nan")
        """Loss of the first snapshot that had one, NaN before."""
        self._early: list[Snapshot] = []
        self._windows: dict[tuple[Snapshot, ...], Window] = {}
        self.onset: Snapshot | None = None
        """First sample of the present run of non-finite ones, None while the newest is finite."""
        self.last_finite: tuple[Snapshot, ...] = ()
        """The last two finite samples, fewer before there are two."""
        self.last_finite_signals: Snapshot | None = None
        """The last finite sample with signals."""
        self.largest_update_ratio = float("nan")
        """Largest update ratio of any layer in the whole run, NaN before the first."""
        self.limits: tuple[str, ...] = ()
        """What is not observed in this run, and why, a sentence each."""
        self.finished = False
        """Whether the run is over, so that what has not been seen by now never was."""

    def append(self, snapshot: Snapshot) -> None:
        """Add the newest snapshot."""
        has_signals = snapshot.has_signals
        self._samples.append(_Sample(self._appended, snapshot, has_signals))
        if not self._appended:
            self.first_step = snapshot.step
        self._appended += 1
        self.limits += tuple(limit for limit in snapshot.limits if limit not in self.limits)
        if np.isnan(self.first_loss):
            self.first_loss = snapshot.loss
        if len(self._early) < EARLY_SAMPLES and has_signals and not snapshot.skipped:
            self._early.append(snapshot)
        if not snapshot.skipped:
            self._note_finiteness(snapshot, signals=has_signals)
        updates = snapshot.update_ratio[np.isfinite(snapshot.update_ratio)]
        if updates.size and not snapshot.skipped:
            self.largest_update_ratio = float(np.fmax(self.largest_update_ratio, updates.max()))

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Snapshot]:
        return (sample.snapshot for sample in self._samples)

    @overload
    def __getitem__(self, index: int) -> Snapshot: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Snapshot]: ...
    def __getitem__(self, index: int | slice) -> Snapshot | Sequence[Snapshot]:
        if isinstance(index, slice):
            return [sample.snapshot for sample in list(self._samples)[index]]
        return self._samples[index].snapshot

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The rows of the newest snapshot, empty before the first."""
        return self[-1].layers if self._samples else ()

    def _note_finiteness(self, snapshot: Snapshot, *, signals: bool) -> None:
        if not snapshot.is_finite:
            self.onset = self.onset or snapshot
            return
        self.onset = None
        self.last_finite = (*self.last_finite[-1:], snapshot)
        if signals:
            self.last_finite_signals = snapshot

    @property
    def early_samples(self) -> tuple[Snapshot, ...]:
        """The first samples with signals, however long the run."""
        return tuple(self._early)

    @property
    def first_signals(self) -> Snapshot | None:
        """The first snapshot with signals."""
        return self._early[0] if self._early else None

    @property
    def early(self) -> Window | None:
        """The first samples with signals that a window may hold, None before there are any."""
        settled = self._early[WARM_UP_SAMPLES:]
        return self._window(tuple(settled)) if settled else None

    def windows(self, needs: Needs, *, size: int, count: int, warm_up: int) -> list[Window]:
        """The last `count` windows of `size` fitting samples each, newest first.

        Consecutive windows are one sample apart. Steps that the optimizer skipped are left out.

        Args:
            needs: "signals" for samples with signals only, "parameters" for all.
            size: Samples in a window.
            count: Windows wanted.
            warm_up: Samples at the start of the run that no window may hold.

        Returns:
            Fewer than `count` windows, or none, while there are too few samples.
        """
        wanted = size + count - 1
        fitting = (
            sample.snapshot
            for sample in reversed(self._samples)
            if sample.number >= warm_up
            and not sample.snapshot.skipped
            and (needs == "parameters" or sample.has_signals)
        )
        newest_first = list(islice(fitting, wanted))
        return [
            self._window(tuple(reversed(newest_first[start : start + size])))
            for start in range(len(newest_first) - size + 1)
        ]

    def _window(self, snapshots: tuple[Snapshot, ...]) -> Window:
        """The window of these samples, the same object each time: it keeps its medians."""
        window = self._windows.pop(snapshots, None) or Window(snapshots, self)
        self._windows[snapshots] = window
        while len(self._windows) > MOST_WINDOWS:
            del self._windows[next(iter(self._windows))]
        return window


@dataclass(frozen=True)
class Window:
    """Consecutive fitting samples that a rule judges together, oldest first.

    Args:
        snapshots: The samples.
        history: The history they come from, for queries that reach further back.
    """

    snapshots: tuple[Snapshot, ...]
    history: History

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The rows of the newest sample: those that every array here has."""
        return self.snapshots[-1].layers

    @property
    def step(self) -> int:
        """Step of the newest sample."""
        return self.snapshots[-1].step

    @property
    def loss(self) -> float:
        """Median loss, NaN where none was observed."""
        return self.median_of(lambda snapshot: snapshot.loss)

    def median_of(self, figure: Callable[[Snapshot], float]) -> float:
        """Median over the samples of a figure of the whole network, NaN where none observed it."""
        known = sorted(
            value
            for value in (float(figure(snapshot)) for snapshot in self.snapshots)
            if not math.isnan(value)
        )
        if not known:
            return float("nan")
        lower, upper = known[(len(known) - 1) // 2], known[len(known) // 2]
        return float(np.float32(lower if lower == upper else lower / 2 + upper / 2))

    def median(self, statistic: Callable[[Snapshot], FloatArray]) -> FloatArray:
        """Median of a statistic over the samples that observed it.

        Args:
            statistic: Snapshot → array of shape (layers,).

        Returns:
            Shape (layers,); NaN where fewer than half of the samples observed it. A median of the
            rest would say nothing of the window: an expert of a mixture that saw a few tokens in
            one sample of five looks dead there, and is not.
        """
        return nan_median(self.stacked(statistic), least=self._least)

    def stacked(self, statistic: Callable[[Snapshot], FloatArray]) -> FloatArray:
        """A statistic of every sample, shape (samples, layers), NaN for rows that came later."""
        stacked = np.full((len(self.snapshots), len(self.layers)), np.nan, dtype=np.float32)
        for row, snapshot in zip(stacked, self.snapshots, strict=True):
            values = statistic(snapshot)
            row[: len(values)] = values
        return stacked

    @cached_property
    def typical(self) -> Snapshot:
        """The newest sample with every statistic replaced by its `median` over the window."""
        shape = (len(self.snapshots), len(STATISTICS), len(self.layers))
        stacked = np.full(shape, np.nan, dtype=np.float32)
        for sample, snapshot in zip(stacked, self.snapshots, strict=True):
            sample[:, : len(snapshot.layers)] = snapshot.packed()
        packed = nan_median(stacked, least=self._least)
        newest = self.snapshots[-1]
        return Snapshot.unpacked(
            packed, step=newest.step, layers=newest.layers, states=newest.states, loss=self.loss
        )

    @property
    def _least(self) -> int:
        """Samples that have to observe a statistic for a median: half of them."""
        return (len(self.snapshots) + 1) // 2

    @property
    def loss_ratio(self) -> float:
        """Median loss over the first loss of the run; NaN without losses.

        Below 1 the loss falls. NaN too where a loss is not positive, for there a ratio says
        nothing.
        """
        first = self.history.first_loss
        return self.loss / first if first > 0 and self.loss > 0 else float("nan")

    def always(self, *states: State) -> NDArray[np.bool_]:
        """Rows that were in one of the states in every sample, shape (layers,)."""
        per_sample = self.stacked(lambda snapshot: snapshot.states.astype(np.float32))
        wanted = np.asarray(states, dtype=np.float32)
        return np.asarray(np.isin(per_sample, wanted).all(axis=0))

    def has_run(self) -> NDArray[np.bool_]:
        """Rows whose forward ran in every sample that observed signals, shape (layers,)."""
        calls = self.stacked(lambda snapshot: snapshot.forward_calls)
        ran = calls > 0
        return np.asarray((ran | np.isnan(calls)).all(axis=0) & ran.any(axis=0))


def is_event(previous: Snapshot, snapshot: Snapshot) -> bool:
    """Whether a gradient has just turned exactly zero, or the loss has jumped.

    Args:
        previous: The sample before, whose rows are the first of the newer one's.
        snapshot: The newer sample.
    """
    rows = len(previous.layers)
    turned_zero = (snapshot.grad_norm[:rows] == 0) & (previous.grad_norm > 0)
    return bool(turned_zero.any()) or snapshot.loss > SPIKE_FACTOR * abs(previous.loss)
