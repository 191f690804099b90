"""Fixes for gradients that do not get through time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from gradwatch.finding import Fix
from gradwatch.fixes.snippets import keras_code, torch_code
from gradwatch.fixes.snippets.family import Family, family_of, gates_of
from gradwatch.fixes.snippets.text import (
    ONCE,
    comment,
    filled,
    layer_names,
    literal,
    program,
    quoted,
)
from gradwatch.layer import Layer

OPEN_BIAS = 3.0
"""Bias of an open gate: it keeps sigmoid(3), 95 % of the state, at each step: about 20 steps."""

_SEQUENCE = """
old = model.get_submodule(name)
gru = nn.GRU(
    old.input_size,
    old.hidden_size,
    old.num_layers,
    bias=old.bias,
    batch_first=old.batch_first,
    dropout=old.dropout,
    bidirectional=old.bidirectional,
    device=old.weight_ih_l0.device,
)
"""

_CELL = """
old = model.get_submodule(name)
gru = nn.GRUCell(old.input_size, old.hidden_size, bias=old.bias, device=old.weight_ih.device)
"""

_LOOP = """
for name in $names:
    for key, parameter in model.get_submodule(name).named_parameters():
"""

_CLOSE_SECOND_BIAS = """
        elif "bias_hh" in key:
            parameter.detach().chunk($gates)[1].zero_()  # the two biases add up
"""

_ORTHOGONAL = """
        if "weight_hh" in key:
            $state
"""

_ORTHOGONAL_LAYER = """
for name in $names:
    layer = model.get_submodule(name)
    weight = layer.weight.detach()
    nn.init.orthogonal_(weight)
    if not isinstance(layer.weight, nn.Parameter):
        layer.weight = weight  # sets what weight_norm or spectral_norm compute it from
"""

_KERAS_GATED = """
names = $names
kept = ("units", "return_sequences", "return_state", "go_backwards", "stateful", "dropout", "name")


def gated(layer):
    if not {layer.name, layer.path} & set(names):
        return layer
    config = layer.get_config()
    return keras.layers.GRU.from_config({key: config[key] for key in kept})


model = keras.models.clone_model(model, clone_function=gated, recursive=True)
"""

_KERAS_ORTHOGONAL = """
for name in $names:
    cell = layer_of[name].cell
    $state
