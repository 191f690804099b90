"""Snapshot: one observed optimizer step, every statistic as an array of shape (layers,)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import IntEnum
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gradwatch import flow
from gradwatch.layer import Layer

FloatArray = NDArray[np.float32]
Needs = Literal["parameters", "signals"]


class State(IntEnum):
    """What a layer's gradient was at one step; only the last two can be a finding."""

    TRAINED = 0
    FROZEN = 1
    IDLE = 2
    NO_GRADIENT = 3
    ZERO_GRADIENT = 4


@dataclass(frozen=True, slots=True)
class Statistic:
    """How one array of a `Snapshot` is to be read.

    Args:
        name: Attribute of `Snapshot`.
        unit: Unit, "1" for a ratio.
        needs: "parameters" (read at the optimizer step) or "signals" (forward and backward hooks).
        formula: LaTeX, with W weights, g = dL/dW, x a layer's input, y its output.
        meaning: What it says, in one sentence.
        source: Paper or measurement it comes from.
    """

    name: str
    unit: str
    needs: Needs
    formula: str
    meaning: str
    source: str


def _statistic(unit: str, needs: Needs, formula: str, meaning: str, source: str) -> Any:
    metadata = {"unit": unit, "needs": needs, "formula": formula, "meaning": meaning}
    return field(metadata={**metadata, "source": source})


