"""The attachment on PyTorch, where the training step runs eagerly or through `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gradwatch.keras.attachment import Arguments, Attachment, Copy, Execution
from gradwatch.keras.figures import StepFigures
from gradwatch.keras.probe import Probe
from gradwatch.keras.probe_torch import TorchProbe


class TorchCopy:
    """See `Copy`."""

    def __init__(self, values: Any) -> None:
        self._event: Any = None
        if values.device.type != "cuda":
            self._values = values.detach().to("cpu", copy=True)
            return
        self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        self._values.copy_(values.detach(), non_blocking=True)
        self._event = torch.cuda.Event()  # type: ignore[no-untyped-call] # untyped in PyTorch
        self._event.record()

    def is_ready(self) -> bool:
        """Whether it has arrived."""
        return self._event is None or bool(self._event.query())

    def figures(self) -> NDArray[np.floating[Any]]:
        """The figures."""
        if self._event is not None:
            self._event.synchronize()
        return np.asarray(self._values.numpy())


class TorchAttachment(Attachment):
    """See `Attachment`."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        variables = model.trainable_variables
        self._device = variables[0].value.device if variables else torch.device("cpu")
        self._carrier = self._empty()
        self._wanted = False

    def make_probe(self, batch: tuple[Any, Any, Any]) -> Probe:
        """See `Attachment.make_probe`."""
        return TorchProbe(self.model, self.rows, batch)

    def copy(self, values: Any) -> Copy:
        """See `Attachment.copy`."""
        return TorchCopy(values)

    def _tap(self, optimizer: Any, original: Callable[..., Any]) -> Callable[..., Any]:
        def apply(grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> Any:
            gradients = list(grads)
            variables = trainable_variables
            if variables is None:
                variables = optimizer._trainable_variables
            figures = self._before(optimizer, gradients, list(variables))
            outcome = original(gradients, trainable_variables)
            if figures is not None:
                self._after(figures)
            return outcome

        return apply

    # A compiled step runs these two outside its graphs, so that it computes what it did before.
    @torch.compiler.disable  # type: ignore[untyped-decorator] # untyped in PyTorch
    def _before(
        self, optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]
    ) -> StepFigures | None:
        try:
            with torch.no_grad():
                figures = self._step_figures(optimizer, self._carrier, self._wanted)
                figures.before(gradients, variables)
        except Exception as error:  # noqa: BLE001 -- promise 2: a fault never breaks a run
            self._fault(error)
            return None
        return figures

    @torch.compiler.disable  # type: ignore[untyped-decorator] # untyped in PyTorch
    def _after(self, figures: StepFigures) -> None:
        try:
            with torch.no_grad():
                self._carrier = figures.after()
        except Exception as error:  # noqa: BLE001 -- promise 2: a fault never breaks a run
            self._fault(error)

    def _run(self, execution: Execution, arguments: Arguments) -> Any:
        self._wanted = execution.observed
        return self._original(*arguments)

    def _carried(self) -> Copy:
        copy = self.copy(self._carrier)
        self._start_anew()
        return copy

    def _start_anew(self) -> None:
        self._carrier = self._empty()

    def _empty(self) -> Any:
        return torch.from_numpy(self.layout.empty()).to(self._device)

    def _captured(self, arguments: Arguments) -> tuple[Any, Arguments]:
        return arguments[0][0], arguments
