"""Fixes for how the parts are connected."""

from __future__ import annotations

from collections.abc import Sequence

from gradwatch.finding import Fix
from gradwatch.fixes.snippets import keras_code
from gradwatch.fixes.snippets.text import comment, filled, layer_names, literal, program, quoted
from gradwatch.fixes.snippets.torch_code import named
from gradwatch.layer import Layer

_TORCH_CUTS = """
# Take out what cuts the graph between $layers and the loss:
#   x.detach(), x.data, x.item(), x.numpy(), torch.tensor(x)  -> x itself
#   torch.no_grad(), torch.inference_mode()                   -> no such block
#   argmax, round, sign, x > 0.5, x.long()                    -> softmax, or straight-through
#   a layer whose output the loss does not use                -> use it, or freeze the layer
"""

_TORCH_RECONNECT = """
def report_cut(name):
    def report(module, args):
        inputs = [x for x in args if torch.is_tensor(x) and x.is_floating_point()]
        if inputs and not any(x.requires_grad for x in inputs):
            print(f"{name}: no gradient flows to its input")

    return report


# The modules that read the batch itself are listed too; another one lies just behind the cut.
hooks = [
    module.register_forward_pre_hook(report_cut(name or "the model"))
    for name, module in model.named_modules()
]
loss = loss_fn(model, batch)
for hook in hooks:
    hook.remove()

model.zero_grad()
if loss.requires_grad:
    loss.backward()
for name in $names:
    for key, parameter in model.get_submodule(name).named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        print(f"{name}.{key}: trains {parameter.requires_grad}, gradient {reached}")
"""

_KERAS_CUTS = """
# Take out what cuts the graph between $layers and the loss:
#   keras.ops.stop_gradient(x), convert_to_numpy(x), float(x)  -> x itself
#   argmax, round, sign, x > 0.5, cast to int                  -> softmax, or straight-through
#   layer.trainable = False                                    -> True, then compile again
#   a layer made in __init__ and not called in call            -> call it
"""

_KERAS_RECONNECT = """
for name in $names:
    for variable in layer_of[name].variables:
        print(variable.path, "trains:", variable.trainable)
"""

_TORCH_NONFINITE = """
def report_nonfinite(name):
    def report(module, args, output):
        if torch.is_tensor(output) and not torch.isfinite(output).all():
            print(f"{name}: its output is not finite")

    return report


for name in $names:
    for key, parameter in model.get_submodule(name).named_parameters():
        print(f"{name}.{key} is finite: {bool(torch.isfinite(parameter).all())}")

# On the step that fails; the first line printed is where it starts. Slow: not for every step.
hooks = [
    module.register_forward_hook(report_nonfinite(name or "the model"))
    for name, module in model.named_modules()
]
try:
    with torch.autograd.set_detect_anomaly(True):
        loss_fn(model, batch).backward()  # raises at the operation whose gradient is NaN
finally:
    for hook in hooks:
        hook.remove()
"""

_KERAS_NONFINITE = """
backend = keras.backend.backend()
if backend == "tensorflow":
    import tensorflow as tf

    tf.debugging.enable_check_numerics()
elif backend == "jax":
    import jax

    jax.config.update("jax_debug_nans", True)
else:
    import torch

    torch.autograd.set_detect_anomaly(True)

for name in $names:
    for variable in layer_of[name].variables:
        print(variable.path, "is finite:", bool(keras.ops.all(keras.ops.isfinite(variable))))
# Then model.fit(...): it raises at the operation that makes the first NaN.
"""

_SUSPECTS = (
    "Look for: log(0) or sqrt at 0, division by a sum or a deviation of 0, exp of a large value, "
    "softmax of a row that is masked everywhere, values above 65504 in float16, NaN in the batch, "
    "a learning rate that is too large. An epsilon or a clamp goes inside the function."
)


def reconnect(layers: Sequence[Layer]) -> Fix:
    """The fix that finds and removes what cuts layers off from the loss.

    Args:
        layers: Layers that ran and never got a gradient.
    """
    names = layer_names(layers)
    return Fix(
        kind="wiring",
        title="Connect these layers to the loss again",
        rationale=(
            "They run, but no gradient comes back: something between them and the loss leaves the "
            "graph, or the loss does not use them."
        ),
        reference=(
            "PyTorch documentation, Autograd mechanics; "
            "Bengio, Léonard & Courville 2013 (straight-through)"
        ),
        snippets={
            "torch": program(
                "import torch",
                filled(_TORCH_CUTS, layers=quoted(names)),
                filled(_TORCH_RECONNECT, names=named(layers)),
            ),
            "keras": program(
                "import keras",
                filled(_KERAS_CUTS, layers=quoted(names)),
                keras_code.LAYER_OF,
                filled(_KERAS_RECONNECT, names=literal(names)),
            ),
        },
        avoid_when=(
            "it is meant, as in a target network or a frozen part: set requires_grad to False there"
        ),
    )


def find_first_nonfinite(layers: Sequence[Layer]) -> Fix:
    """The fix that finds the operation that makes the first NaN or infinity.

    Args:
        layers: Layers with non-finite values, as far as they are known.
    """
    names = literal(layer_names(layers))
    return Fix(
        kind="wiring",
        title="Find the operation that makes the first non-finite value",
        rationale=(
            "One NaN spreads to every layer within a step, so the layers that hold it say little "
            "of where it began. Observing every step names the first layer, and anomaly detection "
            "the operation."
        ),
        reference="PyTorch documentation, torch.autograd.set_detect_anomaly",
        snippets={
            "torch": program(
                "import torch",
                "# First: gradwatch.watch(model, optimizer, every=1), to name the layer and step.",
                filled(_TORCH_NONFINITE, names=named(layers)),
                comment(_SUSPECTS),
            ),
            "keras": program(
                "import keras",
                "# First: gradwatch.keras.GradWatch(update_freq=1), to name the layer and step.",
                keras_code.LAYER_OF,
                filled(_KERAS_NONFINITE, names=names),
                comment(_SUSPECTS),
            ),
        },
        avoid_when="it is left in for good: anomaly detection slows every step",
    )
