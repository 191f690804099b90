"""Nets whose wiring is known by construction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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

    make: Callable[[], nn.Module]
    edges: dict[str, set[str]]
    ends: tuple[tuple[str, str], ...]
    inputs: tuple[int, ...] = (9, 6)
    loss_of: Callable[..., Tensor] | None = None

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
