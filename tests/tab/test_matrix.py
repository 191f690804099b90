"""A run as arrays: every sample and layer is in its place, whatever versions it went through."""

from dataclasses import replace

import numpy as np
import pytest

from gradwatch.snapshot import ROW_OF, STATISTICS, State
from gradwatch.tab.matrix import Matrix, united_layers
from gradwatch.tab.statistics import STATISTIC_OF, TAB_STATISTICS
from gradwatch.tensorboard.reader import assemble
from tests.tensorboard.builders import chain, random_run, usual_snapshot

from .recordings import reordered, run_of, session_points, stored

DERIVED = ["grad_rms", "weight_rms", "relative_grad", "elasticity"]


def test_every_stored_statistic_can_be_shown():
    names = [statistic.name for statistic in TAB_STATISTICS]
    assert sorted(names) == sorted([*ROW_OF, *DERIVED])
    assert len({statistic.title for statistic in TAB_STATISTICS}) == len(names)


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda statistic: statistic.name)
def test_a_log10_is_not_drawn_by_its_log10(statistic):
    drawn = STATISTIC_OF[statistic.name].scale
    assert (drawn in ("log10", "diverging")) == statistic.name.endswith("_log10")
    assert STATISTIC_OF[statistic.name].needs == statistic.needs


@pytest.mark.parametrize("name", [statistic.name for statistic in TAB_STATISTICS])
def test_a_statistic_is_that_of_the_snapshots(name):
    snapshots = [usual_snapshot(chain(5), step, signals=step % 2 == 0) for step in range(10)]
    found = Matrix(run_of(snapshots).recording).statistic(name)
    expected = np.stack([getattr(snapshot, name) for snapshot in snapshots])
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32


@pytest.mark.parametrize("name", [statistic.name for statistic in TAB_STATISTICS])
def test_any_bits_give_what_the_snapshots_have(name):
    snapshots = random_run(chain(4), range(9), seed=3)
    found = Matrix(run_of(snapshots).recording).statistic(name)
    with np.errstate(all="ignore"):
        expected = np.stack([getattr(snapshot, name) for snapshot in snapshots])
    np.testing.assert_array_equal(found, expected)


def test_rows_come_in_forward_order():
    layers = reordered(chain(4), [3, 0, 2, 1])
    snapshots = [usual_snapshot(layers, step) for step in range(3)]
    matrix = Matrix(run_of(snapshots).recording)
    assert [layer.name for layer in matrix.layers] == ["fc2", "fc4", "fc3", "fc1"]
    expected = np.stack([snapshot.grad_norm[[1, 3, 2, 0]] for snapshot in snapshots])
    np.testing.assert_array_equal(matrix.statistic("grad_norm"), expected)


def test_a_layer_that_appears_late_was_idle_and_not_observed():
    early = [usual_snapshot(chain(2), step) for step in range(2)]
    late = [usual_snapshot(chain(3), step) for step in range(2, 4)]
    matrix = Matrix(run_of([*early, *late]).recording)
    assert len(matrix.layers) == 3
    assert np.isnan(matrix.statistic("grad_norm")[:2, 2]).all()
    assert matrix.states[:, 2].tolist() == [State.IDLE] * 2 + [State.TRAINED] * 2
    np.testing.assert_array_equal(
        matrix.statistic("grad_norm")[2:, 2], [s.grad_norm[2] for s in late]
    )


def test_a_resumed_run_of_other_layers_has_the_layers_of_both():
    before = [usual_snapshot(chain(2), step) for step in range(6)]
    after = [usual_snapshot(chain(2, prefix="conv"), step) for step in range(4, 8)]
    points = [
        *session_points(before, session="a"),
        *session_points(after, session="b", started=100.0),
    ]
    matrix = stored(*points).matrix
    assert matrix.steps.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert [layer.name for layer in matrix.layers] == ["fc1", "conv1", "fc2", "conv2"]
    observed = ~np.isnan(matrix.statistic("grad_norm"))
    assert observed[:4].all(axis=0).tolist() == [True, False, True, False]
    assert observed[4:].all(axis=0).tolist() == [False, True, False, True]


def test_a_layer_is_as_its_newest_version_has_it():
    old, new = chain(2), reordered(chain(2), [1, 0])
    assert united_layers([old, new]) == (new[1], new[0])


def test_layers_of_one_name_are_one_row():
    twins = tuple(replace(layer, name="fc") for layer in chain(2))
    matrix = run_of([usual_snapshot(twins, 0)]).matrix
    assert matrix.statistic("grad_norm").shape == (1, 1)


def test_samples_with_signals_are_told_apart():
    snapshots = [usual_snapshot(chain(2), step, signals=step % 3 == 0) for step in range(7)]
    assert np.flatnonzero(run_of(snapshots).matrix.has_signals).tolist() == [0, 3, 6]


def test_only_what_was_observed_is_offered():
    snapshot = usual_snapshot(chain(3), 0, signals=False)
    observed = {statistic.name for statistic in run_of([snapshot]).matrix.observed}
    assert observed == {
        *("grad_norm", "weight_norm", "update_ratio", "decay_ratio", "nonfinite_count"),
        *DERIVED,
    }


def test_elasticity_is_offered_with_a_loss_only():
    snapshot = replace(usual_snapshot(chain(3), 0), loss=float("nan"))
    observed = {statistic.name for statistic in run_of([snapshot]).matrix.observed}
    assert "elasticity" not in observed
    assert "relative_grad" in observed


@pytest.mark.parametrize("sample", [0, 3, 4, 9])
def test_a_sample_comes_back_as_its_snapshot(sample):
    layers = reordered(chain(3), [2, 1, 0])
    snapshots = [usual_snapshot(layers, step) for step in range(0, 20, 2)]
    snapshot, rows = run_of(snapshots).matrix.snapshot(sample)
    assert snapshot.step == 2 * sample
    assert rows.tolist() == [2, 1, 0]
    assert snapshot.packed().tobytes() == snapshots[sample].packed().tobytes()


def test_there_is_no_sample_past_the_last_one():
    with pytest.raises(IndexError, match="no sample"):
        run_of([usual_snapshot(chain(2), 0)]).matrix.snapshot(1)


def test_a_run_without_samples_has_no_rows():
    matrix = Matrix(assemble([]))
    assert len(matrix) == 0
    assert matrix.layers == ()
    assert matrix.statistic("grad_norm").shape == (0, 0)
    assert matrix.states.shape == (0, 0)
    assert matrix.observed == ()


def test_a_run_without_layers_has_samples_all_the_same():
    matrix = run_of(random_run((), range(3))).matrix
    assert matrix.statistic("grad_norm").shape == (3, 0)
    assert matrix.layers == ()
