r"""A NaN or an infinity appeared.

## What it means

A gradient, a weight, a signal or the loss is not finite. If the step at which that began was
observed, the finding names the first layer and the side, forward or backward. Otherwise it names
the interval of steps and the layer whose gradient grew fastest before it.

## Why it matters

NaN spreads to every weight with the next optimizer step, and from there nothing recovers.

## How it is measured

By norms that are not finite, in the first such sample:

- forward: the first layer in forward order whose output is not finite;
- backward: the layer nearest the outputs whose backward signal is not finite;
- otherwise: the layers with a gradient or a weight that is not finite, or the loss alone.

It counts at once. Steps that a gradient scaler skipped do not count: overflow is how it finds its
scale.

## Causes

The first of these that fits. It is a guess from what was seen before.

- `inputs` (error): what a first layer reads is not finite, or its rms was above 30.
- `learning rate` (error): a step of the run moved a layer by more than 0.3 of its size.
- `loss` (error): every output is finite and the loss is not.
- `precision` (error): a layer computes in float16.
- `weights` (error): none of these; a weight or an operation in the net itself.

## Example

The logarithm of zero in a loss, a learning rate far too large, float16 without a scaler.

## Fixes

Find the operation first: run again with `every=1` and anomaly detection on the step that fails. For
`inputs`: clean and standardise them. For `learning rate`: a smaller one, clipping. For
`precision`: a gradient scaler, bfloat16. For `loss` and `weights`: clipping, once the operation is
known.

## When it is wrong

Never about the number; the cause may be.

## References

- Micikevicius et al. 2018, Mixed precision training.
- IEEE 754, Standard for floating-point arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gradwatch import flow
from gradwatch.finding import Cause, Fix
from gradwatch.fixes.clipping import clip_gradients
from gradwatch.fixes.inputs import standardise_inputs
from gradwatch.fixes.learning_rate import lower_learning_rate
from gradwatch.fixes.loss_scale import bfloat16, gradient_scaler
from gradwatch.fixes.wiring import find_first_nonfinite
from gradwatch.history import History, Window
from gradwatch.layer import Layer
from gradwatch.rules.base import Deferred, Diagnosis, Rule, large_inputs, threshold
from gradwatch.samples import Flags, Samples
from gradwatch.snapshot import Snapshot

_WHERE = {
    "forward": "on the forward side, first in {layers}",
    "backward": "on the backward side, first in {layers}",
    "gradient": "in the gradients of {layers}",
    "loss": "in the loss alone, which reads {layers}",
}


@dataclass(frozen=True)
class NonFiniteValue(Rule):
    """A value is NaN or infinite.

    Args:
        half: Smallest value of a number format above which the format counts as float16.
        large_update: Update ratio in the run above which the learning rate is to blame.
        large_input: Rms of the network's inputs above which they are to blame.
    """

    code = "GW302"
    name = "non-finite-value"
    needs = "parameters"
    size = 1
    persistence = 1
    warm_up = 0

    half: float = threshold(-10.0, unit="log10", source="IEEE 754, as GW103")
    large_update: float = threshold(
        0.3, unit="1", source="calibration: healthy nets move a layer by less than a tenth a step"
    )
    large_input: float = threshold(30.0, unit="x", source="calibration, as GW204")

    def check(self, window: Window) -> Iterable[Diagnosis]:
        onset = window.history.onset
        if onset is None or window.snapshots[-1].is_finite:
            return
        before = window.history.last_finite[-1] if window.history.last_finite else None
        rows, side = _first(onset)
        seen_begin = before is None or before.step == onset.step - 1
        if not seen_begin:
            rows = _fastest_grower(window.history.last_finite) or rows
        cause = self._cause(window.history, onset)
        layers = [onset.layers[row] for row in rows]
        inputs = self._bad_inputs(window.history, onset)
        yield Diagnosis(
            cause=cause,
            rows=rows,
            severity="error",
            message=_message(onset, before, side, seen_begin=seen_begin),
            evidence={
                "first_nonfinite_step": float(onset.step),
                "last_finite_step": float("nan" if before is None else before.step),
                "nonfinite_tensors": float(np.nansum(onset.nonfinite_count)),
            },
            fixes=Deferred(lambda: _fixes(cause, layers, inputs)),
            covers=frozenset(range(len(window.layers))),
        )

    def suspects(self, samples: Samples) -> Flags:
        return ~samples.is_finite

    def _bad_inputs(self, history: History, onset: Snapshot) -> dict[Layer, float]:
        """First layers that read what is not finite, else those that read what is large: rms."""
        infinite = large_inputs(onset, float(np.finfo(np.float32).max))
        found = infinite or large_inputs(history.first_signals, self.large_input)
        return {onset.layers[row]: rms for row, rms in found.items()}

    def _cause(self, history: History, onset: Snapshot) -> Cause:
        if self._bad_inputs(history, onset):
            return "inputs"
        if history.largest_update_ratio > self.large_update:
            return "learning rate"
        outputs = onset.output_rms[~np.isnan(onset.output_rms)]
        if np.isinf(onset.loss) and onset.has_signals and np.isfinite(outputs).all():
            return "loss"
        if (onset.tiny_log10 > self.half).any():
            return "precision"
        return "weights"


def _first(onset: Snapshot) -> tuple[tuple[int, ...], str]:
    """(the first layer, the side as in `_WHERE`) of a sample."""
    order = flow.forward_order(onset.layers)
    forward = [row for row in order if np.isinf(onset.output_rms[row])]
    if forward:
        return (forward[0],), "forward"
    backward = [row for row in order if np.isinf(onset.output_grad_norm[row])]
    if backward:
        return (backward[-1],), "backward"
    gradients = tuple(row for row in order if onset.nonfinite_count[row] > 0)
    if gradients:
        return gradients, "gradient"
    return tuple(row for row in order if not flow.consumers(onset.layers)[row]), "loss"


def _fastest_grower(finite: tuple[Snapshot, ...]) -> tuple[int, ...]:
    """The layer whose gradient grew most between the two finite samples before the onset."""
    if len(finite) < 2:
        return ()
    earlier, later = finite
    rows = len(earlier.layers)
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = np.log10(later.grad_norm[:rows]) - np.log10(earlier.grad_norm)
    known = np.where(np.isfinite(growth), growth, -np.inf)
    return (int(known.argmax()),) if np.isfinite(known).any() else ()


def _message(onset: Snapshot, before: Snapshot | None, side: str, *, seen_begin: bool) -> str:
    if before is None:
        return f"NaN or infinity from the first sample on (step {onset.step}), {_WHERE[side]}."
    if seen_begin:
        return f"NaN or infinity began at step {onset.step}, {_WHERE[side]}."
    return (
        f"NaN or infinity began between steps {before.step} and {onset.step}; {{layers}} grew "
        "fastest before it. Run with every=1 from there to see the first layer."
    )


def _fixes(cause: Cause, layers: list[Layer], inputs: dict[Layer, float]) -> tuple[Fix, ...]:
    find = find_first_nonfinite(layers)
    if cause == "inputs":
        return (find, standardise_inputs(list(inputs), input_rms=max(inputs.values())))
    if cause == "precision":
        return (gradient_scaler(layers), bfloat16(layers), find)
    if cause == "learning rate":
        return (lower_learning_rate(layers, factor=0.1), clip_gradients(layers), find)
    return (find, clip_gradients(layers))
