"""Forward and backward signals of real nets, against plain autograd."""

from __future__ import annotations

import math
from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .observed import by_name, norm, observe, reference, rms, sum_of_squares, wiring

Pair = namedtuple("Pair", "first second")


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


@dataclass
class Output:
    logits: Tensor
    hidden: Any = None
    labels: tuple[str, ...] = ("a", "b")


class Holder:
    def __init__(self, logits: Tensor) -> None:
        self.logits, self.name = logits, "holder"


class Inner(nn.Module):
    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.weight, self.wrap = nn.Parameter(torch.randn(5, 5)), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(x @ self.weight)


class Outputs(nn.Module):
    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.body, self.inner = nn.Linear(5, 5), Inner(wrap)

    def forward(self, x: Tensor) -> Any:
        return self.inner(torch.tanh(self.body(x)))


OUTPUTS = {
    "tensor": (lambda y: y, lambda out: out),
    "tuple": (lambda y: (y, 3, "x"), lambda out: out[0]),
    "named tuple": (lambda y: Pair(None, y), lambda out: out.second),
    "list": (lambda y: [[y], y], lambda out: out[1]),
    "dict": (lambda y: {"a": y, "b": None}, lambda out: out["a"]),
    "ordered dict": (lambda y: OrderedDict(a={"b": (y,)}), lambda out: out["a"]["b"][0]),
    "mapping": (lambda y: UserDict(a=y), lambda out: out["a"]),
    "dataclass": (Output, lambda out: out.logits),
    "nested dataclass": (lambda y: Output(y, hidden=[y]), lambda out: out.hidden[0]),
    "object": (Holder, lambda out: out.logits),
    "distribution": (lambda y: torch.distributions.Normal(y, 1.0), lambda out: out.mean),
    "nested distribution": (
        lambda y: torch.distributions.Independent(torch.distributions.Normal(y, 1.0), 1),
        lambda out: out.mean,
    ),
}


@pytest.mark.parametrize(("wrap", "unwrap"), OUTPUTS.values(), ids=OUTPUTS.keys())
def test_outputs_of_every_kind_are_seen_once(wrap, unwrap):
    model, inputs = Outputs(wrap), torch.randn(7, 5)
    snapshot = observe(model, inputs, loss_of=lambda net, x: unwrap(net(x)).square().sum())
    hidden = model.body(inputs)
    output = torch.tanh(hidden) @ model.inner.weight
    gradients = torch.autograd.grad(output.square().sum(), (hidden, output))
    np.testing.assert_allclose(
        snapshot.output_grad_norm, [norm(gradient) for gradient in gradients], rtol=1e-5
    )
    assert wiring(snapshot) == {"body": set(), "inner": {"body"}}
    assert snapshot.layers[0].activation == "tanh"


@pytest.mark.parametrize("output", [None, 3, "x", (), {}, [[[]]], object()])
def test_outputs_without_tensors_are_no_fault(output):
    model = Outputs(lambda y: output)
    snapshot = observe(
        model, torch.randn(7, 5), loss_of=lambda net, x: (net(x), net.body(x).square().sum())[1]
    )
    assert np.isnan(by_name(snapshot, "output_grad_norm")["inner"])
    assert by_name(snapshot, "output_grad_norm")["body"] > 0


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, *, x: Tensor) -> Tensor:
        return self.second(input=torch.relu(self.first(input=x)))


def test_calls_by_keyword_are_seen_but_for_their_inputs():
    model, inputs = ByKeyword(), torch.randn(7, 5)
    loss_of = lambda net, x: net(x=x).square().sum()  # noqa: E731 -- as short as the call itself
    snapshot = observe(model, inputs, loss_of=loss_of)
    gradients = reference(model, inputs, loss_of=loss_of)
    assert by_name(snapshot, "output_grad_norm") == pytest.approx(
        {name: norm(*entries) for name, entries in gradients.items()}, rel=1e-5
    )
    assert np.isnan(snapshot.input_grad_norm).all()
    assert np.isnan(snapshot.input_rms).all()
    assert wiring(snapshot) == {"first": set(), "second": {"first"}}