_CHAIN_RULE = "chain rule: dE/dw = dE/dy f'(wx) x"
_GLOROT = "Glorot & Bengio 2010, section 4"


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One observed step. NaN means "not observed"; a non-finite statistic is stored as +inf.

    Args:
        step: Optimizer step, counted from the watch's `initial_step`.
        layers: The rows, in order of appearance (see `Layer.depth` for forward order).
        states: `State` of each row, shape (layers,), int8.
        loss: The loss that `observe_loss` was given, NaN without one.
        skipped: Whether the optimizer skipped the step because a scaled gradient overflowed.
        limits: What is not observed in this run, and why, a sentence each.
        wall_time: Seconds since the epoch, for the event file; no rule reads it.
    """

    step: int
    layers: tuple[Layer, ...]
    states: NDArray[np.int8]

    grad_norm: FloatArray = _statistic(
        "dL/dW",
        "parameters",
        r"\lVert g \rVert_2",
        "Gradient that the optimizer used: unscaled, averaged over ranks, after clipping.",
        _CHAIN_RULE,
    )
    weight_norm: FloatArray = _statistic(
        "W",
        "parameters",
        r"\lVert W \rVert_2",
        "Size of the layer's parameters, before the step.",
        _CHAIN_RULE,
    )
    update_ratio: FloatArray = _statistic(
        "1",
        "parameters",
        r"\lVert \Delta W \rVert / \max(\lVert W \rVert, 0.1\sqrt{\mathrm{fan\_out}})",
        "How far the step moved the layer, weight decay left out; measured, not computed.",
        "Bottou, Curtis & Nocedal 2018; You et al. 2017 (LARS)",
    )
    decay_ratio: FloatArray = _statistic(
        "1",
        "parameters",
        r"\lVert \Delta W_{decay} \rVert / \max(\lVert W \rVert, 0.1\sqrt{\mathrm{fan\_out}})",
        "The part of the step that weight decay alone made; it would make a dead layer look alive.",
        "Loshchilov & Hutter 2019",
    )
    nonfinite_count: FloatArray = _statistic(
        "tensors",
        "parameters",
        r"\#\{g : \lVert g \rVert \notin \mathbb{R}\}",
        "Parameter tensors of the layer whose gradient or value holds a NaN or an infinity.",
        "Micikevicius et al. 2018",
    )
    unit_spread_ratio: FloatArray = _statistic(
        "1",
        "signals",
        r"\lVert W - \bar W_{\mathrm{units}} \rVert / \lVert W \rVert",
        "How much the output units differ from each other; 0 if all have the same weights.",
        "Goodfellow, Bengio & Courville 2016, section 8.4 (symmetry breaking)",
    )
    forward_calls: FloatArray = _statistic(
        "calls",
        "signals",
        r"\#\mathrm{calls}",
        "How often the layer ran in the last forward pass with gradients on.",
        "definition",
    )
    input_rms: FloatArray = _statistic(
        "x",
        "signals",
        r"\mathrm{rms}(x)",
        "Size of one input value.",
        "LeCun et al. 1998, Efficient BackProp, section 4.3",
    )
    output_rms: FloatArray = _statistic(
        "y",
        "signals",
        r"\mathrm{rms}(y)",
        "Size of one output value, before the activation.",
        _GLOROT,
    )
    output_grad_norm: FloatArray = _statistic(
        "dL/dy",
        "signals",
        r"\lVert \partial L/\partial y \rVert_2",
        "Backward signal that reaches the layer's output; only ratios between layers are promised.",
        _GLOROT,
    )
    output_grad_rms: FloatArray = _statistic(
        "dL/dy",
        "signals",
        r"\mathrm{rms}(\partial L/\partial y)",
        "Size of one value of the backward signal, to hold against what the precision can express.",
        "Micikevicius et al. 2018, section 3.2",
    )
    input_grad_norm: FloatArray = _statistic(
        "dL/dx",
        "signals",
        r"\lVert \partial L/\partial x \rVert_2",
        "Backward signal that the layer hands on to its input.",
        _GLOROT,
    )
    activation_gain_log10: FloatArray = _statistic(
        "log10",
        "signals",
        r"\log_{10}(\lVert \delta_{\mathrm{in}} \rVert / \lVert \delta_{\mathrm{out}} \rVert)",
        "Backward gain of the activations that follow the layer; -0.15 is normal for a ReLU.",
        "He et al. 2015, section 2.2",
    )
    mean_slope: FloatArray = _statistic(
        "1",
        "signals",
        r"\mathrm{mean}(f')",
        "Mean slope of the activation that follows the layer.",
        _CHAIN_RULE,
    )
    saturation_fraction: FloatArray = _statistic(
        "1",
        "signals",
        r"\#\{|f'| < 0.05 \max f'\} / \#f'",
        "Share of values where a bounded activation is flat.",
        "Glorot & Bengio 2010, section 3",
    )
    dead_fraction: FloatArray = _statistic(
        "1",
        "signals",
        r"\#\{u : |f'_u| < 0.05 \max f' \text{ for the whole batch}\} / \#u",
        "Share of units (features or channels) that a one-sided activation never lets through.",
        "Lu et al. 2019, Dying ReLU and initialization",
    )
    time_decay_log10: FloatArray = _statistic(
        "log10",
        "signals",
        r"\log_{10}(\lVert \delta_0 \rVert / \max_t \lVert \delta_t \rVert),"
        r"\; \delta_t = \partial L/\partial x_t",
        "Backward signal of a recurrent layer at its first time step against its largest.",
        "Pascanu, Mikolov & Bengio 2013, section 2",
    )
    time_growth_log10: FloatArray = _statistic(
        "log10",
        "signals",
        r"\log_{10}(\max_t \lVert \delta_t \rVert / \lVert \delta_T \rVert),"
        r"\; \delta_t = \partial L/\partial x_t",
        "Largest backward signal of a recurrent layer over time against its last time step.",
        "Pascanu, Mikolov & Bengio 2013, section 2",
    )
    direction_spread: FloatArray = _statistic(
        "1",
        "signals",
        r"1 - \lVert \mathrm{mean}_n(y_n / \lVert y_n \rVert) \rVert^2",
        "How much the examples of a batch differ in direction at the output: 0 for one way.",
        "Schoenholz et al. 2017, eq. 5; Dong, Cordonnier & Loukas 2021",
    )
    logit_misfit_ratio: FloatArray = _statistic(
        "1",
        "signals",
        r"\min_{\text{wrong}} m / \min_{\text{right}} m,\;"
        r" m = \lVert g - a d \rVert / \lVert g \rVert,\; g = \partial L/\partial y",
        "Misfit of the last layer's gradient to losses that took probabilities for logits, over "
        "its misfit to other losses.",
        "Goodfellow, Bengio & Courville 2016, section 6.2.2",
    )
    tiny_log10: FloatArray = _statistic(
        "log10",
        "signals",
        r"\log_{10}(\text{smallest positive value of the dtype of } y)",
        "What underflows: -7.2 in float16, -40 in bfloat16, -45 in float32.",
        "IEEE 754",
    )

    loss: float = float("nan")
    skipped: bool = False
    limits: tuple[str, ...] = ()
    wall_time: float = 0.0

    @property
    def grad_rms(self) -> FloatArray:
        """Size of one gradient value, shape (layers,): grad_norm / sqrt(parameter_count)."""
        return (self.grad_norm / np.sqrt(self._parameter_counts)).astype(np.float32)

    @property
    def weight_rms(self) -> FloatArray:
        """Size of one weight, shape (layers,): weight_norm / sqrt(parameter_count)."""
        return (self.weight_norm / np.sqrt(self._parameter_counts)).astype(np.float32)

    @property
    def relative_grad(self) -> FloatArray:
        r"""Gradient against weights, shape (layers,).

        $r = \lVert g \rVert / \max(\lVert W \rVert, 0.1\sqrt{\mathrm{fan\_out}})$: the floor is for
        layers that start at zero.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            ratio = self.grad_norm / np.maximum(self.weight_norm, self._weight_floor)
        return ratio.astype(np.float32)

    @property
    def has_size(self) -> NDArray[np.bool_]:
        """Rows whose weights are not (nearly) all zero, so that a ratio to them says something.

        Those that reach the floor of `relative_grad`; shape (layers,).
        """
        return np.asarray(self.weight_norm >= self._weight_floor)

    @property
    def elasticity(self) -> FloatArray:
        r"""Relative change of the loss per relative change of a layer, shape (layers,).

        $e = \lVert g \rVert \lVert W \rVert / |L|$: no unit, blind to the scale of the loss; NaN
        where no loss was observed.
        """
        size = abs(self.loss) if self.loss != 0 else float("nan")
        with np.errstate(invalid="ignore", over="ignore"):
            product = self.grad_norm.astype(np.float64) * self.weight_norm / size
            return product.astype(np.float32)

    @property
    def output_elasticity(self) -> FloatArray:
        r"""Relative change of the loss per relative change of a layer's output, shape (layers,).

        $\lVert \Delta \rVert \max(\lVert y \rVert, \sqrt{n}) / |L|$ with n values in y: unlike
        `elasticity` it does not vanish where the gradients of the examples cancel, as they do at a
        minimum, nor where the outputs are still small.
        """
        size = abs(self.loss) if self.loss != 0 else float("nan")
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            root_count = self.output_grad_norm.astype(np.float64) / self.output_grad_rms
            size_of_output = root_count * np.maximum(self.output_rms, 1.0)
            product = self.output_grad_norm * size_of_output / size
            return product.astype(np.float32)

    @cached_property
    def backward_depth(self) -> float:
        """B, see `gradwatch.flow.backward_depth`; NaN where it was not observed."""
        return flow.backward_depth(self)

    @cached_property
    def backward_growth(self) -> float:
        """See `gradwatch.flow.backward_growth`; NaN where it was not observed."""
        return flow.backward_growth(self)

    @cached_property
    def forward_drift(self) -> float:
        """See `gradwatch.flow.forward_drift`; NaN where it was not observed."""
        return flow.forward_drift(self)

    @cached_property
    def is_finite(self) -> bool:
        """Whether no gradient, weight, signal or loss of the step is NaN or infinite."""
        signals = (self.output_rms, self.output_grad_norm, self.weight_norm)
        return not (
            bool((self.nonfinite_count > 0).any())
            or np.isinf(self.loss)
            or any(np.isinf(values).any() for values in signals)
        )

    @property
    def has_signals(self) -> bool:
        """Whether forward and backward signals were observed at this step."""
        return bool(np.any(~np.isnan(self.forward_calls)))

    @cached_property
    def _parameter_counts(self) -> FloatArray:
        counts = [max(layer.parameter_count, 1) for layer in self.layers]
        return np.asarray(counts, dtype=np.float32)

    @cached_property
    def _weight_floor(self) -> FloatArray:
        fan_out = np.asarray([layer.fan_out for layer in self.layers], dtype=np.float32)
        return np.float32(0.1) * np.sqrt(fan_out)

    def packed(self) -> FloatArray:
        """All statistics in the order of `STATISTICS`, shape (statistics, layers), float32."""
        return self._packed

    @cached_property
    def _packed(self) -> FloatArray:
        packed = np.stack([getattr(self, statistic.name) for statistic in STATISTICS])
        packed.flags.writeable = False
        return packed

    @classmethod
    def unpacked(
        cls,
        packed: NDArray[np.floating[Any]],
        *,
        step: int,
        layers: tuple[Layer, ...],
        states: NDArray[np.int8],
        loss: float = float("nan"),
        skipped: bool = False,
        limits: tuple[str, ...] = (),
        wall_time: float = 0.0,
    ) -> Snapshot:
        """The snapshot whose `packed()` is `packed`.

        Args:
            packed: Shape (statistics, layers), in the order of `STATISTICS`.
            step: See `Snapshot`, as all that follow.
            layers: The rows.
            states: Shape (layers,).
            loss: Loss or NaN.
            skipped: Whether the optimizer skipped the step.
            limits: What is not observed.
            wall_time: Seconds since the epoch.

        Raises:
            ValueError: If `packed` is not of shape (statistics, layers).
        """
        expected = (len(STATISTICS), len(layers))
        if packed.shape != expected:
            raise ValueError(f"packed statistics have shape {packed.shape}, expected {expected}")
        rows = {
            statistic.name: np.ascontiguousarray(row, dtype=np.float32)
            for statistic, row in zip(STATISTICS, packed, strict=True)
        }
        return cls(
            step=step,
            layers=layers,
            states=states,
            **rows,
            loss=loss,
            skipped=skipped,
            limits=limits,
            wall_time=wall_time,
        )


STATISTICS: tuple[Statistic, ...] = tuple(
    Statistic(name=entry.name, **entry.metadata)
    for entry in fields(Snapshot)
    if "unit" in entry.metadata
)
"""Every stored statistic, in the order of `Snapshot.packed`."""

ROW_OF: dict[str, int] = {statistic.name: row for row, statistic in enumerate(STATISTICS)}
"""Statistic's name → row of `Snapshot.packed`."""


def empty_statistics(layer_count: int) -> FloatArray:
    """Packed statistics of a step that observed nothing: NaN, shape (statistics, layers)."""
    return np.full((len(STATISTICS), layer_count), np.nan, dtype=np.float32)
