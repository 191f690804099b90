"""Cost of a watched training step against the bare one, in interleaved pairs.

Run it with `python -m tests.benchmarks.bench_step`; it takes about three minutes. Each pair times
the same step of two copies of a net, one of them watched, in alternating order; the table shows
medians over the pairs. An unobserved step is also timed alone, on a step that does nothing else.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW

import gradwatch

NEVER = 10**9
"""An interval so long that only the first step is a sample."""


@dataclass(frozen=True)
class Net:
    """A net to train.

    Args:
        name: What it is called in the table.
        model: Makes it.
        inputs: Makes a batch.
        pairs: Steps to time.
    """

    name: str
    model: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    pairs: int


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixing, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states of shape (batch, time, width)."""
        batch, steps, width = hidden.shape
        mixed = self.mixing(self.before_attention(hidden))
        query, key, values = mixed.view(batch, steps, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, values, is_causal=True)
        hidden = hidden + self.projection(attended.transpose(1, 2).reshape(batch, steps, width))
        return hidden + self.feed(self.before_feed(hidden))


def gpt(width: int = 256, depth: int = 4, vocabulary: int = 1000) -> nn.Module:
    """A small language model."""
    blocks = (Block(width, heads=4) for _ in range(depth))
    head = nn.Linear(width, vocabulary)
    return nn.Sequential(nn.Embedding(vocabulary, width), *blocks, nn.LayerNorm(width), head)


def perceptron(width: int, depth: int) -> nn.Module:
    """ReLU layers of one width."""
    hidden = (layer for _ in range(depth - 1) for layer in (nn.Linear(width, width), nn.ReLU()))
    return nn.Sequential(*hidden, nn.Linear(width, 10))


def convolutional(width: int = 32) -> nn.Module:
    """Eight convolutions with BatchNorm and in-place ReLU."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
    for _ in range(7):
        convolution = nn.Conv2d(width, width, 3, padding=1)
        layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True), convolution]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


NETS = (
    Net("300-layer MLP", lambda: perceptron(32, 300), lambda: torch.randn(64, 32), 60),
    Net("small GPT", gpt, lambda: torch.randint(0, 1000, (8, 64)), 30),
    Net("CNN", convolutional, lambda: torch.randn(16, 3, 32, 32), 40),
    Net("wide MLP", lambda: perceptron(1024, 5), lambda: torch.randn(128, 1024), 40),
)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Tensor) -> None:
    """One training step."""
    optimizer.zero_grad()
    model(batch).square().mean().backward()
    optimizer.step()


def seconds(run: Callable[[], object]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def step_ratio(net: Net, **arguments: object) -> tuple[float, float]:
    """(seconds of the bare step, watched over bare), medians over interleaved pairs."""
    torch.manual_seed(0)
    bare = net.model()
    watched = copy.deepcopy(bare)
    bare_optimizer, optimizer = AdamW(bare.parameters()), AdamW(watched.parameters())
    batch = net.inputs()
    pairs = []
    with gradwatch.watch(watched, optimizer, verbose=0, **arguments):
        for turn in range(net.pairs + 3):
            runs = [
                lambda: train(bare, bare_optimizer, batch),
                lambda: train(watched, optimizer, batch),
            ]
            order = (0, 1) if turn % 2 else (1, 0)
            taken = {index: seconds(runs[index]) for index in order}
            if turn >= 3:
                pairs.append((taken[0], taken[1]))
    ratio = statistics.median(after / before for before, after in pairs)
    return statistics.median(before for before, _ in pairs), ratio


def unobserved_microseconds(rounds: int = 20, runs: int = 50) -> tuple[float, float]:
    """(bare, watched) microseconds of an optimizer step that does next to nothing.

    The schedule is the default one, past its early steps; medians leave its few samples out.
    """
    model = nn.Linear(1, 1, bias=False)
    optimizer = SGD(model.parameters(), lr=0.0)

    def steps(count: int = 20) -> None:
        for _ in range(count):
            optimizer.step()

    bare, watched = [], []
    for _ in range(rounds):
        bare += [seconds(steps) for _ in range(runs)]
        with gradwatch.watch(model, optimizer, verbose=0):
            steps(150)
            watched += [seconds(steps) for _ in range(runs)]
    return 1e6 * statistics.median(bare) / 20, 1e6 * statistics.median(watched) / 20


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", help="part of a net's name; all by default")
    wanted = parser.parse_args().net or ""
    torch.set_num_threads(1)
    bare, watched = unobserved_microseconds()
    table = Table("net", "bare step", "unobserved", "parameters", "everything")
    for net in NETS:
        if wanted in net.name:
            taken, unobserved = step_ratio(net, every=NEVER)
            _, parameters = step_ratio(net, every=1, signals=False)
            _, everything = step_ratio(net, every=1)
            ratios = (f"{ratio:.2f}" for ratio in (unobserved, parameters, everything))
            table.add_row(net.name, f"{1e3 * taken:.1f} ms", *ratios)
    console = Console()
    console.print(
        f"An unobserved optimizer step takes {watched - bare:.1f} µs more "
        f"({watched:.1f} against {bare:.1f} µs)."
    )
    console.print("Time of a step over that of the bare step:")
    console.print(table)


if __name__ == "__main__":
    main()
