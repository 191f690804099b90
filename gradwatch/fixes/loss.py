"""Fixes that change the loss."""

from __future__ import annotations

from collections.abc import Sequence

from gradwatch.finding import Fix
from gradwatch.fixes.snippets import keras_code, torch_code
from gradwatch.fixes.snippets.text import comment, filled, layer_names, program
from gradwatch.layer import Layer

_SIGMOID = frozenset({"sigmoid", "hardsigmoid"})

_TORCH = """
def loss_fn(model, batch):
    inputs, targets = batch
    logits = model(inputs)
    return $loss
"""

_BINARY = "F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype).view_as(logits))"
_SIGNED = (
    "F.binary_cross_entropy_with_logits(\n"
    "        2 * logits, ((targets + 1) / 2).to(logits.dtype).view_as(logits)\n"
    "    )  # tanh(z) = 2 sigmoid(2 z) - 1"
)
_CLASSES = (
    "F.cross_entropy(\n"
    "        logits.flatten(0, -2), targets.flatten()\n"
    "    )  # targets: class indices; the classes of the logits are on the last axis"
)
_CLASSES_OF_MAPS = "F.cross_entropy(logits, targets)  # targets: class indices"

_KERAS = """
def loss(targets, logits):
    return $loss


model.compile(optimizer=model.optimizer, loss=loss)
"""

_KERAS_BINARY = "keras.losses.binary_crossentropy(targets, logits, from_logits=True)"
_KERAS_SIGNED = (
    "keras.losses.binary_crossentropy(\n"
    "        (targets + 1) / 2, 2 * logits, from_logits=True\n"
    "    )  # tanh(z) = 2 sigmoid(2 z) - 1"
)
_KERAS_CLASSES = "keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)"


def loss_on_logits(layers: Sequence[Layer]) -> Fix:
    """The fix that takes the squashing function out of the output and puts it into the loss.

    Sigmoid (and tanh) outputs get a binary cross-entropy, all others a cross-entropy.

    Args:
        layers: Output layers.
    """
    return Fix(
        kind="loss",
        title="Return logits from the model and put the cross-entropy on them",
        rationale=(
            "Cross-entropy on logits has the gradient (prediction - target), largest where the "
            "model is confidently wrong; a squashing function in front of another loss multiplies "
            "it by a slope of almost 0."
        ),
        reference="Goodfellow, Bengio & Courville 2016, section 6.2.2",
        snippets=_on_logits(layers),
        avoid_when=(
            "the outputs are no probabilities, or if they have to stay probabilities in training, "
            "as for a Brier or a Dice loss; where they are only read, apply the function there"
        ),
    )


def bare_logits(layers: Sequence[Layer]) -> Fix:
    """The fix that takes out the softmax or sigmoid in front of a loss that has one of its own.

    Args:
        layers: Output layers whose probabilities the loss takes for logits.
    """
    function, loss = (
        ("sigmoid", "BCEWithLogitsLoss") if _is_binary(layers) else ("softmax", "CrossEntropyLoss")
    )
    return Fix(
        kind="loss",
        title=f"Give the loss the logits: take out the {function} in front of it",
        rationale=(
            f"{loss}, or Keras with from_logits=True, applies a {function} of its own: of values "
            "between 0 and 1 it makes no sure prediction, and the gradient passes two slopes. "
            f"Apply the {function} only where probabilities are read."
        ),
        reference="Bridle 1990; Goodfellow, Bengio & Courville 2016, section 6.2.2",
        snippets=_on_logits(layers),
        avoid_when=(
            "the loss takes probabilities by design, as NLLLoss of a log_softmax, BCELoss and "
            "Keras with from_logits=False do"
        ),
    )


def _on_logits(layers: Sequence[Layer]) -> dict[str, str]:
    torch_loss, keras_loss = _losses(layers)
    return {
        "torch": program(
            f"{torch_code.IMPORTS}\nfrom torch.nn import functional as F",
            _without_output_function(layers),
            filled(_TORCH, loss=torch_loss),
        ),
        "keras": program(
            keras_code.IMPORTS,
            keras_code.LAYER_OF,
            keras_code.activations_replaced(layers, "keras.activations.linear"),
            filled(_KERAS, loss=keras_loss),
        ),
    }


def _is_binary(layers: Sequence[Layer]) -> bool:
    return any(
        layer.activation in _SIGMOID or (layer.activation is None and layer.fan_out == 1)
        for layer in layers
    )


def _losses(layers: Sequence[Layer]) -> tuple[str, str]:
    if _is_binary(layers):
        return _BINARY, _KERAS_BINARY
    if any(layer.activation == "tanh" for layer in layers):
        return _SIGNED, _KERAS_SIGNED
    are_maps = any(layer.kind.startswith("Conv") for layer in layers)
    return _CLASSES_OF_MAPS if are_maps else _CLASSES, _KERAS_CLASSES


def _without_output_function(layers: Sequence[Layer]) -> str:
    modules = [layer for layer in layers if layer.activation_module is not None]
    functions = [layer for layer in layers if layer.activation_module is None]
    after = ", ".join(map(repr, layer_names(functions)))
    called = ", ".join(sorted({layer.activation or "softmax" for layer in functions}))
    note = comment(
        f"Take out {called} after {after}: at the end of forward, or in front of the loss."
    )
    replaced = torch_code.activations_replaced(
        modules, module="nn.Identity()", call="the bare value"
    )
    return program(note if functions else "", replaced)
