"""A column stands for its samples: their mean, the worst of them, and nothing beyond them."""

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.snapshot import State
from gradwatch.tab.pooling import column_sizes, column_starts, pooled, pooled_states

INF, NAN = np.inf, np.nan

SHAPES = npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)
VALUES = npst.arrays(
    np.float32,
    SHAPES,
    elements=st.floats(0, 2.0**100, width=32) | st.sampled_from([0.0, NAN, INF]),
)


def one_column(values, *, geometric):
    column = np.asarray([[value] for value in values], dtype=np.float32)
    return float(pooled(column, np.asarray([0]), geometric=geometric)[0, 0])


@given(samples=st.integers(0, 500), columns=st.integers(1, 500))
def test_columns_share_all_samples_evenly_and_in_order(samples, columns):
    starts = column_starts(samples, columns)
    sizes = column_sizes(starts, samples)
    assert len(starts) == min(samples, columns)
    assert sizes.sum() == samples
    assert sizes.dtype == np.int32
    if samples:
        assert starts[0] == 0
        assert sizes.min() >= 1
        assert sizes.max() - sizes.min() <= 1


@given(values=VALUES, columns=st.integers(1, 12), geometric=st.booleans())
def test_a_column_lies_within_its_samples(values, columns, geometric):
    starts = column_starts(len(values), columns)
    found = pooled(values, starts, geometric=geometric)
    assert found.dtype == np.float32
    for column, own in enumerate(np.split(values, starts[1:])):
        for layer in range(values.shape[1]):
            check(found[column, layer], own[:, layer], geometric=geometric)


def check(pool, own, *, geometric):
    known = own[np.isfinite(own)]
    if INF in own:
        assert pool == INF
    elif not len(known):
        assert np.isnan(pool)
    elif geometric and not known.any():
        assert pool == 0
    else:
        known = known[known > 0] if geometric else known
        assert known.min() * (1 - 1e-4) <= pool <= known.max() * (1 + 1e-4)


@given(values=VALUES, geometric=st.booleans())
def test_with_a_column_a_sample_every_bit_stays(values, geometric):
    starts = column_starts(len(values), len(values))
    assert pooled(values, starts, geometric=geometric).tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("values", "geometric", "expected"),
    [
        ([1e-8, 1e-2], True, 1e-5),
        ([1e-30, 1e-30], True, 1e-30),
        ([0, 1e-4], True, 1e-4),
        ([0, 0], True, 0),
        ([NAN, 4], True, 4),
        ([NAN, 4], False, 4),
        ([1, 2, 6], False, 3),
        ([-1, 1], False, 0),
        ([INF, 1], True, INF),
        ([INF, 1], False, INF),
        ([INF, -INF], False, INF),
        ([INF, NAN], True, INF),
        ([-INF, -2], False, -2),
        ([-INF, -INF], False, -INF),
        ([-INF, NAN], False, -INF),
        ([NAN, NAN], True, NAN),
        ([NAN, NAN], False, NAN),
        ([-1, -2], True, NAN),
    ],
)
def test_what_a_column_shows(values, geometric, expected):
    found = one_column(values, geometric=geometric)
    assert found == pytest.approx(expected, rel=1e-5, nan_ok=True)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([State.TRAINED, State.NO_GRADIENT, State.NO_GRADIENT], State.NO_GRADIENT),
        ([State.ZERO_GRADIENT] * 2 + [State.IDLE], State.ZERO_GRADIENT),
        ([State.FROZEN, State.IDLE], State.FROZEN),
    ],
)
def test_the_most_frequent_state_is_shown(states, expected):
    column = np.asarray(states, dtype=np.int8)[:, np.newaxis]
    found = pooled_states(column, np.asarray([0]))
    assert found.dtype == np.uint8
    assert found.tolist() == [[expected]]


def test_states_are_counted_column_by_column():
    states = np.asarray([[0, 4], [0, 4], [1, 3], [1, 4]], dtype=np.int8)
    assert pooled_states(states, np.asarray([0, 2])).tolist() == [[0, 4], [1, 3]]
