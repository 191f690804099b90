"""Builders of the further runs that make no images; each is a function of the seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from .attention import Gpt
from .convolutional import FineTunedResNet
from .families import default_net, mlp
from .graphs import COMMUNITIES, GraphNet, block_graph
from .initialisation import Initialiser, initialise, lecun
from .nets import Mlp, with_softmax
from .objectives import (
    ACTIONS,
    QLearning,
    error_rate,
    info_nce,
    policy_gradient,
    token_cross_entropy,
)
from .setups import BATCH, STEPS, MakeOptimizer, Setup, adam, adamw, cross_entropy, on_task, sgd
from .structured import MoeNet, Recurrent
from .tasks import CLASSES, Task, digits, digits_in_steps, progressions, transposed_digits
from .training import train

VOCABULARY = 50

softmax_mlp = partial(with_softmax, partial(Mlp, hidden=2))
"""A net that gives probabilities."""

classifier = partial(default_net, optimizer=adam())
"""A net with its own initialisation on ten classes, Adam unless told otherwise."""


def contrastive_mlp(seed: int, *, hidden: int = 4, init: Initialiser | None = None) -> Setup:
    """Two noisy views of each image; chance is a similarity that says nothing."""
    torch.manual_seed(seed)
    model = Mlp(hidden=hidden, outputs=16)
    if init is not None:
        initialise([*model.hidden, model.head], init)
    return on_task(
        model, digits(), seed, optimizer=adam(), loss_fn=info_nce, chance_loss=math.log(BATCH)
    )


def q_learner(seed: int, *, init: Initialiser | None = None, hidden: int = 2) -> Setup:
    """A net of action values; progress is that of its greedy actions."""
    torch.manual_seed(seed)
    model = Mlp(hidden=hidden, outputs=ACTIONS)
    if init is not None:
        initialise([*model.hidden], init)
        initialise([model.head], lecun)
    setup = on_task(
        model,
        digits(),
        seed,
        optimizer=adam(),
        loss_fn=QLearning(model),
        chance_loss=1.0 - 1.0 / ACTIONS,
    )
    return replace(setup, yardstick=error_rate)


def policy_learner(seed: int) -> Setup:
    """A tanh policy trained by REINFORCE; progress is that of its most likely actions."""
    torch.manual_seed(seed)
    setup = on_task(
        Mlp(hidden=2, activation=nn.Tanh),
        digits(),
        seed,
        optimizer=adam(3e-3),
        loss_fn=policy_gradient,
        chance_loss=1.0 - 1.0 / CLASSES,
    )
    return replace(setup, yardstick=error_rate)


def language_model(
    seed: int,
    *,
    blocks: int = 4,
    width: int = 48,
    tied: bool = True,
    ends_in_softmax: bool = False,
    steps: int = 200,
    factor: float = 1.0,
) -> Setup:
    """A small GPT that learns to count; its loss is taken times a factor."""
    torch.manual_seed(seed)
    net = partial(Gpt, blocks=blocks, vocabulary=VOCABULARY, context=24, width=width, tied=tied)
    return on_task(
        with_softmax(net) if ends_in_softmax else net(),
        progressions(seed, vocabulary=VOCABULARY, length=24),
        seed,
        optimizer=adamw(3e-3),
        loss_fn=partial(token_cross_entropy, factor=factor),
        steps=steps,
        batch_size=16,
        chance_loss=factor * math.log(VOCABULARY),
    )


def half_precision_gpt(seed: int, *, scaled: bool) -> Setup:
    """A GPT in float16 whose loss has a small weight, with or without a loss scaler."""
    setup = language_model(seed, blocks=1, width=32, steps=100, factor=1e-5)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20) if scaled else None
    return replace(setup, autocast=torch.float16, scaler=scaler)


def graph_net(
    seed: int,
    *,
    layers: int,
    activation: Callable[[Tensor], Tensor] = torch.relu,
    residual: bool = False,
    init: Initialiser | None = None,
    optimizer: MakeOptimizer | None = None,
) -> Setup:
    """Communities of a generated graph, all nodes in each step."""
    torch.manual_seed(seed)
    graph = block_graph(seed)
    model = GraphNet(graph.propagation, layers=layers, activation=activation, residual=residual)
    if init is not None:
        initialise([model.embed, *model.convs], init)
    return Setup(
        model=model,
        optimizer=(optimizer or adam(5e-3))(model.parameters()),
        batch=lambda step: (graph.features, graph.communities),
        loss_fn=cross_entropy,
        steps=200,
        chance_loss=math.log(COMMUNITIES),
    )


def recurrent(
    seed: int,
    *,
    cell: Callable[..., nn.RNNBase],
    length: int,
    lr: float,
    steps: int = STEPS,
) -> Setup:
    """A recurrent layer that reads a digit in so many steps."""
    return classifier(
        seed,
        net=partial(Recurrent, cell, inputs=64 // length, units=48),
        task=lambda seed: digits_in_steps(length),
        optimizer=adam(lr),
        steps=steps,
    )


def value_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean squared error of one output against the target."""
    return nn.functional.mse_loss(model(batch[0]).squeeze(-1), batch[1])


