"""Randomness: what a pass of its own draws must not be missed by the training's next one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def kept() -> Iterator[None]:
    """Leave Python's and NumPy's global generators as they were: a layer's `call` may use them."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 -- the user's, not ours
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002 -- see above
