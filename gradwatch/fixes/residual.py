"""Fixes that give the gradient a way round a layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gradwatch.finding import Fix
from gradwatch.fixes.snippets import keras_code, torch_code
from gradwatch.fixes.snippets.family import Family, family_of
from gradwatch.fixes.snippets.text import comment, filled, layer_names, literal, program, quoted
from gradwatch.layer import Layer

_SKIPPABLE = frozenset({Family.LINEAR, Family.CONVOLUTION, Family.TRANSPOSED, Family.OTHER})

_RESIDUAL = """
class Residual(nn.Module):
    \"\"\"x + scale * branch(x); the branch alone where it changes the shape.\"\"\"

    def __init__(self, branch, scale):
        super().__init__()
        self.branch, self.scale = branch, scale

    def forward(self, x):
        out = self.branch(x)
        return x + self.scale * out if out.shape == x.shape else out


def replace(name, module):
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
"""

_WITH_ACTIVATION = """
# Each activation has to serve its layer alone and to follow it directly.
for name, activation in zip($names, $activations):
    branch = nn.Sequential(model.get_submodule(name), model.get_submodule(activation))
    replace(name, Residual(branch, scale=$scale))
    replace(activation, nn.Identity())
"""

_WITHOUT_ACTIVATION = """
for name in $names:
    replace(name, Residual(model.get_submodule(name), scale=$scale))
"""

_KERAS = """
# Name of the layer a skip leaves from, and of the one whose output it joins.
ends = dict(zip($names, $ends))
starts = {}


def with_skip(layer, *args, **kwargs):
    if layer.name in ends:
        starts[ends[layer.name]] = args[0]
    out = layer(*args, **kwargs)
    x = starts.get(layer.name)
    if x is None or x.shape != out.shape:
        return out
    return keras.layers.Add()([x, keras.layers.Rescaling($scale)(out)])


if isinstance(model, keras.Sequential):
    model = keras.Model(model.inputs[0], model.outputs[0])
model = keras.models.clone_model(
    model,
    clone_function=lambda layer: layer,
    call_function=with_skip,
)
# Then model.compile(...) again.
"""


def residual_path(layers: Sequence[Layer]) -> Fix:
    """The fix that adds each layer's input to its activated output.

    A branch is scaled by 1/sqrt(layers), so that the sum of all of them stays of the size of the
    input.

    Args:
        layers: Consecutive layers that the gradient does not get through.
    """
    return Fix(
        kind="residual",
        title="Add a skip connection around each of these layers",
        rationale=(
            "The gradient of x + f(x) has a part that no weight and no slope multiplies, so it "
            "reaches the first layers at any depth. "
            "Only where a layer keeps the shape; elsewhere the skip needs a projection."
        ),
        reference="He et al. 2016; Zhang, Dauphin & Ma 2019 (Fixup)",
        snippets={"torch": _torch(layers), "keras": _keras(layers)},
    )


def _torch(layers: Sequence[Layer]) -> str:
    skippable = [layer for layer in layers if family_of(layer) in _SKIPPABLE]
    own = [layer for layer in _with_own_end(skippable) if layer.activation_module is not None]
    bare = [layer for layer in skippable if layer.activation is None and layer not in own]
    by_hand = [layer for layer in skippable if layer not in own and layer not in bare]
    scale = _scale(skippable)
    return program(
        torch_code.IMPORTS,
        _by_hand(by_hand, scale),
        filled(_RESIDUAL) if own or bare else "",
        _blocks(_WITH_ACTIVATION, own, scale),
        _blocks(_WITHOUT_ACTIVATION, bare, scale),
    )


def _with_own_end(layers: Sequence[Layer]) -> list[Layer]:
    """The layers that share no activation module with another one."""
    shared = Counter(layer.activation_module for layer in layers)
    return [
        layer
        for layer in layers
        if layer.activation_module is None or shared[layer.activation_module] == 1
    ]


def _blocks(template: str, layers: Sequence[Layer], scale: str) -> str:
    if not layers:
        return ""
    activations = [layer.activation_module or "" for layer in layers]
    return filled(
        template,
        names=literal(layer_names(layers)),
        activations=literal(activations),
        scale=scale,
    )


def _by_hand(layers: Sequence[Layer], scale: str) -> str:
    if not layers:
        return ""
    return comment(
        f"In forward, for each of {', '.join(map(repr, layer_names(layers)))}: "
        f"x = x + {scale} * activation(layer(x)) instead of x = activation(layer(x))."
    )


def _scale(layers: Sequence[Layer]) -> str:
    return f"{len(layers)}**-0.5" if len(layers) > 1 else "1.0"


def _keras(layers: Sequence[Layer]) -> str:
    skippable = _with_own_end([layer for layer in layers if family_of(layer) in _SKIPPABLE])
    names = layer_names(skippable)
    ends = [layer.activation_module or layer.name for layer in skippable]
    scale = _scale(skippable)
    return program(
        keras_code.IMPORTS,
        comment(
            f"In the definition, at {quoted(names)}: x = keras.layers.Add()([x, "
            f"keras.layers.Rescaling({scale})(layer(x))]). "
            "Or in a built Sequential or functional model:"
        ),
        filled(_KERAS, names=literal(names), ends=literal(ends), scale=scale),
    )
