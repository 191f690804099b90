"""Scheme: the weight initialisation that keeps a signal's size, by the activation that follows."""

from __future__ import annotations

import math
from enum import Enum

from gradwatch.fixes.snippets.family import Family, family_of
from gradwatch.fixes.snippets.text import comment
from gradwatch.layer import Layer

_HALF = frozenset({"hardswish", "softplus", "rrelu"})
_STEEP = frozenset({"tanh", "hardtanh", "softsign"})
_FLAT = frozenset({"sigmoid", "hardsigmoid"})


class Scheme(Enum):
    r"""Weight initialisations.

    HE: variance $2/\text{fan-in}$ (He et al. 2015). TANH: Xavier with gain 5/3. SIGMOID: Xavier
    times 4, against a slope of at most 1/4 (Glorot & Bengio 2010). LECUN: variance
    $1/\text{fan-in}$ (LeCun et al. 1998). ORTHOGONAL: every singular value 1 (Saxe et al. 2014).
    """

    HE = "He"
    TANH = "Xavier with gain 5/3"
    SIGMOID = "Xavier with gain 4"
    LECUN = "LeCun"
    ORTHOGONAL = "orthogonal"


def scheme_of(layer: Layer) -> Scheme:
    """The scheme that fits the layer and the activation after it.

    Without an activation, a square linear layer gets ORTHOGONAL: a product of such layers keeps
    every direction, one of LECUN layers only the mean size.
    """
    activation = layer.activation
    if layer.is_relu_like or activation in _HALF:
        return Scheme.HE
    if activation in _STEEP:
        return Scheme.TANH
    if activation in _FLAT:
        return Scheme.SIGMOID
    square = family_of(layer) is Family.LINEAR and layer.fan_in == layer.fan_out
    return Scheme.ORTHOGONAL if square and activation is None else Scheme.LECUN


def size_note(layer: Layer) -> str:
    """A comment: the layer's fan-in, and the standard deviation that its scheme gives it.

    Empty where the fan-in is not known, or where an orthogonal matrix has no use for it.
    """
    scheme, fan_in, fan_out = scheme_of(layer), layer.fan_in, layer.fan_out
    both = math.sqrt(2 / (fan_in + fan_out))
    std = {
        Scheme.HE: math.sqrt(2 / fan_in),
        Scheme.TANH: 5 / 3 * both,
        Scheme.SIGMOID: 4 * both,
        Scheme.LECUN: math.sqrt(1 / fan_in),
    }.get(scheme)
    if std is None or fan_in <= 1:
        return ""
    return comment(f"{layer.name!r}: fan-in {fan_in}, so standard deviation {std:.2g}.")
