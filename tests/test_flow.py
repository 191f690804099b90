"""Flow: the backward signal over the whole graph, against an enumeration of every path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch import flow
from gradwatch.layer import Layer
from gradwatch.snapshot import Snapshot
from gradwatch.testing import backward_signals, chain, snapshot

from .arbitrary import BOUNDED_RUN, graphs

Step = Callable[[int], tuple[int, ...]]


@dataclass(frozen=True)
class Net:
    """A graph without cycles, and a backward signal on it."""

    layers: tuple[Layer, ...]
    step: Snapshot

    def fed_by(self, row: int) -> tuple[int, ...]:
        """Rows that the row reads."""
        return self.layers[row].inputs

    def feeds(self, row: int) -> tuple[int, ...]:
        """Rows that read the row."""
        return tuple(other for other, layer in enumerate(self.layers) if row in layer.inputs)

    def weighted_below(self, row: int, step: Step) -> set[int]:
        """Every other weighted row that a path from the row passes."""
        passed = {other for path in paths(row, step) for other in path[1:]}
        return {other for other in passed if self.layers[other].weighted}

    def ends(self) -> dict[tuple[int, int], float]:
        """(input layer, an output layer that a path leads to) → B of the two, where it is known."""
        weighted = [row for row, layer in enumerate(self.layers) if layer.weighted]
        first = [row for row in weighted if not self.weighted_below(row, self.fed_by)]
        last = [row for row in weighted if not self.weighted_below(row, self.feeds)]
        size = self.step.output_grad_norm
        return {
            (start, end): float(np.log10(size[start]) - np.log10(size[end]))
            for start in first
            for end in last
            if start != end and any(end in path for path in paths(start, self.feeds))
            if 0 < size[start] < np.inf and 0 < size[end] < np.inf
        }

    def strongest_ends(self) -> dict[int, float]:
        """Input layer → B against the strongest output layer that it leads to."""
        depths: dict[int, float] = {}
        for (start, _), depth in self.ends().items():
            depths[start] = min(depth, depths.get(start, np.inf))
        return depths


def paths(row: int, step: Step) -> Iterator[tuple[int, ...]]:
    """Every path from the row as far as it goes, and each of its beginnings."""
    yield (row,)
    for onward in step(row):
        for rest in paths(onward, step):
            yield (row, *rest)


def reached(row: int, step: Step) -> set[int]:
    """Every row on a path from the row, in a graph that may have cycles."""
    found: set[int] = set()
    frontier = {row}
    while frontier:
        found |= frontier
        frontier = {onward for known in found for onward in step(known)} - found
    return found


@st.composite
def nets(draw: st.DrawFn, *, zeros: bool = True) -> Net:
    layers = draw(graphs(acyclic=True))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = 10.0 ** generator.uniform(-8.0, 3.0, (3, len(layers)))
    if zeros:
        odd = generator.choice([1.0, 0.0, np.nan, np.inf], size.shape, p=[0.85, 0.05, 0.05, 0.05])
        size = np.where(odd == 1.0, size, odd)
    step = snapshot(
        layers,
        output_grad_norm=size[0],
        input_grad_norm=size[1],
        output_rms=size[2],
        activation_gain_log10=generator.uniform(-2.0, 0.0, len(layers)),
    )
    return Net(layers, step)


def same(one: float, other: float) -> bool:
    return one == pytest.approx(other, abs=1e-4, nan_ok=True)


class TestAgainstEveryPath:
    """On arbitrary graphs without cycles."""

    @BOUNDED_RUN
    @given(nets())
    def test_backward_depth(self, net):
        expected = min(net.strongest_ends().values(), default=np.nan)
        assert same(flow.backward_depth(net.step), expected)

    @BOUNDED_RUN
    @given(nets())
    def test_backward_growth(self, net):
        expected = max(net.strongest_ends().values(), default=np.nan)
        assert same(flow.backward_growth(net.step), expected)

    @BOUNDED_RUN
    @given(nets())
    def test_backward_profile(self, net):
        size = net.step.output_grad_norm
        outputs = [
            size[row]
            for row, layer in enumerate(net.layers)
            if layer.weighted and not net.weighted_below(row, net.feeds)
        ]
        known = [float(value) for value in outputs if 0 < value < np.inf]
        profile = flow.backward_profile(net.step)
        if not known:
            assert np.isnan(profile).all()
            return
        with np.errstate(divide="ignore"):
            expected = np.log10(size) - np.log10(max(known))
        np.testing.assert_allclose(profile, expected, atol=1e-4)

    @BOUNDED_RUN
    @given(nets())
    def test_the_worst_path_runs_between_the_ends_that_give_the_depth(self, net):
        path = flow.worst_path(net.step)
        ends = net.ends()
        if not ends:
            assert path is None
            return
        assert path.depth_log10 == pytest.approx(ends[path.rows[0], path.rows[-1]], abs=1e-4)
        assert path.depth_log10 == pytest.approx(flow.backward_depth(net.step))
        assert path.rows in set(paths(path.rows[0], net.feeds))

    @BOUNDED_RUN
    @given(nets(zeros=False))
    def test_the_worst_path_follows_the_consumer_that_hands_back_the_most(self, net):
        path = flow.worst_path(net.step)
        if path is None:
            return
        for row, taken in zip(path.rows, path.rows[1:], strict=False):
            onward = [
                other
                for other in net.feeds(row)
                if any(path.rows[-1] in way for way in paths(other, net.feeds))
            ]
            assert taken == max(onward, key=lambda other: net.step.input_grad_norm[other])

    @BOUNDED_RUN
    @given(nets(zeros=False))
    def test_the_gains_along_the_worst_path_are_those_of_its_rows(self, net):
        path = flow.worst_path(net.step)
        if path is None:
            return
        rows = list(path.rows)
        gain = np.log10(net.step.input_grad_norm) - np.log10(net.step.output_grad_norm)
        np.testing.assert_allclose(path.weight_gain_log10[1:], gain[rows[1:]], atol=1e-4)
        np.testing.assert_allclose(
            path.activation_gain_log10[:-1], net.step.activation_gain_log10[rows[:-1]], atol=1e-4
        )
        assert path.weight_gain_log10[0] == path.activation_gain_log10[-1] == 0.0

    @BOUNDED_RUN
    @given(nets())
    def test_forward_drift(self, net):
        sizes = net.step.output_rms
        weighted = [row for row, layer in enumerate(net.layers) if layer.weighted]
        start = [sizes[row] for row in weighted if not net.layers[row].inputs]
        start += [1.0 for row in weighted if not net.layers[row].inputs]
        known = [float(size) for size in start if 0 < size < np.inf]
        ends = [float(sizes[row]) for row in weighted if 0 < sizes[row] < np.inf]
        expected = np.log10(max(ends) / max(known)) if known and ends else np.nan
        assert same(flow.forward_drift(net.step), expected)


class TestReach:
    """On any graph at all."""

    @BOUNDED_RUN
    @given(graphs(), st.data())
    def test_upstream_is_every_row_that_a_path_comes_from(self, layers, data):
        rows = data.draw(st.sets(st.sampled_from(range(len(layers)))).map(tuple))
        expected = set().union(*(reached(row, lambda one: layers[one].inputs) for row in rows))
        assert flow.upstream(layers, rows) == expected

    @BOUNDED_RUN
    @given(graphs(), st.data())
    def test_downstream_is_every_row_that_a_path_leads_to(self, layers, data):
        rows = data.draw(st.sets(st.sampled_from(range(len(layers)))).map(tuple))
        fed = flow.consumers(layers)
        expected = set().union(*(reached(row, lambda one: fed[one]) for row in rows))
        assert flow.downstream(layers, rows) == expected

    @BOUNDED_RUN
    @given(graphs())
    def test_consumers_are_the_inputs_the_other_way_round(self, layers):
        pairs = {
            (row, fed) for row, fed_rows in enumerate(flow.consumers(layers)) for fed in fed_rows
        }
        assert pairs == {
            (source, row) for row, layer in enumerate(layers) for source in layer.inputs
        }

    @BOUNDED_RUN
    @given(graphs())
    def test_forward_order_is_the_order_of_depth(self, layers):
        order = flow.forward_order(layers)
        assert sorted(order) == list(range(len(layers)))
        assert [layers[row].depth for row in order] == sorted(layer.depth for layer in layers)


class TestGains:
    """Deficits against what He's initialisation gives."""

    def test_he_initialised_relu_layers_have_no_deficit(self):
        layers = chain(5, activation="relu")
        signals = backward_signals(layers, activation=-0.15, weights=0.15)
        path = flow.worst_path(snapshot(layers, **signals))
        np.testing.assert_allclose(path.activation_deficit_log10(layers), 0.0, atol=1e-6)
        np.testing.assert_allclose(path.weight_deficit_log10(layers), 0.0, atol=1e-6)

    def test_other_activations_owe_all_of_what_they_cost(self):
        layers = chain(4, activation="sigmoid")
        path = flow.worst_path(snapshot(layers, **backward_signals(layers, activation=-0.6)))
        np.testing.assert_allclose(path.activation_deficit_log10(layers), [-0.6, -0.6, -0.6, 0])
        np.testing.assert_allclose(path.weight_deficit_log10(layers), 0.0, atol=1e-6)

    @pytest.mark.parametrize("gain", [np.nan, -np.inf], ids=["not observed", "exactly zero"])
    def test_a_gain_that_has_no_logarithm_is_a_number_all_the_same(self, gain):
        layers = chain(3, activation="relu")
        step = snapshot(layers, activation_gain_log10=gain, input_grad_norm=[0.1, 0.0, np.nan])
        path = flow.worst_path(step)
        assert np.isfinite(path.activation_gain_log10).all()
        assert np.isfinite(path.weight_gain_log10).all()


