"""A graph net by an adjacency matrix, and a generated graph with communities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

COMMUNITIES = 4
FEATURES = 16


@dataclass(frozen=True)
class Graph:
    """One undirected graph.

    Attributes:
        propagation: `(nodes, nodes)`, the adjacency matrix with self-loops, each row and column
            divided by the root of its degree.
        features: `(nodes, FEATURES)`.
        communities: `(nodes,)` class indices.
    """

    propagation: Tensor
    features: Tensor
    communities: Tensor


def block_graph(
    seed: int, *, nodes: int = 160, inside: float = 0.25, outside: float = 0.02
) -> Graph:
    """A stochastic block model: nodes link more often inside their community than outside.

    A node's features are its community's, under noise of twice their size.
    """
    random = torch.Generator().manual_seed(seed)
    communities = torch.arange(nodes) % COMMUNITIES
    same = communities[:, None] == communities
    linked = torch.rand(nodes, nodes, generator=random) < torch.where(same, inside, outside)
    adjacency = linked.triu(1).float()
    adjacency = adjacency + adjacency.T + torch.eye(nodes)
    root_degree = adjacency.sum(1).sqrt()
    centres = torch.randn(COMMUNITIES, FEATURES, generator=random)
    noise = torch.randn(nodes, FEATURES, generator=random)
    features = centres[communities] + 2.0 * noise
    return Graph(adjacency / root_degree / root_degree[:, None], features, communities)


class GraphNet(nn.Module):
    """Graph convolutions (Kipf & Welling, 2017): mix the neighbours, then the features."""

    def __init__(
        self,
        propagation: Tensor,
        *,
        layers: int,
        width: int = 32,
        activation: Callable[[Tensor], Tensor] = F.relu,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("propagation", propagation)
        self.embed = nn.Linear(FEATURES, width)
        self.convs = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.activation = activation
        self.residual = residual
        self.head = nn.Linear(width, COMMUNITIES)

    def forward(self, features: Tensor) -> Tensor:
        """Logits `(nodes, COMMUNITIES)` of features `(nodes, FEATURES)`."""
        x = self.activation(self.embed(features))
        for conv in self.convs:
            passed = self.activation(conv(self.get_buffer("propagation") @ x))
            x = x + passed if self.residual else passed
        out: Tensor = self.head(x)
        return out
