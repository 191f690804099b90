"""Keras snippets on models in models, whose layers `get_layer` does not find."""

from __future__ import annotations

import numpy as np
import pytest

from gradwatch.fixes.activation import relu_with_he
from gradwatch.fixes.initialisation import (
    identity_initialisation,
    matching_initialisation,
    zero_bias,
)
from gradwatch.fixes.loss import bare_logits
from gradwatch.fixes.normalisation import insert_normalisation
from gradwatch.fixes.recurrent import gated_cell, orthogonal_recurrent
from gradwatch.fixes.residual import residual_path
from gradwatch.fixes.wiring import find_first_nonfinite, reconnect
from gradwatch.layer import Layer

from .keras_nets import INPUTS, WIDTH, array, dense, keras, quiet, run, single

pytestmark = quiet

NAMES = pytest.mark.parametrize("name", ["deep", "inner/deep"])


def nested() -> object:
    """A functional model around a Sequential one; both have a layer named `first`."""
    inner = keras.Sequential(
        [
            keras.Input((WIDTH,)),
            keras.layers.Dense(WIDTH, activation="sigmoid", name="deep"),
            keras.layers.Dense(WIDTH, name="first"),
        ],
        name="inner",
    )
    inputs = keras.Input((WIDTH,))
    x = keras.layers.Dense(WIDTH, name="first")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(inner(x)))
    model.compile(optimizer="sgd", loss="mse")
    return model


def found(model, path: str):
    (layer,) = [layer for layer in model._flatten_layers() if layer.path == path]
    return layer


def kinds(model) -> list[str]:
    return [type(layer).__name__ for layer in model._flatten_layers()]


@NAMES
def test_a_layer_of_a_model_in_the_model_is_initialised(name):
    model = nested()
    deep = found(model, "inner/deep")
    before = array(deep.kernel)
    run(matching_initialisation([dense(name)]), model=model)
    assert not np.array_equal(array(deep.kernel), before)


@NAMES
def test_a_bias_of_a_model_in_the_model_becomes_zero(name):
    model = nested()
    deep = found(model, "inner/deep")
    deep.bias.assign(np.ones(WIDTH, "float32"))
    run(zero_bias([dense(name)]), model=model)
    assert not array(deep.bias).any()


@NAMES
def test_an_activation_of_a_model_in_the_model_is_replaced(name):
    model = nested()
    run(relu_with_he([dense(name)]), model=model)
    assert found(model, "inner/deep").activation is keras.activations.relu


@pytest.mark.parametrize(("name", "changed"), [("first", "first"), ("inner/first", "inner/first")])
def test_a_name_that_two_models_use_means_the_outer_layer_and_a_path_the_inner(name, changed):
    model = nested()
    layers = {path: found(model, path) for path in ("first", "inner/first")}
    run(identity_initialisation([dense(name, None)]), model=model)
    eyes = [path for path, layer in layers.items() if np.array_equal(array(layer.kernel), EYE)]
    assert eyes == [changed]


EYE = np.eye(WIDTH, dtype="float32")


@NAMES
def test_a_layer_of_a_model_in_the_model_is_normalised(name):
    model = run(insert_normalisation([dense(name)]), model=nested())["model"]
    assert kinds(model).count("LayerNormalization") == 1
    assert model(INPUTS).shape == (32, 2)


@NAMES
def test_a_layer_of_a_model_in_the_model_gets_a_skip(name):
    old = nested()
    deep = found(old, "inner/deep")
    namespace = run(residual_path([dense(name)]), model=old)
    model = namespace["model"]
    (scale,) = [layer for layer in model._flatten_layers() if isinstance(layer, namespace["Scale"])]
    deep.bias.assign(np.full(WIDTH, 100.0, "float32"))
    before = array(model(INPUTS))
    scale.scale.assign(1.0)
    assert not np.allclose(array(model(INPUTS)), before)


@NAMES
@pytest.mark.parametrize("fix", [reconnect, find_first_nonfinite])
def test_a_layer_of_a_model_in_the_model_is_listed(fix, name, capsys):
    code = fix([dense(name)]).snippets["keras"]
    exec(code[code.index("nested = ") :], {"model": nested(), "keras": keras})
    assert "deep/kernel" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["plain", "inner/plain"])
def test_a_recurrent_layer_of_a_model_in_the_model_becomes_a_gru(name):
    inner = keras.Sequential(
        [keras.Input((7, 8)), keras.layers.SimpleRNN(16, name="plain")], name="inner"
    )
    model = single(inner, (7, 8))
    run(orthogonal_recurrent([Layer(name, "SimpleRNN", recurrent=True)]), model=model)
    fix = gated_cell([Layer(name, "SimpleRNN", recurrent=True)])
    model = run(fix, model=model)["model"]
    assert "GRU" in kinds(model)
    assert "SimpleRNN" not in kinds(model)


@pytest.mark.parametrize("fix", [insert_normalisation, residual_path])
def test_a_layer_that_is_called_twice_is_changed_at_both_places(fix):
    inputs = keras.Input((WIDTH,))
    shared = keras.layers.Dense(WIDTH, activation="sigmoid", name="shared")
    model = keras.Model(inputs, shared(shared(inputs)))
    namespace = run(fix([dense("shared")]), model=model)
    model = namespace["model"]
    assert model(INPUTS).shape == (32, WIDTH)
    if fix is insert_normalisation:
        outputs = array(model(INPUTS))
        assert (outputs > 0).all()
        assert (outputs < 1).all()
        assert kinds(model).count("Activation") == 1


def test_a_convolution_becomes_the_identity():
    model = single(keras.layers.Conv2D(3, 3, padding="same", name="conv"), (5, 5, 3))
    run(identity_initialisation([Layer("conv", "Conv2D", fan_in=27, fan_out=27)]), model=model)
    images = np.random.default_rng(0).normal(size=(2, 5, 5, 3)).astype("float32")
    np.testing.assert_allclose(array(model(images)), images, atol=1e-5)


def test_the_softmax_before_a_loss_on_logits_is_taken_out():
    model = single(keras.layers.Dense(3, activation="softmax", name="head"), (WIDTH,))
    model.compile(
        optimizer="sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    probabilities, targets = array(model(INPUTS)), np.zeros(32, "int64")
    run(bare_logits([Layer("head", "Dense", fan_out=3, activation="softmax")]), model=model)
    loss = model.evaluate(INPUTS, targets, verbose=0)
    assert loss == pytest.approx(-np.log(probabilities[:, 0]).mean(), rel=1e-4)
