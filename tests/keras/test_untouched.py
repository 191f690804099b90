"""A training is the same to the last bit with and without the callback."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from tests.keras.own_steps import Adversaries, OwnStep  # noqa: E402 -- needs Keras
from tests.keras.training import (  # noqa: E402 -- needs Keras
    BACKEND,
    STEPS,
    Scenario,
    assert_same,
    compiled,
    cross_entropy,
    mlp,
    tensors,
    train,
    watch,
)

layers, optimizers = keras.layers, keras.optimizers

# Keras itself, and what it imports, calls NumPy in ways that NumPy 2.4 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def cnn():
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(2, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


def normalised():
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(4, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(3),
        ]
    )


def half():
    """Normalised, in mixed precision."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return normalised()
    finally:
        keras.config.set_dtype_policy(before)


def scaled(initial):
    inner = optimizers.SGD(0.1, momentum=0.9)
    return optimizers.LossScaleOptimizer(inner, initial_scale=initial, dynamic_growth_steps=3)


def recurrent():
    return keras.Sequential([keras.Input((3, 2)), layers.LSTM(3, dropout=0.2), layers.Dense(3)])


def lookup():
    return keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            layers.Embedding(7, 3),
            layers.GlobalAveragePooling1D(),
            layers.Dense(3),
        ]
    )


def tokens():
    x, y = tensors(4)
    return np.abs(x * 3).astype("int32") % 7, y


def own_step():
    inputs = keras.Input((5,))
    hidden = layers.Dropout(0.5)(layers.Dense(4, activation="relu")(inputs))
    return OwnStep(inputs, layers.Dense(3)(hidden))


class Skipping(layers.Layer):
    """Draws whether it passes its inputs in full, as stochastic depth is often written."""

    def call(self, inputs):
        passes = random.random() > 0.5 and np.random.random() > 0.2  # noqa: NPY002 -- what is tested
        return inputs if passes else 0.5 * inputs


def skipping():
    return keras.Sequential([keras.Input((5,)), layers.Dense(4), Skipping(), layers.Dense(3)])


def one_layer():
    return keras.Sequential([keras.Input((5,)), layers.Dense(3)])


def frozen():
    model = mlp()
    model.get_layer("first").trainable = False
    return model


def nested():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.BatchNormalization()])
    inputs = keras.Input((5,))
    return keras.Model(inputs, layers.Dense(3)(inner(layers.Dense(4)(inputs))))


def shared():
    layer = layers.Dense(4, activation="tanh")
    inputs = keras.Input((5,))
    return keras.Model(inputs, layers.Dense(3)(layer(layer(layers.Dense(4)(inputs)))))


def adversaries():
    model = Adversaries(optimizers.SGD(0.1, momentum=0.9), optimizers.Adam(0.01))
    model(tensors(5)[0])
    model.of_generator.build(model.generator.trainable_weights)
    model.of_critic.build(model.critic.trainable_weights)
    model.compile(loss=cross_entropy(), jit_compile=False)
    return model


def multiple():
    by_name = optimizers.OptimizerMap(optimizers.SGD(0.1), {".*last/.*": optimizers.Adam(0.01)})
    return compiled(mlp(), optimizers.MultiOptimizer(by_name))


not_on_torch = pytest.mark.skipif(BACKEND == "torch", reason="Keras refuses it on PyTorch")
not_on_jax = pytest.mark.skipif(BACKEND == "jax", reason="a step on JAX is pure")
slow_on_torch = pytest.mark.skipif(BACKEND == "torch", reason="has a test of its own")

