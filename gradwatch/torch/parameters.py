"""Parameters: gradients, weights and real updates, read in batches at the optimizer step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from gradwatch.sampling import SAMPLE_ELEMENTS
from gradwatch.torch.reading import Key, Reading, plain, rows_of, strided_sample
from gradwatch.torch.rows import Row, Rows

COMPARED_UNITS = 64
"""Units of a layer, and weights of each, that are compared with each other."""


@dataclass(frozen=True, slots=True)
class Part:
    """What is known on the host of a trained parameter; its number is its place in the draft.

    Args:
        row: Its row.
        optimizer: Number of the optimizer that trains it.
        decay: Largest share of the weights that weight decay alone takes off in this step.
        scale: Norm of the whole over the norm of the sample that its update is measured on.
        rounding: Relative step of its floating type.
    """

    row: int
    optimizer: int
    decay: float
    scale: float
    rounding: float


@dataclass
class Draft:
    """What is read of the parameters of one step, before and after the optimizers write.

    Args:
        row_of: Id of each parameter that is yet to be read → its row.
        reading: The figures of the step.
        parts: Trained parameters read so far.
        with_gradient: Rows of which a parameter has a gradient.
        optimizers: Optimizers that have stepped so far.
    """

    row_of: dict[int, int]
    reading: Reading = field(default_factory=Reading)
    parts: list[Part] = field(default_factory=list)
    with_gradient: set[int] = field(default_factory=set)
    optimizers: int = 0

    @property
    def trained(self) -> set[int]:
        """Rows of which an optimizer trains a parameter."""
        return {part.row for part in self.parts}


@dataclass
class _Batch:
    """Trained parameters of one device, type and size of sample.

    Args:
        keys: (row, part) of each.
        parameters: The parameters.
        samples: All of each small one and a strided sample of each large one, before the step.
        before: Copies of the samples, shape (parameters, elements).
    """

    keys: list[tuple[int, int]] = field(default_factory=list)
    parameters: list[Parameter] = field(default_factory=list)
    samples: list[Tensor] = field(default_factory=list)
    before: Tensor = field(default_factory=lambda: torch.empty(0))


class ParameterReader:
    """Reads the parameters that one optimizer trains, around its step.

    Args:
        rows: The model's rows.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._batches: list[_Batch] = []

    def draft(self) -> Draft:
        """An empty draft of a step."""
        return Draft(
            {id(entry): index for index, row in enumerate(self._rows) for entry in row.parameters()}
        )

    def before_step(self, draft: Draft, optimizer: Optimizer, *, read_gradients: bool) -> None:
        """Read weights and, if asked to, gradients; keep what the update needs.

        Args:
            draft: Takes the figures.
            optimizer: The optimizer that is about to step.
            read_gradients: False if the step was given a closure, which computes them.
        """
        _read_scale(draft, optimizer)
        self._batches = self._trained(draft, optimizer)
        draft.optimizers += 1
        for batch in self._batches:
            batch.before = _copied(batch.samples)
            batch.samples = []
            draft.reading.add_row_norms(_keys(batch, "before_norm"), batch.before)
        if read_gradients:
            self._read_gradients(draft)

    def after_step(self, draft: Draft, *, read_gradients: bool) -> None:
        """Measure the update; read the gradients too if they were not ready before."""
        if read_gradients:
            self._read_gradients(draft)
        batches, self._batches = self._batches, []
        for batch in batches:
            after = _copied([_sampled(plain(parameter)) for parameter in batch.parameters])
            draft.reading.add_row_norms(_keys(batch, "update_norm"), after - batch.before)
            if any(draft.parts[part].decay for _, part in batch.keys):
                draft.reading.add_row_norms(_keys(batch, "after_norm"), after)

    def read_frozen(self, draft: Draft) -> None:
        """Read the weights of the rows that no optimizer trains."""
        trained = draft.trained
        frozen = [
            (Key(index, "frozen_norm", number), parameter)
            for index, row in enumerate(self._rows)
            if index not in trained
            for number, parameter in enumerate(row.parameters())
        ]
        draft.reading.add_norms([key for key, _ in frozen], [entry for _, entry in frozen])

    def read_spread(self, draft: Draft) -> None:
        """Read how much the output units of each layer differ from each other."""
        alike: dict[tuple[torch.device, torch.dtype, torch.Size], dict[int, Tensor]] = {}
        for index, row in enumerate(self._rows):
            units = _units(row)
            if units is not None:
                group = units.device, units.dtype, units.shape
                alike.setdefault(group, {})[index] = units
        for layers in alike.values():
            units = torch.stack(list(layers.values()))
            spread = (units - units.mean(dim=1, keepdim=True)).flatten(1)
            draft.reading.add_row_norms([Key(row, "spread_norm") for row in layers], spread)
            draft.reading.add_row_norms([Key(row, "unit_norm") for row in layers], units.flatten(1))

    def _trained(self, draft: Draft, optimizer: Optimizer) -> list[_Batch]:
        """The parameters of the optimizer that the draft does not hold yet."""
        batches: dict[tuple[torch.device, torch.dtype, int], _Batch] = {}
        large: list[tuple[Key, Tensor]] = []
        for group in optimizer.param_groups:
            decay = _decay(group)
            for parameter in group["params"]:
                if not parameter.requires_grad or id(parameter) not in draft.row_of:
                    continue
                row, part = draft.row_of.pop(id(parameter)), len(draft.parts)
                values = plain(parameter)
                if not values.numel():  # this rank has nothing of it
                    continue
                sample = _sampled(values)
                scale = math.sqrt(values.numel() / sample.numel())
                rounding = torch.finfo(values.dtype).eps
                draft.parts.append(Part(row, draft.optimizers, decay, scale, rounding))
                if scale > 1:
                    large.append((Key(row, "weight_norm", part), values))
                kind = values.device, values.dtype, sample.numel()
                batch = batches.setdefault(kind, _Batch())
                batch.keys.append((row, part))
                batch.parameters.append(parameter)
                batch.samples.append(sample)
        draft.reading.add_norms([key for key, _ in large], [values for _, values in large])
        return list(batches.values())

    def _read_gradients(self, draft: Draft) -> None:
        keys, gradients = [], []
        for batch in self._batches:
            for (row, part), parameter in zip(batch.keys, batch.parameters, strict=True):
                gradient = parameter.grad
                if gradient is not None:
                    draft.with_gradient.add(row)
                    keys.append(Key(row, "grad_norm", part))
                    gradients.append(_dense(gradient.detach()))
        draft.reading.add_norms(keys, gradients)


