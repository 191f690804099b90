"""gradwatch: which layers do not learn, why, and what to change.

Importing it loads no framework: `gradwatch.watch` loads PyTorch when it is first used, and
`gradwatch.keras` loads Keras.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from gradwatch._version import __version__
from gradwatch.errors import ArgumentError, GradwatchError, MissingExtraError
from gradwatch.finding import Finding, Fix
from gradwatch.layer import Layer
from gradwatch.snapshot import Snapshot, State

if TYPE_CHECKING:
    from gradwatch import keras as keras
    from gradwatch.torch import Watch, watch

_FROM_TORCH = ("Watch", "watch")


def __getattr__(name: str) -> object:
    if name == "keras":
        _need("keras", f"gradwatch.{name} needs Keras 3")
        return import_module("gradwatch.keras")
    if name not in _FROM_TORCH:
        raise AttributeError(f"module 'gradwatch' has no attribute {name!r}")
    _need("torch", f"gradwatch.{name} needs PyTorch")
    return getattr(import_module("gradwatch.torch"), name)


def _need(package: str, sentence: str) -> None:
    try:
        import_module(package)
    except ImportError as error:
        raise MissingExtraError(f'{sentence}: pip install "gradwatch[{package}]"') from error


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "ArgumentError",
    "Finding",
    "Fix",
    "GradwatchError",
    "Layer",
    "MissingExtraError",
    "Snapshot",
    "State",
    "Watch",
    "__version__",
    "watch",
]
