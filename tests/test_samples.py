"""Samples: many snapshots as arrays, and what is worked out for all of them at once."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.samples import Samples
from gradwatch.snapshot import STATISTICS, Snapshot
from gradwatch.testing import chain, snapshot

from .arbitrary import ABSURD, BOUNDED_RUN, EXTREME, history_from, runs
from .tensorboard.builders import as_written, random_run

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

LAYERS = chain(3)

FIGURES = ("backward_depth", "backward_growth", "forward_drift", "is_finite", "has_signals")


def test_snapshots_come_back_bit_by_bit():
    written = random_run(LAYERS, range(20))
    assert as_written(Samples.of(written).snapshots()) == as_written(written)


def test_the_snapshots_are_views():
    samples = Samples.of(random_run(LAYERS, range(4)))
    assert np.shares_memory(samples.snapshots()[2].grad_norm, samples.packed)


@pytest.mark.parametrize("name", [statistic.name for statistic in STATISTICS])
def test_a_statistic_has_a_row_a_sample(name):
    written = random_run(LAYERS, range(5))
    figures = Samples.of(written).statistic(name)
    np.testing.assert_array_equal(figures, [getattr(entry, name) for entry in written])


@pytest.mark.parametrize("name", FIGURES)
@BOUNDED_RUN
@given(runs(), st.sampled_from([EXTREME, ABSURD]))
def test_figures_of_many_samples_are_those_of_each(name, drawn, odd):
    for _, group in groupby(history_from(drawn, odd), key=lambda entry: entry.layers):
        snapshots: list[Snapshot] = list(group)
        together = getattr(Samples.of(snapshots), name)
        np.testing.assert_array_equal(together, [getattr(entry, name) for entry in snapshots])


@pytest.mark.parametrize(
    ("updates", "largest"),
    [
        ([0.1, 0.3, 0.2], 0.3),
        ([np.nan, 0.2, np.inf], 0.2),
        ([np.nan, np.nan, np.nan], -np.inf),
        ([np.inf, np.inf, np.inf], -np.inf),
    ],
)
def test_the_largest_update_is_the_largest_finite_one(updates, largest):
    samples = Samples.of([snapshot(LAYERS, 0, update_ratio=updates)])
    assert samples.largest_update_ratio == [np.float32(largest)]
