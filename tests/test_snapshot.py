"""Snapshot: one observed step, and what is derived from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.snapshot import (
    ROW_OF,
    STATISTICS,
    Snapshot,
    State,
    empty_statistics,
)
from gradwatch.testing import chain, snapshot

from .arbitrary import BOUNDED_RUN

LAYERS = chain(3, fan_out=25, parameter_count=100)

each_statistic = pytest.mark.parametrize("statistic", STATISTICS, ids=lambda entry: entry.name)


class TestStatistics:
    """The catalogue of what is stored."""

    @each_statistic
    def test_each_says_how_it_is_to_be_read(self, statistic):
        assert statistic.unit
        assert statistic.needs in {"parameters", "signals"}
        assert statistic.formula
        assert statistic.source
        assert statistic.meaning[0].isupper()
        assert statistic.meaning.endswith(".")

    @each_statistic
    def test_each_is_an_array_of_a_snapshot(self, statistic):
        figures = np.asarray([1.0, 2.0, 3.0], dtype=np.float32)
        step = snapshot(LAYERS, **{statistic.name: figures})
        np.testing.assert_array_equal(getattr(step, statistic.name), figures)
        np.testing.assert_array_equal(step.packed()[ROW_OF[statistic.name]], figures)

    def test_names_are_unique(self):
        assert len(ROW_OF) == len(STATISTICS)

    def test_rows_are_in_the_order_of_the_catalogue(self):
        assert list(ROW_OF.values()) == list(range(len(STATISTICS)))

    def test_a_log10_says_so_in_its_name(self):
        named = {statistic.name for statistic in STATISTICS if statistic.name.endswith("_log10")}
        assert named == {statistic.name for statistic in STATISTICS if statistic.unit == "log10"}


class TestPacking:
    """One array in, one array out."""

    @BOUNDED_RUN
    @given(st.integers(0, 2**32 - 1), st.integers(0, 6))
    def test_a_packed_snapshot_is_the_same_when_unpacked(self, seed, count):
        generator = np.random.default_rng(seed)
        packed = generator.standard_normal((len(STATISTICS), count)).astype(np.float32)
        packed[generator.random(packed.shape) < 0.2] = np.nan
        step = Snapshot.unpacked(
            packed, step=7, layers=chain(count), states=np.zeros(count, np.int8), loss=0.5
        )
        np.testing.assert_array_equal(step.packed(), packed)
        assert (step.step, step.loss, step.skipped, step.limits) == (7, 0.5, False, ())

    @pytest.mark.parametrize(
        "shape", [(len(STATISTICS), 2), (len(STATISTICS) - 1, 3), (3, len(STATISTICS))]
    )
    def test_another_shape_is_refused(self, shape):
        with pytest.raises(ValueError, match=r"shape .* expected"):
            Snapshot.unpacked(
                np.zeros(shape, np.float32), step=0, layers=LAYERS, states=np.zeros(3, np.int8)
            )

    def test_what_is_stored_is_single_precision(self):
        packed = np.ones((len(STATISTICS), 3))
        step = Snapshot.unpacked(packed, step=0, layers=LAYERS, states=np.zeros(3, np.int8))
        assert step.packed().dtype == np.float32

    def test_an_empty_step_observed_nothing(self):
        assert np.isnan(empty_statistics(3)).all()
        assert empty_statistics(3).shape == (len(STATISTICS), 3)

    def test_figures_that_are_not_given_are_unknown(self):
        step = Snapshot.unpacked(
            empty_statistics(1), step=0, layers=chain(1), states=np.zeros(1, np.int8)
        )
        assert np.isnan(step.loss)
        assert (step.skipped, step.limits, step.wall_time) == (False, (), 0.0)


class TestDerived:
    """Figures that are not stored, each against its formula."""

    def test_rms_of_gradients_and_weights(self):
        step = snapshot(LAYERS, grad_norm=[5.0, 10.0, np.nan], weight_norm=[20.0, np.inf, 0.0])
        np.testing.assert_array_equal(step.grad_rms, np.float32([0.5, 1.0, np.nan]))
        np.testing.assert_array_equal(step.weight_rms, np.float32([2.0, np.inf, 0.0]))

    def test_a_layer_without_parameters_counts_as_one(self):
        step = snapshot(chain(1, parameter_count=0), grad_norm=3.0)
        assert step.grad_rms[0] == 3.0

    @pytest.mark.parametrize(
        ("weights", "relative"), [(10.0, 0.1), (0.51, 1 / 0.51), (0.5, 2.0), (0.0, 2.0)]
    )
    def test_the_relative_gradient_has_a_floor_for_layers_that_start_at_zero(
        self, weights, relative
    ):
        step = snapshot(chain(1, fan_out=25), grad_norm=1.0, weight_norm=weights)
        assert step.relative_grad[0] == pytest.approx(relative)

    @pytest.mark.parametrize(
        ("loss", "elasticity"),
        [(2.0, 3.0), (-2.0, 3.0), (0.0, np.nan), (np.nan, np.nan), (np.inf, 0.0)],
    )
    def test_elasticity(self, loss, elasticity):
        step = snapshot(chain(1), loss=loss, grad_norm=1.5, weight_norm=4.0)
        assert step.elasticity[0] == pytest.approx(elasticity, nan_ok=True)

    @pytest.mark.parametrize(
        ("rms", "loss", "elasticity"),
        [(5.0, 2.0, 10.0), (0.01, 2.0, 2.0), (5.0, -2.0, 10.0), (5.0, 0.0, np.nan)],
        ids=["large outputs", "small outputs", "negative loss", "no loss"],
    )
    def test_output_elasticity(self, rms, loss, elasticity):
        values = 16
        step = snapshot(
            chain(1),
            loss=loss,
            output_grad_norm=1.0,
            output_grad_rms=values**-0.5,
            output_rms=rms,
        )
        assert step.output_elasticity[0] == pytest.approx(elasticity, nan_ok=True)

    def test_a_signal_of_zero_has_no_output_elasticity(self):
        step = snapshot(chain(1), output_grad_norm=0.0, output_grad_rms=0.0)
        assert np.isnan(step.output_elasticity[0])

    @pytest.mark.parametrize("name", ["elasticity", "output_elasticity", "relative_grad"])
    def test_extreme_figures_neither_raise_nor_warn(self, name):
        extreme = np.float32([3e38, 1e-45, np.inf])
        step = snapshot(
            LAYERS,
            loss=1e-30,
            grad_norm=extreme,
            weight_norm=np.float32([3e38, 1e-45, 1.0]),
            output_grad_norm=extreme,
            output_rms=extreme,
        )
        assert getattr(step, name).dtype == np.float32

    @pytest.mark.parametrize(
        ("calls", "known"), [(np.nan, False), ([np.nan, 0.0, np.nan], True), (1.0, True)]
    )
    def test_signals_were_observed_if_calls_were_counted(self, calls, known):
        assert snapshot(LAYERS, forward_calls=calls).has_signals is known


class TestState:
    """What event files hold cannot change its meaning."""

    def test_the_numbers_are_fixed(self):
        assert {state.name: state.value for state in State} == {
            "TRAINED": 0,
            "FROZEN": 1,
            "IDLE": 2,
            "NO_GRADIENT": 3,
            "ZERO_GRADIENT": 4,
        }


def test_a_snapshot_is_equal_to_itself_alone():
    step = snapshot(LAYERS)
    assert step == step
    assert step != replace(step)
    assert len({step, replace(step)}) == 2


def test_whoever_changes_what_is_packed_does_not_change_the_snapshot():
    step = snapshot(LAYERS, grad_norm=1.0)
    packed = step.packed()
    if packed.flags.writeable:
        packed[:] = 0.0
    assert step.packed()[ROW_OF["grad_norm"]].tolist() == [1.0, 1.0, 1.0]
