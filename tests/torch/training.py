"""Small real nets, and a training loop, for the tests of the PyTorch adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

import gradwatch
from gradwatch.torch import Watch

CLASSES = 5
BATCH = 6


class Convolutional(nn.Module):
    """BatchNorm, in-place ReLU, a residual that is added in place, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.branch = nn.Conv2d(4, 4, 3, padding=1)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(4 * 8 * 8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.relu(self.norm(self.stem(images)))
        branch = self.branch(hidden)
        branch += hidden
        return self.head(self.drop(self.relu(branch)).flatten(1))

    @staticmethod
    def inputs() -> Tensor:
        return torch.randn(BATCH, 1, 8, 8)


class Transformer(nn.Module):
    """An embedding, self-attention with dropout, a tied output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, 8)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.feed = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 8))

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens)
        attended, _ = self.attention(hidden, hidden, hidden, need_weights=False)
        hidden = self.norm(hidden + attended)
        return F.linear((hidden + self.feed(hidden)).mean(dim=1), self.embedding.weight)

    @staticmethod
    def inputs() -> Tensor:
        return torch.randint(0, CLASSES, (BATCH, 7))


class Recurrent(nn.Module):
    """A two-layer LSTM with dropout between its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 8, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, sequences: Tensor) -> Tensor:
        hidden, _ = self.lstm(sequences)
        return self.head(hidden[:, -1])

    @staticmethod
    def inputs() -> Tensor:
        return torch.randn(BATCH, 9, 3)


NETS = (Convolutional, Transformer, Recurrent)

OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "sgd": lambda model: torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3
    ),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-2),
}


@dataclass
class Outcome:
    """All that a training run leaves behind."""

    losses: list[Tensor]
    state: dict[str, Tensor]
    random: Tensor
    watch: Watch | None

    def assert_same(self, other: Outcome) -> None:
        """Bit for bit the same losses, parameters, buffers and random state."""
        assert same(self.losses, other.losses)
        assert self.state.keys() == other.state.keys()
        assert all(torch.equal(values, other.state[name]) for name, values in self.state.items())
        assert torch.equal(self.random, other.random)


def train(
    net: Callable[[], nn.Module],
    optimizer: Callable[[nn.Module], Optimizer],
    *,
    steps: int,
    watched: bool,
    before: Callable[[Watch], None] | None = None,
    **arguments: object,
) -> Outcome:
    """A run from a fixed seed, with fresh random inputs at every step."""
    torch.manual_seed(1)
    model = net()
    stepper = optimizer(model)
    watch = gradwatch.watch(model, stepper, verbose=0, **arguments) if watched else None
    if watch is not None and before is not None:
        before(watch)
    losses = []
    for _ in range(steps):
        inputs, labels = net.inputs(), torch.randint(0, CLASSES, (BATCH,))
        stepper.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        if watch is not None:
            watch.observe_loss(loss)
        loss.backward()
        stepper.step()
        losses.append(loss.detach())
    if watch is not None:
        watch.close()
    state = {name: values.clone() for name, values in model.state_dict().items()}
    return Outcome(losses, state, torch.get_rng_state(), watch)


def same(tensors: Iterable[Tensor], others: Iterable[Tensor]) -> bool:
    """Whether the tensors are bit for bit the same."""
    return all(torch.equal(values, other) for values, other in zip(tensors, others, strict=True))


def perceptron(width: int = 4, depth: int = 3, activation: type[nn.Module] = nn.Tanh) -> nn.Module:
    """A multi-layer perceptron from `width` inputs to as many outputs."""
    layers: list[nn.Module] = []
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, width))


def backward(model: nn.Module, width: int = 4, scale: float = 1.0) -> Tensor:
    """One forward and backward pass on a random batch; the loss."""
    loss = scale * model(torch.randn(BATCH, width)).square().mean()
    loss.backward()
    return loss.detach()


def step(model: nn.Module, *optimizers: Optimizer, width: int = 4) -> Tensor:
    """One training step on a random batch; the loss."""
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss = backward(model, width)
    for optimizer in optimizers:
        optimizer.step()
    return loss


def norm(tensors: list[Tensor]) -> float:
    """The L2 norm of several tensors together, computed apart from gradwatch."""
    return float(torch.cat([values.detach().double().flatten() for values in tensors]).norm())


def gradient_norms(model: nn.Module) -> list[float]:
    """The gradient norm of every module that owns parameters."""
    norms = []
    for module in model.modules():
        gradients = [entry.grad for entry in module.parameters(recurse=False)]
        if any(gradient is not None for gradient in gradients):
            norms.append(norm([gradient for gradient in gradients if gradient is not None]))
    return norms
