"""Step hooks: the two optimizer hooks that a watch hangs on, the only ones between samples."""

from __future__ import annotations

import sys
import threading
import time
from types import CodeType, FrameType
from typing import Any, Protocol

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

_STEP_CODE = next(
    (
        constant
        for constant in Optimizer.profile_hook_step.__code__.co_consts
        if isinstance(constant, CodeType)
    ),
    None,
)
"""Code of the wrapper that calls the hooks around every optimizer's `step`."""


class StepObserver(Protocol):
    """What is told of the steps of the optimizers."""

    def concerns(self, optimizer: Optimizer) -> bool:
        """Whether it wants to be told of this optimizer's steps."""

    def before_step(self, optimizer: Optimizer, *, closure: bool) -> None:
        """Before a step; `closure` says that gradients are computed inside it."""

    def after_step(self, optimizer: Optimizer, *, closure: bool) -> None:
        """After a step."""

    def abandon_step(self) -> None:
        """The step that was begun raised an exception, so it never ended."""

    def on_fault(self, error: Exception) -> None:
        """One of these methods raised; the training must not notice."""


class StepHooks:
    """Tells an observer of every step, once where an optimizer steps inside another's step.

    Args:
        observer: Is told; what it raises is handed back to it, never to the training.
    """

    def __init__(self, observer: StepObserver) -> None:
        self._observer: StepObserver | None = observer
        self._depth = 0
        self._thread = 0
        self._mark = 0.0
        self.seconds = 0.0
        """Seconds spent in the observer since the last `take_seconds`."""
        # A compiled step must not take the observing into its graph.
        uncompiled: Any = torch.compiler.disable
        self._handles: list[Any] = [
            register_optimizer_step_pre_hook(uncompiled(self._before)),
            register_optimizer_step_post_hook(uncompiled(self._after)),
        ]

    def remove(self) -> None:
        """Remove the hooks.

        PyTorch iterates over them while an optimizer steps, and would raise if they went then; so
        from inside a step they do nothing more and go before the next forward pass.
        """
        self._observer = None
        if _steps_around():
            self._handles.append(register_module_forward_pre_hook(self._drop))
        else:
            self._drop()

    def take_seconds(self) -> float:
        """Seconds spent in the observer since the last call, those of this very step included."""
        if self._mark:
            now = time.perf_counter()
            self.seconds += now - self._mark
            self._mark = now
        seconds, self.seconds = self.seconds, 0.0
        return seconds

    def _drop(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        observer = self._observer
        if observer is None or self._is_inside():
            return
        self._mark = time.perf_counter()
        try:
            if observer.concerns(optimizer):
                self._depth, self._thread = 1, threading.get_ident()
                observer.before_step(optimizer, closure=_has_closure(args, kwargs))
        except Exception as error:  # noqa: BLE001 -- promise 2: no fault reaches the training
            observer.on_fault(error)
        finally:
            self._stop_clock()

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        observer = self._observer
        if observer is None or not self._depth or threading.get_ident() != self._thread:
            return
        self._depth -= 1
        if self._depth:
            return
        self._mark = time.perf_counter()
        try:
            observer.after_step(optimizer, closure=_has_closure(args, kwargs))
        except Exception as error:  # noqa: BLE001 -- promise 2: no fault reaches the training
            observer.on_fault(error)
        finally:
            self._stop_clock()

    def _is_inside(self) -> bool:
        """Whether this step is part of a step that the observer knows of."""
        if not self._depth or threading.get_ident() != self._thread:
            return False
        if _steps_around() > 1:
            self._depth += 1
            return True
        self._depth = 0
        if self._observer is not None:
            self._observer.abandon_step()
        return False

    def _stop_clock(self) -> None:
        self.seconds += time.perf_counter() - self._mark
        self._mark = 0.0


def _has_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return callable(kwargs.get("closure", args[1] if len(args) > 1 else None))


def _steps_around() -> int:
    """How many optimizers' steps the present call lies in."""
    count = 0
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        count += frame.f_code is _STEP_CODE
        frame = frame.f_back
    return count
