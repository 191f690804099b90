"""What one training run needs: Setup, optimizers, and losses right and wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .tasks import CLASSES, Batch, Task

LossFn = Callable[[nn.Module, Batch], Tensor]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]

STEPS = 300
BATCH = 64
CHANCE_LOSS = math.log(CLASSES)


@dataclass(frozen=True)
class Setup:
    """A training run, ready to start.

    Attributes:
        model: Initialised.
        optimizer: Over the model's parameters.
        batch: From a step, counted from 0, to its batch.
        loss_fn: From the model and a batch to the scalar loss.
        steps: Number of optimizer steps.
        chance_loss: Loss of the best constant prediction, in the unit of `loss_fn`, or of
            `yardstick` where there is one.
        scaler: Scales the loss before backward.
        scheduler: Stepped after each optimizer step.
        before_watch: Runs once, before anything observes the model.
        autocast: Data type of CPU autocast around `loss_fn`.
        yardstick: The loss that progress is measured by after training, on the last batches, where
            the trained loss says little of it (games between two nets, rewards).
        after_step: Runs after each optimizer step, given the step: trains a second net.
    """

    model: nn.Module
    optimizer: Optimizer
    batch: Callable[[int], Batch]
    loss_fn: LossFn
    steps: int
    chance_loss: float
    scaler: torch.amp.GradScaler | None = None
    scheduler: LRScheduler | None = None
    before_watch: Callable[[], object] | None = None
    autocast: torch.dtype | None = None
    yardstick: LossFn | None = None
    after_step: Callable[[int], None] | None = None


def sgd(lr: float = 0.05, momentum: float = 0.9) -> MakeOptimizer:
    """SGD as the cases have it unless they say otherwise."""
    return partial(torch.optim.SGD, lr=lr, momentum=momentum)


def adam(lr: float = 1e-3) -> MakeOptimizer:
    """Adam with torch's defaults but for the learning rate."""
    return partial(torch.optim.Adam, lr=lr)


def adamw(lr: float = 1e-3, weight_decay: float = 0.01) -> MakeOptimizer:
    """AdamW with torch's defaults but for the learning rate and the decay."""
    return partial(torch.optim.AdamW, lr=lr, weight_decay=weight_decay)


def cross_entropy(model: nn.Module, batch: Batch, factor: float = 1.0) -> Tensor:
    """Mean cross-entropy of the model's logits, times a factor."""
    inputs, targets = batch
    return factor * F.cross_entropy(model(inputs).float(), targets)


def cross_entropy_of_probabilities(model: nn.Module, batch: Batch) -> Tensor:
    """The mistake: softmax first, then a cross-entropy that applies softmax again."""
    inputs, targets = batch
    return F.cross_entropy(model(inputs).softmax(-1), targets)


def mean_squared_error(model: nn.Module, batch: Batch) -> Tensor:
    """Mean squared error against one-hot classes: a mistake on a model that ends in a sigmoid."""
    inputs, targets = batch
    return F.mse_loss(model(inputs), F.one_hot(targets, CLASSES).float())


def binary_cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Mean binary cross-entropy of the model's logits, one a class."""
    inputs, targets = batch
    one_hot = F.one_hot(targets, CLASSES).float()
    return F.binary_cross_entropy_with_logits(model(inputs), one_hot)


def on_task(
    model: nn.Module,
    task: Task,
    seed: int,
    *,
    optimizer: MakeOptimizer | None = None,
    loss_fn: LossFn = cross_entropy,
    steps: int = STEPS,
    batch_size: int = BATCH,
    chance_loss: float = CHANCE_LOSS,
) -> Setup:
    """Bring a model and a task together."""
    return Setup(
        model=model,
        optimizer=(optimizer or sgd())(model.parameters()),
        batch=task.batches(seed, steps=steps, size=batch_size),
        loss_fn=loss_fn,
        steps=steps,
        chance_loss=chance_loss,
    )
