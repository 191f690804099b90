"""Limits: what cannot be observed of a model, said before training begins."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from gradwatch.errors import ArgumentError

COMPILED_CHOICES = ("skip", "graph", "eager")


@dataclass(frozen=True)
class Limits:
    """What is not observed.

    Args:
        sentences: What is missing and why, a sentence each.
        signals: Whether forward and backward signals can be observed.
    """

    sentences: tuple[str, ...]
    signals: bool


def limits_of(model: nn.Module, *, signals: bool, compiled: str) -> Limits:
    """What is missing for this model.

    Args:
        model: The user's model.
        signals: Whether the user wants signals.
        compiled: What to do with compiled modules.

    Raises:
        ArgumentError: If `compiled` is unknown or not available.
    """
    if compiled not in COMPILED_CHOICES:
        raise ArgumentError(f"compiled={compiled!r} is none of {', '.join(COMPILED_CHOICES)}")
    if compiled != "skip":
        raise ArgumentError(
            f'compiled="{compiled}" is not available in this version; use "skip", '
            "which observes the parameters of a compiled model"
        )
    sentences, blind = [], not signals
    if not signals:
        sentences.append("forward and backward signals are off (signals=False)")
    for reason in _blinding(model):
        sentences.append(f"{reason}: only parameters are observed, no forward or backward signals")
        blind = True
    sentences.extend(_distorting(model))
    return Limits(tuple(sentences), not blind)


def is_reporting_rank() -> bool:
    """Whether this process is the one of several that writes to the console and to event files."""
    return _world_size() == 1 or torch.distributed.get_rank() == 0


def _world_size() -> int:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return 1


def _blinding(model: nn.Module) -> list[str]:
    reasons = []
    modules = list(model.modules())
    compiled = any(
        type(module).__name__ == "OptimizedModule"
        or getattr(module, "_compiled_call_impl", None) is not None
        for module in modules
    )
    if compiled:
        reasons.append("the model is compiled, and hooks inside a compiled graph do not run")
    if any(isinstance(module, torch.jit.ScriptModule) for module in modules):
        reasons.append("the model is scripted or traced, and its hooks do not run")
    if any(isinstance(module, nn.DataParallel) for module in modules):
        reasons.append("nn.DataParallel runs replicas that hooks on the model do not see")
    return reasons


def _distorting(model: nn.Module) -> list[str]:
    sentences = []
    if any(type(parameter).__name__ == "DTensor" for parameter in model.parameters()):
        sentences.append("parameters are sharded: each figure is that of this rank's shard")
    size = _world_size()
    if size > 1:
        rank = torch.distributed.get_rank()
        sentences.append(
            f"{size} processes train together: signals, and gradients that are not averaged, "
            f"are those of rank {rank}"
        )
    return sentences
