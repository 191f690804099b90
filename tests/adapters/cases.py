"""The nets of the contract, each with weights and a batch of its own."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from .by_hand import chain, convolutional, recurrent, repeated, residual
from .formulas import Array
from .net import BATCH, TIME, Facts, Net

CLASSES, OUTPUTS = 4, 3


def _single(array: Array) -> Array:
    """Values that float32 holds exactly, so that every framework starts from the same."""
    return array.astype(np.float32).astype(np.float64)


class _Draw:
    """Random numbers of one net."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> Array:
        return _single(scale * self._generator.normal(size=shape))

    def dense(self, inputs: int, outputs: int, *, scale: float = 1.0) -> list[Array]:
        kernel = self.normal(inputs, outputs, scale=scale / np.sqrt(inputs))
        return [kernel, self.normal(outputs, scale=0.1 * scale)]

    def labels(self, classes: int) -> Array:
        return self._generator.integers(classes, size=BATCH)


def _mlp() -> Net:
    draw = _Draw(1)
    parameters = {
        "first": draw.dense(6, 8, scale=1.5),
        "second": draw.dense(8, 9, scale=4.0),
        "third": draw.dense(9, 7, scale=3.0),
        "head": draw.dense(7, CLASSES),
    }
    parameters["first"][1][0] = -8.0  # a unit that no example of the batch gets through
    activations = {"first": ("relu",), "second": ("sigmoid",), "third": ("tanh",), "head": ()}
    return Net(
        "mlp",
        {
            "first": Facts((), 6, 8, "relu"),
            "second": Facts((0,), 8, 9, "sigmoid"),
            "third": Facts((1,), 9, 7, "tanh"),
            "head": Facts((2,), 7, CLASSES),
        },
        parameters,
        draw.normal(BATCH, 6),
        draw.labels(CLASSES),
        partial(chain, activations),
    )


def _chained() -> Net:
    draw = _Draw(2)
    activations = {"first": ("tanh", "sigmoid"), "head": ()}
    return Net(
        "chained",
        {"first": Facts((), 6, 8, "tanh"), "head": Facts((0,), 8, OUTPUTS)},
        {"first": draw.dense(6, 8, scale=2.0), "head": draw.dense(8, OUTPUTS, scale=2.0)},
        draw.normal(BATCH, 6),
        draw.normal(BATCH, OUTPUTS),
        partial(chain, activations),
    )


def _convolutional() -> Net:
    draw = _Draw(3)
    conv = [draw.normal(3, 3, 2, 4, scale=0.3), draw.normal(4, scale=0.1)]
    conv[1][2] = -9.0  # a channel that nothing of the batch gets through
    return Net(
        "convolutional",
        {"conv": Facts((), 18, 36, "relu"), "head": Facts((0,), 64, CLASSES)},
        {"conv": conv, "head": draw.dense(64, CLASSES)},
        draw.normal(BATCH, 6, 6, 2),
        draw.labels(CLASSES),
        convolutional,
    )


def _recurrent() -> Net:
    draw = _Draw(4)
    kernel, bias = draw.dense(3, 5)
    return Net(
        "recurrent",
        {
            "recurrent": Facts((), 3, 5, recurrent=True),
            "head": Facts((0,), 5, OUTPUTS),
        },
        {
            "recurrent": [kernel, draw.normal(5, 5, scale=0.4), bias],
            "head": draw.dense(5, OUTPUTS),
        },
        draw.normal(BATCH, TIME, 3),
        draw.normal(BATCH, OUTPUTS),
        recurrent,
    )


def _residual() -> Net:
    draw = _Draw(5)
    return Net(
        "residual",
        {
            "stem": Facts((), 6, 8, "relu"),
            "branch": Facts((0,), 8, 8, "tanh"),
            "head": Facts((0, 1), 8, OUTPUTS),
        },
        {
            "stem": draw.dense(6, 8, scale=0.05),  # below the floor of an update ratio
            "branch": draw.dense(8, 8),
            "head": draw.dense(8, OUTPUTS),
        },
        draw.normal(BATCH, 6, scale=3.0),
        draw.normal(BATCH, OUTPUTS),
        residual,
    )


def _repeated() -> Net:
    draw = _Draw(6)
    return Net(
        "repeated",
        {
            "stem": Facts((), 6, 8),
            "shared": Facts((0,), 8, 8, "tanh", recurrent=True),
            "head": Facts((1,), 8, OUTPUTS),
        },
        {
            "stem": draw.dense(6, 8),
            "shared": draw.dense(8, 8),
            "head": draw.dense(8, OUTPUTS),
        },
        draw.normal(BATCH, 6),
        draw.normal(BATCH, OUTPUTS),
        repeated,
    )


_PLAIN = {
    "mlp": _mlp(),
    "convolutional": _convolutional(),
    "recurrent": _recurrent(),
    "residual": _residual(),
    "repeated": _repeated(),
    "chained": _chained(),
}

NETS = {
    **_PLAIN,
    "weight decay": replace(_PLAIN["mlp"], weight_decay=0.1),
    "recurrent weight decay": replace(_PLAIN["recurrent"], weight_decay=0.1),
    "clipping": replace(_PLAIN["mlp"], clipnorm=0.05),
}


def _decaying() -> Net:
    """The first layer lets nothing through: only weight decay moves it."""
    net = _mlp()
    net.parameters["first"][1][:] = -8.0
    return replace(net, weight_decay=0.1)


DECAYING = {"decaying": _decaying()}
