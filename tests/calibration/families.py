"""Builders of training runs, one a family of nets; each is a function of the seed."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from .initialisation import Initialiser, he, initialise, lecun, orthogonal
from .nets import Activation, Cnn, LeNet, Mlp
from .setups import (
    BATCH,
    CHANCE_LOSS,
    STEPS,
    LossFn,
    MakeOptimizer,
    Setup,
    adam,
    binary_cross_entropy,
    cross_entropy,
    mean_squared_error,
    on_task,
    sgd,
)
from .structured import LoraLinear, LoraMlp, Recurrent
from .tasks import CLASSES, Task, digits, recall, sequences
from .training import train


def mlp(
    seed: int,
    *,
    hidden: int,
    width: int = 64,
    activation: Activation = nn.ReLU,
    init: Initialiser = he,
    exceptions: Mapping[int, Initialiser] | None = None,
    head_init: Initialiser = lecun,
    hidden_bias: float = 0.0,
    bias: bool = True,
    dropout: float = 0.0,
    residual: bool = False,
    detach_after: int | None = None,
    task: Callable[[], Task] = digits,
    optimizer: MakeOptimizer | None = None,
    loss_fn: LossFn = cross_entropy,
) -> Setup:
    """An MLP on digits; `exceptions` maps hidden layers, from 0, to their own initialisation."""
    torch.manual_seed(seed)
    model = Mlp(
        hidden=hidden,
        width=width,
        activation=activation,
        bias=bias,
        dropout=dropout,
        residual=residual,
        detach_after=detach_after,
    )
    layers = [layer for layer in model.hidden if isinstance(layer, nn.Linear)]
    initialise(layers, init, exceptions=exceptions, bias=hidden_bias)
    initialise([model.head], head_init)
    return on_task(model, task(), seed, optimizer=optimizer, loss_fn=loss_fn)


def cnn(
    seed: int,
    *,
    depth: int,
    width: int,
    activation: Activation = nn.ReLU,
    init: Initialiser = he,
    batch_norm: bool = False,
    lr: float,
    steps: int = 300,
    batch_size: int = 64,
) -> Setup:
    """A plain CNN on digits."""
    torch.manual_seed(seed)
    model = Cnn(depth=depth, width=width, activation=activation, batch_norm=batch_norm)
    initialise([conv for conv in model.convs if isinstance(conv, nn.Conv2d)], init)
    initialise([model.head], lecun)
    return on_task(model, digits(), seed, optimizer=sgd(lr), steps=steps, batch_size=batch_size)


def lenet(
    seed: int, *, activation: type[nn.Module], init: Initialiser | None = None, lr: float = 0.02
) -> Setup:
    """LeNet on digits; without `init`, torch's default initialisation stays."""
    torch.manual_seed(seed)
    model = LeNet(activation)
    if init is not None:
        initialise([model.conv1, model.conv2, model.fc1, model.fc2], init)
        initialise([model.head], lecun)
    return on_task(model, digits(), seed, optimizer=sgd(lr))


def default_net(
    seed: int,
    *,
    net: Callable[[], nn.Module],
    task: Callable[[int], Task] = lambda seed: digits(),
    optimizer: MakeOptimizer | None = None,
    loss_fn: LossFn = cross_entropy,
    steps: int = STEPS,
    chance_loss: float = CHANCE_LOSS,
) -> Setup:
    """A net with its own or torch's default initialisation."""
    torch.manual_seed(seed)
    return on_task(
        net(),
        task(seed),
        seed,
        optimizer=optimizer,
        loss_fn=loss_fn,
        steps=steps,
        chance_loss=chance_loss,
    )


def with_small_loss(setup: Setup, factor: float) -> Setup:
    """The same run with its cross-entropy times a factor."""
    return replace(
        setup,
        loss_fn=partial(cross_entropy, factor=factor),
        chance_loss=factor * setup.chance_loss,
    )


def small_loss_mlp(seed: int) -> Setup:
    """A loss times 1e-4, whose small gradients Adam makes good."""
    return with_small_loss(mlp(seed, hidden=4, optimizer=adam()), 1e-4)


