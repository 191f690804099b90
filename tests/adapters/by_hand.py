"""Forward and backward passes of small nets, written out in NumPy, float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .formulas import Array, Call, Squash, sigmoid, softmax
from .net import REPEATS, Parameters, Passed, Reading

FUNCTIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "relu": (lambda y: np.maximum(y, 0), lambda y: (y > 0).astype(float)),
    "sigmoid": (sigmoid, lambda y: sigmoid(y) * (1 - sigmoid(y))),
    "tanh": (np.tanh, lambda y: 1 - np.tanh(y) ** 2),
}


def cross_entropy(z: Array, labels: Array) -> tuple[float, Array]:
    p, target = softmax(z), np.eye(z.shape[1])[labels.astype(int)]
    return float(-np.log((p * target).sum(axis=1)).mean()), (p - target) / len(z)


def mean_squared_error(z: Array, values: Array) -> tuple[float, Array]:
    return float(((z - values) ** 2).mean()), 2 * (z - values) / z.size


def dense_backward(x: Array, kernel: Array, dy: Array) -> tuple[list[Array], Array]:
    """(gradients of kernel and bias, dL/dx)."""
    return [x.T @ dy, dy.sum(axis=0)], dy @ kernel.T


def squash(name: str, y: Array, grad_out: Array) -> Squash:
    slopes = FUNCTIONS[name][1](y)
    return Squash(name, slopes, grad_out * slopes, grad_out)


def chain(
    activations: dict[str, tuple[str, ...]],
    parameters: Parameters,
    x: Array,
    targets: Array,
    reading: Reading,
) -> Passed:
    """Dense layers one after the other, each with its activations."""
    xs, ys, ahead = {}, {}, {}
    for name, after in activations.items():
        xs[name] = x
        x = ys[name] = x @ parameters[name][0] + parameters[name][1]
        ahead[name] = []
        for function in after:
            ahead[name].append(x)
            x = FUNCTIONS[function][0](x)
    loss, signal = (cross_entropy if targets.ndim == 1 else mean_squared_error)(x, targets)
    calls, gradients = {}, {}
    for name in reversed(activations):
        squashes: list[Squash] = []
        for function, given in zip(reversed(activations[name]), reversed(ahead[name]), strict=True):
            squashes.insert(0, squash(function, given, signal))
            signal = squashes[0].grad_in
        dy = signal
        gradients[name], signal = dense_backward(xs[name], parameters[name][0], dy)
        calls[name] = [Call(xs[name], ys[name], dy, signal, squashes)]
    return loss, calls, gradients


def convolutional(parameters: Parameters, x: Array, targets: Array, reading: Reading) -> Passed:
    """A valid convolution, channels last, a ReLU, and a dense layer on all of it."""
    (kernel, bias), (matrix, offset) = parameters["conv"], parameters["head"]
    size = kernel.shape[0]
    windows = sliding_window_view(x, (size, size), axis=(1, 2))
    y = np.einsum("nijcab,abco->nijo", windows, kernel) + bias
    flat = np.maximum(y, 0).reshape(len(x), -1)
    z = flat @ matrix + offset
    loss, dz = cross_entropy(z, targets)
    head, dflat = dense_backward(flat, matrix, dz)
    after = squash("relu", y, dflat.reshape(y.shape))
    dy = after.grad_in
    dx = np.zeros_like(x)
    for row in range(size):
        for column in range(size):
            seen = dx[:, row : row + y.shape[1], column : column + y.shape[2]]
            seen += dy @ kernel[row, column].T
    gradients = [np.einsum("nijcab,nijo->abco", windows, dy), dy.sum(axis=(0, 1, 2))]
    calls = {"conv": [Call(x, y, dy, dx, [after])], "head": [Call(flat, z, dz, dflat)]}
    return loss, calls, {"conv": gradients, "head": head}


def recurrent(parameters: Parameters, x: Array, targets: Array, reading: Reading) -> Passed:
    """A tanh RNN of which the last state is read."""
    kernel, loop, *biases = parameters["recurrent"]
    states = [np.zeros((len(x), loop.shape[0]))]
    for time in range(x.shape[1]):
        states.append(np.tanh(x[:, time] @ kernel + states[-1] @ loop + sum(biases)))
    matrix, offset = parameters["head"]
    z = states[-1] @ matrix + offset
    loss, dz = mean_squared_error(z, targets)
    head, dlast = dense_backward(states[-1], matrix, dz)
    dkernel, dloop, dbias = np.zeros_like(kernel), np.zeros_like(loop), np.zeros_like(biases[0])
    dx, signal = np.zeros_like(x), dlast
    for time in reversed(range(x.shape[1])):
        dsum = signal * (1 - states[time + 1] ** 2)
        dkernel += x[:, time].T @ dsum
        dloop += states[time].T @ dsum
        dbias += dsum.sum(axis=0)
        dx[:, time] = dsum @ kernel.T
        signal = dsum @ loop.T
    y, dy = states[-1], dlast
    if reading.whole_sequence:
        y = np.stack(states[1:], axis=1)
        dy = np.zeros_like(y)
        dy[:, -1] = dlast
    over_time = np.sqrt((dx**2).sum(axis=(0, 2)))
    calls = {
        "recurrent": [Call(x, y, dy, dx, over_time=over_time)],
        "head": [Call(states[-1], z, dz, dlast)],
    }
    return loss, calls, {"recurrent": [dkernel, dloop, *[dbias] * len(biases)], "head": head}


def residual(parameters: Parameters, x: Array, targets: Array, reading: Reading) -> Passed:
    """A dense ReLU layer, a dense tanh branch beside a skip, a head on the sum."""
    y = x @ parameters["stem"][0] + parameters["stem"][1]
    hidden = np.maximum(y, 0)
    inner = hidden @ parameters["branch"][0] + parameters["branch"][1]
    total = hidden + np.tanh(inner)
    z = total @ parameters["head"][0] + parameters["head"][1]
    loss, dz = mean_squared_error(z, targets)
    head, dtotal = dense_backward(total, parameters["head"][0], dz)
    bent = squash("tanh", inner, dtotal)
    branch, through = dense_backward(hidden, parameters["branch"][0], bent.grad_in)
    after = squash("relu", y, dtotal + through)
    stem, dx = dense_backward(x, parameters["stem"][0], after.grad_in)
    calls = {
        "stem": [Call(x, y, after.grad_in, dx, [after])],
        "branch": [Call(hidden, inner, bent.grad_in, through, [bent])],
        "head": [Call(total, z, dz, dtotal)],
    }
    return loss, calls, {"stem": stem, "branch": branch, "head": head}


def repeated(parameters: Parameters, x: Array, targets: Array, reading: Reading) -> Passed:
    """A dense tanh layer that is called on its own output again and again."""
    y = x @ parameters["stem"][0] + parameters["stem"][1]
    states, sums = [y], []
    for _ in range(REPEATS):
        sums.append(states[-1] @ parameters["shared"][0] + parameters["shared"][1])
        states.append(np.tanh(sums[-1]))
    z = states[-1] @ parameters["head"][0] + parameters["head"][1]
    loss, dz = mean_squared_error(z, targets)
    head, signal = dense_backward(states[-1], parameters["head"][0], dz)
    head_call = Call(states[-1], z, dz, signal)
    shared = [np.zeros_like(array) for array in parameters["shared"]]
    calls: list[Call] = []
    for number in reversed(range(REPEATS)):
        bent = squash("tanh", sums[number], signal)
        gradients, signal = dense_backward(states[number], parameters["shared"][0], bent.grad_in)
        shared = [total + gradient for total, gradient in zip(shared, gradients, strict=True)]
        calls.insert(0, Call(states[number], sums[number], bent.grad_in, signal, [bent]))
    stem, dx = dense_backward(x, parameters["stem"][0], signal)
    by_layer = {"stem": [Call(x, y, signal, dx)], "shared": calls, "head": [head_call]}
    return loss, by_layer, {"stem": stem, "shared": shared, "head": head}
