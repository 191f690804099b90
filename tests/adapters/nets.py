"""The nets of the contract in PyTorch and Keras, trained for a few steps under gradwatch."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

import gradwatch
from gradwatch import Snapshot

from .cases import DECAYING, NETS
from .formulas import Array
from .net import RATE, READINGS, REPEATS, STEPS, Net


class TorchNet(nn.Module):
    """One of the nets, with the weights that it is given."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self._form = net.form
        for name, arrays in net.parameters_for(READINGS["torch"]).items():
            layer, values = _torch_layer(net, name, arrays)
            for parameter, array in zip(layer.parameters(), values, strict=True):
                parameter.data = _tensor(array)
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return getattr(self, f"_{self._form}")(x)

    def _mlp(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.sigmoid(self.second(torch.relu(self.first(x))))
        return self.head(torch.tanh(self.third(hidden)))

    def _chained(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.sigmoid(torch.tanh(self.first(x))))

    def _convolutional(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)).flatten(1))

    def _recurrent(self, x: torch.Tensor) -> torch.Tensor:
        states, _ = self.recurrent(x)
        return self.head(states[:, -1])

    def _residual(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.stem(x))
        return self.head(hidden + torch.tanh(self.branch(hidden)))

    def _repeated(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for _ in range(REPEATS):
            x = torch.tanh(self.shared(x))
        return self.head(x)


def _torch_layer(net: Net, name: str, arrays: list[Array]) -> tuple[nn.Module, list[Array]]:
    """A layer, and its parameters as PyTorch lays them out."""
    kernel = arrays[0]
    if name == "recurrent":
        layer: nn.Module = nn.RNN(*kernel.shape, batch_first=True)
        return layer, [arrays[0].T, arrays[1].T, *arrays[2:]]
    if name == "conv":
        layer = nn.Conv2d(kernel.shape[2], kernel.shape[3], kernel.shape[0])
        return layer, [kernel.transpose(3, 2, 0, 1), arrays[1]]
    layer = nn.Linear(*kernel.shape)
    if net.form == "convolutional":  # flattened with the channels first
        channels = net.parameters["conv"][0].shape[-1]
        side = int(np.sqrt(len(kernel) // channels))
        kernel = kernel.reshape(side, side, channels, -1).transpose(2, 0, 1, 3)
        kernel = kernel.reshape(-1, kernel.shape[-1])
    return layer, [kernel.T, arrays[1]]


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _torch_snapshots(net: Net) -> list[Snapshot]:
    model = TorchNet(net)
    x = _tensor(np.moveaxis(net.x, -1, 1) if net.form == "convolutional" else net.x)
    targets = torch.from_numpy(net.targets) if net.is_classifier else _tensor(net.targets)
    loss_of = nn.functional.cross_entropy if net.is_classifier else nn.functional.mse_loss
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, weight_decay=net.weight_decay)
    with gradwatch.watch(model, optimizer, every=1, budget=None, verbose=0) as watch:
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = loss_of(model(x), targets)
            watch.observe_loss(loss)
            loss.backward()
            if net.clipnorm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), net.clipnorm)
            optimizer.step()
    return list(watch.history)


def _keras_model(net: Net) -> Any:
    from keras import Input, Model, layers

    widths = {name: arrays[0].shape[-1] for name, arrays in net.parameters.items()}

    def dense(name: str) -> Any:
        return layers.Dense(widths[name], net.layers[name].activation, name=name)

    inputs = hidden = Input(net.x.shape[1:])
    if net.form == "mlp":
        for name in ("first", "second", "third"):
            hidden = dense(name)(hidden)
    elif net.form == "chained":
        hidden = layers.Dense(widths["first"], name="first")(hidden)
        hidden = layers.Activation("sigmoid")(layers.Activation("tanh")(hidden))
    elif net.form == "convolutional":
        hidden = layers.Conv2D(
            widths["conv"], 3, activation="relu", data_format="channels_last", name="conv"
        )(hidden)
        hidden = layers.Flatten()(hidden)
    elif net.form == "recurrent":
        hidden = layers.SimpleRNN(widths["recurrent"], name="recurrent")(hidden)
    elif net.form == "residual":
        stem = dense("stem")(hidden)
        hidden = layers.Add()([stem, dense("branch")(stem)])
    else:
        shared, hidden = dense("shared"), dense("stem")(hidden)
        for _ in range(REPEATS):
            hidden = shared(hidden)
    model = Model(inputs, layers.Dense(widths["head"], name="head")(hidden))
    for name, arrays in net.parameters.items():
        model.get_layer(name).set_weights([array.astype(np.float32) for array in arrays])
    return model


def _keras_snapshots(net: Net) -> list[Snapshot]:
    import keras

    from gradwatch.keras import GradWatch

    model = _keras_model(net)
    loss = keras.losses.MeanSquaredError()
    if net.is_classifier:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(
        RATE, weight_decay=net.weight_decay or None, global_clipnorm=net.clipnorm
    )
    model.compile(optimizer, loss)
    x = net.x.astype(np.float32)
    targets = net.targets.astype(np.int32 if net.is_classifier else np.float32)
    callback = GradWatch(update_freq="batch", budget=None, probe=(x, targets), verbose=0)
    model.fit(
        x,
        targets,
        batch_size=len(x),
        shuffle=False,
        epochs=STEPS,
        verbose=0,
        callbacks=[callback],
    )
    return list(callback.history)


@cache
def snapshots_of(adapter: str, net: str) -> list[Snapshot]:
    """The snapshots of the first steps of a net's training."""
    return {"torch": _torch_snapshots, "keras": _keras_snapshots}[adapter]((NETS | DECAYING)[net])