def half_precision_mlp(seed: int, *, scaled: bool) -> Setup:
    """A loss so small that its gradients underflow in float16, unless it is scaled by 2^22."""
    setup = with_small_loss(mlp(seed, hidden=6, optimizer=adam()), 2e-7)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22) if scaled else None
    return replace(setup, autocast=torch.float16, scaler=scaler)


def confident_mlp(seed: int, *, squared_error: bool) -> Setup:
    """Ten independent outputs whose biases of 10 make the net confident before it has learned.

    With `squared_error` the net ends in a sigmoid, without in logits for binary cross-entropy.
    """
    torch.manual_seed(seed)
    hidden, head = nn.Linear(64, 64), nn.Linear(64, CLASSES)
    initialise([hidden], he)
    initialise([head], lecun, bias=10.0)
    layers = OrderedDict[str, nn.Module](hidden=hidden, relu=nn.ReLU(), head=head)
    if squared_error:
        layers["sigmoid"] = nn.Sigmoid()
    rate = 1.0 / CLASSES
    entropy = -rate * math.log(rate) - (1.0 - rate) * math.log(1.0 - rate)
    return on_task(
        nn.Sequential(layers),
        digits(),
        seed,
        optimizer=sgd(0.5, momentum=0.0),
        loss_fn=mean_squared_error if squared_error else binary_cross_entropy,
        chance_loss=rate * (1.0 - rate) if squared_error else entropy,
    )


def recall_rnn(
    seed: int, *, gain: float, lr: float, nonlinearity: Literal["tanh", "relu"] = "tanh"
) -> Setup:
    """An RNN that has to remember its first token; recurrent weights gain x orthogonal."""
    torch.manual_seed(seed)
    model = Recurrent(partial(nn.RNN, nonlinearity=nonlinearity), inputs=10, units=48)
    initialise_recurrent(model, orthogonal(gain))
    return on_task(model, recall(seed), seed, optimizer=sgd(lr))


def sequence_lstm(seed: int, *, forget_bias: float = 1.0) -> Setup:
    """An LSTM over 40 steps of one-dimensional shapes."""
    torch.manual_seed(seed)
    model = Recurrent(nn.LSTM, inputs=1, units=48)
    initialise_recurrent(model, None)
    with torch.no_grad():
        recurrent_bias = model.recurrent.get_parameter("bias_hh_l0")
        recurrent_bias[48:96] = forget_bias
    return on_task(model, sequences(seed), seed)


def initialise_recurrent(model: Recurrent, rule: Initialiser | None) -> None:
    """Zero biases, LeCun input weights, and recurrent weights by a rule if there is one."""
    with torch.no_grad():
        for name, parameter in model.recurrent.named_parameters():
            if "bias" in name:
                parameter.zero_()
            elif "weight_ih" in name and rule is not None:
                lecun(parameter)
            elif rule is not None:
                rule(parameter)
    initialise([model.head], lecun)


def warmed_up_mlp(seed: int, *, warmup: int = 60) -> Setup:
    """A learning rate that is 0 at the first step and rises linearly."""
    setup = mlp(seed, hidden=6)
    schedule = LambdaLR(setup.optimizer, lambda step: min(1.0, step / warmup))
    return replace(setup, scheduler=schedule)


def converged_mlp(seed: int, *, steps_before: int = 1200) -> Setup:
    """A net that has learned everything before it is watched."""
    setup = mlp(seed, hidden=4, optimizer=adam())
    earlier = digits().batches(seed + 1000, steps=steps_before, size=BATCH)
    return replace(
        setup, before_watch=partial(train, replace(setup, batch=earlier, steps=steps_before))
    )


def frozen_body_mlp(seed: int) -> Setup:
    """Random frozen hidden layers below a trained head."""
    setup = mlp(seed, hidden=3)
    for name, parameter in setup.model.named_parameters():
        parameter.requires_grad_(name.startswith("head"))
    return setup


def lora_mlp(seed: int) -> Setup:
    """A frozen random base with adapters of rank 8, whose B starts at zero."""
    torch.manual_seed(seed)
    model = LoraMlp(hidden=4, width=64, rank=8)
    bases = [layer.base for layer in model.modules() if isinstance(layer, LoraLinear)]
    initialise(bases, he)
    return on_task(model, digits(), seed)
