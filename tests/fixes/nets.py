"""Small real nets whose layers have given names, and the `Layer` of each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradwatch.finding import Fix
from gradwatch.layer import Layer

WIDTH = 64
BATCH = 16

HOSTILE = (
    "it's",
    'say "hi"',
    "two\nlines",
    "back\\slash",
    "{brace}",
    "{i}",
    "$names",
    "%s",
    "'''",
    '"""',
    "line\u2028separator",
    "naïve 層",
    "# comment",
    'x"); raise SystemExit  # ',
)
"""Names that PyTorch takes and careless code does not."""

ACTIVATION_NAMES = {
    nn.ReLU: "relu",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.LeakyReLU: "leaky_relu",
}


@dataclass
class Subject:
    """A model, the layers that a fix is for, and what else a snippet may use."""

    model: nn.Module
    layers: tuple[Layer, ...]
    batch: tuple[Tensor, Tensor]
    loss_fn: Callable[[nn.Module, tuple[Tensor, Tensor]], Tensor] = field(
        default_factory=lambda: squared_error
    )

    def namespace(self) -> dict[str, Any]:
        """Every name that a PyTorch snippet may expect."""
        return {
            "model": self.model,
            "optimizer": torch.optim.SGD(self.model.parameters(), lr=0.1),
            "loss_fn": self.loss_fn,
            "batch": self.batch,
            "batches": [self.batch] * 3,
            "inputs": self.batch[0],
        }

    def run(self, fix: Fix) -> dict[str, Any]:
        """The namespace after the fix's PyTorch snippet."""
        return run_torch(fix, **self.namespace())


def run_torch(fix: Fix, **namespace: Any) -> dict[str, Any]:
    """The namespace after the fix's PyTorch snippet ran in it."""
    exec(compile(fix.snippets["torch"], "snippet", "exec"), namespace)
    return namespace


class Recurrents(nn.Module):
    """Recurrent layers one after the other and a head on the last step."""

    def __init__(self, cells: dict[str, nn.RNNBase]) -> None:
        super().__init__()
        for name, cell in cells.items():
            self.add_module(name, cell)
        self.cells = tuple(cells)
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs `(batch, WIDTH)` of sequences `(batch, time, WIDTH)`."""
        for name in self.cells:
            x = self.get_submodule(name)(x)[0]
        return self.head(x[:, -1])


class Detach(nn.Module):
    """Cuts the graph."""

    def forward(self, x: Tensor) -> Tensor:
        """`x` without its history."""
        return x.detach()


class Log(nn.Module):
    """NaN for every negative value."""

    def forward(self, x: Tensor) -> Tensor:
        """The logarithm."""
        return x.log()


def squared_error(model: nn.Module, batch: tuple[Tensor, Tensor], *, factor: float = 1.0) -> Tensor:
    """The mean squared error of the model's output, times a factor."""
    inputs, targets = batch
    return factor * nn.functional.mse_loss(model(inputs).float(), targets)


def mlp(names: Sequence[str], activation: type[nn.Module] | None = nn.Sigmoid) -> Subject:
    """Equally wide linear layers, each with a module for its activation, and a linear head."""
    torch.manual_seed(0)
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for name in names:
        modules[name] = nn.Linear(WIDTH, WIDTH)
        if activation is not None:
            modules[f"act {name}"] = activation()
    modules["the head"] = nn.Linear(WIDTH, WIDTH)
    layers = tuple(linear(name, depth, activation) for depth, name in enumerate(names))
    return Subject(nn.Sequential(modules), layers, random_batch(BATCH, WIDTH))


def linear(name: str, depth: int, activation: type[nn.Module] | None) -> Layer:
    """The `Layer` of one linear layer of `mlp`."""
    return Layer(
        name,
        "Linear",
        depth=depth,
        fan_in=WIDTH,
        fan_out=WIDTH,
        activation=None if activation is None else ACTIVATION_NAMES[activation],
        activation_module=None if activation is None else f"act {name}",
    )


def recurrents(names: Sequence[str], cell: type[nn.RNNBase] = nn.RNN) -> Subject:
    """Recurrent layers of one kind and a head."""
    torch.manual_seed(0)
    model = Recurrents({name: cell(WIDTH, WIDTH, batch_first=True) for name in names})
    layers = tuple(
        Layer(name, cell.__name__, depth=depth, fan_in=WIDTH, fan_out=WIDTH, recurrent=True)
        for depth, name in enumerate(names)
    )
    inputs, targets = random_batch(4, 5, WIDTH)
    return Subject(model, layers, (inputs, targets[:, -1]))


def rnn(names: Sequence[str]) -> Subject:
    """Plain recurrent layers."""
    return recurrents(names, nn.RNN)


def lstm(names: Sequence[str]) -> Subject:
    """LSTM layers."""
    return recurrents(names, nn.LSTM)


def relu_mlp(names: Sequence[str]) -> Subject:
    """An MLP with ReLUs, initialised by He."""
    subject = mlp(names, nn.ReLU)
    for name in names:
        nn.init.kaiming_normal_(subject.model.get_submodule(name).weight, nonlinearity="relu")
    return subject


def constant_mlp(names: Sequence[str]) -> Subject:
    """An MLP whose hidden layers all hold one constant."""
    subject = mlp(names, nn.Tanh)
    with torch.no_grad():
        for name in names:
            subject.model.get_submodule(name).weight.fill_(0.1)
    return subject


def steep_mlp(names: Sequence[str]) -> Subject:
    """An MLP with a loss so steep that its gradient is far longer than 1."""
    return replace(relu_mlp(names), loss_fn=partial(squared_error, factor=1e4))


def faint_mlp(names: Sequence[str]) -> Subject:
    """An MLP with a loss so flat that its gradients underflow in float16."""
    return replace(relu_mlp(names), loss_fn=partial(squared_error, factor=2e-7))


def random_batch(*shape: int) -> tuple[Tensor, Tensor]:
    """Normal inputs, and targets between 0 and 1, both of the shape."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator), torch.rand(shape, generator=generator)
