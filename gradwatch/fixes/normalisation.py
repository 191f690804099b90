"""Fixes that normalise what a layer hands on."""

from __future__ import annotations

from collections.abc import Sequence

from gradwatch.finding import Fix
from gradwatch.fixes.snippets import keras_code, torch_code
from gradwatch.fixes.snippets.family import Family, family_of, spatial_dimensions
from gradwatch.fixes.snippets.text import (
    REBUILD,
    comment,
    filled,
    layer_names,
    literal,
    program,
    quoted,
)
from gradwatch.layer import Layer

_CONVOLUTIONS = frozenset({Family.CONVOLUTION, Family.TRANSPOSED})
_WRAPPED = _CONVOLUTIONS | {Family.LINEAR, Family.EMBEDDING}

_SIZE = {Family.LINEAR: "layer.out_features", Family.EMBEDDING: "layer.embedding_dim"}

_KERAS = """
batch_normalised = $convolutions
layer_normalised = $others
with_activation = $activated


def with_normalisation(layer, *args, **kwargs):
    if layer.name in batch_normalised:
        normalisation = keras.layers.BatchNormalization()
    elif layer.name in layer_normalised:
        normalisation = keras.layers.LayerNormalization()
    else:
        return layer(*args, **kwargs)
    if layer.name not in with_activation:
        return normalisation(layer(*args, **kwargs))
    activation, layer.activation = layer.activation, keras.activations.linear
    return keras.layers.Activation(activation)(normalisation(layer(*args, **kwargs)))


if isinstance(model, keras.Sequential):
    model = keras.Model(model.inputs[0], model.outputs[0])
model = keras.models.clone_model(
    model,
    clone_function=lambda layer: layer,
    call_function=with_normalisation,
)
# Then model.compile(...): the model has new variables.
"""


def insert_normalisation(layers: Sequence[Layer]) -> Fix:
    """The fix that puts BatchNorm after convolutions and LayerNorm after other layers.

    Args:
        layers: Layers whose outputs are too small, too large, or dead.
    """
    return Fix(
        kind="normalisation",
        title="Normalise the outputs of these layers",
        rationale=(
            "A normalised output has the size 1 whatever the weights, so that neither depth nor "
            "initialisation can shrink or blow up the signal. It does not help sigmoid layers, "
            "whose slope stays below 1/4, and BatchNorm needs more than one sample in a batch."
        ),
        reference="Ioffe & Szegedy 2015; Ba, Kiros & Hinton 2016",
        snippets={"torch": _torch(layers), "keras": _keras(layers)},
    )


def _torch(layers: Sequence[Layer]) -> str:
    groups: dict[str, list[str]] = {}
    for layer in layers:
        if family_of(layer) in _WRAPPED:
            groups.setdefault(_module(layer), []).append(layer.name)
    blocks = [
        torch_code.replaced(
            names, "nn.Sequential(layer, norm)", prepare=f"{torch_code.LAYER}\nnorm = {module}"
        )
        for module, names in groups.items()
    ]
    others = [layer for layer in layers if family_of(layer) not in _WRAPPED | {Family.GAIN}]
    return program(torch_code.IMPORTS, "\n".join(blocks), _by_hand(others), REBUILD)


def _module(layer: Layer) -> str:
    family = family_of(layer)
    if family in _CONVOLUTIONS:
        dimensions = spatial_dimensions(layer)
        return f"nn.BatchNorm{dimensions}d(layer.out_channels, device=layer.weight.device)"
    return f"nn.LayerNorm({_SIZE[family]}, device=layer.weight.device)"


def _by_hand(layers: Sequence[Layer]) -> str:
    if not layers:
        return ""
    return comment(
        f"In __init__, for each of {', '.join(map(repr, layer_names(layers)))}: "
        "self.norm = nn.LayerNorm(features); in forward: self.norm(...) on its output "
        "(the first entry, where it returns a tuple)."
    )


def _keras(layers: Sequence[Layer]) -> str:
    gains = [layer for layer in layers if family_of(layer) is Family.GAIN]
    weighted = [layer for layer in layers if layer not in gains]
    convolutions = [layer for layer in weighted if family_of(layer) in _CONVOLUTIONS]
    others = [layer for layer in weighted if layer not in convolutions]
    activated = [layer for layer in weighted if family_of(layer) in _CONVOLUTIONS | {Family.LINEAR}]
    return program(
        keras_code.IMPORTS,
        comment(
            f"In the definition, after {quoted(layer_names(weighted))}: "
            "keras.layers.BatchNormalization() or LayerNormalization(), then the activation. "
            "Or in a built Sequential or functional model:"
        ),
        filled(
            _KERAS,
            convolutions=literal(layer_names(convolutions)),
            others=literal(layer_names(others)),
            activated=literal(layer_names(activated)),
        ),
    )
