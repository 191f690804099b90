"""Optimizers: which ones train the model, and when a step is complete."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

from torch.optim import Optimizer

from gradwatch.errors import ArgumentError
from gradwatch.torch.rows import Rows


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
        self._accepted: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        self._stepped: set[int] = set()
        self._expected: frozenset[int] = frozenset()
        for optimizer in _listed(given):
            if not self._trains(optimizer):
                raise ArgumentError(
                    f"optimizer {type(optimizer).__name__} holds none of the model's parameters: "
                    "pass the one that trains this model, or None to have it found"
                )
            self._accepted[optimizer] = len(optimizer.param_groups)

    def accepts(self, optimizer: Optimizer) -> bool:
        """Whether this optimizer trains the model."""
        groups = self._accepted.get(optimizer)
        if not self._any:
            return groups is not None
        if groups is None or abs(groups) != len(optimizer.param_groups):
            sign = 1 if self._trains(optimizer) else -1
            groups = self._accepted[optimizer] = sign * len(optimizer.param_groups)
        return groups > 0

    def has_stepped(self, optimizer: Optimizer) -> bool:
        """Whether it has stepped since the last `close`."""
        return id(optimizer) in self._stepped

    def step(self, optimizer: Optimizer) -> bool:
        """Note its step; the answer is whether every optimizer of this step has now stepped.

        Known from the step before; at the first, if the parameters are all stepped.
        """
        self._stepped.add(id(optimizer))
        if self._expected:
            return self._stepped >= self._expected
        return self._all_parameters_stepped()

    def close(self) -> None:
        """End of the step."""
        self._expected = frozenset(self._stepped)
        self._stepped.clear()

    def _all_parameters_stepped(self) -> bool:
        stepped = {
            id(parameter)
            for optimizer in self._accepted
            if id(optimizer) in self._stepped
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        return all(
            id(parameter) in stepped
            for row in self._rows
            for parameter in row.parameters()
            if parameter.requires_grad
        )

    def _trains(self, optimizer: Optimizer) -> bool:
        model = {id(parameter) for row in self._rows for parameter in row.parameters()}
        return any(
            id(parameter) in model
            for group in optimizer.param_groups
            for parameter in group["params"]
        )


def _listed(given: Optimizer | Sequence[Optimizer] | None) -> list[Optimizer]:
    if given is None:
        return []
    candidates: list[object] = list(given) if isinstance(given, list | tuple) else [given]
    optimizers = [candidate for candidate in candidates if isinstance(candidate, Optimizer)]
    for candidate in candidates:
        if not isinstance(candidate, Optimizer):
            raise ArgumentError(
                f"optimizer is a {type(candidate).__name__}, not a torch.optim.Optimizer; "
                "unwrap it (often its attribute `optimizer`), or pass None to have it found"
            )
    return optimizers
