"""The digits that both networks of the demo learn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

BATCH = 64

Batch = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Images, shape (64, 8, 8), and their labels, shape (64,)."""


@dataclass(frozen=True)
class Digits:
    """1,797 images of handwritten digits, 8 x 8, standardised, a quarter of them for the test.

    Args:
        images: For training, shape (images, 8, 8).
        labels: Shape (images,).
        test_images: Shape (test images, 8, 8).
        test_labels: Shape (test images,).
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int64]

    def batches(self, steps: int, seed: int) -> Iterator[Batch]:
        """As many batches, each drawn from all training images."""
        generator = np.random.default_rng(seed)
        for _ in range(steps):
            rows = generator.integers(len(self.labels), size=BATCH)
            yield self.images[rows], self.labels[rows]


def load(seed: int) -> Digits:
    """The digits that scikit-learn brings along, split by the seed."""
    pixels, labels = load_digits(return_X_y=True)
    pixels = ((pixels - pixels.mean()) / pixels.std()).astype(np.float32).reshape(-1, 8, 8)
    images, test_images, labels, test_labels = train_test_split(
        pixels, labels, test_size=0.25, random_state=seed, stratify=labels
    )
    return Digits(images, labels, test_images, test_labels)
