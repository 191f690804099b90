"""Sampling: how much of a tensor is looked at, the same for every framework."""

from __future__ import annotations

import math
from functools import lru_cache

SAMPLE_ELEMENTS = 4_096
"""Elements of a strided sample of a large tensor: about 1 % error of an update ratio."""

LEAST_EXAMPLES = 8
"""Examples below which their directions say nothing."""

MOST_EXAMPLES = 64
MOST_FEATURES = 2048
MOST_LOGITS = 65_536
"""Bounds on what is looked at, so that it costs the same however large the batch."""

LEAST_FEATURES = 4
"""Features below which vectors of one direction are common."""

LEAST_SIGNALS = 8
"""Numbers below which a loss that takes each unit for itself is not looked for."""

LEAST_PROBABILITY = 1e-12
"""Probabilities below this are rounding."""

ROUNDING = 1e-5
"""Misfits below this are rounding: where both are, no loss can be told from another."""

LEAST_CALLS = 8
"""A layer that feeds itself by repeated calls is judged over time from so many calls on."""


@lru_cache(maxsize=4096)
def sampling_stride(count: int, most: int) -> int:
    """The smallest stride that gives at most so many samples and is coprime to the count.

    So a sample never runs down a single column, whatever the sizes.

    Args:
        count: Elements, at least 1.
        most: Samples, at most.
    """
    stride = math.ceil(count / most)
    while math.gcd(stride, count) > 1:
        stride += 1
    return stride
