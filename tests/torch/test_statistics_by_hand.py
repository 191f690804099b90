"""Every statistic of a small net against a backward pass written by hand in NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from torch import nn

import gradwatch
from gradwatch import Snapshot, State

BATCH, INPUTS, HIDDEN, CLASSES = 16, 6, 9, 4
RATE = 0.1
Array = NDArray[np.float64]


class Net(nn.Module):
    """Two hidden layers; the activation is a module or a function."""

    def __init__(self, activation: str, *, functional: bool) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, HIDDEN)
        self.second = nn.Linear(HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, CLASSES)
        self.activation = {"tanh": nn.Tanh, "relu": nn.ReLU, "sigmoid": nn.Sigmoid}[activation]()
        self.function = getattr(torch, activation) if functional else None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        activate = self.function or self.activation
        return self.head(activate(self.second(activate(self.first(inputs)))))


FUNCTIONS = {
    "tanh": (np.tanh, lambda y: 1 - np.tanh(y) ** 2, 1.0),
    "relu": (lambda y: np.maximum(y, 0), lambda y: (y > 0).astype(float), 1.0),
    "sigmoid": (
        lambda y: 1 / (1 + np.exp(-y)),
        lambda y: 1 / (1 + np.exp(-y)) * (1 - 1 / (1 + np.exp(-y))),
        0.25,
    ),
}


@dataclass
class ByHand:
    """One SGD step on a mean squared error: what should be in the snapshot."""

    inputs: list[Array]
    outputs: list[Array]
    slopes: list[Array]
    deltas: list[Array]
    below: list[Array]
    weights: list[Array]
    biases: list[Array]
    weight_gradients: list[Array]
    bias_gradients: list[Array]
    loss: float


def by_hand(net: Net, activation: str, batch: Array, targets: Array) -> ByHand:
    function, slope, _ = FUNCTIONS[activation]
    layers = (net.first, net.second, net.head)
    weights = [layer.weight.detach().numpy().astype(np.float64) for layer in layers]
    biases = [layer.bias.detach().numpy().astype(np.float64) for layer in layers]
    inputs, outputs = [batch], []
    for row, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        outputs.append(inputs[-1] @ weight.T + bias)
        if row < 2:
            inputs.append(function(outputs[-1]))
    slopes = [slope(outputs[0]), slope(outputs[1])]
    error = outputs[2] - targets
    deltas: list[Array] = [2 * error / error.size]
    below: list[Array] = [deltas[0] @ weights[2]]
    for row in (1, 0):
        deltas.insert(0, below[0] * slopes[row])
        below.insert(0, deltas[0] @ weights[row])
    return ByHand(
        inputs,
        outputs,
        slopes,
        deltas,
        below,
        weights,
        biases,
        [delta.T @ source for delta, source in zip(deltas, inputs, strict=True)],
        [delta.sum(axis=0) for delta in deltas],
        float((error**2).mean()),
    )


def rms(values: Array) -> float:
    return float(np.sqrt((values**2).mean()))


def norm(*parts: Array) -> float:
    return float(np.sqrt(sum((part**2).sum() for part in parts)))


@pytest.fixture(params=["tanh", "relu", "sigmoid"])
def activation(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[False, True], ids=["module", "function"])
def observed(request: pytest.FixtureRequest, activation: str) -> tuple[Snapshot, ByHand]:
    torch.manual_seed(3)
    net = Net(activation, functional=request.param)
    batch, targets = torch.randn(BATCH, INPUTS), torch.randn(BATCH, CLASSES)
    expected = by_hand(net, activation, batch.double().numpy(), targets.double().numpy())
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    with gradwatch.watch(net, optimizer, every=1, budget=None, verbose=0) as watch:
        loss = nn.functional.mse_loss(net(batch), targets)
        watch.observe_loss(loss)
        loss.backward()
        optimizer.step()
    return watch.history[-1], expected


def test_parameters_gradients_and_updates(observed):
    snapshot, expected = observed
    weights = list(zip(expected.weights, expected.biases, strict=True))
    gradients = list(zip(expected.weight_gradients, expected.bias_gradients, strict=True))
    sizes = [norm(*parts) for parts in weights]
    assert_allclose(snapshot.weight_norm, sizes, rtol=1e-5)
    assert_allclose(snapshot.grad_norm, [norm(*parts) for parts in gradients], rtol=1e-4)
    floors = [0.1 * np.sqrt(units) for units in (HIDDEN, HIDDEN, CLASSES)]
    ratios = [
        RATE * norm(*parts) / max(size, floor)
        for parts, size, floor in zip(gradients, sizes, floors, strict=True)
    ]
    assert_allclose(snapshot.update_ratio, ratios, rtol=2e-4)
    assert_allclose(snapshot.decay_ratio, 0.0)
    assert_allclose(snapshot.nonfinite_count, 0.0)


def test_rms_relative_gradient_and_elasticity(observed):
    snapshot, expected = observed
    gradients = list(zip(expected.weight_gradients, expected.bias_gradients, strict=True))
    counts = [sum(part.size for part in parts) for parts in gradients]
    norms = np.array([norm(*parts) for parts in gradients])
    sizes = np.array(
        [norm(*parts) for parts in zip(expected.weights, expected.biases, strict=True)]
    )
    assert snapshot.loss == pytest.approx(expected.loss, rel=1e-5)
    assert_allclose(snapshot.grad_rms, norms / np.sqrt(counts), rtol=1e-4)
    assert_allclose(snapshot.relative_grad, norms / sizes, rtol=1e-4)
    assert_allclose(snapshot.elasticity, norms * sizes / expected.loss, rtol=1e-4)


def test_forward_signals(observed):
    snapshot, expected = observed
    assert_allclose(snapshot.input_rms, [rms(values) for values in expected.inputs], rtol=1e-5)
    assert_allclose(snapshot.output_rms, [rms(values) for values in expected.outputs], rtol=1e-5)
    assert_allclose(snapshot.forward_calls, 1.0)
    assert_allclose(snapshot.tiny_log10, np.log10(2.0**-149), rtol=1e-5)


def test_backward_signals(observed):
    snapshot, expected = observed
    deltas = [norm(delta) for delta in expected.deltas]
    assert_allclose(snapshot.output_grad_norm, deltas, rtol=1e-4)
    assert_allclose(snapshot.output_grad_rms, [rms(delta) for delta in expected.deltas], rtol=1e-4)
    assert_allclose(
        snapshot.input_grad_norm, [np.nan, *(norm(values) for values in expected.below[1:])], 1e-4
    )
    assert snapshot.backward_depth == pytest.approx(np.log10(deltas[0] / deltas[2]), abs=1e-4)


def test_slopes_and_the_gain_of_activations(observed, activation):
    snapshot, expected = observed
    gains = [np.log10(norm(expected.deltas[row]) / norm(expected.below[row + 1])) for row in (0, 1)]
    assert_allclose(snapshot.activation_gain_log10, [*gains, np.nan], atol=1e-4)
    means = [values.mean() for values in expected.slopes]
    assert_allclose(snapshot.mean_slope, [*means, np.nan], rtol=1e-4)
    flat = [values < 0.05 * FUNCTIONS[activation][2] for values in expected.slopes]
    if activation == "relu":
        dead = [values.all(axis=0).mean() for values in flat]
        assert_allclose(snapshot.dead_fraction, [*dead, np.nan], rtol=1e-5)
        assert np.isnan(snapshot.saturation_fraction).all()
    else:
        shares = [values.mean() for values in flat]
        assert_allclose(snapshot.saturation_fraction, [*shares, np.nan], rtol=1e-5)
        assert np.isnan(snapshot.dead_fraction).all()


def test_units_differ_after_the_step(observed):
    snapshot, expected = observed
    after = [
        weight - RATE * gradient
        for weight, gradient in zip(expected.weights, expected.weight_gradients, strict=True)
    ]
    spread = [norm(weight - weight.mean(axis=0)) / norm(weight) for weight in after]
    assert_allclose(snapshot.unit_spread_ratio, spread, rtol=1e-3)


def test_wiring_order_and_states(observed, activation):
    snapshot, _ = observed
    assert [layer.name for layer in snapshot.layers] == ["first", "second", "head"]
    assert [layer.inputs for layer in snapshot.layers] == [(), (0,), (1,)]
    assert [layer.depth for layer in snapshot.layers] == [0, 1, 2]
    assert [layer.activation for layer in snapshot.layers] == [activation, activation, None]
    assert [layer.fan_in for layer in snapshot.layers] == [INPUTS, HIDDEN, HIDDEN]
    assert (snapshot.states == State.TRAINED).all()