class Odd(nn.Module):
    """Takes more than a tensor, and may change or hand back its input."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.scale, self.kind = nn.Parameter(torch.full((5,), 0.5)), kind

    def forward(self, x: Tensor, name: str, factor: float, extra: Any) -> Tensor:
        assert name == "x"
        assert factor == 2.0
        assert extra == {"a": [1]}
        if self.kind == "in place":
            return x.mul_(2.0) + self.scale
        return x if self.kind == "itself" else x * self.scale


class Around(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body, self.odd, self.head = nn.Linear(5, 5), Odd(kind), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.odd(self.body(x) + 1, "x", 2.0, {"a": [1]}))


@pytest.mark.parametrize("kind", ["plain", "in place", "itself"])
def test_a_layer_that_changes_or_returns_its_input(kind):
    model, inputs = Around(kind), torch.randn(7, 5)
    snapshot = observe(model, inputs)
    x = model.body(inputs) + 1
    y = {"plain": x * model.odd.scale, "in place": x * 2 + model.odd.scale, "itself": x * 1}[kind]
    below, above = torch.autograd.grad(model.head(y).square().sum(), (x, y))
    assert by_name(snapshot, "input_rms")["odd"] == pytest.approx(rms(x), rel=1e-5)
    assert by_name(snapshot, "output_grad_norm")["odd"] == pytest.approx(norm(above), rel=1e-4)
    expected = math.nan if kind == "in place" else norm(below)  # its input is gone by then
    assert by_name(snapshot, "input_grad_norm")["odd"] == pytest.approx(
        expected, rel=1e-4, nan_ok=True
    )


def test_a_layer_that_detaches_its_input_in_place_still_can():
    class Cut(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.detach_())

    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.cut = nn.Linear(5, 5), Cut(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.cut(self.body(x))

    snapshot = observe(Stateful(), torch.randn(7, 5))
    assert by_name(snapshot, "forward_calls") == {"body": 1, "cut": 1}
    assert np.isnan(by_name(snapshot, "output_grad_norm")["body"])
    assert by_name(snapshot, "output_grad_norm")["cut"] > 0


def test_a_layer_that_changes_its_input_behind_the_back_of_autograd_still_can():
    class Clamped(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x.clamp_(-0.1, 0.1)
            return super().forward(x)

    model = nn.Sequential(nn.Linear(5, 5), Clamped(5, 2))
    assert (observe(model, torch.randn(7, 5)).output_grad_norm > 0).all()


def test_attributes_that_a_tensor_carries_reach_the_layer():
    class Masked(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * x.mask)

    class Carrying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.masked = nn.Linear(5, 5), Masked(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            x.mask = torch.arange(5) > 2
            return self.masked(x)

    assert (observe(Carrying(), torch.randn(7, 5)).output_grad_norm > 0).all()


class Position(nn.Module):
    """Hands out its parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5))

    def forward(self) -> Tensor:
        return self.weight


class Positioned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.position, self.head = Position(), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.position())


def test_a_parameter_as_output_is_seen_and_keeps_no_hook():
    model, inputs = Positioned(), torch.randn(7, 5)
    snapshot = observe(model, inputs)
    (gradient,) = torch.autograd.grad(sum_of_squares(model, inputs), model.position.weight)
    assert by_name(snapshot, "output_grad_norm")["position"] == pytest.approx(
        norm(gradient), rel=1e-5
    )
    assert not model.position.weight._backward_hooks


class SparseInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.graph = nn.Linear(5, 5), Graph()

    def forward(self, adjacency: Tensor, x: Tensor) -> Tensor:
        return self.graph(adjacency, self.embed(x))


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 2))

    def forward(self, adjacency: Tensor, x: Tensor) -> Tensor:
        return torch.sparse.mm(adjacency, x @ self.weight)


@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning")
@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_a_sparse_input_is_left_alone(layout):
    adjacency = torch.eye(7).to_sparse_csr() if layout == "csr" else torch.eye(7).to_sparse()
    model, inputs = SparseInput(), torch.randn(7, 5)
    snapshot = observe(model, adjacency, inputs)
    assert by_name(snapshot, "input_rms")["graph"] == pytest.approx(
        rms(model.embed(inputs)), rel=1e-5
    )
    assert (snapshot.output_grad_norm > 0).all()


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
    import gradwatch

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
