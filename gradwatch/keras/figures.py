"""Figures: what is computed of the variables inside the compiled training step.

Everything here is traced by the backend, so it is made of `keras.ops` and knows no values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops
from numpy.typing import NDArray

from gradwatch.keras.optimizers import decay_shares, is_update_step, loss_scale_of, used_gradients
from gradwatch.keras.samples import sample_of_gradient, sample_of_variable, slices_of
from gradwatch.keras.tensor_norms import Stretches, norm, norms
from gradwatch.sampling import SAMPLE_ELEMENTS, sampling_stride

COLUMNS = ("grad_norm", "weight_norm", "before_norm", "rest_norm", "shrink")
"""Figures of each variable, of the last observed step: norm of its gradient, its own before the
step, that of its sample, that of what the step did to the sample beside weight decay, and the share
that weight decay took off. NaN was not observed, +inf is not finite; without any gradient its norm
means nothing."""

COUNTS = ("observed", "skipped", "nonfinite", "peak_norm", "steps")
"""Figures of the whole since the last observed step: how many steps were observed, skipped by the
loss scaling, had a non-finite watched gradient, the largest norm of its sample, steps in all."""


class Watched(NamedTuple):
    """A variable that an optimizer may change.

    Args:
        variable: The variable.
        row: Row of its layer.
        stride: Every how many elements of it are sampled for its update.
    """

    variable: Any
    row: int
    stride: int

    @property
    def size(self) -> int:
        """Its elements."""
        return math.prod(self.variable.shape)

    @property
    def sampled(self) -> int:
        """Elements of the sample."""
        return -(-self.size // self.stride)


class Layout:
    """Where each figure stands in the carrier, a vector of float32.

    Args:
        variables: The variables that train, and the row of each.
    """

    def __init__(self, variables: Sequence[tuple[Any, int]]) -> None:
        self.watched = tuple(
            Watched(variable, row, sampling_stride(math.prod(variable.shape), SAMPLE_ELEMENTS))
            for variable, row in variables
            if math.prod(variable.shape)
        )
        self._place_of = {id(entry.variable): place for place, entry in enumerate(self.watched)}
        self.without_gradient: set[int] = set()
        """Places for which the last trace had no gradient at all."""
        self.applied: set[int] = set()
        """Places that an optimizer was seen to be given."""
        self.sentinel = min(
            range(len(self.watched)), key=lambda place: self.watched[place].size, default=-1
        )
        """Place of the smallest variable: its gradient is looked at in every step."""

    @property
    def length(self) -> int:
        """Figures in the carrier."""
        return len(COUNTS) + len(COLUMNS) * len(self.watched)

    def empty(self) -> NDArray[np.float32]:
        """The carrier before anything was observed."""
        carrier = np.full(self.length, np.nan, dtype=np.float32)
        carrier[: len(COUNTS)] = 0.0
        return carrier

    def counts(self, carrier: NDArray[np.floating[Any]]) -> dict[str, float]:
        """Figures of the whole by name."""
        return dict(zip(COUNTS, carrier[: len(COUNTS)].tolist(), strict=True))

    def columns(self, carrier: NDArray[np.floating[Any]]) -> dict[str, NDArray[np.float64]]:
        """Figures of the variables by name, each of shape (variables,)."""
        table = carrier[len(COUNTS) :].reshape(len(self.watched), len(COLUMNS)).astype(np.float64)
        return dict(zip(COLUMNS, table.T, strict=True))

    def places(self, variables: Sequence[Any]) -> list[int]:
        """Place of each variable, -1 for one that is not watched."""
        return [self._place_of.get(id(variable), -1) for variable in variables]


class StepFigures:
    """Traces the figures of one call of an optimizer's `apply`.

    Args:
        layout: Where they go.
        optimizer: The outermost optimizer.
        carrier: The figures up to now, shape (layout.length,).
        wanted: Whether this step is to be observed, a boolean tensor.
    """

    def __init__(
        self,
        layout: Layout,
        optimizer: Any,
        carrier: Any,
        wanted: Any,
    ) -> None:
        self._layout = layout
        self._optimizer = optimizer
        self._carrier = carrier
        self._wanted = wanted
        self._places: list[int] = []
        self._variables: list[Any] = []
        self._scattered: set[int] = set()
        """Places whose gradients are slices."""
        self._before: Any = None
        self._sampled: Any = None
        """Copies of the samples before the step, one after the other, shape (elements,)."""
        self._scale: Any = None

    def before(self, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
        """Read gradients and weights; call it before `apply`."""
        known = [
            (place, gradient, variable)
            for place, gradient, variable in zip(
                self._layout.places(variables), gradients, variables, strict=True
            )
            if place >= 0
        ]
        self._places = [place for place, _, _ in known]
        self._variables = [variable for _, _, variable in known]
        given = [gradient for _, gradient, _ in known]
        self._scattered = {place for place, gradient, _ in known if slices_of(gradient) is not None}
        self._layout.applied.update(self._places)
        for place, gradient in zip(self._places, given, strict=True):
            self._layout.without_gradient.discard(place)
            if gradient is None:
                self._layout.without_gradient.add(place)
        if not known:
            self._wanted = False
        if self._wanted is not False:
            self._wanted = ops.logical_and(self._wanted, is_update_step(self._optimizer))
        self._scale = loss_scale_of(self._optimizer)
        self._sentinel = self._sentinel_norm(given)
        # Weights that are read inside a condition are copied by XLA at every step, if it is to
        # overwrite them: their samples are small, and are taken outside.
        self._sampled = ops.concatenate(self._samples()) if self._wanted is not False else None
        self._before = self._if_wanted(lambda: self._read_before(given), self._nothing_before)

    def after(self) -> Any:
        """Read what the step has changed, and give the new carrier; call it after `apply`."""
        columns = self._if_wanted(self._read_after, self._columns)
        return ops.concatenate([self._counted(), columns])

    def _if_wanted(self, read: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
        return otherwise() if self._wanted is False else ops.cond(self._wanted, read, otherwise)

    def _read_before(self, given: list[Any]) -> Any:
        """Gradient and decay of each variable, shape (2, variables)."""
        used = used_gradients(self._optimizer, given, self._variables)
        decay = decay_shares(self._optimizer, self._variables)
        missing = np.asarray([gradient is None for gradient in used])
        unknown = ops.zeros((1,), "float32")
        sizes = norms([unknown if gradient is None else gradient for gradient in used])
        shares = ops.stack([ops.cast(share, "float32") for share in decay])
        return ops.stack([ops.where(missing, np.float32(np.nan), sizes), shares])

    def _nothing_before(self) -> Any:
        return ops.zeros((2, len(self._places)), "float32")

    def _read_after(self) -> Any:
        watched = [self._layout.watched[place] for place in self._places]
        stretches = Stretches([entry.sampled for entry in watched])
        later = ops.concatenate(self._samples())
        before, after = stretches.norms(self._sampled), stretches.norms(later)
        weight = norms([variable.value for variable in self._variables])
        grad, most = self._before[0], self._before[1]
        rest, shrink = _apart_from_decay(self._sampled, later, stretches, before, most)
        weight = _before_step(weight, before, after, watched)
        figures = ops.stack([grad, weight, before, rest, shrink], axis=1)
        figures = ops.where(ops.isfinite(figures), figures, np.float32(np.inf))
        return ops.reshape(self._placed(figures), (-1,))

    def _placed(self, figures: Any) -> Any:
        """The table of all variables with the figures of those that were given now."""
        known = len(self._layout.watched)
        rows = np.arange(known, dtype=np.int32)
        rows[self._places] = known + np.arange(len(self._places), dtype=np.int32)
        return ops.take(ops.concatenate([self._table(), figures]), rows, axis=0)

    def _samples(self) -> list[Any]:
        return [
            sample_of_variable(
                variable, self._layout.watched[place].stride, is_scattered=place in self._scattered
            )
            for place, variable in zip(self._places, self._variables, strict=True)
        ]

    def _columns(self) -> Any:
        return self._carrier[len(COUNTS) :]

    def _table(self) -> Any:
        return ops.reshape(self._columns(), (len(self._layout.watched), len(COLUMNS)))

    def _sentinel_norm(self, given: list[Any]) -> Any | None:
        """Norm of a sample of the watched gradient, unscaled; None where this call has none.

        It is taken at every step, observed or not, and serves to tell jumps of the gradient, and
        values that are not finite, from the norms of the same sample before.
        """
        if self._layout.sentinel not in self._places:
            return None
        gradient = given[self._places.index(self._layout.sentinel)]
        if gradient is None:
            return None
        watched = norm(sample_of_gradient(gradient))
        return watched if self._scale is None else watched / ops.cast(self._scale, "float32")

    def _counted(self) -> Any:
        observed, skipped, nonfinite, peak, steps = ops.unstack(
            self._carrier[: len(COUNTS)], num=len(COUNTS)
        )
        observed += ops.cast(self._wanted, "float32")
        now = loss_scale_of(self._optimizer)
        if hasattr(self._optimizer, "dynamic_scale") and self._scale is not None:
            skipped += ops.cast(now < self._scale, "float32")
        if self._sentinel is not None:
            finite = ops.isfinite(self._sentinel)
            nonfinite += 1 - ops.cast(finite, "float32")
            peak = ops.where(finite, ops.maximum(peak, self._sentinel), peak)
            steps += 1
        return ops.stack([observed, skipped, nonfinite, peak, steps])


def _before_step(weight: Any, before: Any, after: Any, watched: Sequence[Watched]) -> Any:
    """Norms of variables before the step, from those after it and those of their samples.

    Exact for a variable that is its own sample, and within the sample's error of the update for
    others; where the step has left nothing to scale, the sample alone tells.

    Args:
        weight: Norms of the variables after the step, shape (variables,), as the other two.
        before: Norms of their samples before it.
        after: Norms of their samples after it.
        watched: The variables.
    """
    known = ops.logical_and(after > 0, ops.isfinite(after))
    growths = [math.sqrt(entry.size / entry.sampled) for entry in watched]
    whole = before * ops.convert_to_tensor(growths, "float32")
    return ops.where(known, weight / ops.where(known, after, ops.ones_like(after)) * before, whole)


def _apart_from_decay(
    earlier: Any, later: Any, stretches: Stretches, before: Any, most: Any
) -> tuple[Any, Any]:
    """(norms of a step beside weight decay, shares of the weights that decay took off).

    What of the step points along -W is decay, as far as the optimizer's can explain it. The rest is
    taken element by element: from the norms alone, rounding would be larger than a small update.

    Args:
        earlier: Weights before the step, shape (elements,).
        later: Weights after it.
        stretches: The variables among the elements.
        before: Norms of the variables in `earlier`, shape (variables,).
        most: Largest shares that weight decay alone takes off, shape (variables,).
    """
    moved = later - earlier
    size = ops.where(before > 0, before, ops.ones_like(before))
    along = -stretches.sums(earlier / stretches.spread(size) * moved) / size
    shrink = ops.minimum(ops.maximum(along, 0.0), most)
    return stretches.norms(moved + stretches.spread(shrink) * earlier), shrink
