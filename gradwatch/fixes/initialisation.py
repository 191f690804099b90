"""Fixes that set the weights and biases that training starts from."""

from __future__ import annotations

from collections.abc import Sequence

from gradwatch.finding import Fix
from gradwatch.fixes.snippets import keras_code, torch_code
from gradwatch.fixes.snippets.scheme import Scheme, scheme_of
from gradwatch.fixes.snippets.text import ONCE, program
from gradwatch.layer import Layer


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
            "blows up what passes through it, in either direction. "
            "It replaces the weights, so it is for the start of training, not for a trained net."
        ),
        reference="Glorot & Bengio 2010; He et al. 2015; Saxe et al. 2014",
        snippets=_initialise(layers),
        lower_learning_rate=True,
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
            "sample; at zero about half of the samples pass. "
            "It helps only where the bias is at fault, not where the weights have grown too large."
        ),
        reference="Lu et al. 2019, Dying ReLU and initialization",
        snippets={
            "torch": program(torch_code.IMPORTS, torch_code.zero_biases(layers)),
            "keras": program(
                keras_code.IMPORTS,
                keras_code.definition(layers, {"bias_initializer": '"zeros"'}),
                keras_code.zero_biases(layers),
            ),
        },
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
            "weights make them differ. Biases may stay zero, and so may the last layer of a branch "
            "beside a skip connection."
        ),
        reference="Goodfellow, Bengio & Courville 2016, section 8.4",
        snippets=_initialise(layers),
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
            keras_code.initialised(layers),
        ),
    }
