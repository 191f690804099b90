"""Optimizers: what they make of a gradient before they apply it, on any Keras backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops


def optimizers_of(model: Any) -> list[Any]:
    """The optimizers that train the model: the compiled one, and those kept as its attributes.

    Lists, tuples, sets and dictionaries of them are gone through too.
    """
    found: dict[int, Any] = {}
    seen: set[int] = set()
    pending = [*reversed(vars(model).values()), getattr(model, "optimizer", None)]
    while pending:
        candidate = pending.pop()
        if isinstance(candidate, keras.optimizers.Optimizer):
            found.setdefault(id(candidate), candidate)
        elif isinstance(candidate, dict | list | tuple | set) and id(candidate) not in seen:
            seen.add(id(candidate))
            pending.extend(candidate.values() if isinstance(candidate, dict) else candidate)
    return list(found.values())


def leaves(optimizer: Any) -> list[Any]:
    """The optimizers inside it that update variables; itself if it wraps none."""
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:
        return leaves(inner)
    parts = getattr(optimizer, "optimizers", None)
    return list(parts) if isinstance(parts, list | tuple) else [optimizer]


def loss_scale_of(optimizer: Any) -> Any | None:
    """The factor on the gradients that `apply` is given, as it is now; None for none."""
    dynamic = getattr(optimizer, "dynamic_scale", None)
    if dynamic is not None:
        return ops.copy(dynamic.value)  # which the optimizer may change in place
    return getattr(optimizer, "loss_scale_factor", None)


def accumulation_of(optimizer: Any) -> int:
    """Calls of `apply` to one update; the optimizers inside must agree on it to be more than 1."""
    steps = {getattr(leaf, "gradient_accumulation_steps", None) or 1 for leaf in leaves(optimizer)}
    return int(steps.pop()) if len(steps) == 1 else 1


def is_update_step(optimizer: Any) -> Any:
    """Whether the coming call of `apply` changes the weights, a boolean tensor or True."""
    steps = accumulation_of(optimizer)
    if steps == 1:
        return True
    return ops.equal(ops.mod(leaves(optimizer)[0]._iterations.value + 1, steps), 0)


def used_gradients(
    optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]
) -> list[Any | None]:
    """What the optimizer will use: unscaled, accumulated, clipped; None where there is none.

    Args:
        optimizer: The outermost optimizer, built.
        gradients: What its `apply` is given, None allowed.
        variables: The variable of each.
    """
    scale = loss_scale_of(optimizer)
    steps = accumulation_of(optimizer)
    used: list[Any | None] = [None] * len(variables)
    for leaf, places in _by_leaf(optimizer, variables):
        kept = [place for place in places if gradients[place] is not None]
        values = [_dense(gradients[place]) for place in kept]
        if scale is not None:
            values = [ops.divide(value, scale) for value in values]  # no float16 holds any scale
        if steps > 1:
            values = [
                (value + _accumulator(leaf, variables[place])) / steps
                for value, place in zip(values, kept, strict=True)
            ]
        for place, value in zip(kept, leaf._clip_gradients(values), strict=True):
            used[place] = value
    return used


def decay_shares(optimizer: Any, variables: Sequence[Any]) -> list[Any]:
    """Share of its value that weight decay alone takes off each variable in this step."""
    shares: list[Any] = [0.0] * len(variables)
    for leaf, places in _by_leaf(optimizer, variables):
        decay = getattr(leaf, "weight_decay", None)
        for place in places:
            if decay and leaf._use_weight_decay(variables[place]):
                shares[place] = ops.cast(leaf.learning_rate, "float32") * float(decay)
    return shares


def _by_leaf(optimizer: Any, variables: Sequence[Any]) -> Iterator[tuple[Any, list[int]]]:
    """Each optimizer inside, with the places of the variables that it updates."""
    inside = leaves(optimizer)
    places: dict[int, list[int]] = {}
    for place, variable in enumerate(variables):
        number = 0 if len(inside) == 1 else _number_of_leaf(optimizer, variable)
        places.setdefault(number, []).append(place)
    for number, members in places.items():
        yield inside[number], members


def _number_of_leaf(optimizer: Any, variable: Any) -> int:
    return int(optimizer._var_to_optimizer_idx[optimizer._var_key(variable)])


def _accumulator(leaf: Any, variable: Any) -> Any:
    return leaf._accumulated_gradients[leaf._get_variable_index(variable)].value


def _dense(gradient: Any) -> Any:
    """The gradient as an array: that of an embedding may be a few rows with their indices."""
    return ops.convert_to_tensor(gradient, sparse=False)
