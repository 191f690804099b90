"""Fixes against gradients too small for half precision."""

from __future__ import annotations

from collections.abc import Sequence

from gradwatch.finding import Fix
from gradwatch.fixes.snippets.text import comment, filled, layer_names, program, quoted
from gradwatch.layer import Layer

_SCALER = """
device = next(model.parameters()).device.type
scaler = torch.amp.GradScaler(device, init_scale=2.0**22)  # once, before the training loop

# At each step:
optimizer.zero_grad()
with torch.autocast(device, dtype=torch.float16):
    loss = loss_fn(model, batch)
scaler.scale(loss).backward()
scaler.unscale_(optimizer)  # here the gradients can be clipped
scaler.step(optimizer)  # skipped while the scale is too large
scaler.update()
"""

_KERAS_SCALER = """
keras.mixed_precision.set_dtype_policy("mixed_float16")  # before the model is built
optimizer = keras.optimizers.LossScaleOptimizer(model.optimizer, initial_scale=2.0**22)
# Then model.compile(optimizer=optimizer, ...).
"""

_BFLOAT16 = """
device = next(model.parameters()).device.type

# At each step:
optimizer.zero_grad()
with torch.autocast(device, dtype=torch.bfloat16):
    loss = loss_fn(model, batch)
loss.backward()
optimizer.step()
"""

_KERAS_BFLOAT16 = """
keras.mixed_precision.set_dtype_policy("mixed_bfloat16")  # before the model is built
"""


def gradient_scaler(layers: Sequence[Layer]) -> Fix:
    """The fix that scales the loss, so that float16 can hold the gradients.

    Args:
        layers: Layers whose gradients underflow.
    """
    return Fix(
        kind="loss_scale",
        title="Scale the loss before the backward pass",
        rationale=(
            "float16 turns values below 2^-24 into 0; a loss scaled by a large number lifts the "
            "whole backward pass above that, and the optimizer gets it divided out again."
        ),
        reference="Micikevicius et al. 2018, section 3.2",
        snippets=_snippets(layers, _SCALER, _KERAS_SCALER),
        avoid_when=(
            "the parameters themselves are float16 (model.half()), which the scaler refuses: keep "
            "them in float32 and use autocast"
        ),
    )


def bfloat16(layers: Sequence[Layer]) -> Fix:
    """The fix that computes in bfloat16, which has the range of float32.

    Args:
        layers: Layers whose gradients underflow.
    """
    return Fix(
        kind="loss_scale",
        title="Use bfloat16 instead of float16",
        rationale=(
            "bfloat16 has the exponent of float32, so gradients as small as 1e-38 survive without "
            "a loss scale."
        ),
        reference="Kalamkar et al. 2019, A study of BFLOAT16 for deep learning training",
        snippets=_snippets(layers, _BFLOAT16, _KERAS_BFLOAT16),
        avoid_when=(
            "the hardware only emulates it, as GPUs before Ampere do, or if three digits of "
            "precision are too few"
        ),
    )


def _snippets(layers: Sequence[Layer], torch: str, keras: str) -> dict[str, str]:
    note = comment(f"The gradients underflow in {quoted(layer_names(layers))}.")
    return {
        "torch": program("import torch", note, filled(torch)),
        "keras": program("import keras", note, filled(keras)),
    }
