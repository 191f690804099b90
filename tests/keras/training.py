"""Small trainings with and without the callback, and all that one may change."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

import gradwatch.keras

BACKEND = keras.backend.backend()
BATCH, STEPS = 8, 4
layers = keras.layers


def tensors(*shape: int, classes: int = 3) -> tuple[Any, Any]:
    """(x, y): four batches of examples of this shape, and a class for each."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(BATCH * STEPS, *shape)).astype("float32")
    return x, (np.arange(BATCH * STEPS) % classes).astype("int32")


def cross_entropy() -> Any:
    """The loss of logits."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def mlp(*, width: int = 4, inputs: int = 5) -> Any:
    """Two dense layers."""
    return keras.Sequential(
        [
            keras.Input((inputs,)),
            layers.Dense(width, activation="tanh", name="first"),
            layers.Dense(3, name="last"),
        ]
    )


def symmetric() -> Any:
    """A net all units of whose layers start, and stay, the same."""
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(4, activation="tanh", kernel_initializer="ones", name="first"),
            layers.Dense(3, kernel_initializer="ones", name="last"),
        ]
    )


def compiled(model: Any, optimizer: Any = None, **arguments: Any) -> Any:
    """The model, with momentum and a loss of logits by default."""
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9) if optimizer is None else optimizer
    model.compile(optimizer=optimizer, loss=arguments.pop("loss", cross_entropy()), **arguments)
    return model


def watch(**arguments: Any) -> Any:
    """A callback that observes every step and says nothing."""
    return gradwatch.keras.GradWatch(**{"update_freq": "batch", "verbose": 0, **arguments})


def fit(model: Any, *callbacks: Any, **arguments: Any) -> Any:
    """Keras' history of an epoch of four steps, or what the arguments say."""
    if "x" not in arguments:
        arguments["x"], arguments["y"] = tensors(*model.input_shape[1:])
    chosen = {"epochs": 1, "verbose": 0, "shuffle": False, **arguments}
    if isinstance(chosen["x"], np.ndarray | dict | list):
        chosen.setdefault("batch_size", BATCH)
    return model.fit(callbacks=list(callbacks), **chosen)


def array(variable: Any) -> Any:
    """Its value on the host."""
    return np.asarray(keras.ops.convert_to_numpy(variable))


def variables(model: Any, *optimizers: Any) -> list[Any]:
    """The values of all variables of a model, its metrics, its seeds and its optimizers."""
    optimizers = optimizers or (model.optimizer,)
    return [
        array(variable).copy()
        for variable in (
            *model.variables,
            *model.metrics_variables,
            *(variable for optimizer in optimizers for variable in optimizer.variables),
        )
    ]


def global_state() -> dict[str, Any]:
    """Every random state of the process, and the counters from which Keras makes names."""
    from keras.src.backend.common import global_state as of_keras

    names = dict(of_keras.get_global_attribute("object_name_uids") or {})
    names.pop("cond", None)  # every traced condition is counted, the optimizers' own too
    state: dict[str, Any] = {
        "random": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 -- Keras shuffles with it
        "names": names,
        "draw": array(keras.random.uniform((2,))),
    }
    if "torch" in sys.modules:
        state["torch"] = np.asarray(sys.modules["torch"].get_rng_state())
    if BACKEND == "tensorflow":
        import tensorflow as tf

        state["tensorflow"] = tf.random.uniform((2,)).numpy()
    return state


@dataclass
class Trained:
    """What a training has left.

    Args:
        losses: Loss of each epoch, to the last bit.
        variables: See `variables`.
        state: See `global_state`.
        callback: The callback, None without one.
        model: The model.
    """

    losses: list[float]
    variables: list[Any]
    state: Mapping[str, Any]
    callback: Any = None
    model: Any = None


@dataclass
class Scenario:
    """A training.

    Args:
        make: Makes the compiled model.
        data: (x, y).
        arguments: Further arguments of `fit`.
        observed: Steps of which there is a snapshot.
        signals: Whether the probe runs.
        optimizers: All optimizers of the model, None for the compiled one.
    """

    make: Callable[[], Any]
    data: Callable[[], tuple[Any, Any]] = field(default=lambda: tensors(5))
    arguments: Mapping[str, Any] = field(default_factory=dict)
    observed: int = 2 * STEPS
    signals: bool = True
    optimizers: Callable[[Any], tuple[Any, ...]] = field(default=lambda model: (model.optimizer,))


def train(scenario: Scenario, callback: Any = None) -> Trained:
    """Train twice through the examples, shuffled, from the same seeds every time."""
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    model = scenario.make()
    x, y = scenario.data()
    callbacks = [] if callback is None else [callback]
    chosen = {"epochs": 2, "shuffle": True, **scenario.arguments}
    losses = fit(model, *callbacks, x=x, y=y, **chosen).history["loss"]
    optimizers = scenario.optimizers(model)
    return Trained(losses, variables(model, *optimizers), global_state(), callback, model)


def assert_same(one: Any, other: Any) -> None:
    """Fail unless both are equal to the last bit, NaN in the same places included."""
    if isinstance(one, Mapping):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes()
    else:
        assert one == other
