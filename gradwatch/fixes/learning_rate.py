"""Fixes that change the learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradwatch.errors import ArgumentError
from gradwatch.finding import Fix
from gradwatch.fixes.snippets.text import comment, filled, layer_names, program, quoted
from gradwatch.layer import Layer

WARM_UP_STEPS = 500
"""Steps of a warm-up; Goyal et al. 2017 take five epochs, transformers some thousand steps."""

_TORCH = """
for group in optimizer.param_groups:
    group["lr"] *= $factor
# With a scheduler: change the rate where the optimizer is made, or the next step undoes this.
"""

_KERAS = """
rate = model.optimizer.learning_rate
rate.assign(rate * $factor)
# With a LearningRateSchedule: change its initial rate instead, and compile again.
"""

_TORCH_WARM_UP = """
scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=$steps)
# In the training loop, after every optimizer.step(): scheduler.step()
"""

_KERAS_WARM_UP = """
rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
schedule = keras.optimizers.schedules.CosineDecay(
    initial_learning_rate=0.01 * rate,
    warmup_target=rate,
    warmup_steps=$steps,
    decay_steps=100_000,  # steps of the whole training after the warm-up
)
config = model.optimizer.get_config() | {"learning_rate": schedule}
optimizer = type(model.optimizer).from_config(config)
# Then model.compile(optimizer=optimizer, ...).
"""


def lower_learning_rate(layers: Sequence[Layer], *, factor: float = 0.1) -> Fix:
    """The fix that makes the learning rate smaller.

    Args:
        layers: Layers that the steps are too large for.
        factor: New learning rate over the old one, below 1.

    Raises:
        ArgumentError: If the factor is not between 0 and 1.
    """
    if not 0.0 < factor < 1.0:
        raise ArgumentError(f"factor is {factor}; lowering the rate takes one between 0 and 1")
    return Fix(
        kind="learning_rate",
        title=f"Multiply the learning rate by {factor:.6g}",
        rationale=(
            "A step that is large against the weights replaces what they have learned, and can "
            "push units to where they get no gradient any more. "
            "Start again from the weights before the damage: units that are dead stay dead."
        ),
        reference="Bengio 2012, Practical recommendations for gradient-based training, section 3.1",
        snippets=_scaled(layers, factor),
        avoid_when=(
            "only the first steps are too large (warm up instead), or if gradients vanish, which "
            "smaller steps make worse"
        ),
    )


def raise_learning_rate(layers: Sequence[Layer], *, factor: float) -> Fix:
    """The fix that makes the learning rate larger.

    Args:
        layers: Layers that hardly move.
        factor: New learning rate over the old one, above 1.

    Raises:
        ArgumentError: If the factor is not finite or not above 1.
    """
    if not 1.0 < factor < math.inf:
        raise ArgumentError(f"factor is {factor}; raising the rate takes a finite one above 1")
    return Fix(
        kind="learning_rate",
        title=f"Multiply the learning rate by {factor:.6g}",
        rationale=(
            "The gradient is large enough to learn from, but each step moves the weights by next "
            "to nothing. Raise the rate by tens until the loss moves."
        ),
        reference="Bengio 2012, Practical recommendations for gradient-based training, section 3.1",
        snippets=_scaled(layers, factor),
        avoid_when=(
            "the gradient vanishes on its way, where the last layers blow up before the first "
            "ones move, or if a schedule has brought the rate down on purpose"
        ),
    )


def warm_up(layers: Sequence[Layer]) -> Fix:
    """The fix that raises the learning rate from almost nothing over the first steps.

    Args:
        layers: Layers that the first steps are too large for.
    """
    steps = str(WARM_UP_STEPS)
    note = comment(f"Spares {quoted(layer_names(layers))} the large first steps.")
    return Fix(
        kind="learning_rate",
        title=f"Warm the learning rate up over the first {steps} steps",
        rationale=(
            "The first gradients are the largest, and an adaptive optimizer knows their size only "
            "after some steps; a small rate bridges that time."
        ),
        reference="Goyal et al. 2017; Liu et al. 2020 (RAdam)",
        snippets={
            "torch": program("import torch", note, filled(_TORCH_WARM_UP, steps=steps)),
            "keras": program("import keras", note, filled(_KERAS_WARM_UP, steps=steps)),
        },
        avoid_when="the steps are still too large later on: lower the rate there",
    )


def _scaled(layers: Sequence[Layer], factor: float) -> dict[str, str]:
    note = comment(f"For {quoted(layer_names(layers))}; one rate for all layers is simplest.")
    shown = f"{factor:.6g}"
    return {
        "torch": program(note, filled(_TORCH, factor=shown)),
        "keras": program(note, filled(_KERAS, factor=shown)),
    }
