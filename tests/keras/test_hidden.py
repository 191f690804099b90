"""Layers that run in another way than by `call` are seen, or it is said that they are not."""

from __future__ import annotations

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from keras import layers  # noqa: E402 -- needs Keras

from gradwatch.keras.limits import limits_of_probe  # noqa: E402 -- needs Keras
from gradwatch.snapshot import State  # noqa: E402 -- after the check
from tests.keras.probed import Probed, compiled, random, stack  # noqa: E402 -- needs Keras
from tests.keras.training import assert_same, fit, variables, watch  # noqa: E402 -- needs Keras

pytestmark = [
    # Keras itself, and what it imports, calls NumPy in ways that NumPy 2.4 deprecates.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    # Of a model that is quantized Keras says that its inputs are not.
    pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize`:UserWarning"),
]


def dense(name, units=4, **options):
    return layers.Dense(units, name=name, **options)


def targets():
    return random(16, 4, seed=1)


# --- quantized layers


def quantized(mode):
    model = stack((4,), dense("a", 8, activation="tanh"), dense("b", 8), dense("c"))
    model.quantize(mode)
    return compiled(model)


@pytest.mark.parametrize("mode", ["int8", "float8"])
def test_a_quantized_layer_is_seen_as_any_other(mode):
    probed = Probed(quantized(mode), random(16, 4), targets())
    assert probed.inputs() == {"a": set(), "b": {"a"}, "c": {"b"}}
    assert probed.order() == ["a", "b", "c"]
    assert probed.activation("a") == ("tanh", None)
    for name in ("a", "b", "c"):
        assert probed.of(name, "forward_calls") == 1
        assert probed.of(name, "output_rms") > 0
        assert probed.of(name, "output_grad_norm") > 0
    assert limits_of_probe(probed.rows, probed.traced) == []


@pytest.mark.parametrize("mode", ["int8", "float8"])
def test_a_quantized_model_is_trained_and_left_as_without_the_callback(mode):
    def trained(*callbacks):
        keras.utils.set_random_seed(0)
        model = quantized(mode)
        fit(model, *callbacks, x=random(32, 4), y=random(32, 4, seed=1))
        assert not any("quantized_call" in vars(layer) for layer in model.layers)
        return variables(model)

    callback = watch()
    assert_same(trained(callback), trained())
    assert callback.history.limits == ()
    assert all(snapshot.has_signals for snapshot in callback.history)


# --- rematerialised layers


class Linear(layers.Layer):
    """A dense layer whose call takes its inputs alone: TensorFlow rematerialises no other."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 4))

    def call(self, x):
        return keras.ops.matmul(x, self.kernel)


def rematerialised(*names, among=("a", "b", "c")):
    """A chain of layers, those of these names rematerialised."""

    def made(name):
        if name not in names:
            return Linear(name=name)
        with keras.RematScope(mode="full"):
            return Linear(name=name)

    inputs = keras.Input((4,))
    outputs = inputs
    for name in among:
        outputs = made(name)(outputs)
    return compiled(keras.Model(inputs, outputs))


def test_of_a_model_that_is_rematerialised_all_over_it_is_said_that_nothing_is_seen():
    probed = Probed(rematerialised("a", "b", "c"), random(16, 4), targets())
    assert np.isfinite(probed.loss)
    for name in ("a", "b", "c"):
        assert np.isnan(probed.of(name, "forward_calls"))
        assert np.isnan(probed.of(name, "output_grad_norm"))
        assert probed.of(name, "unit_spread_ratio") > 0
    (limit,) = limits_of_probe(probed.rows, probed.traced)
    assert "signals of a, b, c: " in limit
    assert "keras.remat" in limit


def test_beside_a_rematerialised_layer_the_others_are_seen():
    probed = Probed(rematerialised("b"), random(16, 4), targets())
    for name in ("a", "c"):
        assert probed.of(name, "forward_calls") == 1
        assert probed.of(name, "output_grad_norm") > 0
    assert np.isnan(probed.of("b", "output_grad_norm"))
    assert probed.inputs() == {"a": set(), "b": set(), "c": {"a"}}
    (limit,) = limits_of_probe(probed.rows, probed.traced)
    assert "signals of b: " in limit


def test_a_limit_names_a_few_layers_and_counts_the_rest():
    names = [f"layer_{number}" for number in range(5)]
    probed = Probed(rematerialised(*names, among=names), random(16, 4), targets())
    (limit,) = limits_of_probe(probed.rows, probed.traced)
    assert "signals of layer_0, layer_1, layer_2 and 2 more: " in limit


def test_a_layer_whose_activation_alone_is_rematerialised_has_signals():
    with keras.RematScope(mode="activations"):
        parts = [dense("a", activation="tanh"), dense("b", activation="relu")]
    probed = Probed(stack((4,), *parts, dense("c")), random(16, 4), targets())
    for name in ("a", "b", "c"):
        assert probed.of(name, "output_grad_norm") > 0
    assert limits_of_probe(probed.rows, probed.traced) == []


def test_a_rematerialised_layer_without_a_gradient_is_not_called_idle():
    model = rematerialised("a", "b", "c")
    model.get_layer("c").kernel.assign(np.zeros((4, 4), "float32"))
    callback = watch()
    fit(model, callback, x=random(8, 4), y=random(8, 4, seed=1))
    (limit,) = callback.history.limits
    assert "signals of a, b, c: " in limit
    assert [layer.name for layer in callback.history.layers] == ["a", "b", "c"]
    assert list(callback.history[0].states) == [
        State.ZERO_GRADIENT,
        State.ZERO_GRADIENT,
        State.TRAINED,
    ]
