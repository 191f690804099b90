"""Nets that make images, and what they are trained by: autoencoders, flow matching, a GAN."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .tasks import Batch

NOISE = 16
"""Width of a generator's input."""


def autoencoder(*, code: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """64 inputs, a narrow linear code, and outputs between 0 and 1 by a sigmoid."""
    return nn.Sequential(
        OrderedDict(
            encode1=nn.Linear(64, 32),
            act1=activation(),
            encode2=nn.Linear(32, code),
            decode1=nn.Linear(code, 32),
            act2=activation(),
            decode2=nn.Linear(32, 64),
            sigmoid=nn.Sigmoid(),
        )
    )


def reconstruction_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Mean binary cross-entropy of outputs between 0 and 1 against the inputs."""
    return F.binary_cross_entropy(model(batch[0]), batch[0])


def reconstruction_error(model: nn.Module, batch: Batch) -> Tensor:
    """Mean squared error of the outputs against the inputs."""
    return F.mse_loss(model(batch[0]), batch[0])


def denoising_error(model: nn.Module, batch: Batch, noise: float = 0.5) -> Tensor:
    """Mean squared error of the outputs against inputs that the model sees under noise."""
    clean = batch[0]
    return F.mse_loss(model(clean + noise * torch.randn_like(clean)), clean)


class Vae(nn.Module):
    """A variational autoencoder with a diagonal Gaussian code (Kingma & Welling, 2014)."""

    def __init__(self, *, width: int = 64, code: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Linear(64, width)
        self.mean = nn.Linear(width, code)
        self.log_variance = nn.Linear(width, code)
        self.decoder = nn.Linear(code, width)
        self.head = nn.Linear(width, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction `(batch, 64)`, mean and log variance `(batch, code)`."""
        hidden = F.relu(self.encoder(x))
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        code = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        return self.head(F.relu(self.decoder(code))), mean, log_variance


def negative_elbo(model: nn.Module, batch: Batch) -> Tensor:
    """Squared error summed over pixels plus the Kullback-Leibler term, mean over the batch."""
    inputs = batch[0]
    output, mean, log_variance = model(inputs)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(1)
    out: Tensor = ((output - inputs).square().sum(1) + divergence).mean()
    return out


class VelocityNet(nn.Module):
    """A residual MLP whose hidden layers read the time through a small net of their own."""

    def __init__(self, *, width: int = 96, blocks: int = 2) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2.0 ** torch.arange(4) * torch.pi)
        self.time1 = nn.Linear(8, width)
        self.time2 = nn.Linear(width, width)
        self.stem = nn.Linear(64, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.head = nn.Linear(width, 64)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Velocities `(batch, 64)` at points `(batch, 64)` and times `(batch, 1)`."""
        angles = time * self.get_buffer("frequencies")
        embedded = self.time2(F.silu(self.time1(torch.cat([angles.sin(), angles.cos()], 1))))
        x = self.stem(x)
        for block in self.blocks:
            x = x + F.silu(block(x + embedded))
        out: Tensor = self.head(x)
        return out


def flow_matching_error(model: nn.Module, batch: Batch) -> Tensor:
    """Mean squared error of the velocity from image to noise (Lipman et al., 2023)."""
    image = batch[0]
    time, noise = torch.rand(len(image), 1), torch.randn_like(image)
    return F.mse_loss(model((1.0 - time) * image + time * noise, time), noise - image)


def noise_prediction_error(model: nn.Module, batch: Batch, factor: float = 1.0) -> Tensor:
    """Mean squared error of the noise that a model sees in its input times a factor."""
    image = batch[0]
    time, noise = torch.rand(len(image), 1), torch.randn_like(image)
    return F.mse_loss(model(factor * ((1.0 - time) * image + time * noise), time), noise)


def generator(width: int = 64) -> nn.Sequential:
    """From noise `(batch, 16)` to images `(batch, 64)`."""
    return nn.Sequential(
        OrderedDict(
            hidden1=nn.Linear(NOISE, width),
            relu1=nn.ReLU(),
            hidden2=nn.Linear(width, width),
            relu2=nn.ReLU(),
            head=nn.Linear(width, 64),
        )
    )


def discriminator(width: int = 64) -> nn.Sequential:
    """From images `(batch, 64)` to logits `(batch, 1)`, high for real ones."""
    return nn.Sequential(
        OrderedDict(
            hidden1=nn.Linear(64, width),
            leaky1=nn.LeakyReLU(0.2),
            hidden2=nn.Linear(width, width),
            leaky2=nn.LeakyReLU(0.2),
            head=nn.Linear(width, 1),
        )
    )


class Game:
    """The two losses of a GAN (Goodfellow et al., 2014), the generator's not saturating.

    Args:
        generator: From noise to images.
        discriminator: From images to logits.
        mean: Of all real images, `(64,)`.
    """

    def __init__(self, generator: nn.Module, discriminator: nn.Module, mean: Tensor) -> None:
        self.generator = generator
        self.discriminator = discriminator
        self.mean = mean

    def fakes(self, count: int) -> Tensor:
        """Generated images `(count, 64)`."""
        out: Tensor = self.generator(torch.randn(count, NOISE))
        return out

    def discriminator_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """How badly the discriminator tells images from fakes."""
        real, fake = model(batch[0]), model(self.fakes(len(batch[0])).detach())
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def generator_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """How rarely the discriminator takes fakes for images."""
        fake: Tensor = self.discriminator(model(torch.randn(len(batch[0]), NOISE)))
        return F.softplus(-fake).mean()

    def distance(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean squared difference between the mean image and that of 512 fakes."""
        return F.mse_loss(self.fakes(512).mean(0), self.mean)
