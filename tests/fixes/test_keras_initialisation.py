"""Keras snippets that set weights and biases, on real Keras layers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradwatch.fixes.initialisation import break_symmetry, matching_initialisation, zero_bias
from gradwatch.fixes.recurrent import open_forget_gate, orthogonal_recurrent
from gradwatch.layer import Layer

from .effects import std_is
from .keras_nets import LAYERS, WIDTH, array, keras, mlp, quiet, run, single, weights

pytestmark = quiet


@pytest.mark.parametrize(
    ("activation", "std"),
    [
        ("relu", math.sqrt(2 / 64)),
        ("tanh", 5 / 3 * math.sqrt(2 / (64 + 128))),
        ("sigmoid", 4 * math.sqrt(2 / (64 + 128))),
        (None, math.sqrt(1 / 64)),
    ],
)
def test_a_dense_layer_gets_the_variance_that_its_activation_needs(activation, std):
    model = single(keras.layers.Dense(128, name="layer"), (64,))
    layer = Layer("layer", "Dense", fan_in=64, fan_out=128, activation=activation)
    run(matching_initialisation([layer]), model=model)
    assert weights(model, "layer")[0].std() == std_is(std)


@pytest.mark.parametrize(
    ("kind", "options", "fan_in"),
    [
        ("Conv2D", {}, 32 * 9),
        ("Conv2DTranspose", {}, 32 * 9),
        ("Conv2DTranspose", {"strides": 3}, 32),
    ],
)
def test_a_convolution_gets_the_variance_of_what_one_output_sums_over(kind, options, fan_in):
    model = single(getattr(keras.layers, kind)(16, 3, name="layer", **options), (8, 8, 32))
    run(matching_initialisation([Layer("layer", kind, activation="relu")]), model=model)
    assert weights(model, "layer")[0].std() == std_is(math.sqrt(2 / fan_in))


@pytest.mark.parametrize(("kind", "gates"), [("SimpleRNN", 1), ("GRU", 3), ("LSTM", 4)])
@pytest.mark.parametrize("fix", [matching_initialisation, orthogonal_recurrent])
def test_every_gate_of_a_recurrent_layer_becomes_orthogonal(kind, gates, fix):
    model = single(getattr(keras.layers, kind)(16, name="layer"), (None, 8))
    run(fix([Layer("layer", kind, recurrent=True)]), model=model)
    blocks = np.split(weights(model, "layer")[1], gates, axis=1)
    products = np.stack([block @ block.T for block in blocks])
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(16), products.shape), atol=1e-4)


def test_attention_gets_the_variance_of_its_width():
    inputs = keras.Input((5, WIDTH))
    layer = keras.layers.MultiHeadAttention(4, WIDTH // 4, name="layer")
    model = keras.Model(inputs, layer(inputs, inputs))
    run(matching_initialisation([Layer("layer", "MultiHeadAttention", fan_in=WIDTH)]), model=model)
    kernels = [value for value in weights(model, "layer") if value.ndim == 3]
    assert [kernel.std() for kernel in kernels] == [std_is(WIDTH**-0.5)] * 4


def test_units_that_were_equal_differ():
    model = mlp()
    for variable in model.get_layer("first").weights:
        variable.assign(keras.ops.zeros(variable.shape))
    run(break_symmetry(LAYERS), model=model)
    assert np.std(weights(model, "first")[0], axis=0).min() > 0.05


def test_biases_become_zero_and_weights_stay():
    model = mlp()
    model.get_layer("first").bias.assign(keras.ops.full((WIDTH,), -5.0))
    before = weights(model, "first")[0]
    run(zero_bias(LAYERS), model=model)
    np.testing.assert_array_equal(weights(model, "first")[0], before)
    assert not weights(model, "first")[1].any()


@pytest.mark.parametrize(
    ("kind", "gate"), [("LSTM", slice(16, 32)), ("GRU", slice(0, 16))], ids=["LSTM", "GRU"]
)
def test_only_the_gate_that_keeps_the_state_is_opened(kind, gate):
    model = single(getattr(keras.layers, kind)(16, name="layer"), (None, 8))
    bias = model.get_layer("layer").cell.bias
    bias.assign(keras.ops.zeros(bias.shape))
    run(open_forget_gate([Layer("layer", kind, recurrent=True)]), model=model)
    expected = np.zeros(bias.shape)
    expected.reshape(-1)[gate] = 3.0
    np.testing.assert_array_equal(array(bias), expected)
