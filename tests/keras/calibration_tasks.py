"""The data of the calibration cases as NumPy arrays, and the batches that a seed draws from it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

CLASSES = 10
BATCH = 64

Arrays = tuple[NDArray[np.float32], NDArray[np.int64]]
Task = Callable[[int], Arrays]


@cache
def _pixels() -> Arrays:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images.astype(np.float32), labels.astype(np.int64)


def digits(seed: int = 0) -> Arrays:
    """The 1,797 digits, shape (1797, 64), standardised by the mean and deviation of all."""
    images, labels = _pixels()
    return (images - images.mean()) / images.std(ddof=1), labels


def recall(seed: int, *, length: int = 60, samples: int = 2048) -> Arrays:
    """Name the first of `length` one-hot tokens; those after it are weak noise.

    Inputs are of shape (samples, length, 10).
    """
    random = np.random.default_rng(seed)
    targets = random.integers(CLASSES, size=samples)
    inputs = 0.02 * random.normal(size=(samples, length, CLASSES))
    inputs[:, 0] = np.eye(CLASSES)[targets]
    return inputs.astype(np.float32), targets


def sequences(seed: int, *, length: int = 40, samples: int = 4000) -> Arrays:
    """Ten smooth shapes, stretched, shifted, scaled and noisy, in the manner of MNIST-1D.

    A class is a random walk through 12 points (after Greydanus & Kobak 2024). Inputs are of shape
    (samples, length, 1).
    """
    shapes = np.random.default_rng(0).normal(size=(CLASSES, 12)).cumsum(1)
    shapes = (shapes - shapes.mean(1, keepdims=True)) / shapes.std(1, ddof=1, keepdims=True)
    random = np.random.default_rng(seed)
    targets = random.integers(CLASSES, size=samples)
    uniform = random.uniform(size=(3, samples, 1))
    width, height = 0.5 + 0.3 * uniform[0], 0.75 + 0.5 * uniform[1]
    time = (np.linspace(0, 1, length) - (1 - width) * uniform[2]) / width
    position = np.clip(time * 11, 0, 11 - 1e-4)
    left = position.astype(int)
    shape = shapes[targets]
    begin, end = (np.take_along_axis(shape, left + one, 1) for one in (0, 1))
    curve = height * (begin + (end - begin) * (position - left)) * ((time >= 0) & (time <= 1))
    noisy = curve + 0.1 * random.normal(size=(samples, length))
    return noisy[..., None].astype(np.float32), targets


def drawn(task: Task, seed: int, steps: int) -> Arrays:
    """Batches one after the other, drawn with replacement, shape (steps * BATCH, ...)."""
    inputs, targets = task(seed)
    rows = np.random.default_rng(1000 + seed).integers(len(inputs), size=steps * BATCH)
    return inputs[rows], targets[rows]
