"""`fit` on scikit-learn's digits, with gradwatch as one more callback.

The net is sick on purpose: eight hidden layers of sigmoids.
Try `--activation relu` next. `KERAS_BACKEND` chooses the backend.
"""

import argparse

import keras
from keras import layers
from sklearn.datasets import load_digits

from gradwatch.keras import GradWatch


def deep_net(activation: str) -> keras.Model:
    """A multilayer perceptron from 64 pixels to 10 digits."""
    hidden = [layers.Dense(64, activation=activation, name=f"hidden_{n}") for n in range(1, 9)]
    return keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(10, name="logits")])


def main() -> None:
    """Train for 8 epochs and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--activation", default="sigmoid", help="as Keras takes it")
    parser.add_argument("--log-dir", default="runs/keras")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(0)
    digits = load_digits()
    pixels = digits.data.astype("float32")
    pixels = (pixels - pixels.mean()) / pixels.std()

    model = deep_net(arguments.activation)
    model.compile(
        optimizer=keras.optimizers.SGD(0.05, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    watch = GradWatch(arguments.log_dir)
    model.fit(pixels, digits.target, batch_size=64, epochs=8, verbose=2, callbacks=[watch])

    print(watch.report())


if __name__ == "__main__":
    main()