class TestOddNets:
    """What is no chain from an input to an output."""

    @pytest.mark.parametrize(
        "layers",
        [
            chain(1),
            tuple(Layer(name=f"norm{row}", kind="LayerNorm", weighted=False) for row in range(3)),
            (Layer(name="loop", kind="Linear", inputs=(0,)),),
            (),
        ],
        ids=["one layer", "normalisation only", "fed by itself", "no layer"],
    )
    def test_without_two_ends_there_is_no_depth(self, layers):
        step = snapshot(layers)
        assert np.isnan(flow.backward_depth(step))
        assert np.isnan(flow.backward_growth(step))
        assert flow.worst_path(step) is None

    def test_a_layer_that_feeds_itself_is_an_input_layer_if_nothing_else_feeds_it(self):
        layers = (
            Layer(name="cell", kind="RNNCell", depth=0, inputs=(0,), recurrent=True),
            Layer(name="head", kind="Linear", depth=1, inputs=(0,)),
        )
        assert flow.backward_depth(snapshot(layers, output_grad_norm=[0.001, 1.0])) == (
            pytest.approx(-3.0)
        )

    @pytest.mark.xfail(
        reason="an edge back in time hides the input layer, so a hand-written cell has no depth"
    )
    def test_two_layers_that_feed_each_other_over_time_have_an_input_layer(self):
        layers = (
            Layer(name="cell.in", kind="Linear", depth=0, inputs=(1,)),
            Layer(name="cell.out", kind="Linear", depth=1, inputs=(0,)),
            Layer(name="head", kind="Linear", depth=2, inputs=(1,)),
        )
        assert flow.backward_depth(snapshot(layers, output_grad_norm=[1e-3, 0.1, 1.0])) == (
            pytest.approx(-3.0)
        )

    @pytest.mark.xfail(
        reason="only a layer that nothing feeds counts as a beginning, norms included"
    )
    def test_forward_growth_is_seen_behind_a_normalisation_of_the_inputs(self):
        layers = (
            Layer(name="norm", kind="BatchNorm1d", depth=0, weighted=False),
            Layer(name="fc", kind="Linear", depth=1, inputs=(0,)),
            Layer(name="head", kind="Linear", depth=2, inputs=(1,)),
        )
        assert flow.forward_drift(snapshot(layers, output_rms=[1.0, 1.0, 1e4])) == (
            pytest.approx(4.0)
        )

    def test_a_normalisation_after_the_last_layer_leaves_it_the_output_layer(self):
        layers = (
            *chain(2),
            Layer(name="norm", kind="LayerNorm", depth=2, weighted=False, inputs=(1,)),
        )
        step = snapshot(layers, output_grad_norm=[1e-4, 1.0, 1e4])
        assert flow.backward_depth(step) == pytest.approx(-4.0)
        assert flow.backward_profile(step).tolist() == pytest.approx([-4.0, 0.0, 4.0])

    def test_a_zero_signal_is_skipped_and_not_taken_for_vanished(self):
        layers = (*chain(2), Layer(name="side", kind="Linear", depth=2))
        step = snapshot(layers, output_grad_norm=[0.0, 1.0, 0.0])
        assert np.isnan(flow.backward_depth(step))

    def test_a_small_first_layer_before_a_normalisation_is_no_explosion(self):
        step = snapshot(chain(2), input_rms=1.0, output_rms=[1e-6, 1.0])
        assert flow.forward_drift(step) == 0.0

    def test_a_deep_chain_is_no_problem(self):
        layers = chain(3000, activation="relu")
        signals = backward_signals(layers, weights=-1e-3)
        path = flow.worst_path(snapshot(layers, **signals))
        assert path.rows == tuple(range(3000))
        assert path.depth_log10 == pytest.approx(-2.999, abs=1e-3)


