"""Fixes that give the gradient a way round a layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gradwatch.finding import Fix
from gradwatch.fixes.snippets import keras_code, torch_code
from gradwatch.fixes.snippets.family import Family, family_of, torch_family_of
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

_SKIPPABLE = frozenset(
    {
        Family.LINEAR,
        Family.LINEAR_TRANSPOSED,
        Family.CONVOLUTION,
        Family.TRANSPOSED,
        Family.OTHER,
    }
)

_RESIDUAL = """
class Residual(nn.Module):
    \"\"\"x + scale * branch(x); the branch alone where it changes the shape.\"\"\"

    def __init__(self, branch):
        super().__init__()
        self.branch = branch
        self.scale = nn.Parameter(torch.zeros((), device=next(branch.parameters()).device))

    def forward(self, x):
        out = self.branch(x)
        if out.shape == x.shape:
            return x + self.scale * out
        self.scale.requires_grad_(False)  # nothing to add to
        return out


def replace(name, module):
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
"""

_WITH_ACTIVATION = """
# Each activation has to serve its layer alone and to follow it directly.
for name, activation in zip($names, $activations):
    branch = nn.Sequential(model.get_submodule(name), model.get_submodule(activation))
    replace(name, Residual(branch))
    replace(activation, nn.Identity())
"""

_WITHOUT_ACTIVATION = """
for name in $names:
    replace(name, Residual(model.get_submodule(name)))
"""

_KERAS = """
# Name of the layer a skip leaves from, and of the one whose output it joins.
ends = dict(zip($names, $ends))
starts = {}


class Scale(keras.layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(), initializer="zeros", name="scale")

    def call(self, x):
        return self.scale * x


def with_skip(layer, *args, **kwargs):
    for name in {layer.name, layer.path} & set(ends):
        starts[ends[name]] = args[0]
    out = layer(*args, **kwargs)
    x = next((starts[name] for name in (layer.path, layer.name) if name in starts), None)
    if x is None or x.shape != out.shape:
        return out
    return keras.layers.Add()([x, Scale()(out)])
"""


def residual_path(layers: Sequence[Layer]) -> Fix:
    """The fix that adds each layer's input to its activated output.

    A branch is scaled by a number that starts at 0 and is learned, so that the net starts as if the
    layers were not there. Branches with ReLU at full size, or at 1/sqrt(layers), drift one way.

    Args:
        layers: Consecutive layers that the gradient does not get through.
    """
    return Fix(
        kind="residual",
        title="Add a skip connection around each of these layers",
        rationale=(
            "The gradient of x + a f(x) has a part that no weight and no slope multiplies, so it "
            "reaches the first layers at any depth. A scale a that starts at 0 and is learned lets "
            "each layer come in as far as it helps."
        ),
        reference="He et al. 2016; De & Smith 2020 (SkipInit); Bachlechner et al. 2020 (ReZero)",
        snippets={"torch": _torch(layers), "keras": _keras(layers)},
        avoid_when=(
            "a layer changes the shape, where the skip needs a projection, or if an activation "
            "serves several layers or does not follow its layer at once"
        ),
    )


def _torch(layers: Sequence[Layer]) -> str:
    fitting = [
        layer
        for layer in layers
        if torch_family_of(layer) in _SKIPPABLE and not torch_code.may_be_root(layer)
    ]
    skippable = [layer for layer in fitting if layer.fan_in == layer.fan_out]
    others = layer_names(layer for layer in fitting if layer not in skippable)
    own = [layer for layer in _with_own_end(skippable) if layer.activation_module is not None]
    bare = [layer for layer in skippable if layer.activation is None and layer not in own]
    by_hand = [layer for layer in skippable if layer not in own and layer not in bare]
    built = bool(own or bare)
    return program(
        f"import torch\n{torch_code.IMPORTS}",
        comment(f"Another width, and so no skip: {quoted(others)}.") if others else "",
        _by_hand(by_hand),
        filled(_RESIDUAL) if built else "",
        _blocks(_WITH_ACTIVATION, own),
        _blocks(_WITHOUT_ACTIVATION, bare),
        REBUILD if built else "",
    )


def _with_own_end(layers: Sequence[Layer]) -> list[Layer]:
    """The layers that share no activation module with another one."""
    shared = Counter(layer.activation_module for layer in layers)
    return [
        layer
        for layer in layers
        if layer.activation_module is None or shared[layer.activation_module] == 1
    ]


def _blocks(template: str, layers: Sequence[Layer]) -> str:
    if not layers:
        return ""
    activations = [layer.activation_module or "" for layer in layers]
    return filled(
        template,
        names=literal(layer_names(layers)),
        activations=literal(activations),
    )


def _by_hand(layers: Sequence[Layer]) -> str:
    if not layers:
        return ""
    return comment(
        f"In forward, for each of {', '.join(map(repr, layer_names(layers)))}: "
        "x = x + scale * activation(layer(x)) instead of x = activation(layer(x)), with a "
        "scale = nn.Parameter(torch.zeros(())) for each layer in __init__."
    )


def _keras(layers: Sequence[Layer]) -> str:
    skippable = _with_own_end([layer for layer in layers if family_of(layer) in _SKIPPABLE])
    names = layer_names(skippable)
    ends = [layer.activation_module or layer.name for layer in skippable]
    return program(
        keras_code.IMPORTS,
        comment(
            f"In the definition, at {quoted(names)}: x = keras.layers.Add()([x, "
            "Scale()(layer(x))]). Or in a built Sequential or functional model:"
        ),
        filled(_KERAS, names=literal(names), ends=literal(ends)),
        keras_code.rebuilt("with_skip"),
    )