def logit_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean binary cross-entropy of one logit against the target, 0 or 1."""
    return nn.functional.binary_cross_entropy_with_logits(model(batch[0]).squeeze(-1), batch[1])


def far_target(seed: int) -> Setup:
    """A regression whose target, 1000 and more, is a thousand times the first output."""
    torch.manual_seed(seed)
    task = digits()
    target = 1000.0 + 100.0 * task.targets
    return on_task(
        Mlp(hidden=2, outputs=1),
        Task(task.inputs, target),
        seed,
        optimizer=adam(1e-2),
        loss_fn=value_error,
        chance_loss=float(target.square().mean()),
    )


def one_logit(seed: int) -> Setup:
    """Odd or even by a single output: of rank one by nature."""
    torch.manual_seed(seed)
    task = digits()
    return on_task(
        Mlp(hidden=2, outputs=1),
        Task(task.inputs, (task.targets % 2).float()),
        seed,
        optimizer=adam(),
        loss_fn=logit_entropy,
        chance_loss=math.log(2.0),
    )


def least_squares(seed: int) -> Setup:
    """Linear regression, watched only at its minimum: half of the target is noise."""
    torch.manual_seed(seed)
    inputs = digits().inputs
    target = inputs @ torch.randn(64) * 0.1 + torch.randn(len(inputs))
    ones = torch.ones(len(inputs), 1)
    best = torch.linalg.lstsq(torch.cat([inputs, ones], 1), target, driver="gelsd").solution
    model = nn.Linear(64, 1)
    with torch.no_grad():
        model.weight.copy_(best[:64])
        model.bias.copy_(best[64])
    return Setup(
        model=model,
        optimizer=sgd(0.01)(model.parameters()),
        batch=lambda step: (inputs, target),
        loss_fn=value_error,
        steps=STEPS,
        chance_loss=float(target.var()),
    )


def bfloat16_mlp(seed: int) -> Setup:
    """An MLP under autocast in bfloat16."""
    return replace(mlp(seed, hidden=4, optimizer=adam()), autocast=torch.bfloat16)


def cosine_to_zero(seed: int, *, anneal: int = 200) -> Setup:
    """A learning rate that has fallen to zero after two thirds of the run."""
    setup = mlp(seed, hidden=3)
    schedule = CosineAnnealingLR(setup.optimizer, anneal)

    def keep_zero(step: int) -> None:
        if step < anneal:
            schedule.step()

    return replace(setup, after_step=keep_zero)


def fine_tuning(seed: int, *, steps_before: int = 150) -> Setup:
    """A ResNet trained on digits goes on with transposed ones, its norms frozen."""
    torch.manual_seed(seed)
    model = FineTunedResNet(blocks=3, width=16, gamma=1.0)
    earlier = on_task(model, digits(), seed + 1000, optimizer=adam(), steps=steps_before)

    def learn() -> None:
        train(earlier)
        model.freeze_norms()

    setup = on_task(model, transposed_digits(), seed, optimizer=adam(), steps=200)
    return replace(setup, before_watch=learn)


def rare_experts(seed: int) -> Setup:
    """A mixture of 16 experts whose router prefers the first few."""
    torch.manual_seed(seed)
    model = MoeNet(count=16, unrouted=0)
    with torch.no_grad():
        model.mixture.router.bias.copy_(-0.25 * torch.arange(16))
    return on_task(model, digits(), seed)
