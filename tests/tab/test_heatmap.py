"""The heatmap shows the samples of its range, a column each or pooled."""

from dataclasses import replace

import numpy as np
import pytest

from gradwatch.snapshot import State
from gradwatch.tab.heatmap import heatmap
from gradwatch.tab.statistics import STATISTIC_OF
from tests.tensorboard.builders import chain, usual_snapshot

from .recordings import run_of
from .serving import decode

RUN = run_of([usual_snapshot(chain(3), step, signals=step % 20 == 0) for step in range(0, 200, 10)])


def drawn(statistic, *, run=RUN, columns=400, **steps):
    return decode(heatmap(run, STATISTIC_OF[statistic], columns=columns, **steps))


def test_a_column_is_a_sample_while_there_is_room():
    meta, arrays = drawn("grad_norm")
    assert meta == {"run": "a/gradwatch", "statistic": "grad_norm", "token": "t0", "samples": 20}
    assert arrays["first_steps"].tolist() == list(range(0, 200, 10))
    assert arrays["last_steps"].tolist() == arrays["first_steps"].tolist()
    assert arrays["counts"].tolist() == [1] * 20
    assert arrays["values"].tobytes() == RUN.statistic("grad_norm").T.tobytes()
    assert {name: array.dtype.name for name, array in arrays.items()} == {
        "values": "float32",
        "states": "uint8",
        "first_steps": "float64",
        "last_steps": "float64",
        "counts": "int32",
    }


def test_samples_are_pooled_where_there_is_none():
    meta, arrays = drawn("grad_norm", columns=3)
    assert meta["samples"] == 20
    assert arrays["first_steps"].tolist() == [0, 60, 130]
    assert arrays["last_steps"].tolist() == [50, 120, 190]
    assert arrays["counts"].tolist() == [6, 7, 7]
    logs = np.log10(RUN.statistic("grad_norm")[6:13]).mean(axis=0)
    np.testing.assert_allclose(np.log10(arrays["values"][:, 1]), logs, rtol=1e-5)
    assert arrays["states"].shape == arrays["values"].shape == (3, 3)


def test_a_share_is_pooled_by_its_mean():
    _, arrays = drawn("saturation_fraction", columns=1)
    expected = np.nanmean(RUN.statistic("saturation_fraction")[:, :2], axis=0)
    np.testing.assert_allclose(arrays["values"][:2, 0], expected, rtol=1e-5)
    assert np.isnan(arrays["values"][2, 0])


def test_of_signals_only_samples_with_signals_count():
    meta, arrays = drawn("output_grad_norm")
    assert meta["samples"] == 10
    assert arrays["first_steps"].tolist() == list(range(0, 200, 20))


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ({"first": 35.0, "last": 60.0}, [40, 50, 60]),
        ({"first": 180.0}, [180, 190]),
        ({"last": 0.0}, [0]),
        ({"first": 61.0, "last": 69.0}, []),
        ({"first": 60.0, "last": 40.0}, []),
    ],
    ids=str,
)
def test_a_range_has_its_ends(steps, expected):
    meta, arrays = drawn("grad_norm", **steps)
    assert arrays["first_steps"].tolist() == expected
    assert arrays["values"].shape == (3, len(expected))
    assert meta["samples"] == len(expected)


def test_states_are_those_of_the_samples_in_range():
    snapshots = [usual_snapshot(chain(2), step) for step in range(4)]
    states = np.asarray([State.NO_GRADIENT, State.TRAINED], dtype=np.int8)
    run = run_of([replace(snapshot, states=states) for snapshot in snapshots])
    _, arrays = drawn("grad_norm", run=run, columns=2, first=1.0)
    assert arrays["states"].tolist() == [[3, 3], [0, 0]]


def test_a_value_that_is_not_finite_shows_in_its_column():
    snapshots = [usual_snapshot(chain(2), step) for step in range(9)]
    broken = np.asarray([np.inf, 1.0], dtype=np.float32)
    snapshots[4] = replace(snapshots[4], grad_norm=broken)
    _, arrays = drawn("grad_norm", run=run_of(snapshots), columns=3)
    assert np.isinf(arrays["values"]).tolist() == [[False, True, False], [False, False, False]]
