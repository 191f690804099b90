"""Blocks of PyTorch code that change the user's `model`; for PyTorch 2.4 or newer.

`Module.set_submodule` is newer than 2.4, so a module is replaced by `setattr` on its parent.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from gradwatch.fixes.snippets.family import Family, family_of, gates_of, torch_family_of
from gradwatch.fixes.snippets.scheme import Scheme, scheme_of, size_note
from gradwatch.fixes.snippets.text import comment, filled, literal, quoted
from gradwatch.layer import Layer

IMPORTS = "from torch import nn"
LAYER = "layer = model.get_submodule(name)"

_FILL = {
    Scheme.HE: 'nn.init.kaiming_normal_($weight, nonlinearity="relu")',
    Scheme.TANH: "nn.init.xavier_normal_($weight, gain=5 / 3)",
    Scheme.SIGMOID: "nn.init.xavier_normal_($weight, gain=4)",
    Scheme.LECUN: 'nn.init.kaiming_normal_($weight, nonlinearity="linear")',
    Scheme.ORTHOGONAL: "nn.init.orthogonal_($weight)",
}

_PLAIN = """
for name in $names:
    layer = model.get_submodule(name)
    weight = layer.weight.detach()
    $fill
    if not isinstance(layer.weight, nn.Parameter):
        layer.weight = weight  # sets what weight_norm or spectral_norm compute it from
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
"""

# kaiming_normal_ would take the fan-in of a transposed convolution from the wrong axis.
_TRANSPOSED = """
for name in $names:
    layer = model.get_submodule(name)
    fan_in = layer.weight[:, 0].numel() / layer.groups
    for stride in layer.stride:
        fan_in /= stride
    weight = layer.weight.detach()
    nn.init.normal_(weight, std=($variance / fan_in) ** 0.5)
    if not isinstance(layer.weight, nn.Parameter):
        layer.weight = weight  # sets what weight_norm or spectral_norm compute it from
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
"""

_EMBEDDING = """
for name in $names:
    model.get_submodule(name).reset_parameters()  # N(0, 1); the padding row stays 0
"""

_RECURRENT = """
for name in $names:
    for key, parameter in model.get_submodule(name).named_parameters():
        if "weight_hh" in key:
            $state
        elif "weight" in key:
            nn.init.xavier_normal_(parameter)
        else:
            nn.init.zeros_(parameter)
"""

_ORTHOGONAL_GATES = """
for gate in parameter.detach().chunk($gates):
    nn.init.orthogonal_(gate)
"""

_OPEN_GATE = """
if "bias_ih" in key:
    parameter.detach().chunk($gates)[1].fill_($bias)  # the $gate gate
"""

_BY_SHAPE = """
for name in $names:
    for key, parameter in model.get_submodule(name).named_parameters($recurse):
        if "bias" in key:
            nn.init.zeros_(parameter)
        elif parameter.ndim >= 2:
            $fill
"""

_BIASES = """
for name in $names:
    for key, parameter in model.get_submodule(name).named_parameters($recurse):
        if "bias" in key:
            nn.init.zeros_(parameter)
"""

_REPLACE = """
for name in $names:$prepare
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, $new)
"""

_REPLACE_OR_ROOT = """
for name in $names:$prepare
    parent, _, child = name.rpartition(".")
    if child:
        setattr(model.get_submodule(parent), child, $new)
    else:  # the model itself is the layer
        model = $new
