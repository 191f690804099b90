r"""Nothing was observed, so silence does not mean health.

## What it means

The watch ran, but no gradient of any layer was seen: the optimizer never stepped, or it holds none
of the model's parameters, or all of them are frozen, or no gradient was computed.

## Why it matters

A monitor that sees nothing and says nothing looks like one that finds nothing.

## How it is measured

No sample by the end of the run, or no layer with a gradient $\partial L/\partial W$ in five samples
in a row.

## Causes

- `wiring` (notice): the watch, the model and the optimizer do not belong together.

## Example

A watch on one model while another one trains; an optimizer that is no `torch.optim.Optimizer`; a
Keras model with a `train_step` of its own that never calls its optimizer.

## Fixes

Pass the model and the optimizer that train; the message says what was seen instead.

## When it is wrong

A watch that is closed before the first optimizer step.

## References

- None: this is about gradwatch itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gradwatch.history import History, Window
from gradwatch.rules.base import Diagnosis, Rule, Verdict
from gradwatch.samples import Flags, Samples
from gradwatch.snapshot import State


@dataclass(frozen=True)
class NothingObserved(Rule):
    """No gradient was ever observed."""

    code = "GW901"
    name = "nothing-observed"
    needs = "parameters"
    persistence = 1
    warm_up = 0

    def evaluate(self, history: History) -> Verdict | None:
        if len(history) or not history.finished:
            return super().evaluate(history)
        nothing = _notice(
            "no optimizer step of this model was seen. Is it the model that trains, and its "
            "optimizer, of torch.optim or keras.optimizers, the one that holds its parameters?",
            samples=0,
        )
        return Verdict((nothing,), frozenset({nothing.cause}))

    def check(self, window: Window) -> Iterable[Diagnosis]:
        seen = (State.TRAINED, State.ZERO_GRADIENT)
        if any(state in seen for snapshot in window.snapshots for state in snapshot.states):
            return
        frozen = bool(window.always(State.FROZEN).all())
        why = (
            "every layer is frozen, or in no optimizer that steps."
            if frozen
            else "the optimizer steps, but no parameter has a gradient. Is backward() called on a "
            "loss that comes from this model?"
        )
        yield _notice(why, samples=len(window.snapshots))

    def suspects(self, samples: Samples) -> Flags:
        return ~samples.any_in(State.TRAINED, State.ZERO_GRADIENT)


def _notice(why: str, *, samples: int) -> Diagnosis:
    return Diagnosis(
        cause="wiring",
        rows=(),
        severity="notice",
        message=f"Nothing was observed: {why}",
        evidence={"samples": float(samples)},
    )
