"""Comparison: two stored runs held against each other, see `compare`."""

from __future__ import annotations

from gradwatch.comparison.divergence import (
    DEFAULTS,
    FACTOR,
    OTHERWISE,
    PERSISTENCE,
    TRAVELS,
    compare,
)
from gradwatch.comparison.result import ComparedLayer, Comparison

__all__ = [
    "DEFAULTS",
    "FACTOR",
    "OTHERWISE",
    "PERSISTENCE",
    "TRAVELS",
    "ComparedLayer",
    "Comparison",
    "compare",
]
