"""What the Keras adapter makes of a step in which not every variable is given, or finite."""

import numpy as np
import pytest

from gradwatch import State

keras = pytest.importorskip("keras")

from gradwatch.keras.figures import Layout, StepFigures  # noqa: E402 -- needs Keras
from gradwatch.keras.observation import Observation  # noqa: E402 -- needs Keras
from gradwatch.keras.rows import Rows  # noqa: E402 -- needs Keras

# Keras itself, and what it imports, calls NumPy in ways that NumPy 2.4 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def step(given, *, gradient=1.0, weight=0.5):
    """A snapshot of one step of SGD on the given layers of a net of two."""
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, use_bias=False, name="first"),
            keras.layers.Dense(2, use_bias=False, name="second"),
        ]
    )
    rows = Rows(model)
    first, second = model.trainable_variables
    first.assign(np.full(first.shape, weight))
    second.assign(np.full(second.shape, weight))
    layout = Layout([(first, 0), (second, 1)])
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build([first, second])
    variables = [(first, second)[row] for row in given]
    gradients = [keras.ops.full(variable.shape, gradient) for variable in variables]
    carrier = keras.ops.convert_to_tensor(layout.empty())
    figures = StepFigures(layout, optimizer, carrier, keras.ops.convert_to_tensor([True])[0])
    figures.before(gradients, variables)
    optimizer.apply(gradients, variables)
    observation = Observation(layout, rows)
    read = observation.parameters(keras.ops.convert_to_numpy(figures.after()))
    return observation.snapshot(0, read, losses=[], probed=None, wall_time=0.0)


@pytest.mark.parametrize("given", [0, 1])
def test_a_layer_that_no_optimizer_is_given_is_frozen_and_not_observed(given):
    snapshot, other = step([given]), 1 - given
    assert snapshot.states[given] == State.TRAINED
    assert snapshot.states[other] == State.FROZEN
    assert snapshot.nonfinite_count[given] == 0
    names = ("grad_norm", "weight_norm", "update_ratio", "decay_ratio", "nonfinite_count")
    found = {name: float(getattr(snapshot, name)[other]) for name in names}
    assert found == pytest.approx(dict.fromkeys(names, np.nan), nan_ok=True)


def test_an_optimizer_of_other_variables_leaves_the_figures_as_they_are():
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    foreign = keras.Variable(np.ones(3))
    layout = Layout([(layer.kernel, 0)])
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build([foreign])
    carrier = keras.ops.convert_to_tensor(layout.empty())
    figures = StepFigures(layout, optimizer, carrier, keras.ops.convert_to_tensor([True])[0])
    figures.before([keras.ops.ones(3)], [foreign])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(figures.after()), layout.empty())


@pytest.mark.parametrize("figure", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_is_counted(figure):
    snapshot = step([0, 1], gradient=figure)
    assert snapshot.nonfinite_count.tolist() == [1, 1]
    assert np.isposinf(snapshot.grad_norm).all()
    assert np.isposinf(snapshot.update_ratio).all()


@pytest.mark.parametrize("figure", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_counted(figure):
    snapshot = step([0, 1], weight=figure)
    assert snapshot.nonfinite_count.tolist() == [1, 1]
    assert np.isposinf(snapshot.weight_norm).all()


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e-10, 1e10, 1e20, 1e30])
def test_norms_and_updates_neither_under_nor_overflow(size):
    snapshot = step([0, 1], gradient=size, weight=size)
    counts = np.array([12, 8])
    assert snapshot.grad_norm == pytest.approx(size * np.sqrt(counts), rel=1e-5)
    assert snapshot.weight_norm == pytest.approx(size * np.sqrt(counts), rel=1e-5)
    floor = np.maximum(size * np.sqrt(counts), 0.1 * np.sqrt([4, 2]))
    assert snapshot.update_ratio == pytest.approx(0.1 * size * np.sqrt(counts) / floor, rel=1e-4)
