r"""A part of the model is not observed, or something in gradwatch failed.

## What it means

The message says what is missing, and why: a compiled or scripted model, several processes, a hook
or a rule that failed, a full disk. The rest goes on.

## Why it matters

What is not observed cannot be found sick. Silence about it would be taken for health.

## How it is measured

The adapter notes what it cannot see at set-up; faults are noted as they happen. It speaks at the
next sample.

## Causes

- `wiring` (notice): how gradwatch is connected to the model, not the model.

## Example

`torch.compile(model)`: its parameters are observed, its signals are not.

## Fixes

What the message names.

## When it is wrong

Never: it says only what gradwatch itself knows.

## References

- None: this is about gradwatch itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gradwatch.history import History, Window
from gradwatch.rules.base import Diagnosis, Rule, Verdict


@dataclass(frozen=True)
class ObservationDegraded(Rule):
    """Something is not observed."""

    code = "GW902"
    name = "observation-degraded"
    needs = "parameters"

    def evaluate(self, history: History) -> Verdict | None:
        limits = history.limits
        if not limits:
            return Verdict((), frozenset())
        diagnosis = Diagnosis(
            cause="wiring",
            rows=(),
            severity="notice",
            message="Not everything is observed: " + "; ".join(limits) + ".",
            evidence={"limits": float(len(limits))},
        )
        return Verdict((diagnosis,), frozenset({diagnosis.cause}))

    def check(self, window: Window) -> Iterable[Diagnosis]:
        return ()
