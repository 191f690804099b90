"""History and Window: the queries that rules ask."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given

from gradwatch.history import EARLY_SAMPLES, WARM_UP_SAMPLES, History, Window
from gradwatch.snapshot import STATISTICS, State
from gradwatch.testing import chain, history_of, snapshot, steady

from .arbitrary import BOUNDED_RUN, history_from, runs

LAYERS = chain(3)


def windows(history, needs="signals", *, size=5, count=2, warm_up=WARM_UP_SAMPLES):
    return history.windows(needs, size=size, count=count, warm_up=warm_up)


def steps(window):
    return [entry.step for entry in window.snapshots]


class TestSequence:
    """Snapshots, oldest first."""

    def test_it_is_a_sequence(self):
        history = steady(LAYERS, steps=[0, 5, 9])
        assert len(history) == 3
        assert [entry.step for entry in history] == [0, 5, 9]
        assert (history[0].step, history[-1].step) == (0, 9)
        assert [entry.step for entry in history[1:]] == [5, 9]
        assert [entry.step for entry in reversed(history)] == [9, 5, 0]
        with pytest.raises(IndexError):
            history[3]

    def test_an_empty_one_has_no_layers_and_no_first(self):
        history = History()
        assert history.layers == ()
        assert history.first_signals is None
        assert history.early is None
        assert windows(history) == []

    def test_the_oldest_are_dropped_but_what_is_known_of_the_start_stays(self):
        history = History(maxlen=4)
        for step in range(100, 130):
            history.append(snapshot(LAYERS, step, loss=float(step), update_ratio=1.0 / step))
        assert [entry.step for entry in history] == [126, 127, 128, 129]
        assert (history.first_step, history.first_loss) == (100, 100.0)
        assert history.largest_update_ratio == pytest.approx(0.01)
        assert history.first_signals.step == 100
        assert steps(history.early) == [103, 104, 105, 106, 107]

    def test_the_rows_are_those_of_the_newest(self):
        history = history_of([snapshot(chain(1)), snapshot(chain(3), 1)])
        assert history.layers == chain(3)

    def test_limits_are_gathered_once(self):
        history = history_of(
            [
                snapshot(LAYERS, 0, limits=("a",)),
                snapshot(LAYERS, 1, limits=("b", "a")),
                snapshot(LAYERS, 2),
            ]
        )
        assert history.limits == ("a", "b")


class TestStart:
    """What is kept of the beginning."""

    def test_the_first_loss_is_the_first_that_was_observed(self):
        losses = {0: np.nan, 1: 2.0, 2: 1.0}
        history = steady(LAYERS, steps=range(3), at=lambda step: {"loss": losses[step]})
        assert history.first_loss == 2.0

    def test_the_first_signals_are_those_of_the_first_sample_that_has_some(self):
        history = steady(
            LAYERS, steps=range(4), at=lambda step: {"forward_calls": 1.0 if step > 1 else np.nan}
        )
        assert history.first_signals.step == 2

    def test_steps_that_were_skipped_are_no_beginning(self):
        history = steady(LAYERS, steps=range(4), at=lambda step: {"skipped": step < 2})
        assert history.first_signals.step == 2

    @pytest.mark.parametrize(
        ("samples", "early"),
        [(3, None), (4, [3]), (8, [3, 4, 5, 6, 7]), (20, [3, 4, 5, 6, 7])],
    )
    def test_the_early_window_holds_the_first_samples_after_the_warm_up(self, samples, early):
        history = steady(LAYERS, steps=range(samples))
        assert (history.early and steps(history.early)) == early
        assert EARLY_SAMPLES - WARM_UP_SAMPLES == 5

    @pytest.mark.parametrize(
        ("update", "largest"),
        [(0.5, 0.5), (np.nan, 0.1), (np.inf, 0.1), ([np.nan, 0.2, np.inf], 0.2)],
    )
    def test_the_largest_update_is_the_largest_finite_one(self, update, largest):
        history = steady(
            LAYERS, steps=range(3), at=lambda step: {"update_ratio": 0.1 if step != 1 else update}
        )
        assert history.largest_update_ratio == pytest.approx(largest)

    def test_a_skipped_update_is_none(self):
        history = steady(
            LAYERS,
            steps=range(3),
            at=lambda step: {"update_ratio": 0.1 + step, "skipped": step == 2},
        )
        assert history.largest_update_ratio == pytest.approx(1.1)

    def test_without_any_update_the_largest_is_unknown(self):
        assert np.isnan(steady(LAYERS, update_ratio=np.nan).largest_update_ratio)


class TestWindows:
    """The last samples that fit, newest window first."""

    def test_consecutive_windows_are_one_sample_apart(self):
        newest, older = windows(steady(LAYERS, steps=range(12)))
        assert steps(newest) == [7, 8, 9, 10, 11]
        assert steps(older) == [6, 7, 8, 9, 10]
        assert newest.step == 11

    @pytest.mark.parametrize(("samples", "found"), [(7, 0), (8, 1), (9, 2), (30, 2)])
    def test_the_warm_up_is_left_out(self, samples, found):
        assert len(windows(steady(LAYERS, steps=range(samples)))) == found

    def test_the_warm_up_is_that_of_the_run_also_when_the_history_has_forgotten_it(self):
        history = History(maxlen=9)
        for step in range(20):
            history.append(snapshot(LAYERS, step))
        assert len(windows(history, count=9)) == 5

    def test_samples_without_signals_are_for_parameters_only(self):
        history = steady(
            LAYERS, steps=range(20), at=lambda step: {"forward_calls": [np.nan, 1.0][step % 2]}
        )
        (signals, _) = windows(history)
        (parameters, _) = windows(history, "parameters")
        assert steps(signals) == [11, 13, 15, 17, 19]
        assert steps(parameters) == [15, 16, 17, 18, 19]

    @pytest.mark.parametrize("needs", ["signals", "parameters"])
    def test_steps_that_were_skipped_are_left_out(self, needs):
        history = steady(LAYERS, steps=range(12), at=lambda step: {"skipped": step in {8, 10}})
        assert steps(windows(history, needs)[0]) == [5, 6, 7, 9, 11]

    def test_a_window_is_the_same_object_each_time_and_keeps_its_medians(self):
        history = steady(LAYERS, steps=range(12))
        assert windows(history)[0] is windows(history)[0]
        assert windows(history)[0].typical is windows(history)[0].typical
        before = windows(history)[0]
        history.append(snapshot(LAYERS, 12))
        assert windows(history)[1] is before


class TestWindow:
    """Medians over the samples that observed a figure."""

    @BOUNDED_RUN
    @given(runs())
    def test_every_median_is_numpys_where_half_of_the_samples_observed_it(self, drawn):
        history = history_from(drawn)
        if not len(history):
            return
        window = Window(tuple(history), history)
        for number, statistic in enumerate(STATISTICS):
            stacked = window.stacked(lambda entry, name=statistic.name: getattr(entry, name))
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                expected = np.nanmedian(stacked.astype(np.float64), axis=0).astype(np.float32)
            expected[2 * np.sum(~np.isnan(stacked), axis=0) < len(stacked)] = np.nan
            median = window.median(lambda entry, name=statistic.name: getattr(entry, name))
            np.testing.assert_allclose(median, expected, rtol=1e-6, atol=1e-44)
            np.testing.assert_array_equal(window.typical.packed()[number], median)

    def test_a_median_of_an_even_number_of_samples_is_the_mean_of_the_middle_two(self):
        history = steady(
            LAYERS,
            steps=range(5),
            at=lambda step: {"grad_norm": [float(step), np.nan if step == 2 else step, np.nan]},
        )
        window = Window(tuple(history), history)
        np.testing.assert_array_equal(window.typical.grad_norm, np.float32([2.0, 2.0, np.nan]))
        history.append(snapshot(LAYERS, 5, grad_norm=5.0))
        window = Window(tuple(history), history)
        np.testing.assert_array_equal(window.typical.grad_norm, np.float32([2.5, 3.0, np.nan]))

    @pytest.mark.parametrize(
        ("samples", "observed", "judged"),
        [
            (5, 0, False),
            (5, 2, False),
            (5, 3, True),
            (5, 5, True),
            (4, 1, False),
            (4, 2, True),
            (1, 1, True),
        ],
    )
    def test_what_fewer_than_half_of_the_samples_observed_has_no_median(
        self, samples, observed, judged
    ):
        history = steady(
            LAYERS,
            steps=range(samples),
            at=lambda step: {"dead_fraction": 1.0 if step < observed else np.nan},
        )
        window = Window(tuple(history), history)
        dead = window.median(lambda entry: entry.dead_fraction)
        assert (dead == 1.0).all() if judged else np.isnan(dead).all()
        np.testing.assert_array_equal(window.typical.dead_fraction, dead)

    def test_a_figure_of_the_network_counts_however_few_samples_observed_it(self):
        history = steady(LAYERS, at=lambda step: {"loss": 2.0 if step == 16 else np.nan})
        assert windows(history)[0].loss == 2.0

    def test_two_infinities_have_one_as_their_median(self):
        history = steady(LAYERS, steps=range(2), output_rms=np.inf)
        assert np.isposinf(Window(tuple(history), history).typical.output_rms).all()

    def test_rows_that_came_later_are_unknown_before(self):
        history = history_of(
            [snapshot(chain(1), 0, grad_norm=1.0), snapshot(chain(2), 1, grad_norm=3.0)]
        )
        window = Window(tuple(history), history)
        np.testing.assert_array_equal(
            window.stacked(lambda entry: entry.grad_norm), np.float32([[1.0, np.nan], [3.0, 3.0]])
        )
        np.testing.assert_array_equal(window.typical.grad_norm, np.float32([2.0, 3.0]))

    def test_the_typical_sample_is_the_newest_but_for_its_figures(self):
        history = steady(LAYERS, steps=range(3), at=lambda step: {"loss": float(step)})
        typical = Window(tuple(history), history).typical
        assert (typical.step, typical.loss, typical.layers) == (2, 1.0, LAYERS)

    def test_a_figure_of_the_whole_network(self):
        history = steady(LAYERS, steps=range(3), at=lambda step: {"loss": float(step)})
        window = Window(tuple(history), history)
        assert window.median_of(lambda entry: entry.loss * 10) == 10.0
        assert np.isnan(window.median_of(lambda entry: np.nan))
        assert window.loss == 1.0

    @pytest.mark.parametrize(
        ("first", "later", "ratio"),
        [
            (2.0, 1.0, 0.5),
            (1.0, 3.0, 3.0),
            (0.0, 1.0, np.nan),
            (-1.0, 1.0, np.nan),
            (1.0, -1.0, np.nan),
            (1.0, 0.0, np.nan),
            (np.nan, np.nan, np.nan),
        ],
    )
    def test_the_loss_against_the_first_one(self, first, later, ratio):
        history = steady(LAYERS, at=lambda step: {"loss": later if step else first})
        assert windows(history)[0].loss_ratio == pytest.approx(ratio, nan_ok=True)


class TestStates:
    """Rows that were in one state in every sample."""

    def test_always(self):
        frozen, trained, idle = State.FROZEN, State.TRAINED, State.IDLE
        history = history_of(
            [
                snapshot(LAYERS, 0, states=[frozen, trained, idle]),
                snapshot(LAYERS, 1, states=[frozen, idle, trained]),
            ]
        )
        window = Window(tuple(history), history)
        assert window.always(frozen).tolist() == [True, False, False]
        assert window.always(trained, idle).tolist() == [False, True, True]
        assert window.always(idle).tolist() == [False, False, False]

    def test_a_row_that_came_later_was_not_always_anything(self):
        history = history_of([snapshot(chain(1), 0), snapshot(chain(2), 1)])
        window = Window(tuple(history), history)
        assert window.always(State.TRAINED).tolist() == [True, False]

    @pytest.mark.parametrize(
        ("calls", "ran"),
        [
            ((1.0, 2.0), True),
            ((1.0, 0.0), False),
            ((0.0, 0.0), False),
            ((1.0, np.nan), True),
            ((0.0, np.nan), False),
            ((np.nan, np.nan), False),
        ],
    )
    def test_a_row_has_run_if_every_sample_that_looked_saw_it(self, calls, ran):
        history = steady(chain(1), steps=range(2), at=lambda step: {"forward_calls": calls[step]})
        assert Window(tuple(history), history).has_run().tolist() == [ran]
