"""Cost of the Keras callback against a plain `fit`, and against Keras' TensorBoard callback.

Run it with `KERAS_BACKEND=jax python -m tests.benchmarks.bench_keras`, once for each backend; it
takes about ten minutes. Each round trains the same net three times, in changing order: plain, with
`GradWatch` at its defaults, and with `keras.callbacks.TensorBoard(histogram_freq=1)`. Two ratios to
the plain training of the same round are shown, each as the median over the rounds with the
smallest and the largest: of the whole training, compilation included, and of the median epoch once
the early samples are over. Both are ratios of the processor time of the process, which other
programs on the machine disturb little; the step beside them is by the clock. What GradWatch itself
says that it took stands last.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers
from rich.console import Console
from rich.table import Table

import gradwatch.keras

EPOCH = 100
"""Steps of an epoch."""

PROGRESS = Console(stderr=True, width=140)


@dataclass(frozen=True)
class Net:
    """A net to train.

    Args:
        name: What it is called in the table.
        model: Makes it.
        shape: Of one example.
        batch: Examples in a batch.
    """

    name: str
    model: Callable[[], Any]
    shape: tuple[int, ...]
    batch: int


class Epochs(keras.callbacks.Callback):
    """Seconds of every epoch, of the processor and by the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.processor: list[float] = []
        self.clock: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clocks."""
        self._began = time.process_time(), time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stop them."""
        processor, clock = self._began
        self.processor.append(time.process_time() - processor)
        self.clock.append(time.perf_counter() - clock)


def convolutional() -> Any:
    """Convolutions with batch normalisation, on small images."""
    blocks = [
        layer
        for filters in (16, 16, 32, 32)
        for layer in (
            layers.Conv2D(filters, 3, padding="same", kernel_initializer="he_normal"),
            layers.BatchNormalization(),
            layers.ReLU(),
        )
    ]
    head = [layers.GlobalAveragePooling2D(), layers.Dense(10)]
    return keras.Sequential([keras.Input((16, 16, 3)), *blocks, *head])


def perceptron() -> Any:
    """Twenty dense layers."""
    hidden = [
        layers.Dense(256, activation="relu", kernel_initializer="he_normal") for _ in range(19)
    ]
    return keras.Sequential([keras.Input((256,)), *hidden, layers.Dense(10)])


def transformer() -> Any:
    """Four pre-norm transformer blocks."""
    inputs = hidden = keras.Input((32, 64))
    for _ in range(4):
        normed = layers.LayerNormalization()(hidden)
        hidden = hidden + layers.MultiHeadAttention(4, 16)(normed, normed)
        feed = layers.Dense(256, activation="gelu")(layers.LayerNormalization()(hidden))
        hidden = hidden + layers.Dense(64)(feed)
    outputs = layers.Dense(10)(layers.GlobalAveragePooling1D()(hidden))
    return keras.Model(inputs, outputs)


NETS = (
    Net("CNN", convolutional, (16, 16, 3), 32),
    Net("20-layer MLP", perceptron, (256,), 256),
    Net("transformer", transformer, (32, 64), 16),
)


def nothing() -> list[Any]:
    """The plain training."""
    return []


def watched() -> list[Any]:
    """Ours, at its defaults, with event files."""
    return [gradwatch.keras.GradWatch(tempfile.mkdtemp(), verbose=0)]


def tensorboard() -> list[Any]:
    """Keras' own, with histograms of the weights after every epoch."""
    return [keras.callbacks.TensorBoard(tempfile.mkdtemp(), histogram_freq=1)]


VARIANTS: dict[str, Callable[[], list[Any]]] = {
    "plain": nothing,
    "gradwatch": watched,
    "TensorBoard": tensorboard,
}


class Seconds(NamedTuple):
    """What a training took.

    Args:
        whole: Processor time of all of it.
        settled: Processor time of the median epoch in its second half.
        clock: The same epoch by the clock.
    """

    whole: float
    settled: float
    clock: float


def train(net: Net, callbacks: list[Any], epochs: int) -> Seconds:
    """Seconds of a training from fresh weights."""
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    count = net.batch * EPOCH
    x = generator.normal(size=(count, *net.shape)).astype("float32")
    y = generator.integers(0, 10, count)
    model = net.model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    clocks = Epochs()
    began = time.process_time()
    model.fit(x, y, batch_size=net.batch, epochs=epochs, verbose=0, callbacks=[*callbacks, clocks])
    whole = time.process_time() - began
    later = slice(epochs // 2, None)
    return Seconds(
        whole, statistics.median(clocks.processor[later]), statistics.median(clocks.clock[later])
    )


def spread(ratios: list[float]) -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def measure(net: Net, rounds: int, epochs: int) -> list[str]:
    """A row of the table."""
    orders = itertools.cycle(itertools.permutations(VARIANTS))
    whole: dict[str, list[float]] = {name: [] for name in VARIANTS}
    settled: dict[str, list[float]] = {name: [] for name in VARIANTS}
    shares = []
    for order in itertools.islice(orders, rounds):
        seconds: dict[str, Seconds] = {}
        for name in order:
            callbacks = VARIANTS[name]()
            seconds[name] = train(net, callbacks, epochs)
            if name == "gradwatch":
                shares.append(callbacks[0].report().overhead.share)
        PROGRESS.print(net.name, seconds)
        for name, of in seconds.items():
            whole[name].append(of.whole / seconds["plain"].whole)
            settled[name].append(of.settled / seconds["plain"].settled)
        step = 1e3 * seconds["plain"].clock / EPOCH
    return [
        net.name,
        f"{step:.1f} ms",
        *(
            spread(ratios[name])
            for name in ("gradwatch", "TensorBoard")
            for ratios in (whole, settled)
        ),
        f"{statistics.median(shares):.1%}",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--net", choices=[net.name for net in NETS])
    options = parser.parse_args()
    titles = (
        "net",
        "step",
        "gradwatch, all",
        "settled",
        "TensorBoard, all",
        "settled",
        "own share",
    )
    table = Table(*titles, title=f"Keras {keras.__version__} on {keras.backend.backend()}")
    for net in NETS:
        if options.net in (None, net.name):
            table.add_row(*measure(net, options.rounds, max(options.steps // EPOCH, 2)))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
