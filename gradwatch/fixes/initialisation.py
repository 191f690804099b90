"""Fixes that set the weights and biases that training starts from."""

from __future__ import annotations

from collections.abc import Sequence

from gradwatch.finding import Fix
from gradwatch.fixes.snippets import keras_code, torch_code
from gradwatch.fixes.snippets.family import Family, torch_family_of
from gradwatch.fixes.snippets.scheme import Scheme, scheme_of
from gradwatch.fixes.snippets.text import ONCE, comment, layer_names, program, quoted
from gradwatch.layer import Layer

_IDENTITY = frozenset({Family.LINEAR, Family.LINEAR_TRANSPOSED, Family.CONVOLUTION})
"""Families whose weight can be the identity."""


def matching_initialisation(layers: Sequence[Layer]) -> Fix:
    """The fix that initialises each layer for the activation that follows it.

    Args:
        layers: Layers whose weights are too small or too large.
    """
    return Fix(
        kind="initialisation",
        title=f"Initialise for the activation that follows: {_schemes(layers)}",
        rationale=(
            "With a variance that fits its fan-in and its activation, a layer neither shrinks nor "
            "blows up what passes through it, in either direction."
        ),
        reference="Glorot & Bengio 2010; He et al. 2015; Saxe et al. 2014",
        snippets=_initialise(layers),
        lr_factor=0.2,
        avoid_when=(
            "the net is pre-trained or has learned something: it replaces the weights, so it is "
            "for the start of training"
        ),
    )


def zero_bias(layers: Sequence[Layer]) -> Fix:
    """The fix that zeroes the biases.

    Args:
        layers: Layers whose biases hold their units in the flat part of the activation.
    """
    return Fix(
        kind="initialisation",
        title="Zero the biases",
        rationale=(
            "A large negative bias keeps a unit on the flat side of its activation for every "
            "sample; at zero about half of the samples pass."
        ),
        reference="Lu et al. 2019, Dying ReLU and initialization",
        snippets={
            "torch": program(torch_code.IMPORTS, torch_code.zero_biases(layers)),
            "keras": program(
                keras_code.IMPORTS,
                keras_code.definition(layers, {"bias_initializer": '"zeros"'}),
                keras_code.LAYER_OF,
                keras_code.zero_biases(layers),
            ),
        },
        avoid_when=(
            "the biases are small and the weights have grown too large, or if a bias was set on "
            "purpose, as for a rare class or a gate"
        ),
    )


def break_symmetry(layers: Sequence[Layer]) -> Fix:
    """The fix that draws random weights for layers that start with equal ones.

    Args:
        layers: Layers whose units all have the same weights.
    """
    return Fix(
        kind="initialisation",
        title="Start from random weights instead of equal ones",
        rationale=(
            "Units with equal weights get equal gradients and stay one unit for ever; random "
            "weights make them differ. Biases may stay zero."
        ),
        reference="Goodfellow, Bengio & Courville 2016, section 8.4",
        snippets=_initialise(layers),
        avoid_when=(
            "the zeros are meant: the last layer of a branch beside a skip connection, an "
            "adapter's second matrix, the last layer of the net"
        ),
    )


def identity_initialisation(layers: Sequence[Layer]) -> Fix:
    """The fix that starts each layer as the identity.

    Args:
        layers: Layers of a deep plain net; only linear layers and convolutions that keep the width
            are changed.
    """
    square = [
        layer
        for layer in layers
        if torch_family_of(layer) in _IDENTITY and layer.fan_in == layer.fan_out
    ]
    others = layer_names(layer for layer in layers if layer not in square)
    note = comment(f"Not square, and left alone: {quoted(others)}.") if others else ""
    return Fix(
        kind="initialisation",
        title="Start each layer as the identity",
        rationale=(
            "Random layers turn all examples towards one direction, a little at each layer; the "
            "identity keeps what differs between them, at any depth, and ReLU passes what is "
            "positive unchanged."
        ),
        reference="Le, Jaitly & Hinton 2015; Zagoruyko & Komodakis 2017 (DiracNets)",
        snippets={
            "torch": program(torch_code.IMPORTS, ONCE, note, torch_code.as_identity(square)),
            "keras": program(
                keras_code.IMPORTS, note, keras_code.LAYER_OF, keras_code.as_identity(square)
            ),
        },
        avoid_when=(
            "most layers change their width, which leaves no identity to start from, or if the net "
            "is pre-trained: it replaces the weights"
        ),
    )


def _schemes(layers: Sequence[Layer]) -> str:
    present = {scheme_of(layer) for layer in layers if layer.weighted}
    return ", ".join(scheme.value for scheme in Scheme if scheme in present) or "He for ReLU"


def _initialise(layers: Sequence[Layer]) -> dict[str, str]:
    chosen = keras_code.initialiser(layers[0]) if layers else ""
    return {
        "torch": program(torch_code.IMPORTS, ONCE, torch_code.initialised(layers)),
        "keras": program(
            keras_code.IMPORTS,
            keras_code.definition(layers, {"kernel_initializer": chosen}),
            keras_code.LAYER_OF,
            keras_code.initialised(layers),
        ),
    }
