"""Wiring, order and backward depth of nets whose wiring is known by construction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .observed import by_name, norm, observe, reference, sum_of_squares, wiring


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.c(x + self.b(torch.tanh(x)))


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(12, 6)
        self.d = nn.Linear(18, 6)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.a(x))
        b = F.relu(self.b(a))
        c = F.relu(self.c(torch.cat([a, b], 1)))
        return self.d(torch.cat([a, b, c], 1))


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.join = nn.Linear(6, 9), nn.Linear(6, 3), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat([torch.tanh(self.wide(x)), self.narrow(x) / 20], 1))


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.strong, self.weak = (nn.Linear(6, 6) for _ in range(3))
        nn.init.constant_(self.strong.bias, 9.0)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.trunk(x))
        return torch.cat([self.strong(x), self.weak(x)], 1)


class Siamese(nn.Module):
    """Called once; its body is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.body(x) - self.body(x.flip(0))).abs())


class TwiceCalled(nn.Sequential):
    """Called twice from outside, in `apart`."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4))


class Halves(nn.Module):
    """The root is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
        self.decoder = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 6))


class Tied(nn.Module):
    """The output layer's weight is the embedding's: one row, the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body = nn.Embedding(11, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(self.embedding(tokens))))


class Vision(nn.Module):
    """A root with parameters of its own beside its children, and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.position = nn.Parameter(torch.randn(1, 9, 16))
        self.embed = nn.Conv2d(1, 16, 4, stride=4, bias=False)
        self.norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        x = x + self.position[:, : x.shape[1]]
        y = self.norm(x)
        return self.head((x + self.attention(y, y, y, need_weights=False)[0])[:, 0])


class Block(nn.Module):
    """Pre-norm, attention written by hand."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm1, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.proj, self.norm2 = nn.Linear(width, width), nn.LayerNorm(width)
        self.fc, self.out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        weights = (q @ k.transpose(1, 2) / 4).softmax(-1)
        x = x + self.proj(weights @ v)
        return x + self.out(F.gelu(self.fc(self.norm2(x))))


class Generative(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(11, 16), nn.Embedding(8, 16)
        self.block, self.norm, self.head = Block(), nn.LayerNorm(16), nn.Linear(16, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.position(torch.arange(tokens.shape[1]))
        return self.head(self.norm(self.block(x)))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x)).mean(1))


class Loop(nn.Module):
    """Two layers that feed each other, five times over: the way back is no input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.there, self.back = (nn.Linear(6, 6) for _ in range(3))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(5):
            x = x + self.back(torch.tanh(self.there(x)))
        return self.head(x)


