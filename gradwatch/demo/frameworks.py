"""Frameworks: finds the module that trains the demo's networks."""

from __future__ import annotations

import os
from importlib.util import find_spec

from gradwatch.demo.contest import Framework
from gradwatch.errors import MissingExtraError

BACKENDS = ("tensorflow", "jax", "torch")
"""Of Keras."""


def networks_of(framework: str) -> Framework:
    """The networks of a framework, which is imported.

    Args:
        framework: "torch" or "keras".

    Raises:
        MissingExtraError: If Keras' backend is not installed.
    """
    if framework == "torch":
        from gradwatch.demo import torch_networks

        return torch_networks
    # Read when a backend is loaded: threads gain nothing on tensors this small.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        from gradwatch.demo import keras_networks
    except ModuleNotFoundError as error:
        if error.name not in BACKENDS:
            raise
        installed = [name for name in BACKENDS if find_spec(name) is not None]
        choice = f"set KERAS_BACKEND to {' or '.join(installed)}, or " if installed else ""
        raise MissingExtraError(
            f"Keras is to run on {error.name}, which is not installed: {choice}"
            f"pip install {error.name}"
        ) from error
    return keras_networks
