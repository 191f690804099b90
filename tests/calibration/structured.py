"""Nets with more structure than a chain: adapters, experts, attention, recurrence, embeddings."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LoraLinear(nn.Module):
    """A frozen linear layer plus a low-rank update that starts at zero (Hu et al., 2022)."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_a = nn.Linear(base.in_features, rank, bias=False)
        self.lora_b = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The base layer's output plus the adapter's."""
        out: Tensor = self.base(x) + self.lora_b(self.lora_a(x))
        return out


class LoraMlp(nn.Module):
    """An MLP in which every layer is frozen and carries an adapter."""

    def __init__(self, *, hidden: int, width: int, rank: int) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(
            LoraLinear(nn.Linear(64 if i == 0 else width, width), rank) for i in range(hidden)
        )
        self.head = LoraLinear(nn.Linear(width, 10), rank)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(batch, 10)` of inputs `(batch, 64)`."""
        for layer in self.hidden:
            x = F.relu(layer(x))
        out: Tensor = self.head(x)
        return out


class Experts(nn.Module):
    """A top-1 mixture of experts whose last few experts the router may not choose.

    An expert without samples is not called, so its parameters get no gradient.
    """

    excluded: Tensor

    def __init__(self, *, width: int, count: int, unrouted: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, count)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(count))
        self.register_buffer("excluded", torch.arange(count) >= count - unrouted)

    def forward(self, x: Tensor) -> Tensor:
        """Each row of `x` through the expert of its choice, times the router's confidence."""
        scores = self.router(x).masked_fill(self.excluded, float("-inf"))
        confidence, choice = scores.softmax(-1).max(-1)
        out = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            rows = (choice == index).nonzero().squeeze(-1)
            if len(rows):
                out = out.index_copy(0, rows, F.relu(expert(x[rows])))
        weighted: Tensor = out * confidence.unsqueeze(-1)
        return weighted


class MoeNet(nn.Module):
    """A layer, a mixture of experts beside a skip, and a head."""

    def __init__(self, *, width: int = 64, count: int = 8, unrouted: int = 2) -> None:
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.mixture = Experts(width=width, count=count, unrouted=unrouted)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(batch, 10)` of inputs `(batch, 64)`."""
        x = F.relu(self.stem(x))
        out: Tensor = self.head(x + self.mixture(x))
        return out


class PreNormBlock(nn.Module):
    """A transformer block with LayerNorm inside both branches (Xiong et al., 2020)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * width)
        self.contract = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens `(batch, tokens, width)` to tokens of the same shape."""
        normed = self.norm1(x)
        x = x + self.attention(normed, normed, normed, need_weights=False)[0]
        out: Tensor = x + self.contract(F.gelu(self.expand(self.norm2(x))))
        return out


class Transformer(nn.Module):
    """Pre-norm blocks over the eight rows of an image, each row a token."""

    def __init__(self, *, blocks: int, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(0.02 * torch.randn(8, width))
        self.blocks = nn.ModuleList(PreNormBlock(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(batch, 10)` of images `(batch, 64)`."""
        x = self.embed(x.view(-1, 8, 8)) + self.position
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(x).mean(1))
        return out


class Recurrent(nn.Module):
    """A recurrent layer read out at the last step.

    Args:
        cell: Makes an `nn.RNN`, `nn.LSTM` or `nn.GRU`.
        inputs: Width of one step's input.
        units: Width of the state.
    """

    def __init__(self, cell: Callable[..., nn.RNNBase], *, inputs: int, units: int) -> None:
        super().__init__()
        self.recurrent = cell(inputs, units, batch_first=True)
        self.head = nn.Linear(units, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(batch, 10)` of sequences `(batch, time, inputs)`."""
        out: Tensor = self.head(self.recurrent(x)[0][:, -1])
        return out


class BagOfWords(nn.Module):
    """The mean of word vectors through one hidden layer."""

    def __init__(self, *, vocabulary: int, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.hidden = nn.Linear(width, width)
        self.act = nn.ReLU()
        self.head = nn.Linear(width, 10)

    def forward(self, words: Tensor) -> Tensor:
        """Logits `(batch, 10)` of documents `(batch, words)` of word indices."""
        out: Tensor = self.head(self.act(self.hidden(self.embedding(words).mean(1))))
        return out
