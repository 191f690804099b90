"""The networks of the demo in Keras, trained by `fit` on the backend that `KERAS_BACKEND` names."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from gradwatch.demo.contest import LEARNING_RATE, MOMENTUM, Contestant, Outcome, Training
from gradwatch.demo.digits import Batch
from gradwatch.keras import GradWatch

CONTESTANTS = (
    Contestant("sigmoid", "sigmoid, Keras' default initialisation", "sigmoid", he=False),
    Contestant("relu", "ReLU, He initialisation", "relu", he=True),
)


def train(contestant: Contestant, training: Training) -> Outcome:
    """Train one network from scratch, watched by the callback `GradWatch`."""
    digits = training.digits
    keras.utils.set_random_seed(training.seed)
    model = lenet(contestant.activation, "he_normal" if contestant.he else "glorot_uniform")
    model.compile(
        optimizer=keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    # No budget: steps of a millisecond would leave room for no sample after step 128.
    watch = GradWatch(training.log_dir, name=contestant.name, budget=None, verbose=0)
    batches = _Batches(list(digits.batches(training.steps, training.seed)))
    model.fit(batches, shuffle=False, callbacks=[watch, _Steps(training)], verbose=0)
    loss, _ = _judged(model, digits.images, digits.labels)
    _, accuracy = _judged(model, digits.test_images, digits.test_labels)
    return Outcome(contestant, watch.report(), loss, accuracy)


def lenet(activation: str, initialiser: str) -> Any:
    """LeNet-5 (LeCun et al. 1998) with one more convolution, logits of shape (images, 10)."""
    options = {"activation": activation, "kernel_initializer": initialiser}
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(6, 3, padding="same", name="conv1", **options),
            layers.AveragePooling2D(2, name="pool1"),
            layers.Conv2D(16, 3, padding="same", name="conv2", **options),
            layers.Conv2D(16, 3, padding="same", name="conv3", **options),
            layers.AveragePooling2D(2, name="pool2"),
            layers.Flatten(name="flatten"),
            layers.Dense(120, name="fc1", **options),
            layers.Dense(84, name="fc2", **options),
            layers.Dense(10, kernel_initializer=initialiser, name="head"),
        ]
    )


class _Batches(keras.utils.PyDataset):  # type: ignore[misc] # Keras ships no types
    """Batches in the order in which they were drawn.

    Args:
        drawn: The batches.
    """

    def __init__(self, drawn: list[Batch]) -> None:
        super().__init__()
        self._drawn = drawn

    def __len__(self) -> int:
        return len(self._drawn)

    def __getitem__(self, index: int) -> Batch:
        images, labels = self._drawn[index]
        return images[..., np.newaxis], labels


class _Steps(keras.callbacks.Callback):  # type: ignore[misc] # Keras ships no types
    """Says after each step how large the loss is."""

    def __init__(self, training: Training) -> None:
        super().__init__()
        self._on_step = training.on_step

    def on_train_batch_end(self, _: int, logs: dict[str, Any] | None = None) -> None:
        """Pass the mean loss of the epoch so far on."""
        self._on_step(float((logs or {})["loss"]))


def _judged(
    model: Any, images: NDArray[np.float32], labels: NDArray[np.int64]
) -> tuple[float, float]:
    """(loss, accuracy)."""
    loss, accuracy = model.evaluate(images[..., np.newaxis], labels, verbose=0)
    return float(loss), float(accuracy)
