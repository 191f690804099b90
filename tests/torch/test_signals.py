"""Forward and backward signals of real nets, against plain autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradwatch

from .observed import by_name, norm, observe, reference, rms, sum_of_squares, wiring


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.down = nn.Conv2d(6, 8, 3, stride=2, groups=2, bias=False)
        self.up, self.head = nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.leaky_relu(self.up(torch.tanh(self.down(F.max_pool2d(x, 2)))))
        return self.head(x.mean((2, 3)))


def by_hand(model: ConvNet, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs and outputs of every layer, written out; inputs are aliases, so each has its own."""
    into, out = {}, {}

    def run(name: str, x: Tensor) -> Tensor:
        into[name] = x.view_as(x).requires_grad_()
        out[name] = model.get_submodule(name)(into[name])
        return out[name]

    x = F.relu(run("norm", run("stem", x)))
    x = torch.tanh(run("down", F.max_pool2d(x, 2)))
    run("head", F.leaky_relu(run("up", x)).mean((2, 3)))
    return into, out


@pytest.mark.parametrize("channels_last", [False, True])
def test_every_size_and_signal_of_a_convolutional_net(channels_last):
    model, images = ConvNet(), torch.randn(5, 2, 12, 12)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    snapshot = observe(model, images)
    into, out = by_hand(model, images)
    loss = out["head"].square().sum()
    names = list(into)
    into_gradients = torch.autograd.grad(loss, list(into.values()), retain_graph=True)
    below = dict(zip(names, into_gradients, strict=True))
    above = dict(zip(names, torch.autograd.grad(loss, list(out.values())), strict=True))
    del below["stem"]  # the images require no gradient
    expected = {
        "input_rms": {name: rms(into[name]) for name in names},
        "output_rms": {name: rms(out[name]) for name in names},
        "output_grad_norm": {name: norm(above[name]) for name in names},
        "output_grad_rms": {name: rms(above[name]) for name in names},
        "input_grad_norm": {name: norm(values) for name, values in below.items()},
        "forward_calls": dict.fromkeys(names, 1.0),
        "tiny_log10": dict.fromkeys(names, -149 * math.log10(2)),
    }
    for statistic, values in expected.items():
        found = by_name(snapshot, statistic)
        assert {name: found[name] for name in values} == pytest.approx(values, rel=1e-4)
    assert np.isnan(by_name(snapshot, "input_grad_norm")["stem"])
    assert wiring(snapshot) == {
        "stem": set(),
        "norm": {"stem"},
        "down": {"norm"},
        "up": {"down"},
        "head": {"up"},
    }


def test_input_that_requires_gradient_is_not_changed_and_gets_the_same_gradient():
    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))
    inputs = torch.randn(7, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(sum_of_squares(model, inputs), inputs)
    snapshot = observe(model, inputs)
    assert torch.equal(inputs.grad, 2 * gradient)
    assert inputs._backward_hooks is None
    assert snapshot.input_grad_norm[0] == pytest.approx(norm(gradient), rel=1e-5)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.branch(x))


def test_a_residual_branch_shows_its_own_share_of_the_gradient():
    model, inputs = Residual(), torch.randn(7, 5)
    snapshot = observe(model, inputs)
    trunk = model.stem(inputs)
    output = model.head(trunk + model.branch(trunk))
    (from_head,) = torch.autograd.grad(output.square().sum(), output)
    through_branch = from_head @ model.head.weight @ model.branch.weight
    assert by_name(snapshot, "input_grad_norm")["branch"] == pytest.approx(
        norm(through_branch), rel=1e-4
    )


@pytest.mark.parametrize("sparse", [False, True])
def test_an_embedding_has_no_floating_input(sparse):
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 5, sparse=sparse), nn.Linear(5, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.embed(tokens).mean(1))

    model, tokens = Words(), torch.randint(0, 9, (4, 6))
    snapshot = observe(model, tokens)
    gradients = reference(model, tokens)
    assert by_name(snapshot, "output_grad_norm") == pytest.approx(
        {name: norm(*entries) for name, entries in gradients.items()}, rel=1e-5
    )
    assert np.isnan(by_name(snapshot, "input_rms")["embed"])
    assert np.isnan(by_name(snapshot, "input_grad_norm")["embed"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.float16, torch.bfloat16])
