"""Blocks of Keras 3 code that change the user's built `model`, and the definition they mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gradwatch.fixes.snippets.family import Family, family_of, gates_of, spatial_dimensions
from gradwatch.fixes.snippets.scheme import Scheme, scheme_of, size_note
from gradwatch.fixes.snippets.text import comment, filled, layer_names, literal, program, quoted
from gradwatch.layer import Layer

IMPORTS = "import keras"

LAYER_OF = """
nested = list(model._flatten_layers())  # the layers of models in the model too
layer_of = {layer.name: layer for layer in nested} | {layer.path: layer for layer in nested}
"""
"""Binds `layer_of`, from a layer's name, or its path in nested models, to the layer."""

_IDENTITY = """
for name in $names:
    layer = layer_of[name]
    kernel = np.zeros(layer.kernel.shape, "float32")
    centre = tuple(size // 2 for size in kernel.shape[:-2])
    kernel[centre] = np.eye(*kernel.shape[-2:])
    layer.kernel.assign(kernel)
    if layer.bias is not None:
        layer.bias.assign(np.zeros(layer.bias.shape, "float32"))
"""

_REBUILD = """
def rebuilt(model):
    nested = {}

    def call(layer, *args, **kwargs):
        if not isinstance(layer, keras.Model) or not getattr(layer, "inputs", None):
            return $call(layer, *args, **kwargs)
        if layer not in nested:
            nested[layer] = rebuilt(layer)
        return nested[layer](*args, **kwargs)

    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return keras.models.clone_model(
        model, clone_function=lambda layer: layer, call_function=call
    )


model = rebuilt(model)
# Then model.compile(...): the model has new variables.
"""

COMPILE_AGAIN = "# Then model.compile(...) again: the compiled step still holds the old function."

_INITIALISER = {
    Scheme.HE: "HeNormal()",
    Scheme.TANH: 'VarianceScaling(25 / 9, "fan_avg", "untruncated_normal")',
    Scheme.SIGMOID: 'VarianceScaling(16.0, "fan_avg", "untruncated_normal")',
    Scheme.LECUN: "LecunNormal()",
    Scheme.ORTHOGONAL: "Orthogonal()",
}

_PLAIN = """
for name in $names:
    for variable in layer_of[name].trainable_variables:
        if variable.name in ("bias", "beta"):
            variable.assign(keras.ops.zeros(variable.shape))
        elif len(variable.shape) > 1:
            random = $initialiser
            variable.assign(random(variable.shape))
"""

# Keras would take the fan-in of a transposed convolution from the wrong axis.
_TRANSPOSED = """
for name in $names:
    layer = layer_of[name]
    fan_in = layer.kernel.shape[-1]
    for size, stride in zip(layer.kernel_size, layer.strides):
        fan_in *= size / stride
    normal = keras.initializers.RandomNormal(stddev=($variance / fan_in) ** 0.5)
    layer.kernel.assign(normal(layer.kernel.shape))
    if layer.bias is not None:
        layer.bias.assign(keras.ops.zeros(layer.bias.shape))
"""

_RECURRENT = """
for name in $names:
    cell = layer_of[name].cell
    cell.kernel.assign(keras.initializers.GlorotNormal()(cell.kernel.shape))
    $recurrent
    if cell.bias is not None:
        cell.bias.assign(keras.ops.zeros(cell.bias.shape))
"""

_ORTHOGONAL_STATE = """
square = (cell.units, cell.units)
blocks = [keras.initializers.Orthogonal()(square) for _ in range($gates)]
cell.recurrent_kernel.assign(keras.ops.concatenate(blocks, axis=1))
"""

_OPEN_GATE = """
for name in $names:
    cell = layer_of[name].cell
    bias = keras.ops.convert_to_numpy(cell.bias).copy()
    bias.reshape(-1)[$block] = $bias  # the $gate gate
    cell.bias.assign(bias)
"""

_BIASES = """
for name in $names:
    for variable in layer_of[name].trainable_variables:
        if variable.name in ("bias", "beta"):
            variable.assign(keras.ops.zeros(variable.shape))
"""

_ACTIVATIONS = """
for name in $names:
    layer_of[name].activation = $activation
"""


def initialised(layers: Iterable[Layer]) -> str:
    """Code that gives every layer the weights that its activation needs, and zero biases."""
    groups: dict[tuple[Family, str, int], list[Layer]] = {}
    for layer in layers:
        family, gates = family_of(layer), gates_of(layer)
        if family not in {Family.RECURRENT, Family.TRANSPOSED}:
            family, gates = Family.OTHER, 1
        groups.setdefault((family, initialiser(layer), gates), []).append(layer)
    return "\n".join(_initialised(*key, group) for key, group in groups.items())


