"""What a step is asked at every turn stays small, however large the variables are."""

from __future__ import annotations

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from keras import layers, ops, optimizers  # noqa: E402 -- needs Keras

from gradwatch.keras.figures import Layout, StepFigures  # noqa: E402 -- needs Keras
from gradwatch.keras.samples import sample_of_gradient  # noqa: E402 -- needs Keras
from gradwatch.sampling import SAMPLE_ELEMENTS  # noqa: E402 -- after the check
from tests.keras.training import BACKEND, array, fit, watch  # noqa: E402 -- needs Keras

# Keras itself, and what it imports, calls NumPy in ways that NumPy 2.4 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ROWS, WIDTH = 20_000, 8
on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow alone")


def large(dtype="float32"):
    return keras.Variable(
        np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype("float32"), dtype=dtype
    )


def plain(variable):
    optimizer = optimizers.SGD(0.1)
    optimizer.build([variable])
    return optimizer


def step(variable, gradient, *, wanted=False, optimizer=None):
    """(the layout, the figures of a step that is given the gradient)."""
    layout, optimizer = Layout([(variable, 0)]), optimizer or plain(variable)
    stepped = StepFigures(layout, optimizer, ops.convert_to_tensor(layout.empty()), wanted)
    stepped.before([gradient], [variable])
    return layout, stepped


def counted(variable, gradient):
    layout, stepped = step(variable, gradient)
    return layout.counts(array(stepped.after()))


def dense(value=1.0):
    return ops.full((ROWS, WIDTH), value)


def slices(value=1.0, rows=3):
    import tensorflow as tf

    return tf.IndexedSlices(
        tf.fill((rows, WIDTH), value), tf.zeros((rows,), tf.int32), (ROWS, WIDTH)
    )


def some_gradients():
    return [dense, slices] if BACKEND == "tensorflow" else [dense]


@pytest.fixture
def looked_at(monkeypatch):
    """Elements of each tensor that is made by a cast, as for a norm, or by making slices dense."""
    sizes = []

    def noting(function):
        def noted(values, *args, **kwargs):
            made = function(values, *args, **kwargs)
            if made is not values:
                sizes.append(int(np.prod(made.shape)))
            return made

        return noted

    monkeypatch.setattr(ops, "convert_to_tensor", noting(ops.convert_to_tensor))
    monkeypatch.setattr(ops, "cast", noting(ops.cast))
    return sizes


@pytest.mark.parametrize("gradient", some_gradients())
def test_a_step_that_is_not_observed_looks_at_a_bounded_part_of_the_gradient(gradient, looked_at):
    given = gradient()
    looked_at.clear()
    step(large(), given)
    assert max(looked_at, default=0) <= 2 * SAMPLE_ELEMENTS


@on_tensorflow
def test_slices_of_many_rows_are_sampled():
    import tensorflow as tf

    shapes = []

    @tf.function(input_signature=[tf.TensorSpec((None, WIDTH)), tf.TensorSpec((None,), tf.int32)])
    def sampled(values, indices):
        sample = sample_of_gradient(tf.IndexedSlices(values, indices, (ROWS, WIDTH)))
        shapes.append(sample.shape)
        return tf.size(sample)

    for rows in (0, 1, 1_000, 1_100, 100_000):
        sizes = int(sampled(tf.ones((rows, WIDTH)), tf.zeros((rows,), tf.int32)))
        assert min(rows * WIDTH, SAMPLE_ELEMENTS // 2) <= sizes <= 2 * SAMPLE_ELEMENTS


@pytest.mark.parametrize("gradient", some_gradients())
@pytest.mark.parametrize(
    ("value", "nonfinite"), [(2.0, 0), (float("nan"), 1), (float("inf"), 1)], ids=str
)
def test_a_step_that_is_not_observed_still_tells_jumps_and_what_is_not_finite(
    gradient, value, nonfinite
):
    variable = large()
    peak = counted(variable, gradient(1.0))["peak_norm"]
    found = counted(variable, gradient(value))
    assert found["nonfinite"] == nonfinite
    assert peak > 0
    assert found["peak_norm"] == pytest.approx(0 if nonfinite else 2 * peak)


def test_a_sample_is_cast_and_not_the_variable_that_it_is_of(looked_at):
    _, stepped = step(large("bfloat16"), dense())
    looked_at.clear()
    (sample,) = stepped._samples()
    assert max(looked_at, default=0) <= SAMPLE_ELEMENTS
    assert keras.backend.standardize_dtype(sample.dtype) == "float32"


@pytest.mark.parametrize("gradient", some_gradients())
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sample_has_the_values_of_the_variable(gradient, dtype):
    variable = large(dtype)
    layout, stepped = step(variable, gradient())
    (sample,) = stepped._samples()
    whole = array(ops.cast(variable.value, "float32")).reshape(-1)
    np.testing.assert_array_equal(array(sample), whole[:: layout.watched[0].stride])


@on_tensorflow
def test_a_variable_of_which_rows_are_written_is_not_read_whole_in_a_step_that_is_not_observed():
    import tensorflow as tf

    variable = large()
    optimizer = plain(variable)

    @tf.function
    def traced():
        _, stepped = step(variable, slices(), wanted=tf.constant(False), optimizer=optimizer)
        return stepped.after()

    graph = traced.get_concrete_function().graph
    reads = [one for one in graph.get_operations() if one.type == "ReadVariableOp"]
    assert not [one for one in reads if one.outputs[0].shape.num_elements() == ROWS * WIDTH]


def test_a_model_of_embeddings_alone_is_watched():
    users, items = (keras.Input((1,), dtype="int32") for _ in range(2))
    rows = [layers.Flatten()(layers.Embedding(ROWS, WIDTH)(given)) for given in (users, items)]
    model = keras.Model([users, items], layers.Dot(1)(rows))
    model.compile(optimizers.SGD(0.1), "mse")
    generator = np.random.default_rng(0)
    x = [generator.integers(0, ROWS, (64, 1)).astype("int32") for _ in range(2)]
    callback = watch(update_freq=3)
    fit(model, callback, x=x, y=np.ones((64, 1), "float32"), batch_size=8)
    assert callback.history.limits == ()
    assert [snapshot.step for snapshot in callback.history] == [0, 3, 6]
    assert all((snapshot.grad_norm > 0).all() for snapshot in callback.history)
