"""Attaching: finds or makes the attachment of a model, whatever an earlier training left behind."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import keras

from gradwatch.keras.attachment import Attachment

_ATTACHMENTS = {
    "jax": "JaxAttachment",
    "tensorflow": "TensorFlowAttachment",
    "torch": "TorchAttachment",
}


def attachment_of(model: Any) -> Attachment | None:
    """The attachment that stands in for the model's training step, None without one."""
    found = vars(model).get("train_function")
    return found if isinstance(found, Attachment) else None


def attach(model: Any, earlier: Attachment | None = None) -> Attachment:
    """An attachment in place: the earlier one where that is still good, or else a new one."""
    is_good = earlier is not None and earlier.model is model and earlier.may_return()
    attachment = earlier if earlier is not None and is_good else _made(model)
    attachment.install()
    return attachment


def _made(model: Any) -> Attachment:
    backend = keras.backend.backend()
    made = getattr(import_module(f"gradwatch.keras.attachment_{backend}"), _ATTACHMENTS[backend])
    attachment: Attachment = made(model)
    return attachment


def is_ready(model: Any) -> bool:
    """Whether the model has its variables, so that they can be watched from the first step on."""
    return bool(model.built) and bool(model.trainable_variables)


def withdraw(model: Any) -> None:
    """Leave no stand-in behind that was waiting for a step which made no variable to watch."""
    found = vars(model).get("train_function")
    if isinstance(found, AfterFirstStep):
        found.withdraw()


class AfterFirstStep:
    """Stands in for the first call of a training step that has yet to make the model's variables.

    Args:
        model: The model.
        attach: Called with it once the step has run.
    """

    def __init__(self, model: Any, attach: Callable[[Any], None]) -> None:
        self._model = model
        self._attach = attach
        self._original = model.train_function

    def install(self) -> None:
        """Take the place of the training step."""
        vars(self._model)["train_function"] = self

    def withdraw(self) -> None:
        """Give the place back."""
        if vars(self._model).get("train_function") is self:
            vars(self._model)["train_function"] = self._original

    def __call__(self, *arguments: Any) -> Any:
        """The user's step, and what was waiting for it."""
        self.withdraw()
        outcome = self._original(*arguments)
        self._attach(self._model)
        return outcome
