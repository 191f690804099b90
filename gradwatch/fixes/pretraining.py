"""Fixes that train the layers before the model is trained."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from gradwatch.finding import Fix
from gradwatch.fixes.snippets import keras_code
from gradwatch.fixes.snippets.family import Family, family_of
from gradwatch.fixes.snippets.text import comment, filled, layer_names, literal, program
from gradwatch.layer import Layer

_TORCH = """
def input_of(layer, inputs):
    seen = []
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(inputs)
    hook.remove()
    return seen[0]


# From the first layer to the last; `batches`: a list or DataLoader of (inputs, ...).
$activations
for name, activation in activation_of.items():
    layer = model.get_submodule(name)
    decoder = nn.Linear(layer.out_features, layer.in_features, device=layer.weight.device)
    trained = [*layer.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(trained, lr=1e-3)
    for _ in range(5):
        for inputs, *_ in batches:
            x = input_of(layer, inputs)
            loss = nn.functional.mse_loss(decoder(activation(layer(x))), x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
# Then train the whole model, with an optimizer of its own.
"""

_KERAS = """
# `inputs`: the training inputs. From the first layer to the last; not for subclassed models,
# nor for models in models.
for name in $names:
    layer = layer_of[name]
    x = keras.Model(model.inputs[0], layer.input).predict(inputs, verbose=0)
    autoencoder = keras.Sequential([layer, keras.layers.Dense(x.shape[-1])])
    autoencoder.compile(optimizer="adam", loss="mse")
    autoencoder.fit(x, x, epochs=5, verbose=0)
# Then train the whole model: model.fit(...).
"""

_TORCH_ACTIVATION = {
    "relu": "torch.relu",
    "sigmoid": "torch.sigmoid",
    "tanh": "torch.tanh",
    "softplus": "nn.functional.softplus",
    "gelu": "nn.functional.gelu",
    "silu": "nn.functional.silu",
    "elu": "nn.functional.elu",
    "leaky_relu": "nn.functional.leaky_relu",
}


def stacked_autoencoders(layers: Sequence[Layer]) -> Fix:
    """The fix that first trains each layer to encode its own input.

    Args:
        layers: Consecutive layers, the nearest to the input first; only linear ones are trained.
    """
    linear = [layer for layer in layers if family_of(layer) is Family.LINEAR]
    others = [layer.name for layer in layers if layer not in linear]
    note = comment(f"Not linear, and left out: {', '.join(map(repr, others))}.") if others else ""
    return Fix(
        kind="pretraining",
        title="Pre-train layer by layer, as stacked autoencoders",
        rationale=(
            "Each layer learns from its own input with one layer between it and its loss, so that "
            "nothing has to come through the whole depth. It is for nets whose activation has to "
            "stay, and for few labels beside many inputs."
        ),
        reference="Hinton & Salakhutdinov 2006; Bengio et al. 2007",
        snippets={
            "torch": program(
                "import torch\nfrom torch import nn",
                note,
                filled(_TORCH, activations=_with_activations(linear)),
            ),
            "keras": program(
                "import keras",
                note,
                keras_code.LAYER_OF,
                filled(_KERAS, names=literal(layer_names(linear))),
            ),
        },
        avoid_when=(
            "the activation may change: ReLU and the right initialisation do more in less time"
        ),
    )


def _with_activations(layers: Sequence[Layer]) -> str:
    lines = ["activation_of = {}"]
    for activation, group in groupby(layers, key=lambda layer: layer.activation):
        names = literal(layer_names(group))
        function = _TORCH_ACTIVATION.get(activation or "", "nn.Identity()")
        lines.append(f"activation_of |= dict.fromkeys({names}, {function})")
    return "\n".join(lines)
