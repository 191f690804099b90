"""Small real nets on scikit-learn's digits, watched while they train."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Optimizer

import gradwatch
from gradwatch import Finding
from gradwatch.finding import Fix

Batch = tuple[Tensor, Tensor]
LossFn = Callable[[nn.Module, Batch], Tensor]

STEPS = 33
"""Samples at steps 0, 1, 2, 3, 4, 6, 8, 12, 16, 24 and 32: two windows, and two more."""


@dataclass(frozen=True)
class Run:
    """What a watched run left behind."""

    findings: tuple[Finding, ...]
    losses: tuple[float, ...]

    @property
    def alarms(self) -> list[tuple[str, str]]:
        """(code, cause) of every finding above a notice, resolved ones included."""
        return [
            (finding.code, finding.cause)
            for finding in self.findings
            if finding.severity != "notice"
        ]

    def finding(self, code: str) -> Finding:
        """The one finding with this code."""
        (found,) = [finding for finding in self.findings if finding.code == code]
        return found


@cache
def digits() -> Batch:
    """The digits, `(1797, 64)` with mean 0 and deviation 1, and their labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    inputs = torch.tensor(images, dtype=torch.float32)
    return (inputs - inputs.mean()) / inputs.std(), torch.tensor(labels)


def raw_digits() -> Batch:
    """The digits with pixels from 0 to 255."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images * (255.0 / 16.0), dtype=torch.float32), torch.tensor(labels)


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of logits."""
    inputs, targets = batch
    return F.cross_entropy(model(inputs).float(), targets)


def mlp(
    hidden: int,
    activation: Callable[[], nn.Module] = nn.ReLU,
    *,
    init: Callable[[Tensor], Any] = nn.init.kaiming_normal_,
    width: int = 32,
    seed: int = 0,
) -> nn.Sequential:
    """Hidden layers `0`, `2`, `4` ... with an activation after each, and a head; zero biases."""
    torch.manual_seed(seed)
    modules: list[nn.Module] = []
    for layer in range(hidden):
        modules += [nn.Linear(width if layer else 64, width), activation()]
    model = nn.Sequential(*modules, nn.Linear(width, 10))
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                init(layer.weight)
                layer.bias.zero_()
        nn.init.normal_(model[-1].weight, std=width**-0.5)
    return model


def sgd(model: nn.Module, lr: float = 0.05) -> Optimizer:
    """SGD with momentum over all parameters."""
    return SGD(model.parameters(), lr=lr, momentum=0.9)


def train(
    model: nn.Module,
    optimizer: Optimizer | None = None,
    *,
    samples: Batch | None = None,
    loss_fn: LossFn = cross_entropy,
    steps: int = STEPS,
    autocast: torch.dtype | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> Run:
    """Trains the model under a watch, on batches of 64."""
    optimizer = optimizer or sgd(model)
    inputs, targets = samples or digits()
    generator = torch.Generator().manual_seed(1)
    losses = []
    with gradwatch.watch(model, optimizer, budget=None, verbose=0) as watch:
        for _ in range(steps):
            rows = torch.randint(len(inputs), (64,), generator=generator)
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=autocast) if autocast else nullcontext():
                loss = loss_fn(model, (inputs[rows], targets[rows]))
            watch.observe_loss(loss)
            if scaler is None:
                loss.backward()
                optimizer.step()
            else:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            losses.append(loss.item())
    return Run(watch.findings, tuple(losses))


def apply(fix: Fix, **names: Any) -> dict[str, Any]:
    """Runs a fix's PyTorch snippet as a user would; the names it knows, and those it made."""
    exec(compile(fix.snippets["torch"], "snippet", "exec"), names)
    return names


def kinds(fixes: Iterable[Fix]) -> list[str]:
    """The families of the fixes."""
    return [fix.kind for fix in fixes]
