"""The trained parameters of a step, as statistics and states of the rows."""

import math

import numpy as np
import pytest

from gradwatch.layer import Layer
from gradwatch.parts import Parts, states_of, store_parts
from gradwatch.snapshot import ROW_OF, State, empty_statistics

LAYERS = tuple(Layer(name=f"layer{row}", kind="Dense", fan_out=100) for row in range(3))
"""The weights of a row count as at least 0.1 * sqrt(100) = 1."""

WEIGHTS_AND_BIAS = {
    "row": [0, 0],
    "decay": [0.0, 0.0],
    "scale": [1.0, 2.0],
    "rounding": [1e-7, 1e-7],
    "weight_norm": [3.0, 4.0],
    "grad_norm": [5.0, 12.0],
    "before_norm": [3.0, 4.0],
    "after_norm": [3.3, 4.2],
    "update_norm": [0.3, 0.2],
}
"""Two parameters of the first row; the second's update is measured on a sample of it."""


def stored(*, frozen_norm=None, **changed):
    """Statistic → value of each row."""
    fields = {name: np.asarray(values) for name, values in (WEIGHTS_AND_BIAS | changed).items()}
    packed = empty_statistics(len(LAYERS))
    store_parts(packed, Parts(**fields), LAYERS, frozen_norm=frozen_norm)
    return {name: packed[row] for name, row in ROW_OF.items()}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("weight_norm", 5.0),
        ("grad_norm", 13.0),
        ("nonfinite_count", 0.0),
        ("update_ratio", math.hypot(0.3, 2 * 0.2) / 5),
        ("decay_ratio", 0.0),
    ],
)
def test_parts_of_a_row_add_up_and_rows_without_one_are_not_observed(name, expected):
    np.testing.assert_allclose(stored()[name], [expected, np.nan, np.nan], rtol=1e-6)


def test_small_weights_count_as_what_a_fresh_layer_has():
    tiny = stored(weight_norm=[1e-9, 0.0], update_norm=[0.25, 0.0])
    assert tiny["update_ratio"][0] == pytest.approx(0.25)


def test_the_part_of_an_update_that_decay_explains_is_no_update():
    decayed = stored(
        decay=[0.01, 0.0], after_norm=[3 * 0.99, 4.0], update_norm=[0.03, 0.0], rounding=[1e-3, 0.0]
    )
    assert decayed["update_ratio"][0] == 0
    assert decayed["decay_ratio"][0] == pytest.approx(0.03 / 5)


def test_parts_that_are_not_finite_are_counted():
    broken = stored(grad_norm=[np.inf, 1.0])
    assert (broken["nonfinite_count"][0], broken["grad_norm"][0]) == (1.0, np.inf)


def test_frozen_rows_have_a_weight_norm_and_nothing_else():
    frozen = stored(frozen_norm=np.asarray([np.nan, 7.0, np.nan]))
    np.testing.assert_array_equal(frozen["weight_norm"], [5.0, 7.0, np.nan])
    np.testing.assert_array_equal(frozen["grad_norm"], [13.0, np.nan, np.nan])


@pytest.mark.parametrize(
    ("trained", "with_gradient"),
    [
        ({0, 1, 2, 3}, {0, 1, 3}),
        (np.asarray([1, 1, 1, 1, 0], dtype=bool), np.asarray([1, 1, 0, 1, 0], dtype=bool)),
    ],
    ids=["rows", "masks"],
)
def test_every_row_has_the_state_that_says_most(trained, with_gradient):
    grad_norm = np.asarray([1.0, 0.0, np.nan, 0.0, 1.0], dtype=np.float32)
    calls = np.asarray([1.0, 1.0, 1.0, 0.0, 1.0], dtype=np.float32)
    assert states_of(trained, with_gradient, grad_norm, calls).tolist() == [
        State.TRAINED,
        State.ZERO_GRADIENT,
        State.NO_GRADIENT,
        State.IDLE,
        State.FROZEN,
    ]


@pytest.mark.parametrize("nothing", [(), np.zeros(2, dtype=bool)], ids=["rows", "mask"])
def test_without_trained_rows_all_are_frozen(nothing):
    norms = np.ones(2, dtype=np.float32)
    assert states_of(nothing, nothing, norms, norms).tolist() == [State.FROZEN] * 2
