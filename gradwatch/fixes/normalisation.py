"""Fixes that normalise what a layer hands on."""

from __future__ import annotations

from collections.abc import Sequence

from gradwatch.finding import Fix
from gradwatch.fixes.snippets import keras_code, torch_code
from gradwatch.fixes.snippets.family import (
    Family,
    family_of,
    spatial_dimensions,
    torch_family_of,
)
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

_SIZE = {
    Family.LINEAR: "layer.out_features",
    Family.LINEAR_TRANSPOSED: "layer.weight.shape[1]",
    Family.EMBEDDING: "layer.embedding_dim",
}
_WRAPPED = _CONVOLUTIONS | frozenset(_SIZE)

_KERAS = """
batch_normalised = $convolutions
layer_normalised = $others
with_activation = $activated
added = {}


def new_layers(layer):
    names = {layer.name, layer.path}
    if names & set(batch_normalised):
        yield keras.layers.BatchNormalization()
    elif names & set(layer_normalised):
        yield keras.layers.LayerNormalization()
    if names & set(with_activation):
        yield keras.layers.Activation(layer.activation)
        layer.activation = keras.activations.linear


def with_normalisation(layer, *args, **kwargs):
    if layer not in added:
        added[layer] = list(new_layers(layer))
    out = layer(*args, **kwargs)
    for new in added[layer]:
        out = new(out)
    return out
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
            "initialisation can shrink or blow up the signal."
        ),
        reference="Ioffe & Szegedy 2015; Ba, Kiros & Hinton 2016",
        snippets={"torch": _torch(layers), "keras": _keras(layers)},
        avoid_when=(
            "the activations are sigmoids, whose slope stays below 1/4; BatchNorm not if a batch "
            "holds few samples (below 8) or the layer is recurrent"
        ),
    )


def _torch(layers: Sequence[Layer]) -> str:
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        if torch_family_of(layer) in _WRAPPED:
            groups.setdefault(_module(layer), []).append(layer)
    blocks = [
        torch_code.layers_replaced(
            group, "nn.Sequential(layer, norm)", prepare=f"{torch_code.LAYER}\nnorm = {module}"
        )
        for module, group in groups.items()
    ]
    others = [layer for layer in layers if torch_family_of(layer) not in _WRAPPED | {Family.GAIN}]
    return program(torch_code.IMPORTS, "\n".join(blocks), _by_hand(others), REBUILD)


def _module(layer: Layer) -> str:
    family = torch_family_of(layer)
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
        keras_code.rebuilt("with_normalisation"),
    )
