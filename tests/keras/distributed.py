"""Trains a small net on two devices of one CPU, or on one, and prints what was observed, as JSON.

Run in a process of its own by `test_distribution.py`: the number of devices is fixed at the start.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

import numpy as np


def two_devices() -> Any:
    """A scope in which the model is made for two devices, on the backend of the process."""
    if os.environ["KERAS_BACKEND"] == "tensorflow":
        import tensorflow as tf

        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2
        )
        names = [device.name for device in tf.config.list_logical_devices("CPU")]
        return tf.distribute.MirroredStrategy(names).scope()
    import keras

    devices = keras.distribution.list_devices()
    assert len(devices) == 2
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    return contextlib.nullcontext()


def main(*, distributed: bool) -> None:
    """Train and print."""
    scope = two_devices() if distributed else contextlib.nullcontext()
    import keras
    from keras import layers

    import gradwatch.keras

    generator = np.random.default_rng(0)
    x = generator.normal(size=(256, 20)).astype("float32")
    y = generator.integers(0, 3, 256)
    keras.utils.set_random_seed(0)
    with scope:
        model = keras.Sequential(
            [
                keras.Input((20,)),
                layers.Dense(16, activation="relu", name="first"),
                layers.Dense(3, name="last"),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss)
    callback = gradwatch.keras.GradWatch(update_freq=2, verbose=0)
    model.fit(x, y, batch_size=64, epochs=2, verbose=0, shuffle=False, callbacks=[callback])
    observed = {
        name: [getattr(snapshot, name).tolist() for snapshot in callback.history]
        for name in ("grad_norm", "weight_norm", "update_ratio", "output_grad_norm")
    }
    observed["loss"] = [snapshot.loss for snapshot in callback.history]
    limits = [finding.message for finding in callback.findings]
    sys.stdout.write(json.dumps({"observed": observed, "limits": limits}) + "\n")


if __name__ == "__main__":
    main(distributed=sys.argv[1] == "two")
