"""Fixes that change what the model reads."""

from __future__ import annotations

from collections.abc import Sequence

from gradwatch.finding import Fix
from gradwatch.fixes.snippets.family import Family, family_of
from gradwatch.fixes.snippets.text import comment, filled, layer_names, program, quoted
from gradwatch.layer import Layer

_TORCH = """
inputs = inputs.float()
axes = $axes
mean = inputs.mean(axes, keepdim=True)
std = inputs.std(axes, keepdim=True)
inputs = (inputs - mean) / torch.where(std > 0, std, 1.0)
"""

_KERAS = """
normalise = keras.layers.Normalization(axis=-1)
normalise.adapt(inputs)
model = keras.Sequential([normalise, model])  # then model.compile(...) again
"""


def standardise_inputs(layers: Sequence[Layer], *, input_rms: float) -> Fix:
    """The fix that brings the inputs to mean 0 and standard deviation 1.

    Args:
        layers: Layers that read the inputs.
        input_rms: Size of one input value, root mean square.
    """
    size = f"{input_rms:.3g}"
    channels = any(family_of(layer) is Family.CONVOLUTION for layer in layers)
    note = (
        f"`inputs`: all training inputs, samples first, on their way into "
        f"{quoted(layer_names(layers))} (rms {size}). "
        "Keep the mean and the deviation for validation and for production."
    )
    axes = "(0, *range(2, inputs.ndim))  # all but the channels"
    return Fix(
        kind="inputs",
        title="Standardise the inputs to mean 0 and standard deviation 1",
        rationale=(
            f"The gradient of the first weights is proportional to their input, whose rms is {size}"
            " instead of about 1: too large it saturates or blows up what follows, too small it "
            "stalls learning. Not for token indices or one-hot vectors."
        ),
        reference="LeCun et al. 1998, Efficient BackProp, section 4.3",
        snippets={
            "torch": program(
                "import torch",
                comment(note),
                filled(_TORCH, axes=axes if channels else "tuple(range(inputs.ndim - 1))"),
            ),
            "keras": program("import keras", comment(note), filled(_KERAS)),
        },
    )
