"""Patches: for the duration of a pass, calls of layers and of Keras' functions report to it.

What Keras offers as an activation ends in a function of its backend, whether it is called as
`keras.ops.relu`, as `keras.activations.relu` or by a layer; those functions are what is patched,
and only for the thread that runs the pass. A function of the framework itself, such as
`jax.nn.relu`, `tf.nn.relu` or `torch.relu`, is not seen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from keras.src import backend
from keras.src.activations import activations

from gradwatch.keras.activations import KNOWN, function_name, relu_name

Report = Callable[..., Any]
"""Is given a name, the original and its arguments, and gives what the original would."""

_COMPOSED = ("ReLU", "Mish")
"""Activations that are made of several functions of the backend."""


@contextmanager
def replaced(owner: Any, name: str, report: Report) -> Iterator[None]:
    """Have the instance's attribute report; the attribute is found as before afterwards."""
    attributes = vars(owner)
    original, own = getattr(owner, name), name in attributes
    attributes[name] = partial(report, original)
    try:
        yield
    finally:
        if own:
            attributes[name] = original
        else:
            del attributes[name]


@contextmanager
def functions_replaced(report: Report) -> Iterator[None]:
    """Have Keras' activation functions report where this thread calls them."""
    thread = threading.get_ident()

    def reporting(name: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread:
            return original(*args, **kwargs)
        return report(relu_name(**kwargs) if name == "relu" else name, original, *args, **kwargs)

    with ExitStack() as stack:
        for owner, attribute, original, name in _functions():
            stack.callback(setattr, owner, attribute, vars(owner)[attribute])
            standing_in = partial(reporting, name, original)
            is_method = isinstance(owner, type)
            setattr(owner, attribute, staticmethod(standing_in) if is_method else standing_in)
        yield


def _functions() -> Iterator[tuple[Any, str, Callable[..., Any], str]]:
    """(owner, attribute, function, name of the activation) of all that the backend has."""
    for owner, wanted in ((backend.nn, None), (backend.numpy, {"tanh"})):
        for attribute, function in tuple(vars(owner).items()):
            name = function_name(function) if callable(function) else None
            is_own = getattr(function, "__module__", None) == owner.__name__
            if is_own and name in KNOWN and (wanted is None or attribute in wanted):
                yield owner, attribute, function, name
    for attribute in _COMPOSED:
        owner = getattr(activations, attribute, None)
        if owner is not None and "static_call" in vars(owner):
            yield owner, "static_call", owner.static_call, attribute.lower()


def called_method(layer: Any) -> str:
    """Name of the method that computes what the layer gives: a quantized layer has one of its own.

    Keras asks for it anew at every call, so it is replaced as an attribute of the layer.
    """
    return "call" if getattr(layer, "quantization_mode", None) is None else "quantized_call"


def operations_of(model: Any) -> Iterator[Any]:
    """Every layer and functional operation of the model, and of models inside it, each once."""
    seen: set[int] = set()
    for layer in model._flatten_layers():
        for operation in (layer, *(getattr(layer, "_operations", None) or ())):
            if id(operation) not in seen:
                seen.add(id(operation))
                yield operation
