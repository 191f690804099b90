"""Batches of every form are probed, or the fit goes on with its parameters observed."""

from __future__ import annotations

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from keras import layers  # noqa: E402 -- needs Keras

from gradwatch.keras.probe import MOST_EXAMPLES, few  # noqa: E402 -- needs Keras
from tests.keras.probed import Probed, compiled, random  # noqa: E402 -- needs Keras
from tests.keras.training import (  # noqa: E402 -- needs Keras
    BACKEND,
    assert_same,
    fit,
    mlp,
    variables,
    watch,
)
from tests.keras.training import compiled as classifier  # noqa: E402 -- needs Keras

pytestmark = [
    # Keras itself, and what it imports, calls NumPy in ways that NumPy 2.4 deprecates.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

LARGE = 2 * MOST_EXAMPLES
EXAMPLES = 2 * LARGE

on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow alone")
not_on_torch = pytest.mark.skipif(BACKEND == "torch", reason="Keras fails by itself on PyTorch")


# --- models that take so many examples and no others


def stateful():
    recurrent = layers.LSTM(4, stateful=True, name="recurrent")
    return compiled(
        keras.Sequential([keras.Input(batch_shape=(LARGE, 5, 3)), recurrent, layers.Dense(1)])
    )


def sequences(count):
    return random(count, 5, 3), random(count, 1, seed=1)


@not_on_torch
@pytest.mark.parametrize("given", [None, 10], ids=["of the training", "a small one"])
def test_a_model_of_fixed_batches_has_signals_and_is_left_as_it_was(given):
    x, y = sequences(EXAMPLES)

    def trained(*callbacks):
        keras.utils.set_random_seed(0)
        model = stateful()
        fit(model, *callbacks, x=x, y=y, batch_size=LARGE, epochs=2)
        return variables(model)

    callback = watch(probe=None if given is None else sequences(given))
    assert_same(trained(callback), trained())
    assert callback.history.limits == ()
    assert all(snapshot.has_signals for snapshot in callback.history)


@pytest.mark.parametrize("count", [3, LARGE, EXAMPLES])
def test_a_batch_is_brought_to_the_size_that_a_model_is_made_for(count):
    inputs = keras.Input(batch_shape=(LARGE, 4))
    model = compiled(keras.Model(inputs, layers.Dense(1, name="only")(inputs)))
    x = random(count, 4)
    probed = Probed(model, x, random(count, 1))
    used = x[np.arange(LARGE) % count]
    assert probed.of("only", "input_rms") == pytest.approx(np.sqrt(np.mean(used**2)), rel=1e-5)


# --- inputs that are not arrays


def wide():
    inputs = keras.Input((50,), sparse=True)
    hidden = layers.Dense(8, activation="relu", name="first")(inputs)
    return compiled(keras.Model(inputs, layers.Dense(1, name="last")(hidden)))


def few_ones():
    return (np.random.default_rng(0).uniform(size=(EXAMPLES, 50)) < 0.1).astype("float32")


def sparse_batches():
    x, y = few_ones(), random(EXAMPLES, 1)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices((tf.sparse.from_dense(x), y)).batch(LARGE)
    from jax.experimental import sparse

    def batches():
        for start in range(0, EXAMPLES, LARGE):
            part = slice(start, start + LARGE)
            yield sparse.BCOO.fromdense(x[part], nse=2000), y[part]

    return batches()


@pytest.mark.skipif(BACKEND == "torch", reason="Keras has no sparse tensors on PyTorch")
def test_sparse_inputs_are_probed_and_the_first_layer_has_what_leaves_it():
    callback = watch()
    fit(wide(), callback, x=sparse_batches(), y=None, steps_per_epoch=EXAMPLES // LARGE)
    assert callback.history.limits == ()
    last = callback.history[-1]
    assert [layer.name for layer in last.layers] == ["first", "last"]
    assert last.layers[1].inputs == (0,)
    assert (last.output_rms > 0).all()
    assert (last.output_grad_norm > 0).all()
    assert np.isnan(last.input_rms[0])


@on_tensorflow
def test_the_first_examples_of_a_sparse_tensor_are_those_of_the_dense_one():
    import tensorflow as tf

    x = few_ones()
    for count in (10, EXAMPLES):
        given = tf.sparse.from_dense(x[:count])
        np.testing.assert_array_equal(tf.sparse.to_dense(few(given)), x[:count][:MOST_EXAMPLES])


@on_tensorflow
def test_ragged_inputs_are_probed_from_the_first_dense_layer_on():
    import tensorflow as tf

    class Mean(layers.Layer):
        def call(self, x):
            return tf.reduce_mean(x, 1)

        def compute_output_shape(self, shape):
            return shape[0], shape[2]

    inputs = keras.Input((None,), ragged=True, dtype="int32")
    looked_up = layers.Embedding(20, 4, name="embedding")(inputs)
    model = compiled(keras.Model(inputs, layers.Dense(1, name="last")(Mean()(looked_up))))
    lengths = np.arange(EXAMPLES) % 3 + 1
    words = np.random.default_rng(0).integers(0, 20, lengths.sum()).astype("int32")
    x = tf.RaggedTensor.from_row_lengths(words, lengths)
    data = tf.data.Dataset.from_tensor_slices((x, random(EXAMPLES, 1))).batch(LARGE)
    callback = watch()
    fit(model, callback, x=data, y=None)
    assert callback.history.limits == ()
    last = callback.history[-1]
    assert [layer.name for layer in last.layers] == ["embedding", "last"]
    assert last.output_grad_norm[1] > 0
    assert (last.grad_norm > 0).all()


def test_a_probe_that_is_no_tensor_leaves_the_parameters_observed():
    callback = watch(probe=(np.asarray([object(), object()]), np.zeros(2, "int32")))
    fit(classifier(mlp()), callback)
    assert len(callback.history) == 4
    assert "the probe failed" in callback.history.limits[0]
    assert not any(snapshot.has_signals for snapshot in callback.history)
