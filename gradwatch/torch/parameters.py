"""Parameters: gradients, weights and real updates, read in one batch at the optimizer step."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from gradwatch.layer import Layer
from gradwatch.snapshot import FloatArray, State
from gradwatch.torch.reading import EXACT_ELEMENTS, SAMPLE_ELEMENTS, Key, Reading, strided_sample
from gradwatch.torch.rows import Rows
from gradwatch.torch.statistics import Figures, root_sum_square, store


@dataclass
class _Update:
    """A parameter whose update is being measured.

    Args:
        row: Its row.
        part: Its number among the parameters read at this step.
        parameter: The parameter.
        before: Its values before the step, all of them or a strided sample.
        decay: Largest share of the weights that weight decay alone takes off in this step.
    """

    row: int
    part: int
    parameter: Parameter
    before: Tensor
    decay: float


@dataclass
class Draft:
    """What is read of one optimizer step, before and after the optimizers write.

    Args:
        reading: The figures of the step.
        layers: The rows at its end.
        gradients: Row → number of parameters that had a gradient.
        trainable: Row → number of parameters that the optimizers train.
        decay: (row, part) → decay bound of the parameter.
        scales: Part → scale of its update where only a sample was measured.
        optimizer_of: Part → number of the optimizer that trains it.
        parts: Parameters read so far.
        optimizers: Optimizers that have stepped so far.
    """

    reading: Reading = field(default_factory=Reading)
    layers: tuple[Layer, ...] = ()
    gradients: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    trainable: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    decay: dict[tuple[int, int], float] = field(default_factory=dict)
    scales: dict[int, float] = field(default_factory=dict)
    optimizer_of: dict[int, int] = field(default_factory=dict)
    parts: int = 0
    optimizers: int = 0


class ParameterReader:
    """Reads the parameters that one optimizer trains, around its step.

    Args:
        rows: The model's rows.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._updates: list[_Update] = []

    def before_step(self, draft: Draft, optimizer: Optimizer, *, read_gradients: bool) -> None:
        """Read weights and, if asked to, gradients; keep what the update needs.

        Args:
            draft: Takes the figures.
            optimizer: The optimizer that is about to step.
            read_gradients: False if the step was given a closure, which computes them.
        """
        decays = _decays(optimizer)
        number = draft.optimizers
        draft.optimizers += 1
        self._read_scale(draft, optimizer, number)
        self._updates = []
        for row, parameter in self._trained(decays):
            part = draft.parts
            draft.parts += 1
            draft.trainable[row] += 1
            draft.decay[row, part] = decays[id(parameter)]
            draft.optimizer_of[part] = number
            before = _measured(parameter.detach()).clone()
            draft.scales[part] = math.sqrt(parameter.numel() / max(before.numel(), 1))
            self._updates.append(_Update(row, part, parameter, before, decays[id(parameter)]))
        draft.reading.add_norms(
            [Key(update.row, "weight_norm", update.part) for update in self._updates],
            [update.parameter for update in self._updates],
        )
        if read_gradients:
            self._read_gradients(draft)

    def after_step(self, draft: Draft, *, read_gradients: bool) -> None:
        """Measure the update; read the gradients too if they were not ready before."""
        if read_gradients:
            self._read_gradients(draft)
        updates = self._updates
        moved = [
            _measured(update.parameter.detach()) - update.before
            for update in updates
            if update.before.numel()
        ]
        measured = [update for update in updates if update.before.numel()]
        keys = [Key(update.row, "update_norm", update.part) for update in measured]
        draft.reading.add_norms(keys, moved)
        for update, difference in zip(measured, moved, strict=True):
            if update.decay:
                key = Key(update.row, "update_dot", update.part)
                draft.reading.add(key, torch.sum(difference * update.before, dtype=torch.float64))
                key = Key(update.row, "before_norm", update.part)
                draft.reading.add_norm(key, update.before)
        self._updates = []

    def read_frozen(self, draft: Draft) -> None:
        """Read the weights of the rows that no optimizer trains."""
        for index, row in enumerate(self._rows):
            if not draft.trainable.get(index):
                for parameter in row.parameters():
                    key = Key(index, "weight_norm", draft.parts)
                    draft.parts += 1
                    draft.reading.add_norms([key], [parameter])

    def read_spread(self, draft: Draft) -> None:
        """Read how much the output units of each layer differ from each other."""
        for index, row in enumerate(self._rows):
            matrix = next((entry for entry in row.parameters() if entry.ndim >= 2), None)
            if matrix is None or not row.layer.weighted or row.layer.kind.startswith("Embedding"):
                continue
            transposed = getattr(row.module(), "transposed", False)
            units = matrix.detach().transpose(0, 1) if transposed else matrix.detach()
            if len(units) < 2 or not matrix.numel():
                continue
            few = units.flatten(1)[:1024, : max(1, EXACT_ELEMENTS // min(len(units), 1024))]
            draft.reading.add_norm(Key(index, "spread_norm"), few - few.mean(dim=0))
            draft.reading.add_norm(Key(index, "unit_norm"), few)

    def _trained(self, decays: dict[int, float]) -> list[tuple[int, Parameter]]:
        return [
            (index, parameter)
            for index, row in enumerate(self._rows)
            for parameter in row.parameters()
            if id(parameter) in decays and parameter.requires_grad
        ]

    def _read_gradients(self, draft: Draft) -> None:
        keys, gradients = [], []
        for update in self._updates:
            gradient = update.parameter.grad
            if gradient is None:
                continue
            draft.gradients[update.row] += 1
            keys.append(Key(update.row, "grad_norm", update.part))
            gradients.append(_dense(gradient.detach()))
        draft.reading.add_norms(keys, gradients)

    def _read_scale(self, draft: Draft, optimizer: Any, number: int) -> None:
        """What a GradScaler hands to a fused optimizer: it unscales inside its step."""
        for name in ("grad_scale", "found_inf"):
            figure = getattr(optimizer, name, None)
            if isinstance(figure, Tensor):
                draft.reading.add(Key(-1, name, number), figure.float())


def store_parameters(packed: FloatArray, draft: Draft, figures: Figures) -> bool:
    """Write the parameter statistics of one step.

    Args:
        packed: Shape (statistics, layers), changed in place.
        draft: What was read.
        figures: Its figures.

    Returns:
        Whether an optimizer skipped the step because a scaled gradient overflowed.
    """
    scale = {
        key.part: float(figure[0]) for key, figure in figures.items() if key.name == "grad_scale"
    }
    by_row: dict[tuple[int, str], dict[int, float]] = defaultdict(dict)
    for key, figure in figures.items():
        by_row[key.row, key.name][key.part] = float(figure[0])
    for row, layer in enumerate(draft.layers):
        floor = 0.1 * math.sqrt(layer.fan_out)
        weights = by_row[row, "weight_norm"]
        gradients = {
            part: norm / scale.get(draft.optimizer_of[part], 1.0)
            for part, norm in by_row[row, "grad_norm"].items()
        }
        size = root_sum_square(weights.values())
        store(packed, "weight_norm", row, size)
        if not draft.trainable.get(row):
            continue
        store(packed, "grad_norm", row, root_sum_square(gradients.values()))
        store(packed, "nonfinite_count", row, _nonfinite(weights, gradients))
        update, decay = _updates(draft, by_row, row)
        store(packed, "update_ratio", row, update / max(size, floor))
        store(packed, "decay_ratio", row, decay / max(size, floor))
        spread, units = by_row[row, "spread_norm"], by_row[row, "unit_norm"]
        if spread:
            ratio = spread[0] / units[0] if units[0] else 0.0
            store(packed, "unit_spread_ratio", row, ratio)
    return any(figure > 0 for figure in by_row[-1, "found_inf"].values())


def states_of(draft: Draft, packed_grad_norm: FloatArray, calls: FloatArray) -> NDArray[np.int8]:
    """`State` of every row, shape (layers,), int8.

    Args:
        draft: What was read.
        packed_grad_norm: Gradient norms, shape (layers,).
        calls: Forward calls, shape (layers,), NaN where signals were not observed.
    """
    states = np.full(len(packed_grad_norm), State.TRAINED, dtype=np.int8)
    for row, norm in enumerate(packed_grad_norm):
        if not draft.trainable.get(row):
            states[row] = State.FROZEN
        elif calls[row] == 0:
            states[row] = State.IDLE
        elif not draft.gradients.get(row):
            states[row] = State.NO_GRADIENT
        elif norm == 0:
            states[row] = State.ZERO_GRADIENT
    return states


def _updates(
    draft: Draft, by_row: dict[tuple[int, str], dict[int, float]], row: int
) -> tuple[float, float]:
    """(norm of the update without weight decay, norm of the decay part) of one row.

    Decay moves weights along -W. The part of the update along -W is taken for decay as far as the
    optimizer's decay can explain it, so a layer that nothing but decay moves has update 0.
    """
    moved, decayed = [], []
    for part, norm in by_row[row, "update_norm"].items():
        square, shrink = norm * norm, 0.0
        before = by_row[row, "before_norm"].get(part, 0.0)
        if before > 0 and math.isfinite(norm):
            dot = by_row[row, "update_dot"][part]
            shrink = min(max(-dot / before**2, 0.0), draft.decay[row, part])
            square = max(square + 2 * shrink * dot + (shrink * before) ** 2, 0.0)
            if square < 1e-9 * norm * norm:
                square = 0.0
        moved.append(math.sqrt(square) * draft.scales[part])
        decayed.append(shrink * before * draft.scales[part])
    return root_sum_square(moved), root_sum_square(decayed)


def _nonfinite(weights: dict[int, float], gradients: dict[int, float]) -> int:
    return sum(
        not math.isfinite(weights[part]) or not math.isfinite(gradients.get(part, 0.0))
        for part in weights
    )


def _measured(values: Tensor) -> Tensor:
    """All of a small tensor, a strided sample of a large one, shape (n,) or as it is."""
    return values if values.numel() <= SAMPLE_ELEMENTS else strided_sample(values)


def _dense(gradient: Tensor) -> Tensor:
    """The values of a sparse gradient, repeated indices summed; any other gradient as it is."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _decays(optimizer: Optimizer) -> dict[int, float]:
    """Id of each parameter → the largest share that weight decay takes off it in one step.

    With momentum m, coupled decay builds up to lr·wd/(1 - m) a step. Adam's coupled decay passes
    through its normalisation and cannot be told from the gradient: it counts as update.
    """
    decays: dict[int, float] = {}
    for group in optimizer.param_groups:
        decay = _number(group.get("weight_decay")) * _number(group.get("lr"))
        momentum = float(group.get("momentum") or 0.0)
        if 0 < momentum < 1:
            decay /= 1 - momentum
        for parameter in group["params"]:
            decays[id(parameter)] = decay
    return decays


def _number(setting: object) -> float:
    """A hyperparameter as a number; 0 for one on a device, where reading it would wait."""
    if isinstance(setting, Tensor):
        return float(setting.numpy()) if setting.device.type == "cpu" else 0.0
    return float(setting) if isinstance(setting, int | float) else 0.0