"""


_ADAM = """
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)  # gates learn slowly under SGD
"""

_KERAS_ADAM = """
optimizer = keras.optimizers.Adam(3e-3)  # gates learn slowly under SGD
# Then model.compile(optimizer=optimizer, ...).
"""


def gated_cell(layers: Sequence[Layer]) -> Fix:
    """The fix that puts a GRU, which takes the same arguments, for a plain recurrent layer.

    Args:
        layers: Recurrent layers without gates; layers with gates are left as they are.
    """
    return Fix(
        kind="recurrent",
        title="Replace the plain recurrent layers by gated ones (GRU or LSTM)",
        rationale=(
            "A gated cell carries its state on by addition, so the gradient reaches early steps "
            "without passing a weight matrix and a slope at every step. "
            "Gates learn slowly under plain SGD, so it comes with Adam."
        ),
        reference="Hochreiter & Schmidhuber 1997; Cho et al. 2014",
        snippets={
            "torch": program(f"import torch\n{torch_code.IMPORTS}", _torch_gated(layers), _ADAM),
            "keras": program(keras_code.IMPORTS, _keras_gated(layers), _KERAS_ADAM),
        },
        avoid_when=(
            "only the last few steps matter, or if the net is pre-trained: the new layers start "
            "from random weights"
        ),
    )


def orthogonal_recurrent(layers: Sequence[Layer]) -> Fix:
    """The fix that starts the weights on the state from orthogonal matrices.

    Args:
        layers: Recurrent layers.
    """
    return Fix(
        kind="recurrent",
        title="Initialise the recurrent weights orthogonally",
        rationale=(
            "A matrix whose singular values are all 1 neither shrinks nor blows up what passes "
            "through it once per time step."
        ),
        reference="Saxe et al. 2014; Le, Jaitly & Hinton 2015",
        snippets={
            "torch": program(torch_code.IMPORTS, ONCE, _torch_orthogonal(layers)),
            "keras": program(keras_code.IMPORTS, keras_code.LAYER_OF, _keras_orthogonal(layers)),
        },
        lr_factor=0.2,
        avoid_when=(
            "the sequences are longer than a hundred steps or so, where the tanh between the steps "
            "still shrinks the gradient: take gates"
        ),
    )


def open_forget_gate(layers: Sequence[Layer]) -> Fix:
    """The fix that opens the gate that keeps the state, in an LSTM or a GRU.

    Args:
        layers: Recurrent layers; those without gates get a comment only.
    """
    return Fix(
        kind="recurrent",
        title="Start with open forget gates: bias +3",
        rationale=(
            "A forget gate at sigmoid(b) multiplies the state, and its gradient, at every step: a "
            "bias of 1 keeps it for about 4 steps, 3 for about 20."
        ),
        reference="Jozefowicz, Zaremba & Sutskever 2015",
        snippets={
            "torch": program(_torch_opened(layers), _without_gates(layers)),
            "keras": program(
                keras_code.IMPORTS,
                keras_code.LAYER_OF,
                "\n".join(
                    keras_code.opened_gate(group, bias=OPEN_BIAS)
                    for gates, group in _by_gates(layers).items()
                    if gates > 1
                ),
                _without_gates(layers),
            ),
        },
        avoid_when="only the last few steps matter: a bias of 1 is enough there",
    )


def _by_gates(layers: Iterable[Layer]) -> dict[int, list[Layer]]:
    groups: dict[int, list[Layer]] = {}
    for layer in layers:
        if family_of(layer) is Family.RECURRENT:
            groups.setdefault(gates_of(layer), []).append(layer)
    return groups


def _loop(layers: Sequence[Layer]) -> str:
    return filled(_LOOP, names=torch_code.named(layers))


def _torch_gated(layers: Sequence[Layer]) -> str:
    plain = _by_gates(layers).get(1, [])
    opened = torch_code.opened_gate(3, bias=OPEN_BIAS, depth=1)
    blocks = [
        torch_code.layers_replaced(
            [layer for layer in plain if ("Cell" in layer.kind) is cell],
            "gru",
            prepare=f"{filled(made)}\nfor key, parameter in gru.named_parameters():\n{opened}",
        )
        for made, cell in ((_SEQUENCE, False), (_CELL, True))
    ]
    return program(*filter(None, blocks), _handwritten(layers, "nn.GRUCell(inputs, units)"))


def _keras_gated(layers: Sequence[Layer]) -> str:
    plain = _by_gates(layers).get(1, [])
    if not plain:
        return _handwritten(layers, "keras.layers.GRUCell(units)")
    names = literal(layer_names(plain))
    as_gru = [replace(layer, kind="GRU") for layer in plain]
    return program(
        filled(_KERAS_GATED, names=names),
        keras_code.LAYER_OF,
        keras_code.opened_gate(as_gru, bias=OPEN_BIAS),
    )


def _handwritten(layers: Sequence[Layer], cell: str) -> str:
    others = [layer.name for layer in layers if family_of(layer) is not Family.RECURRENT]
    after = ", ".join(map(repr, others))
    note = comment(f"In place of {after} and the update of the state around it: {cell}.")
    return note if others else ""


def _torch_orthogonal(layers: Sequence[Layer]) -> str:
    others = [layer for layer in layers if family_of(layer) is not Family.RECURRENT]
    blocks = [
        f"{_loop(group)}\n{filled(_ORTHOGONAL, state=torch_code.orthogonal_state(gates))}"
        for gates, group in _by_gates(layers).items()
    ]
    if others:
        blocks.append(filled(_ORTHOGONAL_LAYER, names=torch_code.named(others)))
    return "\n".join(blocks)


def _keras_orthogonal(layers: Sequence[Layer]) -> str:
    return "\n".join(
        filled(
            _KERAS_ORTHOGONAL,
            names=literal(layer_names(group)),
            state="\n    ".join(keras_code.orthogonal_state(gates).splitlines()),
        )
        for gates, group in _by_gates(layers).items()
    )


def _torch_opened(layers: Sequence[Layer]) -> str:
    return "\n".join(
        f"{_loop(group)}\n{torch_code.opened_gate(gates, bias=OPEN_BIAS)}\n"
        f"{filled(_CLOSE_SECOND_BIAS, gates=str(gates))}"
        for gates, group in _by_gates(layers).items()
        if gates > 1
    )


def _without_gates(layers: Sequence[Layer]) -> str:
    gateless = [layer for layer in layers if not layer.is_gated]
    names = quoted(layer_names(gateless))
    return comment(f"No gates to open in {names}: replace by a GRU or LSTM.") if gateless else ""
