"""What a probe says of a model, by layer and statistic, on the backend that is in use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import keras
import numpy as np

from gradwatch.keras.probe import Probe, figures_of, state_of
from gradwatch.keras.rows import Rows
from gradwatch.keras.signals import loss_of, store_signals
from gradwatch.snapshot import ROW_OF, empty_statistics

BACKEND = keras.backend.backend()

_PROBES = {"jax": "JaxProbe", "tensorflow": "TensorFlowProbe", "torch": "TorchProbe"}


def random(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal values, float32."""
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def array(tensor: Any) -> np.ndarray:
    """The values on the host."""
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.stop_gradient(tensor)))


class Probed:
    """A model, and what a probe of it has shown.

    Args:
        model: Compiled and built.
        x: Inputs.
        y: Targets.
        weight: Sample weights, None for none.
    """

    def __init__(self, model: Any, x: Any, y: Any = None, weight: Any = None) -> None:
        self.model = model
        self.rows = Rows(model)
        probe = getattr(import_module(f"gradwatch.keras.probe_{BACKEND}"), _PROBES[BACKEND])
        self.probe: Probe = probe(model, self.rows, (x, y, weight))
        self.run()

    def run(self) -> None:
        """Probe the present weights."""
        vector = array(self.probe.run(state_of(self.model)))
        assert self.probe.traced is not None
        self.traced = self.probe.traced
        wiring = self.traced.wiring
        self.rows.learn(wiring.order, wiring.edges, wiring.activations)
        self.layers = self.rows.layers()
        self.figures = figures_of(vector, self.traced)
        self.loss = loss_of(self.figures)
        self.statistics = empty_statistics(len(self.layers))
        store_signals(self.statistics, self.figures, self.traced, self.layers)

    def of(self, name: str, statistic: str) -> float:
        """A statistic of the layer of this name."""
        return float(self.statistics[ROW_OF[statistic], self._row(name)])

    def activation(self, name: str) -> tuple[str | None, str | None]:
        """The activation that follows a layer, and the layer or operation that it is."""
        layer = self.layers[self._row(name)]
        return layer.activation, layer.activation_module

    def inputs(self) -> dict[str, set[str]]:
        """Name → names of the layers that feed it."""
        return {
            layer.name: {self.layers[row].name for row in layer.inputs} for layer in self.layers
        }

    def order(self) -> list[str]:
        """Names in the order of the first calls."""
        return [layer.name for layer in sorted(self.layers, key=lambda layer: layer.depth)]

    def _row(self, name: str) -> int:
        return [layer.name for layer in self.layers].index(name)


def compiled(model: Any, loss: Any = "mse", **options: Any) -> Any:
    """The model, ready to train."""
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss, **options)
    return model


def stack(shape: tuple[int, ...], *layers: Any) -> Any:
    """A compiled Sequential model."""
    return compiled(keras.Sequential([keras.Input(shape), *layers]))
