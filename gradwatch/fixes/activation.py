"""Fixes that change the activation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gradwatch.finding import Fix
from gradwatch.fixes.snippets import keras_code, torch_code
from gradwatch.fixes.snippets.text import ONCE, program
from gradwatch.layer import BOUNDED, ONE_SIDED, Layer


def relu_with_he(layers: Sequence[Layer]) -> Fix:
    """The fix that puts ReLU for saturating activations and initialises by He.

    Args:
        layers: Layers that saturating activations follow; any others are only initialised.
    """
    bounded = [layer for layer in layers if layer.activation in BOUNDED]
    changed = [replace(layer, activation="relu") if layer in bounded else layer for layer in layers]
    return Fix(
        kind="activation",
        title="Replace the saturating activations by ReLU and initialise by He",
        rationale=(
            "A saturating activation shrinks the gradient at every layer; the slope of ReLU is 1 "
            "wherever a unit is active, and He's variance 2/fan-in makes up for the other half."
        ),
        reference="Glorot, Bordes & Bengio 2011; He et al. 2015",
        snippets={
            "torch": program(
                torch_code.IMPORTS,
                ONCE,
                torch_code.activations_replaced(bounded, module="nn.ReLU()", call="F.relu(...)"),
                torch_code.initialised(changed),
            ),
            "keras": program(
                keras_code.IMPORTS,
                keras_code.definition(
                    changed, {"activation": '"relu"', "kernel_initializer": '"he_normal"'}
                ),
                keras_code.LAYER_OF,
                keras_code.activations_replaced(bounded, "keras.activations.relu"),
                keras_code.initialised(changed),
                keras_code.COMPILE_AGAIN,
            ),
        },
        lr_factor=0.2,
        avoid_when=(
            "the range has to stay bounded, as in an output before the loss, a gate or an "
            "attention weight, or if the net is pre-trained: it draws new weights"
        ),
    )


def leaky_relu(layers: Sequence[Layer]) -> Fix:
    """The fix that puts a leaky ReLU, of slope 0.2 on the negative side, for a one-sided one.

    Args:
        layers: Layers whose units are dead.
    """
    one_sided = [layer for layer in layers if layer.activation in ONE_SIDED]
    return Fix(
        kind="activation",
        title="Replace the one-sided activations by a leaky ReLU",
        rationale=(
            "A dead unit gets no gradient and cannot come back; a slope of 0.2 on the negative "
            "side lets it learn its way out."
        ),
        reference="Maas, Hannun & Ng 2013; Xu et al. 2015",
        snippets={
            "torch": program(
                torch_code.IMPORTS,
                torch_code.activations_replaced(
                    one_sided, module="nn.LeakyReLU(0.2)", call="F.leaky_relu(..., 0.2)"
                ),
            ),
            "keras": program(
                keras_code.IMPORTS,
                keras_code.definition(one_sided, {"activation": '"leaky_relu"'}),
                "# Where the activation is a keras.layers.ReLU: set its negative_slope to 0.2.",
                keras_code.LAYER_OF,
                keras_code.activations_replaced(one_sided, "keras.activations.leaky_relu"),
                keras_code.COMPILE_AGAIN,
            ),
        },
        lr_factor=0.2,
        avoid_when=(
            "many dead layers follow each other, where the slopes multiply (reset the biases "
            "instead), or if the values have to stay positive, as rates and counts do"
        ),
    )