def initialiser(layer: Layer) -> str:
    """Expression for the initialiser of the layer's weights."""
    family = family_of(layer)
    if family is Family.EMBEDDING:
        return "keras.initializers.RandomNormal(stddev=1.0)"
    if family is Family.ATTENTION:
        return f"keras.initializers.RandomNormal(stddev={layer.fan_in} ** -0.5)"
    return f"keras.initializers.{_INITIALISER[scheme_of(layer)]}"


def _initialised(family: Family, chosen: str, gates: int, group: Sequence[Layer]) -> str:
    names, scheme = literal(layer_names(group)), scheme_of(group[0])
    if family is Family.RECURRENT:
        state = "\n    ".join(orthogonal_state(gates).splitlines())
        code = filled(_RECURRENT, names=names, recurrent=state)
        return f"{code}\n{opened_gate(group, bias=1.0)}" if gates == 4 else code
    if family is Family.TRANSPOSED and scheme in {Scheme.HE, Scheme.LECUN}:
        return filled(_TRANSPOSED, names=names, variance="2" if scheme is Scheme.HE else "1")
    code = filled(_PLAIN, names=names, initialiser=chosen)
    sized = family_of(group[0]) in {Family.LINEAR, Family.CONVOLUTION}
    return "\n".join(filter(None, (size_note(group[0]) if sized else "", code)))


def as_identity(layers: Sequence[Layer]) -> str:
    """Code that makes each square dense layer or convolution the identity, with zero biases."""
    if not layers:
        return ""
    return program("import numpy as np", filled(_IDENTITY, names=literal(layer_names(layers))))


def rebuilt(call: str) -> str:
    """Code that builds a Sequential or functional model, and models in it, from the same layers.

    Args:
        call: Name of the function that calls a layer, `call(layer, *args, **kwargs)`.
    """
    return filled(_REBUILD, call=call)


def orthogonal_state(gates: int) -> str:
    """Lines on a `cell`: an orthogonal matrix for each gate's weights on the state."""
    return filled(_ORTHOGONAL_STATE, gates=str(gates))


def opened_gate(layers: Sequence[Layer], *, bias: float) -> str:
    """Code that opens the gate that keeps the state, for layers of one kind.

    An LSTM stacks input, forget, cell and output gate; a GRU update, reset and new gate, in two
    rows of which the first belongs to the input.
    """
    forgets = gates_of(layers[0]) == 4
    return filled(
        _OPEN_GATE,
        names=literal(layer_names(layers)),
        block="cell.units : 2 * cell.units" if forgets else ": cell.units",
        bias=f"{bias:.1f}",
        gate="forget" if forgets else "update",
    )


def zero_biases(layers: Sequence[Layer]) -> str:
    """Code that zeroes the biases, save for an LSTM's forget gate, and leaves the weights alone."""
    forgetting = [
        layer for layer in layers if family_of(layer) is Family.RECURRENT and gates_of(layer) == 4
    ]
    code = filled(_BIASES, names=literal(layer_names(layers)))
    return f"{code}\n{opened_gate(forgetting, bias=1.0)}" if forgetting else code


def activations_replaced(layers: Sequence[Layer], activation: str) -> str:
    """Code that changes the activation after each layer, whether its own or an Activation layer.

    Args:
        layers: Each with an activation.
        activation: Expression for the new function, for example `keras.activations.relu`.
    """
    if not layers:
        return ""
    note = comment(f"The activations after {quoted(layer_names(layers))}:")
    owners = literal(layer.activation_module or layer.name for layer in layers)
    return f"{note}\n{filled(_ACTIVATIONS, names=owners, activation=activation)}"


def definition(layers: Sequence[Layer], arguments: Mapping[str, str]) -> str:
    """A comment: the first layer that has a definition in Keras, with the arguments set.

    Units come from the layer; a convolution's filters and kernel size cannot, and stay words.

    Args:
        layers: Layers to define anew.
        arguments: Argument's name → expression.
    """
    for layer in layers:
        constructor = _constructor(layer)
        if constructor:
            named = [f"{key}={expression}" for key, expression in arguments.items()]
            shown = ", ".join([constructor, *named, f"name={layer.name!r}"])
            return comment(f"In the definition: keras.layers.{shown}). Or in a built model:")
    return ""


def _constructor(layer: Layer) -> str:
    family, dimensions = family_of(layer), spatial_dimensions(layer)
    if family is Family.LINEAR:
        return f"Dense({layer.fan_out}"
    if family is Family.CONVOLUTION:
        return f"Conv{dimensions}D(filters, kernel_size"
    if family is Family.TRANSPOSED:
        return f"Conv{dimensions}DTranspose(filters, kernel_size"
    return ""
