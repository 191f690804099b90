"""Keras snippets that change the model, its loss or its training, on real Keras models."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradwatch.fixes.activation import leaky_relu, relu_with_he
from gradwatch.fixes.clipping import clip_gradients
from gradwatch.fixes.inputs import standardise_inputs
from gradwatch.fixes.learning_rate import lower_learning_rate, raise_learning_rate, warm_up
from gradwatch.fixes.loss import loss_on_logits
from gradwatch.fixes.loss_scale import bfloat16, gradient_scaler
from gradwatch.fixes.normalisation import insert_normalisation
from gradwatch.fixes.pretraining import stacked_autoencoders
from gradwatch.fixes.recurrent import gated_cell
from gradwatch.fixes.residual import residual_path
from gradwatch.fixes.wiring import find_first_nonfinite, reconnect
from gradwatch.layer import Layer

from .effects import std_is
from .keras_nets import INPUTS, LAYERS, WIDTH, array, dense, keras, mlp, quiet, run, single, weights

pytestmark = quiet


def test_saturating_activations_become_relu_inside_and_behind_a_layer():
    model = run(relu_with_he(LAYERS), model=mlp())["model"]
    owners = [model.get_layer(name).activation for name in ("first", "second act")]
    assert owners == [keras.activations.relu] * 2
    for name in ("first", "second"):
        kernel, bias = weights(model, name)
        assert kernel.std() == std_is(math.sqrt(2 / WIDTH))
        assert not bias.any()


def test_a_relu_becomes_leaky():
    model = single(keras.layers.Dense(WIDTH, activation="relu", name="first"), (WIDTH,))
    run(leaky_relu([dense("first", "relu")]), model=model)
    assert model.get_layer("first").activation is keras.activations.leaky_relu


def test_a_plain_recurrent_layer_becomes_a_gru():
    model = keras.Sequential(
        [
            keras.Input((7, 8)),
            keras.layers.SimpleRNN(16, return_sequences=True, name="layer"),
            keras.layers.Dense(2),
        ]
    )
    model = run(gated_cell([Layer("layer", "SimpleRNN", recurrent=True)]), model=model)["model"]
    assert isinstance(model.get_layer("layer"), keras.layers.GRU)
    assert model(np.zeros((3, 7, 8), "float32")).shape == (3, 7, 2)


def test_the_value_before_the_activation_is_normalised():
    model = mlp()
    first = model.get_layer("first")
    first.kernel.assign(100.0 * first.kernel)
    model = run(insert_normalisation(LAYERS), model=model)["model"]
    normalised = [
        layer for layer in model.layers if isinstance(layer, keras.layers.LayerNormalization)
    ]
    probe = keras.Model(model.input, [layer.output for layer in normalised])
    outputs = [array(output) for output in probe(INPUTS)]
    assert [output.std() for output in outputs] == pytest.approx([1.0, 1.0], abs=0.02)
    assert model.get_layer("first").activation is keras.activations.linear


def test_a_convolution_gets_a_batch_normalisation():
    model = single(keras.layers.Conv2D(4, 3, activation="relu", name="layer"), (8, 8, 3))
    model = run(insert_normalisation([Layer("layer", "Conv2D")]), model=model)["model"]
    kinds = [type(layer).__name__ for layer in model.layers[-3:]]
    assert kinds == ["Conv2D", "BatchNormalization", "Activation"]


def test_the_input_of_a_layer_is_added_behind_its_activation():
    old = mlp()
    x = INPUTS
    for kernel, bias in (weights(old, "first"), weights(old, "second")):
        x = x + 0.25 / (1 + np.exp(-(x @ kernel + bias)))
    kernel, bias = weights(old, "head")
    namespace = run(residual_path(LAYERS), model=old)
    model = namespace["model"]
    scales = [layer for layer in model.layers if isinstance(layer, namespace["Scale"])]
    assert [float(array(layer.scale)) for layer in scales] == [0.0, 0.0]
    for layer in scales:
        layer.scale.assign(0.25)
    np.testing.assert_allclose(array(model(INPUTS)), x @ kernel + bias, rtol=1e-3, atol=1e-3)


def test_the_inputs_are_standardised_in_front_of_the_model():
    inputs = 50 * INPUTS + 200
    fix = standardise_inputs([dense("first")], input_rms=206.0)
    model = run(fix, model=mlp(), inputs=inputs)["model"]
    scaled = array(model.layers[0](inputs))
    assert scaled.std() == pytest.approx(1.0, abs=1e-3)
    assert model(inputs).shape == (32, WIDTH)


@pytest.mark.parametrize(
    ("fix", "rate"),
    [
        (lower_learning_rate(LAYERS, factor=0.1), 0.01),
        (raise_learning_rate(LAYERS, factor=30.0), 3.0),
    ],
    ids=["lower", "raise"],
)
def test_the_learning_rate_changes_by_the_factor(fix, rate):
    model = run(fix, model=mlp())["model"]
    assert float(array(model.optimizer.learning_rate)) == pytest.approx(rate)


def test_the_learning_rate_warms_up_to_its_old_value():
    namespace = run(warm_up(LAYERS), model=mlp())
    rates = [float(array(namespace["schedule"](step))) for step in (0, 250, 500)]
    assert rates == pytest.approx([0.001, 0.0505, 0.1], rel=1e-3)
    assert isinstance(namespace["optimizer"], keras.optimizers.SGD)


def test_the_optimizer_clips_the_norm_of_all_gradients():
    namespace = run(clip_gradients(LAYERS), model=mlp())
    assert namespace["optimizer"].global_clipnorm == 1.0


def test_a_sigmoid_output_gets_a_loss_on_logits():
    model = single(keras.layers.Dense(1, activation="sigmoid", name="first"), (WIDTH,))
    model.compile(optimizer="sgd", loss="mse")
    probabilities, targets = array(model(INPUTS)), np.ones((32, 1), "float32")
    run(loss_on_logits([dense("first")]), model=model)
    found = model.evaluate(INPUTS, targets, verbose=0)
    assert found == pytest.approx(-np.log(probabilities).mean(), rel=1e-4)


@pytest.mark.parametrize("fix", [gradient_scaler, bfloat16])
def test_the_policy_of_the_precision_changes(fix):
    policy = keras.mixed_precision.dtype_policy()
    try:
        run(fix(LAYERS), model=mlp())
        assert keras.mixed_precision.dtype_policy().name != policy.name
    finally:
        keras.mixed_precision.set_dtype_policy(policy)


def test_layers_are_pretrained_and_the_head_is_not():
    model = mlp()
    before = {name: weights(model, name)[0] for name in ("first", "second", "head")}
    run(stacked_autoencoders(LAYERS), model=model, inputs=INPUTS)
    changed = {name: not np.array_equal(weights(model, name)[0], before[name]) for name in before}
    assert changed == {"first": True, "second": True, "head": False}


def test_what_trains_is_listed(capsys):
    model = mlp()
    model.get_layer("second").trainable = False
    run(reconnect(LAYERS), model=model)
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["True", "True", "False", "False"]


def test_a_variable_that_is_not_finite_is_listed(capsys):
    model = mlp()
    model.get_layer("second").bias.assign(keras.ops.full((WIDTH,), float("inf")))
    code = find_first_nonfinite(LAYERS).snippets["keras"]
    after_switches = code[code.index("nested = ") :]
    exec(after_switches, {"model": model, "keras": keras})
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["True", "True", "True", "False"]


@pytest.mark.parametrize("fix", [insert_normalisation, residual_path])
def test_a_functional_model_with_two_inputs_is_rebuilt(fix):
    left, right = keras.Input((WIDTH,)), keras.Input((WIDTH,))
    x = keras.layers.Add()([left, right])
    x = keras.layers.Dense(WIDTH, activation="sigmoid", name="first")(x)
    model = keras.Model([left, right], keras.layers.Dense(2)(x))
    before = len(model.layers)
    model = run(fix([dense("first")]), model=model)["model"]
    assert len(model.layers) > before
    assert model([INPUTS, INPUTS]).shape == (32, 2)
