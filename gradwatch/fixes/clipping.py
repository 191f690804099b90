"""Fixes that bound the gradient."""

from __future__ import annotations

from collections.abc import Sequence

from gradwatch.finding import Fix
from gradwatch.fixes.snippets.text import comment, filled, layer_names, program, quoted
from gradwatch.layer import Layer

_TORCH = """
# At each step:
optimizer.zero_grad()
loss = loss_fn(model, batch)
loss.backward()
torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
optimizer.step()
"""

_KERAS = """
bound = {"clipnorm": None, "clipvalue": None, "global_clipnorm": 1.0}
optimizer = type(model.optimizer).from_config(model.optimizer.get_config() | bound)
# Then model.compile(optimizer=optimizer, ...).
"""


def clip_gradients(layers: Sequence[Layer]) -> Fix:
    """The fix that clips the norm of the whole gradient.

    Args:
        layers: Layers whose gradients explode.
    """
    note = comment(f"Bounds the steps that {quoted(layer_names(layers))} would blow up.")
    return Fix(
        kind="clipping",
        title="Clip the norm of the gradient at 1",
        rationale=(
            "A bound on the norm keeps one steep spot from throwing the weights far away, and "
            "keeps the direction. It limits the damage and leaves the cause where it is."
        ),
        reference="Pascanu, Mikolov & Bengio 2013, section 3.2",
        snippets={
            "torch": program("import torch", note, filled(_TORCH)),
            "keras": program(note, filled(_KERAS)),
        },
        avoid_when=(
            "gradients vanish or are not finite, which it does not cure, or if nearly every step "
            "would be clipped: that hides a learning rate or weights that are too large"
        ),
    )
