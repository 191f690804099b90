"""Attention nets of the further cases: a vision transformer, a post-norm encoder, a small GPT."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def encoder(blocks: int, width: int, *, dropout: float, norm_first: bool) -> nn.TransformerEncoder:
    """Torch's own encoder with four heads and no final norm."""
    layer = nn.TransformerEncoderLayer(
        width,
        nhead=4,
        dim_feedforward=2 * width,
        dropout=dropout,
        activation="gelu",
        batch_first=True,
        norm_first=norm_first,
    )
    return nn.TransformerEncoder(layer, blocks, enable_nested_tensor=False)


class VisionTransformer(nn.Module):
    """Sixteen patches of four pixels and a class token, which alone is read (Dosovitskiy, 2021)."""

    def __init__(self, *, blocks: int, width: int = 32, dropout: float = 0.1) -> None:
        super().__init__()
        self.patches = nn.Linear(4, width)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(17, width))
        self.encoder = encoder(blocks, width, dropout=dropout, norm_first=True)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(batch, 10)` of images `(batch, 64)`."""
        tokens = self.patches(x.view(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4))
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), tokens], 1) + self.position
        out: Tensor = self.head(self.norm(self.encoder(tokens)[:, 0]))
        return out


class PostNormTransformer(nn.Module):
    """The blocks of Vaswani et al. (2017), LayerNorm after each addition, over rows of an image.

    Torch clones one block, so all start with the same weights; here each draws its own.
    """

    def __init__(self, *, blocks: int, width: int = 32, norm_first: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(0.02 * torch.randn(8, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=norm_first
            )
            for _ in range(blocks)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(batch, 10)` of images `(batch, 64)`."""
        x = self.embed(x.view(-1, 8, 8)) + self.position
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(x.mean(1))
        return out


class CausalBlock(nn.Module):
    """A pre-norm block whose attention looks back only; one linear layer makes q, k and v."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens `(batch, time, width)` to tokens of the same shape."""
        batch, time, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, time, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.project(mixed.transpose(1, 2).reshape(batch, time, width))
        out: Tensor = x + self.contract(F.gelu(self.expand(self.norm2(x))))
        return out


class Gpt(nn.Module):
    """A language model; `tied`, its head shares its embedding's weights (Press & Wolf, 2017)."""

    def __init__(
        self, *, blocks: int, vocabulary: int, context: int, width: int = 48, tied: bool = True
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.position = nn.Parameter(0.02 * torch.randn(context, width))
        self.blocks = nn.Sequential(*(CausalBlock(width, heads=4) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits `(batch, time, vocabulary)` of tokens `(batch, time)`."""
        x = self.embedding(tokens) + self.position
        out: Tensor = self.head(self.norm(self.blocks(x)))
        return out
