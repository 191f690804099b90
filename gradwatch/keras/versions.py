"""Which versions of Keras and which of its backends the adapter is made for."""

from __future__ import annotations

import warnings

import keras

from gradwatch.errors import GradwatchError

OLDEST = (3, 12)
"""Oldest minor version of Keras with which a net was watched on all three backends."""

NEWEST = (3, 15)
"""The minor version of Keras that all tests run with."""

BACKENDS = ("tensorflow", "jax", "torch")


def check_versions(version: str = keras.__version__, backend: str | None = None) -> None:
    """Refuse what cannot work, and warn of a Keras that was never run.

    Args:
        version: Version of Keras.
        backend: Its backend, None for the present one.

    Raises:
        GradwatchError: For a Keras that is too old, or another backend.
    """
    backend = keras.backend.backend() if backend is None else backend
    minor = tuple(int(part) for part in version.split(".")[:2])
    known = f"{'.'.join(map(str, OLDEST))} to {'.'.join(map(str, NEWEST))}"
    if minor < OLDEST:
        raise GradwatchError(
            f"Keras {version} is older than gradwatch.keras can watch ({known}): "
            'pip install -U "keras>=' + ".".join(map(str, OLDEST)) + '"'
        )
    if backend not in BACKENDS:
        raise GradwatchError(
            f'KERAS_BACKEND is "{backend}", which does not train: set it to one of '
            f"{', '.join(BACKENDS)} before Keras is imported"
        )
    if minor > NEWEST:
        warnings.warn(
            f"gradwatch.keras is made for Keras {known}, and was never run with {version}; it "
            "reads parts of Keras that may have changed. Training is not affected.",
            stacklevel=3,
        )