def test_every_precision_is_measured(dtype):
    model = nn.Sequential(nn.Linear(5, 6, dtype=dtype), nn.Tanh(), nn.Linear(6, 2, dtype=dtype))
    inputs = torch.randn(7, 5, dtype=dtype)
    loss_of = lambda net, x: net(x).abs().square().sum()  # noqa: E731 -- the loss, once
    snapshot = observe(model, inputs, loss_of=loss_of)
    gradients = reference(model, inputs, loss_of=loss_of)

    def size(values: Tensor) -> float:
        return norm(torch.view_as_real(values.resolve_conj()) if dtype.is_complex else values)

    assert by_name(snapshot, "output_grad_norm") == pytest.approx(
        {name: size(entries[0]) for name, entries in gradients.items()}, rel=1e-5
    )
    assert snapshot.input_rms[0] == pytest.approx(size(inputs) / 35**0.5, rel=1e-5)
    assert snapshot.input_grad_norm[1] > 0
    assert (0 < snapshot.mean_slope[0] < 1) or dtype.is_complex
    tiny = {torch.float64: -1074, torch.float16: -24, torch.bfloat16: -133}
    power = tiny.get(dtype, math.nan)
    np.testing.assert_allclose(snapshot.tiny_log10, power * math.log10(2), rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_is_seen_in_its_own_precision(dtype):
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.LayerNorm(6), nn.Linear(6, 2))
    inputs = torch.randn(7, 5)

    def loss_of(net: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype):
            return net(x).float().square().sum()

    snapshot = observe(model, inputs, loss_of=loss_of)
    gradients = reference(model, inputs, loss_of=loss_of)
    assert by_name(snapshot, "output_grad_norm") == pytest.approx(
        {name: norm(*entries) for name, entries in gradients.items()}, rel=1e-4
    )
    powers = np.array([{torch.float16: -24, torch.bfloat16: -133}[dtype]] * 3, dtype=float)
    powers[1] = -149 if snapshot.tiny_log10[1] < -44 else powers[0]
    np.testing.assert_allclose(snapshot.tiny_log10, powers * math.log10(2), rtol=1e-4)
    assert 0 < snapshot.mean_slope[0] < 1


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_signals_of_large_tensors_neither_underflow_nor_overflow(scale):
    model = nn.Linear(4, 400, bias=False)
    snapshot = observe(model, torch.ones(400, 4), loss_of=lambda net, x: (net(x) * scale).sum())
    assert snapshot.output_grad_norm[0] == pytest.approx(400 * scale, rel=1e-3)
    assert snapshot.output_grad_rms[0] == pytest.approx(scale, rel=1e-3)


def test_a_value_that_is_not_finite_is_stored_as_infinity():
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 2))
    inputs = torch.randn(7, 5)
    inputs[3, 2] = torch.nan
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradwatch.watch(model, optimizer, every=1, verbose=0) as watch:
        sum_of_squares(model, inputs).backward()
        optimizer.step()
    snapshot = watch.history[-1]
    for statistic in ("input_rms", "output_rms", "output_grad_norm"):
        assert np.isposinf(getattr(snapshot, statistic)).all()


def test_an_empty_batch_is_no_fault():
    snapshot = observe(
        nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(0, 5)
    )
    assert (snapshot.output_grad_norm == 0).all()
    assert np.isnan(snapshot.input_rms).all()


def test_frozen_layers_before_the_first_that_trains_have_no_signal():
    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))
    model[0].requires_grad_(False)
    inputs = torch.randn(7, 5)
    snapshot = observe(model, inputs)
    gradients = reference(model[2:], model[1](model[0](inputs)))
    assert np.isnan(snapshot.output_grad_norm[0])
    np.testing.assert_allclose(
        snapshot.output_grad_norm[1:], [norm(*entry) for entry in gradients.values()], rtol=1e-5
    )
    assert (snapshot.forward_calls == 1).all()


class Split(nn.Module):
    """The gradient of `layer` is summed from that of its ReLU and another one, in this order."""

    def __init__(self, *, relu_last: bool) -> None:
        super().__init__()
        self.layer, self.relu_last = nn.Linear(5, 5), relu_last

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        if self.relu_last:
            scaled = x * 3
            return F.relu(x) + scaled
        relu = F.relu(x)
        return relu + x * 3


@pytest.mark.parametrize("relu_last", [False, True])
def test_a_gradient_that_is_added_to_after_its_activation_is_taken_anew(relu_last):
    model, inputs = Split(relu_last=relu_last), torch.randn(7, 5)
    snapshot = observe(model, inputs)
    x = model.layer(inputs)
    relu, scaled = F.relu(x), x * 3
    out_of, whole = torch.autograd.grad((relu + scaled).square().sum(), (relu, x))
    assert snapshot.output_grad_norm[0] == pytest.approx(norm(whole), rel=1e-5)
    gain = math.log10(norm(out_of * (x > 0)) / norm(out_of))
    assert snapshot.activation_gain_log10[0] == pytest.approx(gain, abs=1e-4)
