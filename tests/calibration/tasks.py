"""Small supervised tasks: scikit-learn's digits, and three generators. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

Batch = tuple[Tensor, Tensor]
CLASSES = 10


@dataclass(frozen=True)
class Task:
    """A finite training set.

    Attributes:
        inputs: `(samples, ...)`.
        targets: `(samples,)` class indices; values in a regression; `(samples, tokens)` in a
            language model.
    """

    inputs: Tensor
    targets: Tensor

    def batches(self, seed: int, *, steps: int, size: int) -> Callable[[int], Batch]:
        """A function from a step to its batch, drawn with replacement, the same for one seed."""
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randint(len(self.inputs), (steps, size), generator=generator)
        return lambda step: (self.inputs[rows[step]], self.targets[rows[step]])


@cache
def pixels() -> Batch:
    """The 1,797 digits, `(1797, 64)` from 0 to 16, and their labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32), torch.tensor(labels)


def digits(factor: float = 1.0) -> Task:
    """Digits, standardised by the mean and deviation of the whole set, times a factor."""
    images, labels = pixels()
    return Task(factor * (images - images.mean()) / images.std(), labels)


def raw_digits() -> Task:
    """Digits with pixels from 0 to 255, as image files have them."""
    images, labels = pixels()
    return Task(images * (255.0 / 16.0), labels)


def unit_digits() -> Task:
    """Digits with pixels from 0 to 1, for outputs of a sigmoid."""
    images, labels = pixels()
    return Task(images / 16.0, labels)


def transposed_digits() -> Task:
    """Standardised digits, rows and columns swapped: new to a net that knows the digits."""
    task = digits()
    return Task(task.inputs.view(-1, 8, 8).transpose(1, 2).reshape(-1, 64), task.targets)


def digits_in_steps(length: int) -> Task:
    """Standardised digits as sequences of `length` steps, `(1797, length, 64 / length)`."""
    task = digits()
    return Task(task.inputs.view(len(task.inputs), length, -1), task.targets)


def progressions(seed: int, *, vocabulary: int, length: int, samples: int = 2000) -> Task:
    """Counting by 1, 2 or 3 modulo the vocabulary: name each next token.

    Inputs and targets are `(samples, length)` tokens; only the first target cannot be known.
    """
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(vocabulary, (samples, 1), generator=generator)
    stride = torch.randint(1, 4, (samples, 1), generator=generator)
    tokens = (first + stride * torch.arange(length + 1)) % vocabulary
    return Task(tokens[:, :-1], tokens[:, 1:])


def recall(seed: int, *, length: int = 60, samples: int = 2048) -> Task:
    """Name the first of `length` tokens; the ones after it are noise.

    Inputs are `(samples, length, 10)`: a one-hot token at the first step, weak noise afterwards.
    """
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(CLASSES, (samples,), generator=generator)
    inputs = 0.02 * torch.randn(samples, length, CLASSES, generator=generator)
    inputs[:, 0] = F.one_hot(targets, CLASSES).float()
    return Task(inputs, targets)


def sequences(seed: int, *, length: int = 40, samples: int = 4000) -> Task:
    """Ten smooth one-dimensional shapes, stretched, shifted and noisy, in the manner of MNIST-1D.

    Each class is a random walk through 12 points; a sample stretches it, moves it along the time
    axis, scales it, and adds noise (after Greydanus & Kobak, 2024). Inputs are
    `(samples, length, 1)`.
    """
    shapes = torch.randn(CLASSES, 12, generator=torch.Generator().manual_seed(0)).cumsum(1)
    shapes = (shapes - shapes.mean(1, keepdim=True)) / shapes.std(1, keepdim=True)
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(CLASSES, (samples,), generator=generator)
    uniform = torch.rand(3, samples, 1, generator=generator)
    width, height = 0.5 + 0.3 * uniform[0], 0.75 + 0.5 * uniform[1]
    start = (1.0 - width) * uniform[2]
    time = (torch.linspace(0.0, 1.0, length) - start) / width
    position = (time * 11.0).clamp(0.0, 11.0 - 1e-4)
    left = position.long()
    shape = shapes[targets]
    curve = torch.lerp(shape.gather(1, left), shape.gather(1, left + 1), position - left)
    inside = (time >= 0.0) & (time <= 1.0)
    noise = 0.1 * torch.randn(samples, length, generator=generator)
    return Task((height * curve * inside + noise).unsqueeze(-1), targets)


def zipf_documents(
    seed: int, *, vocabulary: int = 2000, words: int = 20, samples: int = 4000
) -> Task:
    r"""Documents of Zipf-distributed words, $p(\text{rank}) \propto 1/\text{rank}$, with a topic.

    Word `w` belongs to topic `w mod 10`; half of a document's words are of its topic. Inputs are
    `(samples, words)` word indices.
    """
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(CLASSES, (samples,), generator=generator)
    frequencies = 1.0 / torch.arange(1, vocabulary + 1)
    drawn = torch.multinomial(
        frequencies, samples * words, replacement=True, generator=generator
    ).view(samples, words)
    on_topic = torch.rand(samples, words, generator=generator) < 0.5
    return Task(torch.where(on_topic, drawn - drawn % 10 + targets.unsqueeze(1), drawn), targets)