class LateEmbedding(nn.Module):
    """Layers that are called in another order than they were made in."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first = nn.Linear(6, 2), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).sigmoid())


@dataclass(frozen=True)
class Case:
    """A net, what feeds what in it, and the (input layer, output layer) pairs that B is about."""

    make: Any
    edges: dict[str, set[str]]
    ends: tuple[tuple[str, str], ...]
    inputs: tuple[int, ...] = (9, 6)
    loss_of: Any = None

    def batch(self) -> Tensor:
        if self.make in (Tied, Generative):
            return torch.randint(0, 11, self.inputs)
        return torch.randn(self.inputs)


def called_twice(model: nn.Module, x: Tensor) -> Tensor:
    return (model(x) - 2 * model(x.flip(1))).square().sum()


def called_by_halves(model: Any, x: Tensor) -> Tensor:
    latent = model.encoder(x)
    return model.decoder(torch.tanh(latent)).square().sum()


CASES = {
    "chain": Case(
        lambda: nn.Sequential(
            nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)
        ),
        {"0": set(), "2": {"0"}, "4": {"2"}},
        (("0", "4"),),
    ),
    "call order": Case(LateEmbedding, {"first": set(), "last": {"first"}}, (("first", "last"),)),
    "residual": Case(Residual, {"a": set(), "b": {"a"}, "c": {"a", "b"}}, (("a", "c"),)),
    "densely connected": Case(
        Dense,
        {"a": set(), "b": {"a"}, "c": {"a", "b"}, "d": {"a", "b", "c"}},
        (("a", "d"),),
    ),
    "two branches": Case(
        Branches,
        {"wide": set(), "narrow": set(), "join": {"wide", "narrow"}},
        (("wide", "join"), ("narrow", "join")),
    ),
    "two heads": Case(
        Heads, {"trunk": set(), "strong": {"trunk"}, "weak": {"trunk"}}, (("trunk", "strong"),)
    ),
    "siamese": Case(
        Siamese, {"body.0": set(), "body.2": {"body.0"}, "head": {"body.2"}}, (("body.0", "head"),)
    ),
    "called twice from outside": Case(
        TwiceCalled, {"0": set(), "2": {"0"}}, (("0", "2"),), loss_of=called_twice
    ),
    "encoder and decoder called apart": Case(
        Halves,
        {
            "encoder.0": set(),
            "encoder.2": {"encoder.0"},
            "decoder.0": {"encoder.2"},
            "decoder.2": {"decoder.0"},
        },
        (("encoder.0", "decoder.2"),),
        loss_of=called_by_halves,
    ),
    "vision transformer": Case(
        Vision,
        {
            "embed": set(),
            "norm": {"embed"},
            "attention": {"norm"},
            "head": {"embed", "attention"},
            "Vision": set(),
        },
        (("embed", "head"),),
        (5, 1, 8, 8),
    ),
    "pre-norm block": Case(
        Generative,
        {
            "token": set(),
            "position": set(),
            "block.norm1": {"token", "position"},
            "block.qkv": {"block.norm1"},
            "block.proj": {"block.qkv"},
            "block.norm2": {"token", "position", "block.proj"},
            "block.fc": {"block.norm2"},
            "block.out": {"block.fc"},
            "norm": {"token", "position", "block.proj", "block.out"},
            "head": {"norm"},
        },
        (("token", "head"), ("position", "head")),
        (5, 7),
    ),
    "torch's own encoder layer": Case(
        Encoder,
        {
            "embed": set(),
            "layer.self_attn": {"embed"},
            "layer.norm1": {"embed", "layer.self_attn"},
            "layer.linear1": {"layer.norm1"},
            "layer.linear2": {"layer.linear1"},
            "layer.norm2": {"layer.norm1", "layer.linear2"},
            "head": {"layer.norm2"},
        },
        (("embed", "head"),),
        (5, 7, 6),
    ),
    "loop": Case(
        Loop,
        {"stem": set(), "there": {"stem"}, "back": {"there"}, "head": {"stem", "back"}},
        (("stem", "head"),),
    ),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def test_wiring_signals_and_backward_depth_are_those_of_the_net(case):
    model, inputs = case.make(), case.batch()
    random = torch.get_rng_state()
    snapshot = observe(model, inputs, loss_of=case.loss_of)
    assert wiring(snapshot) == case.edges
    torch.set_rng_state(random)
    gradients = reference(model, inputs, loss_of=case.loss_of)
    found, calls = by_name(snapshot, "output_grad_norm"), by_name(snapshot, "forward_calls")
    gradients.pop(type(model).__name__, None)  # a root above other layers has no signals
    sizes = {name: norm(*gradients[name]) for name in case.edges if name in gradients}
    assert len(sizes) == np.isfinite(snapshot.output_grad_norm).sum()
    for name, size in sizes.items():
        assert found[name] == pytest.approx(size, rel=1e-4)
        assert calls[name] == len(gradients[name])
    depths = [math.log10(sizes[start] / sizes[end]) for start, end in case.ends]
    assert snapshot.backward_depth == pytest.approx(min(depths), abs=1e-4)


def test_layers_are_numbered_in_the_order_of_their_first_calls(case):
    model, inputs = case.make(), case.batch()
    order: list[str] = []
    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            called = name or type(model).__name__
            module.register_forward_pre_hook(lambda *_, called=called: order.append(called))
    (case.loss_of or sum_of_squares)(model, inputs)
    snapshot = observe(case.make(), inputs, loss_of=case.loss_of)
    depths = {layer.name: layer.depth for layer in snapshot.layers}
    assert sorted(depths, key=depths.__getitem__) == list(dict.fromkeys(order))


def test_a_tied_weight_belongs_to_the_layer_that_had_it_first():
    model = Tied()
    snapshot = observe(model, torch.randint(0, 11, (5, 4)))
    assert wiring(snapshot) == {"embedding": set(), "body": {"embedding"}}
    assert by_name(snapshot, "forward_calls") == {"embedding": 1, "body": 1}
    assert snapshot.layers[1].activation == "tanh"


def test_attention_gets_the_same_query_and_key_as_without_a_watch():
    same: list[bool] = []

    class Asking(nn.MultiheadAttention):
        def forward(self, query: Tensor, key: Tensor, value: Tensor, **facts: Any) -> Any:
            same.append(query is key and key is value)
            return super().forward(query, key, value, **facts)

    class Asked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(6, 8)
            self.attention = Asking(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            return self.attention(x, x, x)[0]

    snapshot = observe(Asked(), torch.randn(3, 5, 6))
    assert same == [True, True]
    assert [layer.name for layer in snapshot.layers] == ["embed", "attention"]


@pytest.mark.parametrize(("name", "recurrent"), [("stem", False), ("there", True), ("back", True)])
def test_layers_on_a_loop_feed_themselves(name, recurrent):
    snapshot = observe(Loop(), torch.randn(9, 6))
    assert {layer.name: layer.recurrent for layer in snapshot.layers}[name] is recurrent


def test_layers_of_a_siamese_net_do_not_feed_themselves():
    snapshot = observe(Siamese(), torch.randn(9, 6))
    assert not any(layer.recurrent for layer in snapshot.layers)


def test_a_long_chain_is_wired_in_one_piece():
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(400)))
    snapshot = observe(model, torch.randn(2, 3))
    assert [layer.inputs for layer in snapshot.layers] == [(), *((row,) for row in range(399))]
