"""The contract of adapters: every statistic of the same nets is that of a pass by hand."""

from functools import cache

import numpy as np
import pytest
from numpy.testing import assert_allclose

from gradwatch import State
from gradwatch.snapshot import STATISTICS

pytest.importorskip("torch")
pytest.importorskip("keras")

from .cases import NETS
from .net import READINGS, STEPS
from .nets import snapshots_of

# Keras itself, and what it imports, calls NumPy in ways that NumPy 2.4 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

MOST_MISFIT = 1e3
"""Where a loss fits but for rounding, the ratio of misfits is rounding beyond this."""


@cache
def expected_of(adapter, net):
    return NETS[net].expected(READINGS[adapter])


@pytest.fixture(params=NETS)
def net(request):
    return request.param


@pytest.fixture(params=READINGS)
def adapter(request):
    return request.param


@pytest.fixture(params=range(STEPS))
def step(request):
    return request.param


@pytest.fixture
def snapshot(adapter, net, step):
    return snapshots_of(adapter, net)[step]


@pytest.fixture
def expected(adapter, net, step):
    return expected_of(adapter, net)[step]


@pytest.mark.parametrize("name", [statistic.name for statistic in STATISTICS])
def test_a_statistic_is_that_of_the_pass_by_hand(snapshot, expected, adapter, net, name):
    rows = np.array([expected.statistics[layer][name] for layer in NETS[net].layers])
    found = getattr(snapshot, name)
    if name == "logit_misfit_ratio":
        rows, found = np.minimum(rows, MOST_MISFIT), np.minimum(found, MOST_MISFIT)
    assert_allclose(found, rows, rtol=1e-4, atol=1e-6)


def test_the_loss_is_that_of_the_pass_by_hand(snapshot, expected):
    assert snapshot.loss == pytest.approx(expected.loss, rel=1e-5)


def test_every_step_is_observed_and_every_layer_trains(adapter, net):
    snapshots = snapshots_of(adapter, net)
    assert [snapshot.step for snapshot in snapshots] == list(range(STEPS))
    assert all((snapshot.states == State.TRAINED).all() for snapshot in snapshots)
    assert [snapshot.limits for snapshot in snapshots] == [()] * STEPS


@pytest.mark.parametrize(
    "fact", ["inputs", "fan_in", "fan_out", "activation", "recurrent", "weighted"]
)
def test_what_is_known_of_a_layer(snapshot, net, fact):
    facts = NETS[net].layers
    found = {layer.name: getattr(layer, fact) for layer in snapshot.layers}
    assert found == {name: getattr(layer, fact, True) for name, layer in facts.items()}


def test_layers_are_in_forward_order_and_count_their_parameters(snapshot, adapter, net):
    parameters = NETS[net].parameters_for(READINGS[adapter])
    assert [layer.depth for layer in snapshot.layers] == list(range(len(parameters)))
    counts = {layer.name: layer.parameter_count for layer in snapshot.layers}
    assert counts == {
        name: sum(array.size for array in arrays) for name, arrays in parameters.items()
    }


@pytest.mark.parametrize("net", ["decaying"])
def test_a_layer_that_decay_alone_moves_has_no_update(snapshot):
    assert snapshot.states.tolist() == [State.ZERO_GRADIENT, *[State.TRAINED] * 3]
    assert snapshot.grad_norm[0] == 0
    assert snapshot.update_ratio[0] == 0
    assert snapshot.decay_ratio[0] == pytest.approx(0.01, rel=1e-4)
    assert (snapshot.update_ratio[1:] > 0).all()


@pytest.mark.parametrize(
    ("net", "layer", "name"),
    [
        ("mlp", "first", "dead_fraction"),
        ("mlp", "second", "saturation_fraction"),
        ("mlp", "third", "saturation_fraction"),
        ("convolutional", "conv", "dead_fraction"),
        ("recurrent", "recurrent", "time_decay_log10"),
        ("weight decay", "first", "decay_ratio"),
    ],
)
def test_the_nets_have_something_to_tell(net, layer, name):
    assert abs(expected_of("torch", net)[0].statistics[layer][name]) > 1e-3
