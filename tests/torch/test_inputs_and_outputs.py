"""What layers take and give: outputs and inputs of every kind, and layers that change them."""

from __future__ import annotations

import math
from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from .observed import by_name, norm, observe, reference, rms, sum_of_squares, wiring

Pair = namedtuple("Pair", "first second")


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
    assert np.isnan([snapshot.input_grad_norm, snapshot.input_rms]).all()
    assert wiring(snapshot) == {"first": set(), "second": {"first"}}


class Odd(nn.Module):
    """Takes more than a tensor, and may change or hand back its input."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.scale, self.kind = nn.Parameter(torch.full((5,), 0.5)), kind

    def forward(self, x: Tensor, name: str, factor: float, extra: Any) -> Tensor:
        assert (name, factor, extra) == ("x", 2.0, {"a": [1]})
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
