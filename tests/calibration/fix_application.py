"""What a fix does to a training run: its PyTorch snippet, pasted in and run as it stands."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from gradwatch.finding import Fix
from gradwatch.fixes.snippets.text import EACH_STEP

from .objectives import QLearning
from .setups import Setup
from .tasks import Batch
from .training import final_progress, train

BY_HAND = re.compile(r"^# (In forward|In __init__|In place of|Take out what)", re.MULTILINE)
"""Starts of a comment that tells the user to change code which no snippet can reach."""

MODULE_OF: dict[Callable[..., Tensor], type[nn.Module]] = {
    F.relu: nn.ReLU,
    torch.relu: nn.ReLU,
    torch.tanh: nn.Tanh,
    torch.sigmoid: nn.Sigmoid,
}

EPOCH = 28
"""Batches that stand for the whole training set where a snippet wants `batches`."""


@dataclass(frozen=True)
class Pasted:
    """A run after a snippet, ready to train.

    Attributes:
        setup: The run.
        each_step: Code that stands for the body of the training loop, None for the usual one.
        names: The names that the code knows.
    """

    setup: Setup
    each_step: str | None
    names: dict[str, Any]

    def progress(self) -> float:
        """P after training to the end."""
        if self.each_step is None:
            return train(self.setup).progress
        self.setup.model.train()
        body = compile(self.each_step, "each step", "exec")
        losses = []
        for step in range(self.setup.steps):
            self.names["batch"] = self.setup.batch(step)
            exec(body, self.names)
            losses.append(float(self.names["loss"].detach()))
        return final_progress(self.setup, tuple(losses))


def label(fix: Fix) -> str:
    """The fix in words without the figures that depend on the case."""
    words, _, factor = fix.title.partition("Multiply the learning rate by ")
    if factor:
        return f"{'Raise' if float(factor) > 1 else 'Lower'} the learning rate"
    return words.partition(":")[0]


def needs_an_edit(fix: Fix) -> bool:
    """Whether the snippet asks for a change of code that cannot be made on a built model."""
    return BY_HAND.search(fix.snippets["torch"]) is not None


def paste(setup: Setup, fix: Fix) -> Pasted:
    """The run after the fix's PyTorch snippet.

    Args:
        setup: Fresh; it is changed.
        fix: With a snippet that runs on a built model.
    """
    once, marker, each_step = fix.snippets["torch"].partition(EACH_STEP)
    names: dict[str, Any] = {
        "model": setup.model,
        "optimizer": setup.optimizer,
        "loss_fn": setup.loss_fn,
        "batch": setup.batch(0),
        "batches": [setup.batch(step) for step in range(min(EPOCH, setup.steps))],
    }
    inputs = all_inputs(setup) if fix.kind == "inputs" else None
    if inputs is not None:
        names["inputs"] = inputs
    exec(compile(once, "snippet", "exec"), names)
    if fix.kind != "learning_rate" and names["optimizer"] is setup.optimizer:
        names["optimizer"] = made_again(setup.optimizer, names["model"])
    if isinstance(setup.loss_fn, QLearning):
        setup.loss_fn.target = deepcopy(names["model"])
    changed = replace(
        setup,
        model=names["model"],
        optimizer=names["optimizer"],
        loss_fn=names["loss_fn"],
        scheduler=names.get("scheduler", setup.scheduler),
        batch=setup.batch if inputs is None else with_inputs(setup, names["inputs"]),
    )
    return Pasted(changed, each_step if marker else None, names)


def made_again(optimizer: Optimizer, model: nn.Module) -> Optimizer:
    """An optimizer of the same class and settings over the model's parameters."""
    group = optimizer.param_groups[0]
    make: Callable[..., Optimizer] = type(optimizer)
    accepted = inspect.signature(make).parameters
    settings = {name: group[name] for name in optimizer.defaults if name in accepted}
    return make(model.parameters(), **settings)


def scale_learning_rate(setup: Setup, factor: float) -> Setup:
    """The run with another learning rate; a schedule starts from the new one."""
    for group in setup.optimizer.param_groups:
        group["lr"] *= factor
    if setup.scheduler is not None:
        setup.scheduler.base_lrs = [factor * rate for rate in setup.scheduler.base_lrs]
    return setup


def activations_as_modules(setup: Setup) -> Setup:
    """The same run with a module for each activation that `forward` calls as a function.

    A user edits `forward` there; on these nets the edit can be made for them.
    """
    functions = getattr(setup.model, "activations", None)
    if isinstance(functions, list) and functions and functions[0] in MODULE_OF:
        modules = nn.ModuleList(MODULE_OF[function]() for function in functions)
        setup.model.activations = modules
    return setup


def all_inputs(setup: Setup) -> Tensor:
    """The inputs of every batch of the run, one after the other."""
    return torch.cat([setup.batch(step)[0] for step in range(setup.steps)])


def with_inputs(setup: Setup, inputs: Tensor) -> Callable[[int], Batch]:
    """The batches with other inputs, given in the order of `all_inputs`."""
    parts = inputs.split([len(setup.batch(step)[0]) for step in range(setup.steps)])
    return lambda step: (parts[step], setup.batch(step)[1])
