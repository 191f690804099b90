"""Fixes that change what the model reads."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradwatch.finding import Fix
from gradwatch.fixes.snippets.family import Family, torch_family_of
from gradwatch.fixes.snippets.text import comment, filled, layer_names, program, quoted
from gradwatch.layer import Layer

_TORCH = """
inputs = inputs.float()$finite
axes = $axes
mean = inputs.mean(axes, keepdim=True)
std = inputs.std(axes, keepdim=True)
inputs = (inputs - mean) / torch.where(std > 0, std, 1.0)
"""

_TORCH_FINITE = "\ninputs = inputs[inputs.isfinite().flatten(1).all(1)]  # drop their targets too"

_KERAS = """
normalise = keras.layers.Normalization(axis=-1)
normalise.adapt(inputs)
model = keras.Sequential([normalise, model])  # then model.compile(...) again
"""

_KERAS_FINITE = """
finite = np.isfinite(inputs).reshape(len(inputs), -1).all(axis=1)
inputs = inputs[finite]  # drop their targets too
"""

_TITLE = "Standardise the inputs to mean 0 and standard deviation 1"
_WHY = (
    "The gradient of the first weights is proportional to their input, whose rms is {rms:.3g} "
    "instead of about 1: too large it saturates or blows up what follows, too small it stalls "
    "learning."
)

_TITLE_NONFINITE = "Drop the samples that are not finite, then standardise the inputs"
_WHY_NONFINITE = (
    "One NaN or infinity in a batch makes every gradient of its step non-finite, and standardising "
    "alone would spread it to all samples. Look also for where it comes from: a missing value, a "
    "division by a deviation of 0."
)


def standardise_inputs(layers: Sequence[Layer], *, input_rms: float) -> Fix:
    """The fix that brings the inputs to mean 0 and standard deviation 1.

    Args:
        layers: Layers that read the inputs.
        input_rms: Size of one input value, root mean square; where it is not finite, samples that
            are not are dropped first.
    """
    finite = math.isfinite(input_rms)
    note = comment(
        f"`inputs`: all training inputs, samples first, on their way into "
        f"{quoted(layer_names(layers))} (rms {input_rms:.3g}). "
        "Keep the mean and the deviation for validation and for production."
    )
    return Fix(
        kind="inputs",
        title=_TITLE if finite else _TITLE_NONFINITE,
        rationale=_WHY.format(rms=input_rms) if finite else _WHY_NONFINITE,
        reference="LeCun et al. 1998, Efficient BackProp, section 4.3",
        snippets={
            "torch": program("import torch", note, _torch(layers, finite=finite)),
            "keras": program(
                "import keras" if finite else "import keras\nimport numpy as np",
                note,
                "" if finite else filled(_KERAS_FINITE),
                filled(_KERAS),
            ),
        },
        avoid_when=(
            "the inputs are token indices, one-hot vectors or masks, or if a pre-trained net "
            "expects another scale: then use that net's own"
        ),
    )


def _torch(layers: Sequence[Layer], *, finite: bool) -> str:
    has_channels = any(torch_family_of(layer) is Family.CONVOLUTION for layer in layers)
    channels = "(0, *range(2, inputs.ndim))  # all but the channels"
    features = "tuple(range(inputs.ndim - 1))  # all but the features"
    return filled(
        _TORCH, axes=channels if has_channels else features, finite="" if finite else _TORCH_FINITE
    )
