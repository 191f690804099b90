"""A plain PyTorch loop on scikit-learn's digits, with gradwatch in one line.

The net is sick on purpose: eight hidden layers of sigmoids.
Try `--activation ReLU` next.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

import gradwatch


def deep_net(activation: type[nn.Module]) -> nn.Sequential:
    """A multilayer perceptron from 64 pixels to 10 digits."""
    layers: list[nn.Module] = []
    for _ in range(8):
        layers += [nn.Linear(64, 64), activation()]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def main() -> None:
    """Train for 200 steps and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--activation", default="Sigmoid", help="a class of torch.nn")
    parser.add_argument("--log-dir", default="runs/example")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    digits = load_digits()
    pixels = torch.tensor(digits.data, dtype=torch.float32)
    pixels = (pixels - pixels.mean()) / pixels.std()
    labels = torch.tensor(digits.target)

    model = deep_net(getattr(nn, arguments.activation))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loss_function = nn.CrossEntropyLoss()

    with gradwatch.watch(model, optimizer, log_dir=arguments.log_dir) as watch:
        for _ in range(200):
            batch = torch.randint(len(labels), (64,))
            loss = loss_function(model(pixels[batch]), labels[batch])
            watch.observe_loss(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    print(watch.report())


if __name__ == "__main__":
    main()
