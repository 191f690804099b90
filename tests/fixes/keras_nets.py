"""Small Keras models, and what tests of Keras snippets share; skips where Keras is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradwatch.finding import Fix
from gradwatch.layer import Layer

keras = pytest.importorskip("keras")

quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning")
"""Keras itself, and what it imports, calls NumPy in ways that NumPy 2.4 deprecates."""

WIDTH = 64
INPUTS = np.random.default_rng(0).normal(size=(32, WIDTH)).astype("float32")


def run(fix: Fix, **namespace: Any) -> dict[str, Any]:
    """The namespace after the fix's Keras snippet ran in it."""
    exec(compile(fix.snippets["keras"], "snippet", "exec"), namespace)
    return namespace


def dense(name: str, activation: str | None = "sigmoid", module: str | None = None) -> Layer:
    sizes = {"fan_in": WIDTH, "fan_out": WIDTH}
    return Layer(name, "Dense", activation=activation, activation_module=module, **sizes)


LAYERS = (dense("first"), dense("second", module="second act"))


def mlp() -> Any:
    """A layer with its own activation, one with an Activation layer, and a head."""
    model = keras.Sequential(
        [
            keras.Input((WIDTH,)),
            keras.layers.Dense(WIDTH, activation="sigmoid", name="first"),
            keras.layers.Dense(WIDTH, name="second"),
            keras.layers.Activation("sigmoid", name="second act"),
            keras.layers.Dense(WIDTH, name="head"),
        ]
    )
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    return model


def single(layer: Any, shape: tuple[int | None, ...]) -> Any:
    return keras.Sequential([keras.Input(shape), layer])


def array(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable))


def weights(model: Any, name: str) -> list[np.ndarray]:
    return [array(variable) for variable in model.get_layer(name).weights]
