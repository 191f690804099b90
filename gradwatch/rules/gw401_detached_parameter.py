r"""A layer takes part in the forward pass, but no gradient ever reaches it.

## What it means

The layer's forward ran in every sample, its parameters ask for a gradient and an optimizer holds
them, yet the gradient is missing or exactly zero in all of them.

## Why it matters

The layer never learns, and nothing says so: the loss may still fall by what the other layers do.

## How it is measured

State *no gradient* or *zero gradient* in every sample of two windows in a row, with a forward pass
seen. It takes no threshold on sizes: $\partial L/\partial W$ is not there, or it is exactly zero.

A module that did not run (an unrouted expert, an idle head) is not meant, nor is a frozen one.
Layers that an earlier rule explains (underflow, equal weights, dead units) are left out, and so is
an exact zero behind an activation that is flat for nearly all of its values or units.

## Causes

- `wiring` (error): the graph is cut between the layer and the loss, or the loss does not use it.

## Example

`x.detach()`, `.data`, `.item()`, a NumPy round trip, `torch.no_grad()` around a part of the model,
an argmax, a head that the loss leaves out.

## Fixes

Reconnect the graph; or freeze the layer if it is not meant to learn, which also saves time.

## When it is wrong

A part that is detached on purpose, such as a momentum encoder: freeze it, or leave it out of the
optimizer.

## References

- The chain rule: a product with a factor of zero is zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradwatch import flow
from gradwatch.fixes.wiring import reconnect
from gradwatch.history import Window
from gradwatch.rules.base import Deferred, Diagnosis, Rule, threshold
from gradwatch.samples import Flags, Samples
from gradwatch.snapshot import State


@dataclass(frozen=True)
class DetachedParameter(Rule):
    """A layer runs but gets no gradient.

    Args:
        flat: Share of flat values or dead units behind a layer above which its zeros are theirs.
    """

    code = "GW401"
    name = "detached-parameter"

    flat: float = threshold(
        0.95,
        unit="1",
        source="calibration: an exact zero takes an activation that is flat all over",
    )

    def check(self, window: Window) -> Iterable[Diagnosis]:
        missing = window.always(State.NO_GRADIENT) | (
            window.always(State.ZERO_GRADIENT) & ~self._flat_behind(window)
        )
        missing &= window.has_run()
        rows = tuple(int(row) for row in np.flatnonzero(missing))
        if not rows:
            return
        signal = window.typical.output_grad_norm[list(rows)]
        reached = bool((signal == 0).any())
        yield Diagnosis(
            cause="wiring",
            rows=rows,
            severity="error",
            message=(
                "{layers} ran in every sample, but "
                + (
                    "the gradient that reached it is exactly zero."
                    if reached
                    else "no gradient ever reached it: the graph is cut behind it."
                )
            ),
            evidence={
                "layers_without_gradient": float(len(rows)),
                "samples": len(window.snapshots),
            },
            fixes=Deferred(lambda: (reconnect([window.layers[row] for row in rows]),)),
        )

    def suspects(self, samples: Samples) -> Flags:
        return samples.any_in(State.NO_GRADIENT, State.ZERO_GRADIENT)

    def _flat_behind(self, window: Window) -> NDArray[np.bool_]:
        """Rows with an activation on the way to the loss that is flat for most values or units."""
        typical = window.typical
        flat = np.fmax(typical.dead_fraction, typical.saturation_fraction) > self.flat
        sources = flow.upstream(window.layers, tuple(int(row) for row in np.flatnonzero(flat)))
        return np.isin(np.arange(len(window.layers)), list(sources))
