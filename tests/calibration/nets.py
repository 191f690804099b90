"""Feed-forward nets of the calibration cases: MLPs, plain and residual CNNs, LeNet."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor] | type[nn.Module]


def identity(x: Tensor) -> Tensor:
    """No activation at all."""
    return x


def one_per_layer(activation: Activation, depth: int) -> Iterable[Callable[[Tensor], Tensor]]:
    """A ModuleList for a module class, a plain list for a function."""
    if isinstance(activation, type):
        return nn.ModuleList(activation() for _ in range(depth))
    return [activation] * depth


class Mlp(nn.Module):
    """Equally wide hidden layers, an activation after each, and a linear head.

    Args:
        inputs: Width of the input.
        hidden: Number of hidden layers.
        width: Of each hidden layer.
        outputs: Width of the head.
        activation: A module class, or a function that leaves no module behind.
        bias: Whether the layers have biases.
        dropout: Probability, after each activation.
        residual: Whether each hidden layer but the first has a skip beside it.
        detach_after: Cuts the graph after this hidden layer, counted from 0.
    """

    def __init__(
        self,
        *,
        inputs: int = 64,
        hidden: int,
        width: int = 64,
        outputs: int = 10,
        activation: Activation = nn.ReLU,
        bias: bool = True,
        dropout: float = 0.0,
        residual: bool = False,
        detach_after: int | None = None,
    ) -> None:
        super().__init__()
        widths = [inputs] + [width] * hidden
        self.hidden = nn.ModuleList(
            nn.Linear(fan_in, fan_out, bias=bias)
            for fan_in, fan_out in zip(widths, widths[1:], strict=False)
        )
        self.activations = one_per_layer(activation, hidden)
        self.dropout = nn.Dropout(dropout) if dropout else None
        self.head = nn.Linear(width, outputs, bias=bias)
        self.residual = residual
        self.detach_after = detach_after

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(batch, outputs)` of inputs `(batch, inputs)`."""
        for index, (layer, activate) in enumerate(zip(self.hidden, self.activations, strict=True)):
            out = activate(layer(x))
            x = x + out if self.residual and index else out
            if self.dropout is not None:
                x = self.dropout(x)
            if index == self.detach_after:
                x = x.detach()
        logits: Tensor = self.head(x)
        return logits


def with_softmax(net: Callable[[], nn.Module]) -> nn.Sequential:
    """The net with a softmax over its outputs: it gives probabilities, not logits."""
    return nn.Sequential(OrderedDict(net=net(), softmax=nn.Softmax(-1)))


def with_sigmoid(net: Callable[[], nn.Module]) -> nn.Sequential:
    """The net with a sigmoid on each output."""
    return nn.Sequential(OrderedDict(net=net(), sigmoid=nn.Sigmoid()))


class TwoBranch(nn.Module):
    """An MLP on the upper two rows of the image, one on the lower six, and a head on both.

    Args:
        width: Of every hidden layer.
        cut: Whether the lower branch runs under `torch.no_grad`, as one does that is thought
            to be a fixed feature extractor.
    """

    def __init__(self, *, width: int, cut: bool) -> None:
        super().__init__()
        self.upper = Mlp(inputs=16, hidden=3, width=width, outputs=width)
        self.lower = Mlp(inputs=48, hidden=3, width=width, outputs=width)
        self.head = nn.Linear(2 * width, 10)
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(batch, 10)` of images `(batch, 64)`."""
        upper = self.upper(x[:, :16])
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.cut):
            lower = self.lower(x[:, 16:])
        out: Tensor = self.head(F.relu(torch.cat([upper, lower], 1)))
        return out


class Cnn(nn.Module):
    """Equally wide 3x3 circular convolutions on 8x8 images, two max-pools, and a linear head.

    The pools follow the convolutions number `⌊depth/3⌋` and `⌊2·depth/3⌋`, counted from 0.
    """

    def __init__(
        self,
        *,
        depth: int,
        width: int,
        activation: Activation = nn.ReLU,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        channels = [1] + [width] * depth
        self.convs = nn.ModuleList(
            nn.Conv2d(c_in, c_out, 3, padding=1, padding_mode="circular")
            for c_in, c_out in zip(channels, channels[1:], strict=False)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(depth * batch_norm))
        self.activations = one_per_layer(activation, depth)
        self.pooled = {depth // 3, 2 * depth // 3}
        self.head = nn.Linear(width * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(batch, 10)` of images `(batch, 64)`."""
        x = x.view(-1, 1, 8, 8)
        for index, (conv, activate) in enumerate(zip(self.convs, self.activations, strict=True)):
            x = conv(x)
            if self.norms:
                x = self.norms[index](x)
            x = activate(x)
            if index in self.pooled:
                x = F.max_pool2d(x, 2)
        out: Tensor = self.head(x.flatten(1))
        return out


class LeNet(nn.Module):
    """LeNet-5 (LeCun et al., 1998) with 3x3 convolutions, for 8x8 images."""

    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1)
        self.act1 = activation()
        self.pool1 = nn.AvgPool2d(2)
        self.conv2 = nn.Conv2d(6, 16, 3, padding=1)
        self.act2 = activation()
        self.pool2 = nn.AvgPool2d(2)
        self.fc1 = nn.Linear(64, 120)
        self.act3 = activation()
        self.fc2 = nn.Linear(120, 84)
        self.act4 = activation()
        self.head = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(batch, 10)` of images `(batch, 64)`."""
        x = self.pool1(self.act1(self.conv1(x.view(-1, 1, 8, 8))))
        x = self.pool2(self.act2(self.conv2(x)))
        x = self.act3(self.fc1(x.flatten(1)))
        out: Tensor = self.head(self.act4(self.fc2(x)))
        return out


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm beside a skip; `gamma` is the last norm's first scale."""

    def __init__(self, width: int, *, gamma: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        nn.init.constant_(self.norm2.weight, gamma)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps of the shape of `x`."""
        branch = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        return F.relu(x + branch)


class ResNet(nn.Module):
    """A stem, residual blocks of one width, average pooling and a linear head."""

    def __init__(self, *, blocks: int, width: int, gamma: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(*(ResidualBlock(width, gamma=gamma) for _ in range(blocks)))
        self.head = nn.Linear(width * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(batch, 10)` of images `(batch, 64)`."""
        x = F.relu(self.stem_norm(self.stem(x.view(-1, 1, 8, 8))))
        x = F.avg_pool2d(self.blocks(x), 2)
        out: Tensor = self.head(x.flatten(1))
        return out
