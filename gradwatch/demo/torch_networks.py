"""The networks of the demo in PyTorch, trained by a loop of one's own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

import gradwatch
from gradwatch.demo.contest import LEARNING_RATE, MOMENTUM, Contestant, Outcome, Training

CONTESTANTS = (
    Contestant("sigmoid", "sigmoid, PyTorch's default initialisation", "sigmoid", he=False),
    Contestant("relu", "ReLU, He initialisation", "relu", he=True),
)

ACTIVATIONS: dict[str, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU}


def train(contestant: Contestant, training: Training) -> Outcome:
    """Train one network from scratch, watched by `gradwatch.watch`."""
    digits = training.digits
    with _one_thread():
        torch.manual_seed(training.seed)
        model = lenet(ACTIVATIONS[contestant.activation])
        if contestant.he:
            model.apply(he_initialise)
        optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
        # No budget: steps of a millisecond would leave room for no sample after step 128.
        with gradwatch.watch(
            model,
            optimizer,
            log_dir=training.log_dir,
            name=contestant.name,
            budget=None,
            verbose=0,
        ) as watch:
            for images, labels in digits.batches(training.steps, training.seed):
                loss = F.cross_entropy(model(_channel(images)), torch.from_numpy(labels))
                watch.observe_loss(loss)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
                optimizer.step()
                training.on_step(loss.item())
        loss, _ = _judged(model, digits.images, digits.labels)
        _, accuracy = _judged(model, digits.test_images, digits.test_labels)
    return Outcome(contestant, watch.report(), float(loss), float(accuracy))


def lenet(activation: type[nn.Module]) -> nn.Sequential:
    """LeNet-5 (LeCun et al. 1998) for images of 8 x 8, logits of shape (images, 10)."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 6, 3, padding=1),
            act1=activation(),
            pool1=nn.AvgPool2d(2),
            conv2=nn.Conv2d(6, 16, 3, padding=1),
            act2=activation(),
            pool2=nn.AvgPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(64, 120),
            act3=activation(),
            fc2=nn.Linear(120, 84),
            act4=activation(),
            head=nn.Linear(84, 10),
        )
    )


def he_initialise(module: nn.Module) -> None:
    """He et al. 2015, equation 10: weights of standard deviation sqrt(2 / fan_in), biases zero."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _judged(
    model: nn.Module, images: NDArray[np.float32], labels: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """(loss, accuracy)."""
    targets = torch.from_numpy(labels)
    with torch.no_grad():
        logits = model(_channel(images))
    return F.cross_entropy(logits, targets), (logits.argmax(dim=1) == targets).float().mean()


def _channel(images: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(images).unsqueeze(1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from threads, which wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
