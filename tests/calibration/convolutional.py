"""Convolutional nets of the further cases: U-Net, DenseNet, gated channels, frozen norms."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .nets import ResNet


def double_conv(inputs: int, outputs: int, activation: type[nn.Module]) -> nn.Sequential:
    """Two 3x3 convolutions, an activation after each."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        activation(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        activation(),
    )


class UNet(nn.Module):
    """Two scales down and up again, with skips between equals (Ronneberger et al., 2015)."""

    def __init__(self, *, width: int = 8, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.fine = double_conv(1, width, activation)
        self.middle = double_conv(width, 2 * width, activation)
        self.coarse = double_conv(2 * width, 4 * width, activation)
        self.up_middle = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.join_middle = double_conv(4 * width, 2 * width, activation)
        self.up_fine = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.join_fine = double_conv(2 * width, width, activation)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images `(batch, 64)` to images of the same shape."""
        fine = self.fine(x.view(-1, 1, 8, 8))
        middle = self.middle(F.max_pool2d(fine, 2))
        coarse = self.coarse(F.max_pool2d(middle, 2))
        up = self.join_middle(torch.cat([middle, self.up_middle(coarse)], 1))
        up = self.join_fine(torch.cat([fine, self.up_fine(up)], 1))
        out: Tensor = self.head(up).flatten(1)
        return out


class DenseNet(nn.Module):
    """Each convolution reads the maps of all before it (Huang et al., 2017)."""

    def __init__(self, *, layers: int, growth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(1 + growth * index, growth, 3, padding=1) for index in range(layers)
        )
        self.head = nn.Linear((1 + growth * layers) * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(batch, 10)` of images `(batch, 64)`."""
        x = x.view(-1, 1, 8, 8)
        for conv in self.convs:
            x = torch.cat([x, F.relu(conv(x))], 1)
        out: Tensor = self.head(F.avg_pool2d(x, 4).flatten(1))
        return out


class SqueezeBlock(nn.Module):
    """A residual convolution whose channels a sigmoid gate weighs (Hu et al., 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.squeeze = nn.Linear(width, width // 4)
        self.excite = nn.Linear(width // 4, width)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps of the shape of `x`."""
        branch = F.relu(self.norm(self.conv(x)))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(branch.mean((2, 3))))))
        return x + branch * gate[:, :, None, None]


class SqueezeNet(nn.Module):
    """A stem, gated residual blocks and a linear head."""

    def __init__(self, *, blocks: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.Sequential(*(SqueezeBlock(width) for _ in range(blocks)))
        self.head = nn.Linear(width * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(batch, 10)` of images `(batch, 64)`."""
        x = self.blocks(F.relu(self.stem(x.view(-1, 1, 8, 8))))
        out: Tensor = self.head(F.avg_pool2d(x, 2).flatten(1))
        return out


class FineTunedResNet(ResNet):
    """A ResNet whose norms stay in evaluation mode once `freeze_norms` is called."""

    frozen = False

    def freeze_norms(self) -> None:
        """Keep running statistics, scale and shift of every norm as they are."""
        self.frozen = True
        for norm in self.norms():
            norm.requires_grad_(False)

    def norms(self) -> list[nn.BatchNorm2d]:
        """Every norm of the net."""
        return [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]

    def train(self, mode: bool = True) -> FineTunedResNet:
        """Set training mode, except for frozen norms."""
        super().train(mode)
        for norm in self.norms() if self.frozen else ():
            norm.eval()
        return self
