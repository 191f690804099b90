"""Weight initialisations: functions that fill one weight tensor in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

Initialiser = Callable[[Tensor], object]
WeightLayer = nn.Linear | nn.Conv2d


def fans(weight: Tensor) -> tuple[int, int]:
    """Fan-in and fan-out of a linear or convolutional weight."""
    receptive_field = weight[0][0].numel()
    return weight.shape[1] * receptive_field, weight.shape[0] * receptive_field


def normal(std: float) -> Initialiser:
    """Zero-mean normal weights with one standard deviation, whatever the fan-in."""
    return lambda weight: nn.init.normal_(weight, std=std)


def he(weight: Tensor, factor: float = 1.0) -> None:
    r"""Fill with $\mathcal N(0, \text{factor}^2 \cdot 2/\text{fan-in})$ (He et al., 2015)."""
    nn.init.normal_(weight, std=factor * math.sqrt(2.0 / fans(weight)[0]))


def glorot(weight: Tensor) -> None:
    r"""Fill with $\mathcal N(0, 2/(\text{fan-in} + \text{fan-out}))$ (Glorot & Bengio, 2010)."""
    nn.init.normal_(weight, std=math.sqrt(2.0 / sum(fans(weight))))


def lecun(weight: Tensor, factor: float = 1.0) -> None:
    r"""Fill with $\mathcal N(0, \text{factor}^2/\text{fan-in})$ (LeCun et al., 1998)."""
    nn.init.normal_(weight, std=factor * math.sqrt(1.0 / fans(weight)[0]))


def orthogonal(gain: float) -> Initialiser:
    """Random orthogonal weights times a gain (Saxe et al., 2014)."""
    return lambda weight: nn.init.orthogonal_(weight, gain=gain)


def constant(value: float) -> Initialiser:
    """The same value everywhere."""
    return lambda weight: nn.init.constant_(weight, value)


def zeros(weight: Tensor) -> None:
    """Fill with zeros."""
    nn.init.zeros_(weight)


def initialise(
    layers: Iterable[WeightLayer],
    rule: Initialiser,
    *,
    exceptions: Mapping[int, Initialiser] | None = None,
    bias: float = 0.0,
) -> None:
    """Initialise weights by a rule, save for a few layers with their own, and biases by a constant.

    Args:
        layers: In forward order.
        rule: For every layer that is no exception.
        exceptions: From position in `layers`, counted from 0, to the rule used there.
        bias: Written to every bias that exists.
    """
    overrides = exceptions or {}
    with torch.no_grad():
        for index, layer in enumerate(layers):
            overrides.get(index, rule)(layer.weight)
            if layer.bias is not None:
                layer.bias.fill_(bias)