SCENARIOS = {
    "cnn": Scenario(lambda: compiled(cnn(), metrics=["accuracy"]), lambda: tensors(6, 6, 1)),
    "eagerly": Scenario(lambda: compiled(normalised(), run_eagerly=True)),
    "host-randomness": Scenario(lambda: compiled(skipping(), run_eagerly=True)),
    "jit": pytest.param(
        Scenario(lambda: compiled(normalised(), jit_compile=True)), marks=slow_on_torch
    ),
    "several-steps": pytest.param(
        Scenario(lambda: compiled(normalised(), steps_per_execution=4), observed=2),
        marks=not_on_torch,
    ),
    "half": Scenario(lambda: compiled(half(), scaled(256.0))),
    "overflow": Scenario(lambda: compiled(half(), scaled(2.0**17))),
    "accumulation": Scenario(
        lambda: compiled(
            normalised(), optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=4)
        ),
        observed=2,
    ),
    "average": Scenario(
        lambda: compiled(
            mlp(), optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3)
        )
    ),
    "decay": Scenario(lambda: compiled(mlp(), optimizers.AdamW(0.01, weight_decay=0.1))),
    "clipping": Scenario(lambda: compiled(mlp(), optimizers.Adam(0.01, global_clipnorm=0.1))),
    "lstm": Scenario(lambda: compiled(recurrent()), lambda: tensors(3, 2)),
    "embedding": Scenario(lambda: compiled(lookup(), optimizers.Adam(0.01)), tokens),
    "own-step": Scenario(lambda: compiled(own_step(), metrics=["accuracy"])),
    "two-optimizers": pytest.param(
        Scenario(adversaries, optimizers=lambda model: (model.of_generator, model.of_critic)),
        marks=not_on_jax,
    ),
    "multi-optimizer": Scenario(multiple),
    "frozen": Scenario(lambda: compiled(frozen())),
    "nested": Scenario(lambda: compiled(nested())),
    "shared": Scenario(lambda: compiled(shared())),
}


def is_param(entry):
    return hasattr(entry, "marks")


CASES = [
    pytest.param(*entry.values, marks=entry.marks, id=name)
    if is_param(entry)
    else pytest.param(entry, id=name)
    for name, entry in SCENARIOS.items()
]


@pytest.fixture
def as_written():
    """TensorFlow computes what is written, as the other backends do.

    Its arithmetic optimizer puts products into another order where nothing else reads them.
    """
    if BACKEND != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
    yield
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": True})


@pytest.mark.parametrize("scenario", CASES)
def test_training_is_the_same_to_the_last_bit(scenario, as_written):
    alone, watched = train(scenario), train(scenario, watch())
    assert_same(watched.losses, alone.losses)
    assert_same(watched.variables, alone.variables)
    assert_same(watched.state, alone.state)
    callback = watched.callback
    assert callback.history.limits == ()
    assert len(callback.history) == scenario.observed
    assert all(snapshot.has_signals for snapshot in callback.history)


def test_steps_that_overflow_are_counted_and_leave_the_weights_alone():
    callback = watch()
    trained = train(SCENARIOS["overflow"], callback)
    updates = int(trained.model.optimizer.inner_optimizer.iterations.value)
    assert callback.skipped_steps == 2 * STEPS - updates
    assert 0 < updates < 2 * STEPS
    assert callback.history[0].skipped
    assert np.nanmax(callback.history[0].update_ratio) == 0
    assert not callback.history[-1].skipped


def test_a_sparse_gradient_is_observed_as_the_sum_over_its_rows():
    callback = watch()
    train(SCENARIOS["embedding"], callback)
    first = callback.history[0]
    assert [layer.kind for layer in first.layers] == ["Embedding", "Dense"]
    assert (first.grad_norm > 0).all()


@pytest.mark.skipif(BACKEND != "torch", reason="the others compile by default")
def test_a_compiled_step_is_the_same_to_the_last_bit(monkeypatch):
    import torch

    # Its graphs are captured and broken up as ever, and run without the slow code generator.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    scenario = Scenario(
        lambda: compiled(one_layer(), optimizers.SGD(0.1), jit_compile=True),
        arguments={"epochs": 1},
    )
    alone, watched = train(scenario), train(scenario, watch())
    assert_same(watched.losses, alone.losses)
    assert_same(watched.variables, alone.variables)
    assert watched.callback.history.limits == ()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow puts products in order")
def test_training_is_the_same_but_for_the_rounding_of_products_in_another_order():
    scenario = SCENARIOS["cnn"]
    alone, watched = train(scenario), train(scenario, watch())
    np.testing.assert_allclose(watched.losses, alone.losses, rtol=1e-6)
    for one, other in zip(watched.variables, alone.variables, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