def _keys(batch: _Batch, name: str) -> list[Key]:
    return [Key(row, name, part) for row, part in batch.keys]


def _copied(samples: list[Tensor]) -> Tensor:
    """Copies of the samples, shape (samples, elements), in a type whose differences are exact."""
    copies = rows_of(samples)
    return copies.float() if copies.element_size() < torch.float32.itemsize else copies


def _sampled(values: Tensor) -> Tensor:
    """All of a small tensor, a strided sample of a large one."""
    return values if values.numel() <= SAMPLE_ELEMENTS else strided_sample(values)


def _units(row: Row) -> Tensor | None:
    """Weights of evenly chosen units, shape (units, weights), at most 64 of each.

    None where there are no units to compare; an embedding's rows are looked up, not computed
    together, so they are none.
    """
    matrix = next((entry for entry in row.parameters() if entry.ndim > 1), None)
    if matrix is None or not row.layer.weighted or row.layer.kind.startswith("Embedding"):
        return None
    weights = plain(matrix)
    if getattr(row.module(), "transposed", False):
        weights = weights.transpose(0, 1)
    if len(weights) < 2 or not weights.numel():
        return None
    weights = weights[:: math.ceil(len(weights) / COMPARED_UNITS)].flatten(1)
    return weights[:, :: math.ceil(weights.shape[1] / COMPARED_UNITS)]


def _dense(gradient: Tensor) -> Tensor:
    """The values of a sparse gradient, repeated indices summed; any other gradient as it is."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _read_scale(draft: Draft, optimizer: Any) -> None:
    """What a GradScaler hands to a fused optimizer: it unscales inside its step."""
    for name in ("grad_scale", "found_inf"):
        figure = getattr(optimizer, name, None)
        if isinstance(figure, Tensor):  # a copy: the scaler writes into it
            draft.reading.add(Key(-1, name, draft.optimizers), figure.detach().clone())


def _decay(group: Mapping[str, Any]) -> float:
    """The largest share that weight decay takes off a parameter in one step.

    Momentum m builds coupled decay up: a weight that shrinks by a share c in every step has a
    buffer in which older, larger weights count too, so c = a / (1 - m / (1 - c)) with a = lr · wd.
    Adam's coupled decay passes through its normalisation and cannot be told from the gradient: it
    counts as update.
    """
    alone = _number(group.get("weight_decay")) * _number(group.get("lr"))
    momentum = _number(group.get("momentum"))
    if not alone > 0 or not 0 < momentum < 1:
        return max(alone, 0.0)
    linear = 1 - momentum + alone
    root = linear * linear - 4 * alone
    steady = 0.5 * (linear - math.sqrt(root)) if root > 0 else alone / (1 - momentum)
    return 1.01 * steady


def _number(setting: object) -> float:
    """A hyperparameter as a number; 0 for one on a device, where reading it would wait."""
    if isinstance(setting, Tensor):
        is_near = setting.device.type == "cpu"
        return float(setting.detach().double().numpy().item()) if is_near else 0.0
    return float(setting) if isinstance(setting, int | float) else 0.0
