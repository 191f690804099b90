"""Builders of the runs whose nets make images; each is a function of the seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from .families import default_net
from .generative import (
    Game,
    Vae,
    VelocityNet,
    denoising_error,
    discriminator,
    flow_matching_error,
    generator,
    negative_elbo,
    noise_prediction_error,
)
from .setups import STEPS, LossFn, MakeOptimizer, Setup, adam, on_task
from .tasks import Task, digits


def loss_of_the_mean(task: Task, loss_fn: LossFn) -> float:
    """Loss of a model of images that always answers with their mean."""
    mean = task.inputs.mean(0)
    model = ConstantImage(mean)
    return float(loss_fn(model, (task.inputs, task.targets)))


class ConstantImage(nn.Module):
    """The same image for any input."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.register_buffer("image", image)

    def forward(self, x: Tensor) -> Tensor:
        """The image as often as there are rows in `x`."""
        return self.get_buffer("image").expand_as(x)


def image_model(
    seed: int,
    *,
    net: Callable[[], nn.Module],
    loss_fn: LossFn = denoising_error,
    task: Callable[[], Task] = digits,
    optimizer: MakeOptimizer | None = None,
    steps: int = STEPS,
) -> Setup:
    """A net from image to image; chance is the mean image."""
    torch.manual_seed(seed)
    chance = loss_of_the_mean(task(), loss_fn)
    torch.manual_seed(seed)
    return on_task(
        net(),
        task(),
        seed,
        optimizer=optimizer or adam(2e-3),
        loss_fn=loss_fn,
        steps=steps,
        chance_loss=chance,
    )


def vae(seed: int) -> Setup:
    """A variational autoencoder; chance is the mean image and a code that says nothing."""
    torch.manual_seed(seed)
    task = digits()
    chance = float(task.inputs.var(0, correction=0).sum())
    return on_task(Vae(), task, seed, optimizer=adam(), loss_fn=negative_elbo, chance_loss=chance)


def flow_matching(seed: int) -> Setup:
    """Flow matching on digits; chance is the mean velocity."""
    torch.manual_seed(seed)
    task = digits()
    return on_task(
        VelocityNet(),
        task,
        seed,
        optimizer=adam(2e-3),
        loss_fn=flow_matching_error,
        chance_loss=1.0 + float(task.inputs.var(0, correction=0).mean()),
    )


def noise_prediction(seed: int, *, factor: float) -> Setup:
    """A diffusion model that sees its input times a factor; chance is no noise."""
    return default_net(
        seed,
        net=VelocityNet,
        optimizer=adam(2e-3),
        loss_fn=partial(noise_prediction_error, factor=factor),
        chance_loss=1.0,
    )


def gan(seed: int, *, watched: Literal["generator", "discriminator"]) -> Setup:
    """One of a GAN's two nets, the other being trained between its steps by its own optimizer.

    Progress is that of the mean fake towards the mean image; chance is an all-zero fake's distance.
    """
    torch.manual_seed(seed)
    task = digits()
    mean = task.inputs.mean(0)
    game = Game(generator(), discriminator(), mean)
    nets = {"generator": game.generator, "discriminator": game.discriminator}
    losses = {"generator": game.generator_loss, "discriminator": game.discriminator_loss}
    other = "discriminator" if watched == "generator" else "generator"
    rival, rival_loss = nets[other], losses[other]
    make = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999))
    rival_optimizer = make(rival.parameters())
    setup = on_task(
        nets[watched],
        task,
        seed,
        optimizer=make,
        loss_fn=losses[watched],
        chance_loss=float(mean.square().mean()),
    )

    def train_rival(step: int) -> None:
        rival_optimizer.zero_grad()
        rival_loss(rival, setup.batch(step)).backward()  # type: ignore[no-untyped-call]  # torch's
        rival_optimizer.step()

    return replace(setup, yardstick=game.distance, after_step=train_rival)