"""


def named(layers: Iterable[Layer]) -> str:
    """A Python expression for the names of the layers, as `get_submodule` takes them.

    A model that owns parameters itself is named by its class, and so may one of its children be;
    which of them is meant shows only on the model. The empty name is the model's own.
    """
    group = list(layers)
    if not any(may_be_root(layer) for layer in group):
        return literal(layer.name for layer in group)
    shown = [
        f"{layer.name!r} if hasattr(model, {layer.name!r}) else ''"
        if may_be_root(layer)
        else repr(layer.name)
        for layer in group
    ]
    return f"({', '.join(shown)},)"


def may_be_root(layer: Layer) -> bool:
    """Whether the layer may be the model itself: such a row is named by its class."""
    return layer.name == layer.kind


def initialised(layers: Iterable[Layer]) -> str:
    """Code that gives every layer the weights that its activation needs, and zero biases."""
    groups: dict[tuple[Family, Scheme, int], list[Layer]] = {}
    for layer in layers:
        family = torch_family_of(layer)
        scheme = Scheme.LECUN if family is Family.ATTENTION else scheme_of(layer)
        gates = gates_of(layer) if family is Family.RECURRENT else 1
        groups.setdefault((family, scheme, gates), []).append(layer)
    return "\n".join(_initialised(*key, group) for key, group in groups.items())


def _initialised(family: Family, scheme: Scheme, gates: int, group: Sequence[Layer]) -> str:
    names = named(group)
    parameter = filled(_FILL[scheme], weight="parameter")
    if family is Family.EMBEDDING:
        return filled(_EMBEDDING, names=names)
    if family is Family.GAIN:
        return filled(_BIASES, names=names, recurse="recurse=False")
    if family is Family.RECURRENT:
        code = filled(_RECURRENT, names=names, state=orthogonal_state(gates))
        return f"{code}\n{opened_gate(gates, bias=1.0)}" if gates == 4 else code
    if family is Family.ATTENTION:
        return filled(_BY_SHAPE, names=names, recurse="", fill=parameter)
    if family is Family.OTHER:
        return filled(_BY_SHAPE, names=names, recurse="recurse=False", fill=parameter)
    if family is Family.TRANSPOSED and scheme in {Scheme.HE, Scheme.LECUN}:
        return filled(_TRANSPOSED, names=names, variance="2" if scheme is Scheme.HE else "1")
    if family is Family.LINEAR_TRANSPOSED:
        return filled(_PLAIN, names=names, fill=filled(_FILL[scheme], weight="weight.T"))
    code = filled(_PLAIN, names=names, fill=filled(_FILL[scheme], weight="weight"))
    return "\n".join(filter(None, (size_note(group[0]), code)))


def as_identity(layers: Iterable[Layer]) -> str:
    """Code that makes each square linear layer or convolution the identity, with zero biases."""
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        convolution = torch_family_of(layer) is Family.CONVOLUTION
        groups.setdefault("dirac_" if convolution else "eye_", []).append(layer)
    return "\n".join(
        filled(_PLAIN, names=named(group), fill=f"nn.init.{fill}(weight)")
        for fill, group in groups.items()
    )


def orthogonal_state(gates: int) -> str:
    """Lines inside a loop over `key, parameter` and an `if`: orthogonal weights for each gate."""
    if gates == 1:
        return "nn.init.orthogonal_(parameter)"
    return filled(_ORTHOGONAL_GATES, gates=str(gates)).replace("\n", "\n            ")


def opened_gate(gates: int, *, bias: float, depth: int = 2) -> str:
    """Lines inside a loop over `key, parameter`: the gate that keeps the state starts open.

    It is the second block in both: an LSTM stacks input, forget, cell and output gate, a GRU reset,
    update and new gate.

    Args:
        gates: Blocks, 4 for an LSTM and 3 for a GRU.
        bias: Bias of the gate.
        depth: Loops around the lines.
    """
    gate = "forget" if gates == 4 else "update"
    code = filled(_OPEN_GATE, gates=str(gates), bias=f"{bias:.1f}", gate=gate)
    return textwrap.indent(code, "    " * depth)


def zero_biases(layers: Iterable[Layer]) -> str:
    """Code that zeroes the biases, save for an LSTM's forget gate, and leaves the weights alone."""
    groups: dict[tuple[bool, bool], list[Layer]] = {}
    for layer in layers:
        family = family_of(layer)
        forgets = family is Family.RECURRENT and gates_of(layer) == 4
        groups.setdefault((family is Family.ATTENTION, forgets), []).append(layer)
    blocks = []
    for (attention, forgets), group in groups.items():
        recurse = "" if attention else "recurse=False"
        blocks.append(filled(_BIASES, names=named(group), recurse=recurse))
        if forgets:
            blocks.append(opened_gate(4, bias=1.0))
    return "\n".join(blocks)


def replaced(names: Sequence[str], new: str) -> str:
    """Code that puts `new`, an expression, in the place of each module.

    Args:
        names: Qualified names.
        new: Expression; it may use `name`.
    """
    return filled(_REPLACE, names=literal(names), new=new, prepare="") if names else ""


def layers_replaced(layers: Sequence[Layer], new: str, *, prepare: str = "") -> str:
    """Code that puts `new`, an expression, in the place of each layer.

    Args:
        layers: Any of them may be the model itself.
        new: Expression; it may use `name` and what `prepare` binds.
        prepare: Lines before it.
    """
    if not layers:
        return ""
    template = _REPLACE_OR_ROOT if any(map(may_be_root, layers)) else _REPLACE
    lines = "".join(f"\n    {line}" for line in prepare.splitlines())
    return filled(template, names=named(layers), new=new, prepare=lines)


def activations_replaced(layers: Sequence[Layer], *, module: str, call: str) -> str:
    """Code, and comments for calls inside `forward`, that change the activations after the layers.

    Args:
        layers: Each with an activation.
        module: Expression for the new module, for example `nn.ReLU()`.
        call: The new function, for example `F.relu(...)`.
    """
    modules = {
        layer.name: layer.activation_module
        for layer in layers
        if layer.activation_module is not None
    }
    calls: dict[str, list[str]] = {}
    for layer in layers:
        if layer.activation_module is None:
            calls.setdefault(spelled(layer.activation), []).append(layer.name)
    notes = [
        comment(f"In forward: {call} instead of {old} after {', '.join(map(repr, names))}.")
        for old, names in calls.items()
    ]
    if modules:
        notes.append(comment(f"The activations after {quoted(tuple(modules))}:"))
    return "\n".join([*notes, replaced(list(modules.values()), module)])


def spelled(activation: str | None) -> str:
    """How `forward` may spell an activation that is a function."""
    if activation in {"relu", "sigmoid", "tanh"}:
        return f"torch.{activation}(...), F.{activation}(...) or x.{activation}()"
    known = activation is not None and activation.isidentifier()
    return f"F.{activation}(...)" if known else "the activation"
