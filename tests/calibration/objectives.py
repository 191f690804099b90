"""Losses of the further cases that are no plain supervised ones, and their yardsticks."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from .tasks import Batch

ACTIONS = 4


def token_cross_entropy(model: nn.Module, batch: Batch, factor: float = 1.0) -> Tensor:
    """Mean cross-entropy over all tokens, times a factor."""
    inputs, targets = batch
    return factor * F.cross_entropy(model(inputs).float().flatten(0, -2), targets.flatten())


def likelihood_of_probabilities(model: nn.Module, batch: Batch) -> Tensor:
    """Mean negative log likelihood of a model whose outputs are probabilities."""
    inputs, targets = batch
    return F.nll_loss(model(inputs).clamp_min(1e-8).log(), targets)


def info_nce(model: nn.Module, batch: Batch, temperature: float = 0.1) -> Tensor:
    """Tell the other noisy view of each image from those of all others (van den Oord, 2018)."""
    images = batch[0]
    first, second = (
        F.normalize(model(images + 0.3 * torch.randn_like(images)), dim=1) for _ in range(2)
    )
    return F.cross_entropy(first @ second.T / temperature, torch.arange(len(images)))


def policy_gradient(model: nn.Module, batch: Batch) -> Tensor:
    """REINFORCE with a mean baseline; guessing the digit pays 1. Its size says nothing."""
    inputs, targets = batch
    log_policy = model(inputs).log_softmax(-1)
    action = torch.multinomial(log_policy.detach().exp(), 1).squeeze(1)
    reward = (action == targets).float()
    chosen = log_policy.gather(1, action.unsqueeze(1)).squeeze(1)
    out: Tensor = -((reward - reward.mean()) * chosen).mean()
    return out


def error_rate(model: nn.Module, batch: Batch) -> Tensor:
    """Share of wrong classes, or of wrong actions where there are fewer than classes."""
    inputs, targets = batch
    scores = model(inputs)
    out: Tensor = (scores.argmax(-1) != targets % scores.shape[-1]).float().mean()
    return out


class QLearning:
    """Temporal differences against a copy of the net that is renewed every 25 steps (Mnih, 2015).

    States are digits, the right one of four actions pays 1, and the next state is another digit of
    the batch. Values grow from 0 towards 1 / (1 - discount), and the loss with them.
    """

    def __init__(self, model: nn.Module, *, discount: float = 0.9, period: int = 25) -> None:
        self.target = deepcopy(model)
        self.discount = discount
        self.period = period
        self.calls = 0

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean squared temporal difference of uniformly random actions."""
        if self.calls % self.period == 0:
            self.target.load_state_dict(model.state_dict())
        self.calls += 1
        states, digits = batch
        action = torch.randint(ACTIONS, (len(states),))
        reward = (action == digits % ACTIONS).float()
        with torch.no_grad():
            following = self.target(states.roll(1, 0)).max(-1).values
        value = model(states).gather(1, action.unsqueeze(1)).squeeze(1)
        return F.mse_loss(value, reward + self.discount * following)


def meta_cross_entropy(model: nn.Module, batch: Batch, inner_lr: float = 0.1) -> Tensor:
    """Loss on one half of the batch after a gradient step on the other, with second derivatives.

    As in MAML (Finn et al., 2017), where each task has its own inner step.
    """
    (inputs, other_inputs), (targets, other_targets) = (half.chunk(2) for half in batch)
    parameters = dict(model.named_parameters())
    inner = F.cross_entropy(model(inputs), targets)
    gradients = torch.autograd.grad(inner, list(parameters.values()), create_graph=True)
    adapted = {
        name: parameter - inner_lr * gradient
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
    }
    return F.cross_entropy(functional_call(model, adapted, (other_inputs,)), other_targets)
