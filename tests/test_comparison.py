"""Comparison: where two runs diverge, in which layer first, and when they do not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gradwatch.comparison import FACTOR, PERSISTENCE, TRAVELS, Comparison, compare
from gradwatch.comparison.alignment import Aligned, departures, largest_lasting, matched
from gradwatch.errors import ArgumentError
from gradwatch.finding import Finding
from gradwatch.layer import Layer
from gradwatch.snapshot import Snapshot, State
from gradwatch.tensorboard.reader import Recording, read

from .calibration.cases import CASES
from .calibration.twins import pairs_of
from .tensorboard.builders import chain, finding, random_run, usual_snapshot, write_run

LAYERS = chain(6, activation="relu")
STEPS = range(0, 100, 4)

Change = Callable[[Snapshot], Snapshot]


@pytest.fixture
def stored(tmp_path) -> Callable[..., Recording]:
    """Writes snapshots to event files and reads them back."""
    count = 0

    def store(snapshots: Iterable[Snapshot], findings: Sequence[Finding] = ()) -> Recording:
        nonlocal count
        count += 1
        log_dir: Path = tmp_path / str(count)
        sink = write_run(log_dir, tuple(snapshots), close=False)
        if findings:
            sink.write_findings(findings, findings)
        sink.close()
        return read(log_dir / "gradwatch")

    return store


def healthy(
    steps: Iterable[int] = STEPS, *, layers: tuple[Layer, ...] = LAYERS, signals: bool = True
) -> list[Snapshot]:
    return [usual_snapshot(layers, step, decades=0.1, signals=signals) for step in steps]


def with_row(snapshot: Snapshot, row: int, **figures: float) -> Snapshot:
    """The snapshot with other figures of one layer; `times_...` multiplies."""
    changed = {}
    for name, figure in figures.items():
        statistic = name.removeprefix("times_")
        values = np.array(getattr(snapshot, statistic))
        values[row] = values[row] * figure if name.startswith("times_") else figure
        changed[statistic] = values
    return replace(snapshot, **changed)


def from_step(first: int, change: Change, *, until: int = 10**9) -> list[Snapshot]:
    """Healthy snapshots, changed from a step on."""
    return [change(entry) if first <= entry.step < until else entry for entry in healthy()]


def compared(a: Recording, b: Recording, statistic: str | None = None) -> Comparison:
    return compare(a, b, names=("A", "B"), statistic=statistic)


class TestAgreement:
    """Runs that do not diverge."""

    def test_a_run_is_equal_to_itself_bit_by_bit(self, stored):
        run = stored(healthy())
        result = compared(run, run)
        assert result.divergence is None
        assert result.is_same
        assert result.sentence == (
            "No divergence: what A and B stored is equal bit by bit, up to step 96."
        )

    def test_a_repeated_run_is_equal_bit_by_bit_whenever_it_ran(self, stored):
        later = [replace(entry, wall_time=entry.wall_time + 1000) for entry in healthy()]
        assert compared(stored(healthy()), stored(later)).is_same

    @pytest.mark.parametrize(
        "change",
        [
            lambda entry: with_row(entry, 2, times_saturation_fraction=1 + 1e-6),
            lambda entry: replace(entry, loss=entry.loss + 1e-12),
            lambda entry: replace(entry, states=np.full(6, State.FROZEN, dtype=np.int8)),
        ],
        ids=["a statistic", "the loss", "a state"],
    )
    def test_one_other_bit_is_not_equal(self, stored, change):
        a, b = stored(healthy()), stored(from_step(96, change))
        assert not compared(a, b).is_same

    def test_the_largest_lasting_ratio_is_named(self, stored):
        b = from_step(0, lambda entry: with_row(entry, 1, times_output_grad_norm=3.0))
        result = compared(stored(healthy()), stored(b))
        assert result.divergence is None
        assert not result.is_same
        assert "25 common steps up to step 96" in result.sentence
        assert "the largest lasting ratio is 3, in fc2." in result.sentence

    def test_a_rescaled_loss_leaves_the_profile_and_is_told_of(self, stored):
        b = [
            replace(
                entry,
                output_grad_norm=entry.output_grad_norm * 1000,
                grad_norm=entry.grad_norm * 1000,
            )
            for entry in healthy()
        ]
        result = compared(stored(healthy()), stored(b))
        assert result.statistic == "output_grad_norm"
        assert result.divergence is None
        assert "By their gradient norm they diverge at step 0, first in layer fc6." in (
            result.sentence
        )


class TestDivergence:
    """The first step, and the layer that a change reaches first."""

    def test_the_step_and_the_layer_nearest_to_the_loss(self, stored):
        sick = [usual_snapshot(LAYERS, step, decades=0.1 if step < 40 else 1.0) for step in STEPS]
        divergence = compared(stored(healthy()), stored(sick)).divergence
        assert divergence is not None
        assert divergence.step == 40
        assert divergence.layer == "fc4"
        assert divergence.others == ("fc1", "fc2", "fc3")
        assert divergence.ratio_log10 == pytest.approx(-1.8, abs=0.01)

    def test_the_other_way_round_is_the_same_place_and_the_inverse_ratio(self, stored):
        a, b = stored(healthy()), stored([usual_snapshot(LAYERS, s, decades=1.0) for s in STEPS])
        one, other = compared(a, b).divergence, compared(b, a).divergence
        assert one is not None
        assert other is not None
        assert (one.step, one.layer) == (other.step, other.layer)
        assert one.ratio_log10 == pytest.approx(-other.ratio_log10)

    def test_a_forward_statistic_is_followed_from_the_inputs(self, stored):
        b = [replace(entry, output_rms=entry.output_rms * 100) for entry in healthy()]
        divergence = compared(stored(healthy()), stored(b), "output_rms").divergence
        assert divergence is not None
        assert divergence.layer == "fc1"
        assert divergence.others == ("fc2", "fc3", "fc4", "fc5", "fc6")

    @pytest.mark.parametrize(("times", "diverges"), [(0.99 * FACTOR, False), (1.01 * FACTOR, True)])
    @pytest.mark.parametrize("invert", [False, True], ids=["larger", "smaller"])
    def test_beyond_the_factor(self, stored, times, diverges, invert):
        scale = 1 / times if invert else times
        b = from_step(20, lambda entry: with_row(entry, 3, times_grad_norm=scale))
        result = compared(stored(healthy()), stored(b), "grad_norm")
        assert (result.divergence is not None) is diverges

    @pytest.mark.parametrize(
        ("samples", "diverges"), [(PERSISTENCE - 1, False), (PERSISTENCE, True)]
    )
    def test_long_enough(self, stored, samples, diverges):
        b = from_step(
            20,
            lambda entry: with_row(entry, 3, times_grad_norm=50.0),
            until=20 + 4 * samples,
        )
        result = compared(stored(healthy()), stored(b), "grad_norm")
        assert (result.divergence is not None) is diverges

    def test_a_ratio_that_changes_sides_does_not_last(self, stored):
        b = from_step(
            0, lambda entry: with_row(entry, 3, times_grad_norm=50.0 if entry.step % 8 else 0.02)
        )
        assert compared(stored(healthy()), stored(b), "grad_norm").divergence is None

    def test_the_sentence_says_where_and_how_much(self, stored):
        b = from_step(20, lambda entry: with_row(entry, 3, times_output_grad_norm=0.02))
        sentence = compared(stored(healthy()), stored(b)).sentence
        assert "B leaves A at step 20, first in layer fc4: its backward signal relative to" in (
            sentence
        )
        assert "50 times smaller" in sentence
        assert "1 of 6 common layers come to differ by more than a factor of 10" in sentence

    def test_each_layer_has_its_step_and_where_it_ends(self, stored):
        b = from_step(20, lambda entry: with_row(entry, 3, times_output_grad_norm=0.02))
        layers = {layer.name: layer for layer in compared(stored(healthy()), stored(b)).layers}
        assert layers["fc4"].first_step == 20
        assert layers["fc4"].ratio_log10 == pytest.approx(np.log10(0.02), abs=1e-5)
        assert layers["fc3"].first_step is None
        assert layers["fc3"].ratio_log10 == 0


class TestSpecialFigures:
    """Zero, not finite, not observed, frozen, cut off, skipped."""

    @pytest.mark.parametrize(
        ("figure", "ratio_log10", "words"),
        [(0.0, "-Infinity", "is zero, against"), (np.inf, "Infinity", "is not finite, against")],
        ids=["zero", "infinite"],
    )
    def test_one_alone_is_a_divergence(self, stored, figure, ratio_log10, words):
        b = from_step(20, lambda entry: with_row(entry, 3, grad_norm=figure))
        result = compared(stored(healthy()), stored(b), "grad_norm")
        assert result.as_json()["divergence"]["step"] == 20
        assert result.as_json()["divergence"]["ratio_log10"] == ratio_log10
        assert words in result.sentence

    @pytest.mark.parametrize("figure", [0.0, np.inf, np.nan])
    def test_in_both_it_is_none(self, stored, figure):
        a = from_step(20, lambda entry: with_row(entry, 3, grad_norm=figure))
        b = [with_row(entry, 0, times_grad_norm=2.0) for entry in a]
        assert compared(stored(a), stored(b), "grad_norm").divergence is None

    def test_what_one_run_did_not_observe_is_not_compared(self, stored):
        b = from_step(0, lambda entry: with_row(entry, 3, grad_norm=np.nan))
        result = compared(stored(healthy()), stored(b), "grad_norm")
        assert result.divergence is None
        assert result.layers[3].ratio_log10 is None

    @pytest.mark.parametrize("statistic", ["grad_norm", "output_grad_norm", "update_ratio"])
    @pytest.mark.parametrize(
        ("state", "diverges"),
        [(State.FROZEN, False), (State.IDLE, False), (State.NO_GRADIENT, True)],
    )
    def test_a_layer_without_gradient_counts_only_if_one_was_asked_of_it(
        self, stored, statistic, state, diverges
    ):
        def change(entry: Snapshot) -> Snapshot:
            states = np.array(entry.states)
            states[3] = state
            return replace(with_row(entry, 3, **{statistic: np.nan}), states=states)

        result = compared(stored(healthy()), stored(from_step(0, change)), statistic)
        assert (result.divergence is not None) is diverges

    def test_steps_that_the_optimizer_skipped_are_left_out(self, stored):
        b = from_step(20, lambda entry: replace(with_row(entry, 3, grad_norm=np.inf), skipped=True))
        result = compared(stored(healthy()), stored(b), "grad_norm")
        assert result.divergence is None
        assert result.steps == (0, 4, 8, 12, 16)

    @pytest.mark.parametrize(
        ("figure", "diverges"), [(np.inf, True), (0.0, False)], ids=["infinite", "zero"]
    )
    def test_a_run_that_breaks_off_need_not_last(self, stored, figure, diverges):
        b = from_step(96, lambda entry: with_row(entry, 3, grad_norm=figure))
        result = compared(stored(healthy()), stored(b), "grad_norm")
        assert (result.divergence is not None) is diverges

    def test_a_run_whose_signals_are_all_not_finite_leaves_one_that_is(self, stored):
        b = from_step(60, lambda entry: replace(entry, output_grad_norm=np.full(6, np.inf)))
        divergence = compared(stored(healthy()), stored(b)).divergence
        assert divergence is not None
        assert (divergence.step, divergence.layer) == (60, "fc6")

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("statistic", [None, *TRAVELS])
    def test_any_bits_end_in_json_and_a_sentence(self, stored, statistic):
        a, b = (stored(random_run(LAYERS, range(60), seed=seed)) for seed in (0, 1))
        answer = compared(a, b, statistic).as_json()
        assert json.loads(json.dumps(answer, allow_nan=False)) == answer
        assert answer["sentence"].endswith(".")


def aligned_ratios(ratios: Sequence[Sequence[float]]) -> Aligned:
    """Two runs that are so far apart, a row a step."""
    levels = np.array(ratios, dtype=np.float64)
    steps = np.arange(len(levels))
    names = tuple(f"fc{column}" for column in range(levels.shape[1]))
    return Aligned(names, steps, steps, np.zeros_like(levels), levels)


RATIOS = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0])


class TestLasting:
    """Of the samples that observed a layer, so many on end."""

    @given(arrays(np.float64, st.tuples(st.integers(0, 9), st.integers(0, 3)), elements=RATIOS))
    def test_the_largest_is_that_of_the_windows_of_each_layer(self, ratios):
        expected = []
        for column in ratios.T:
            known = column[~np.isnan(column)]
            windows = [known[start : start + 3] for start in range(len(known) - 2)]
            sides = [max(window.min(), -window.max(), 0.0) for window in windows]
            expected.append(max(sides, default=np.nan))
        found = largest_lasting(aligned_ratios(ratios), persistence=3)
        np.testing.assert_array_equal(found, np.array(expected, dtype=np.float64))

    @pytest.mark.parametrize(
        ("column", "rows"),
        [
            ([0.0, 2.0, 2.0, 2.0, 2.0], [1, 2, 3]),
            ([0.0, 2.0, np.nan, 2.0, np.nan, 2.0], [1, 3, 5]),
            ([-2.0, 2.0, -2.0, -2.0, -2.0], [2, 3, 4]),
            ([2.0, 2.0, 0.0, np.inf, np.inf], [3, 4]),
        ],
        ids=["at once", "with gaps", "on one side", "to the end"],
    )
    def test_a_departure_has_the_rows_that_make_it_one(self, column, rows):
        found = departures(
            aligned_ratios([[0.0, ratio] for ratio in column]), limit=1.0, persistence=3
        )
        assert [*found] == [1]
        assert (found[1].first, found[1].rows.tolist()) == (rows[0], rows)

    @pytest.mark.parametrize(
        "column",
        [[2.0, 2.0, 0.0, 2.0, 2.0], [2.0, np.nan, 2.0], [1.0, 1.0, 1.0, 1.0], [np.nan] * 4],
        ids=["interrupted", "with a gap", "at the limit", "never observed"],
    )
    def test_less_is_none(self, column):
        ratios = aligned_ratios([[ratio] for ratio in column])
        assert departures(ratios, limit=1.0, persistence=3) == {}


class TestAlignment:
    """Steps by number, else the nearest; layers by name."""

    def test_other_steps_are_held_against_the_nearest(self, stored):
        a, b = stored(healthy(range(0, 100, 10))), stored(healthy(range(3, 100, 10)))
        result = compared(a, b)
        assert len(result.steps) == 10
        assert result.farthest_match == 3
        assert "the nearest that was observed, up to 3 steps away." in result.sentence

    def test_runs_without_a_common_step_say_so(self, stored):
        a, b = stored(healthy(range(0, 40, 4))), stored(healthy(range(400, 440, 4)))
        answer = compared(a, b).as_json()
        assert answer["steps_compared"] == 0
        assert answer["divergence"] is None
        assert answer["sentence"] == (
            "A and B share no step at which both observed the backward signal relative to the "
            "output layer, so they cannot be compared."
        )

    @pytest.mark.parametrize(
        ("a", "b", "pairs"),
        [
            ([0, 1, 2], [0, 1, 2], [(0, 0), (1, 1), (2, 2)]),
            ([0, 10, 20], [0, 5, 10, 15, 20], [(0, 0), (10, 10), (20, 20)]),
            ([0, 10, 20], [4, 14, 24], [(0, 4), (10, 14), (20, 24)]),
            ([0, 10, 20], [2, 3, 11], [(0, 2), (10, 11)]),
            ([0, 1, 2, 100], [0, 1, 2, 60, 140], [(0, 0), (1, 1), (2, 2), (100, 60)]),
            ([0, 1, 2], [5, 6, 7], []),
            ([7], [7], [(7, 7)]),
            ([7], [8], []),
            ([], [1, 2], []),
        ],
        ids=str,
    )
    def test_which_step_belongs_to_which(self, a, b, pairs):
        one, other = np.array(a, dtype=np.int64), np.array(b, dtype=np.int64)
        rows = matched(one, other)
        assert list(zip(one[rows[0]], other[rows[1]], strict=True)) == pairs

    def test_layers_that_one_run_alone_has_are_told(self, stored):
        more = chain(8, activation="relu")
        a, b = stored(healthy()), stored(healthy(layers=more))
        places = {layer.name: layer.found_in for layer in compared(a, b).layers}
        assert places == {**{f"fc{row}": "both" for row in range(1, 7)}, "fc7": "b", "fc8": "b"}
        assert {layer.found_in for layer in compared(b, a).layers} == {"both", "a"}

    def test_runs_without_a_common_layer_say_so(self, stored):
        a, b = stored(healthy()), stored(healthy(layers=chain(6, prefix="conv")))
        assert compared(a, b).sentence == (
            "A and B have no layer in common, so they cannot be compared."
        )

    def test_a_layer_is_found_wherever_it_stands(self, stored):
        turned = tuple(
            replace(layer, depth=5 - row, inputs=(row + 1,) if row < 5 else ())
            for row, layer in enumerate(
                replace(layer, name=other.name)
                for layer, other in zip(LAYERS, reversed(LAYERS), strict=True)
            )
        )
        names = ("grad_norm", "output_grad_norm", "input_grad_norm")
        b = [
            replace(
                entry,
                layers=turned,
                **{name: getattr(entry, name)[::-1].copy() for name in names},
            )
            for entry in healthy()
        ]
        result = compared(stored(healthy()), stored(b))
        assert [layer.name for layer in result.layers] == [layer.name for layer in LAYERS]
        assert {layer.ratio_log10 for layer in result.layers} == {0.0}

    def test_without_signals_in_one_the_gradient_norm_is_compared(self, stored):
        a, b = stored(healthy()), stored(healthy(signals=False))
        assert compared(a, b).statistic == "grad_norm"

    @pytest.mark.parametrize("statistic", ["dead_fraction", "nothing", ""])
    def test_another_statistic_is_refused_with_those_there_are(self, stored, statistic):
        run = stored(healthy())
        with pytest.raises(ArgumentError, match="take one of output_grad_norm, grad_norm") as said:
            compared(run, run, statistic)
        assert repr(statistic) in str(said.value)


class TestLosses:
    """The losses at the last common step."""

    def test_of_the_last_step_that_has_one_in_both(self, stored):
        b = from_step(90, lambda entry: replace(entry, loss=float("nan")))
        losses = compared(stored(healthy()), stored(b)).as_json()["losses"]
        assert losses["step"] == 88
        assert losses["a"] == losses["b"] == pytest.approx(2.3 * 0.995**88 + 0.1)

    def test_one_that_is_not_finite_is_a_word(self, stored):
        b = from_step(90, lambda entry: replace(entry, loss=float("inf")))
        assert compared(stored(healthy()), stored(b)).as_json()["losses"]["b"] == "Infinity"

    def test_none_without_a_loss(self, stored):
        b = from_step(0, lambda entry: replace(entry, loss=float("nan")))
        assert compared(stored(healthy()), stored(b)).as_json()["losses"] is None


class TestFindings:
    """Open findings of both, gone, and new."""

    KEPT = finding(step=8)
    GONE = finding(step=8, code="GW202", name="saturated-activation", cause="weights")
    NEW = finding(step=8, code="GW301", name="exploding-gradient", cause="depth")
    RESOLVED = finding(step=8, code="GW203", name="saturated-output", cause="loss", resolved_step=9)

    def test_open_ones_are_told_apart_by_code_and_cause(self, stored):
        a = stored(healthy(), [self.KEPT, self.GONE, self.RESOLVED])
        b = stored(healthy(), [self.KEPT, self.NEW])
        assert compared(a, b).findings == {
            "both": ["GW101/activation"],
            "only_a": ["GW202/weights"],
            "only_b": ["GW301/depth"],
        }

    def test_others_than_the_stored_ones_may_be_given(self, stored):
        run = stored(healthy(), [self.KEPT])
        result = compare(run, run, names=("A", "B"), findings=([], [self.NEW]))
        assert result.findings == {"both": [], "only_a": [], "only_b": ["GW301/depth"]}


def test_the_json_has_the_fields_that_the_page_reads(stored):
    b = from_step(20, lambda entry: with_row(entry, 3, times_output_grad_norm=0.02))
    answer = compared(stored(healthy()), stored(b)).as_json()
    assert list(answer) == [
        *("a", "b", "statistic", "factor", "steps_compared", "sentence"),
        *("divergence", "layers", "losses", "findings"),
    ]
    assert list(answer["divergence"]) == ["step", "layer", "ratio_log10", "others"]
    assert list(answer["layers"][0]) == ["name", "in", "first_step", "ratio_log10"]


def test_runs_without_a_sample_are_compared_in_words(stored):
    empty = stored([], [finding()])
    assert "have no layer in common" in compared(empty, empty).sentence


@pytest.fixture(scope="module")
def trained_pairs(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    (case,) = (case for case in CASES if case.name == "mlp_sigmoid8")
    pairs = list(pairs_of(case, [0, 1], tmp_path_factory.mktemp("runs")))
    torch.set_num_threads(threads)
    return pairs


def test_trained_twins_of_other_seeds_do_not_diverge(trained_pairs):
    (twins,) = (pair for pair in trained_pairs if pair.twins)
    assert twins.comparison().divergence is None
    assert twins.lasting_log10("output_grad_norm") > 0.01


def test_a_trained_sick_run_leaves_the_fixed_one_at_once(trained_pairs):
    sick = [pair.comparison().divergence for pair in trained_pairs if not pair.twins]
    assert len(sick) == 2
    assert {divergence.step for divergence in sick} == {0}
