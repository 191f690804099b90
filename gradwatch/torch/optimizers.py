"""Optimizers: which ones train the model, and when a step is complete."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from gradwatch.errors import ArgumentError
from gradwatch.torch.rows import Rows


@dataclass(slots=True)
class _Known:
    """What is known of an optimizer.

    Args:
        groups: Number of its parameter groups when it was looked at.
        accepted: Whether its steps count.
        stepped: Whether it has stepped since the last close.
        expected: Whether it has stepped in an earlier step, so that it may in any.
    """

    groups: int
    accepted: bool
    stepped: bool = False
    expected: bool = False


class Optimizers:
    """The optimizers of one model. Two of them on one model make one step.

    Args:
        rows: The model's rows.
        given: The user's optimizer or optimizers; None for every one that holds a parameter of the
            model.

    Raises:
        ArgumentError: If a given optimizer is none, or holds no parameter of the model.
    """

    def __init__(self, rows: Rows, given: Optimizer | Sequence[Optimizer] | None) -> None:
        self._rows = rows
        self._any = given is None
        self._known: weakref.WeakKeyDictionary[Optimizer, _Known] = weakref.WeakKeyDictionary()
        self._model: set[int] | None = None
        self._missing: set[int] | None = None
        self._stepped: list[_Known] = []
        self._expected = self._awaited = self._counted = 0
        self.stranger: str | None = None
        """Name of an optimizer that trains the model too, but was not given."""
        for optimizer in _listed(given):
            if not self._trains(optimizer):
                raise ArgumentError(
                    f"optimizer {type(optimizer).__name__} holds none of the model's parameters: "
                    "pass the one that trains this model, or None to have it found"
                )
            self._known[optimizer] = _Known(len(optimizer.param_groups), accepted=True)

    @property
    def any_stepped(self) -> bool:
        """Whether an optimizer has stepped since the last `close`."""
        return bool(self._stepped)

    def accepts(self, optimizer: Optimizer) -> bool:
        """Whether this optimizer's steps are steps of the model."""
        known = self._known.get(optimizer)
        if known is None or known.groups != len(optimizer.param_groups):
            known = self._look_at(optimizer, known)
        return known.accepted

    def has_stepped(self, optimizer: Optimizer) -> bool:
        """Whether an accepted optimizer has stepped since the last `close`."""
        return self._known[optimizer].stepped

    def step(self, optimizer: Optimizer) -> bool:
        """Note its step; the answer is whether every optimizer of this step has now stepped.

        Those of earlier steps are waited for; the first step ends once every parameter is stepped.
        One that takes turns may not come: then the step ends when another steps again.
        """
        known = self._known[optimizer]
        known.stepped = True
        self._stepped.append(known)
        if self._awaited:
            self._awaited -= known.expected
            return not self._awaited
        if self._missing is None:
            self._missing = self._trainable()
        self._missing.difference_update(map(id, _parameters(optimizer)))
        return not self._missing

    def close(self) -> None:
        """End of the step."""
        self._model = self._missing = None
        for known in self._stepped:
            known.stepped = False
            if not known.expected:
                known.expected, self._counted = True, -1
        self._stepped.clear()
        if self._counted != len(self._known):  # one is new, or was deleted by the user
            self._counted = len(self._known)
            self._expected = sum(known.expected for known in self._known.values())
        self._awaited = self._expected

    def _look_at(self, optimizer: Optimizer, known: _Known | None) -> _Known:
        groups = len(optimizer.param_groups)
        trains = self._trains(optimizer)
        if known is None:
            known = self._known[optimizer] = _Known(groups, accepted=False)
        known.groups = groups
        if self._any:
            known.accepted = trains
        elif trains and not known.accepted:
            self.stranger = type(optimizer).__name__
        return known

    def _trains(self, optimizer: Optimizer) -> bool:
        if self._model is None:
            self._rows.refresh()
            self._model = {id(entry) for row in self._rows for entry in row.every_parameter()}
        return any(id(parameter) in self._model for parameter in _parameters(optimizer))

    def _trainable(self) -> set[int]:
        return {
            id(parameter)
            for row in self._rows
            for parameter in row.parameters()
            if parameter.requires_grad
        }


def _parameters(optimizer: Optimizer) -> Iterator[Any]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _listed(given: object) -> list[Optimizer]:
    if given is None:
        return []
    candidates: list[object] = list(given) if isinstance(given, list | tuple) else [given]
    if not candidates:
        raise ArgumentError(
            "optimizer is an empty list: pass those that train the model, or None to have them "
            "found"
        )
    return [_hooked(candidate) for candidate in candidates]


def _hooked(candidate: object) -> Optimizer:
    """The optimizer whose `step` calls PyTorch's hooks: it, or the one that it wraps."""
    if isinstance(candidate, Optimizer) and getattr(type(candidate).step, "hooked", False):
        return candidate
    inner = getattr(candidate, "optimizer", None)
    if isinstance(candidate, Optimizer) and isinstance(inner, Optimizer):
        return _hooked(inner)
    raise ArgumentError(
        f"optimizer is a {type(candidate).__name__}, which is no torch.optim.Optimizer, or wraps "
        "one; unwrap it (often its attribute `optimizer`), or pass None to have it found"
    )