def test_a_snapshot_offers_its_depth_growth_and_drift():
    layers = chain(4)
    step = snapshot(layers, output_grad_norm=[1e-4, 0.1, 0.1, 1.0], output_rms=[1.0, 1.0, 1.0, 10])
    assert step.backward_depth == flow.backward_depth(step) == pytest.approx(-4.0)
    assert step.backward_growth == flow.backward_growth(step) == pytest.approx(-4.0)
    assert step.forward_drift == flow.forward_drift(step) == pytest.approx(1.0)


class TestOnce:
    """What follows from the layers alone is worked out once for a tuple of them."""

    @pytest.mark.parametrize(
        "question",
        [
            flow.forward_order,
            flow.consumers,
            flow.input_rows,
            lambda layers: flow.upstream(layers, (2,)),
            lambda layers: flow.downstream(layers, (2,)),
        ],
        ids=["order", "consumers", "inputs", "upstream", "downstream"],
    )
    def test_the_answer_is_the_same_object(self, question):
        layers = chain(4)
        assert question(layers) is question(layers)

    def test_equal_layers_that_are_another_tuple_are_asked_anew(self):
        assert flow.consumers(chain(4)) == flow.consumers(chain(4))
        assert flow.consumers(chain(5)) != flow.consumers(chain(4))

    def test_many_samples_are_one_call(self):
        layers = chain(4)
        steps = [
            snapshot(layers, **backward_signals(layers, weights=-gain), output_rms=10.0**gain)
            for gain in (0.0, 1.0, np.nan, 2.0)
        ]
        signal = np.stack([step.output_grad_norm for step in steps])
        sizes = [
            np.stack([getattr(s, name) for s in steps]) for name in ("input_rms", "output_rms")
        ]
        for many, one in (
            (flow.backward_depths(layers, signal), flow.backward_depth),
            (flow.backward_growths(layers, signal), flow.backward_growth),
            (flow.forward_drifts(layers, *sizes), flow.forward_drift),
        ):
            np.testing.assert_array_equal(many, np.float32([one(step) for step in steps]))
