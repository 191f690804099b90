"""The profile is that of the nearest sample with signals, by layers in forward order."""

import json
from dataclasses import replace

import numpy as np
import pytest

from gradwatch.flow import backward_profile, worst_path
from gradwatch.tab.profile import EMPTY, profile
from tests.tensorboard.builders import chain, usual_snapshot

from .recordings import run_of, session_points, stored
from .serving import strict_json

SNAPSHOTS = [usual_snapshot(chain(4), step, signals=step % 4 == 0) for step in range(0, 20, 2)]


@pytest.mark.parametrize(
    ("asked", "expected"), [(0, 0), (6, 4), (6.1, 8), (7, 8), (-1e30, 0), (1e30, 16), (8, 8)]
)
def test_the_nearest_sample_with_signals_is_taken(asked, expected):
    assert profile(run_of(SNAPSHOTS), asked)["step"] == expected


def test_it_has_the_levels_and_the_gains_of_the_snapshot():
    found = profile(run_of(SNAPSHOTS), 8)
    snapshot = SNAPSHOTS[4]
    path = worst_path(snapshot)
    assert found["backward"] == pytest.approx(backward_profile(snapshot).tolist())
    assert found["expected"] == [0.0] * 4
    assert found["path"] == [0, 1, 2, 3]
    assert found["activation_gain"] == pytest.approx(path.activation_gain_log10.tolist())
    assert found["weight_gain"] == pytest.approx(path.weight_gain_log10.tolist())
    assert found["depth"] == pytest.approx(snapshot.backward_depth)
    assert found["growth"] == pytest.approx(snapshot.backward_growth)


def test_rows_that_appeared_out_of_order_are_put_in_order():
    """Row 0 is the output layer here: the first that was seen."""
    front, middle, back = chain(3)
    layers = (
        replace(back, inputs=(2,)),
        replace(front, inputs=()),
        replace(middle, inputs=(1,)),
    )
    signal = np.asarray([1.0, 0.01, 0.1], dtype=np.float32)
    snapshot = replace(usual_snapshot(layers, 0), output_grad_norm=signal)
    found = profile(run_of([snapshot]), 0)
    assert found["backward"] == pytest.approx([-2, -1, 0])
    assert found["path"] == [0, 1, 2]
    assert found["depth"] == pytest.approx(-2)


def test_layers_of_another_version_were_not_observed():
    points = [
        *session_points([usual_snapshot(chain(2), 0)], session="a"),
        *session_points([usual_snapshot(chain(2, prefix="conv"), 1)], session="b", started=9.0),
    ]
    found = profile(stored(*points), 0)
    assert [level is None for level in found["backward"]] == [False, True, False, True]
    assert found["path"] == [0, 2]
    assert found["activation_gain"][1] is None


def test_a_signal_that_is_exactly_zero_has_no_finite_level():
    signal = np.asarray([0.0, np.inf, np.nan, 1.0], dtype=np.float32)
    snapshot = replace(usual_snapshot(chain(4), 0), output_grad_norm=signal)
    assert profile(run_of([snapshot]), 0)["backward"] == ["-Infinity", "Infinity", None, 0.0]


def test_without_a_known_output_signal_there_is_no_depth():
    signal = np.full(4, np.nan, dtype=np.float32)
    snapshot = replace(usual_snapshot(chain(4), 3), output_grad_norm=signal)
    found = profile(run_of([snapshot]), 0)
    assert found["step"] == 3
    assert found["backward"] == [None] * 4
    assert (found["path"], found["depth"], found["growth"]) == ([], None, None)


@pytest.mark.parametrize("snapshots", [[], [usual_snapshot(chain(3), 0, signals=False)]])
def test_without_signals_it_is_empty(snapshots):
    assert profile(run_of(snapshots), 0) == EMPTY


def test_it_is_json():
    found = profile(run_of(SNAPSHOTS), 0)
    assert strict_json(json.dumps(found)) == found
