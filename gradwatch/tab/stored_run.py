"""Stored run: a run as the routes and the report show it, and what is kept of it unpacked."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from threading import Lock
from typing import Generic, TypeVar

from gradwatch.snapshot import FloatArray
from gradwatch.tab.matrix import Matrix
from gradwatch.tensorboard.reader import Recording

MOST_MATRICES = 6
"""Statistics of a run that stay unpacked."""

Key = TypeVar("Key")
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """The values that were used last, made when first asked for; any thread may ask.

    Args:
        most: Values kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of a key; others that ask meanwhile wait."""
        with self._lock:
            if key not in self._values:
                self._values[key] = make()
            self._values.move_to_end(key)
            while len(self._values) > self._most:
                self._values.popitem(last=False)
            return self._values[key]


@dataclass(frozen=True)
class StoredRun:
    """A run as it was stored when it was last read.

    Args:
        name: TensorBoard's name of the run.
        token: Changes when what is stored of the run does.
        recording: What was read.
        troubles: What could not be read, a sentence each.
    """

    name: str
    token: str
    recording: Recording
    troubles: tuple[str, ...] = ()
    _matrices: Recent[str, FloatArray] = field(
        default_factory=partial(Recent, MOST_MATRICES), repr=False
    )

    @cached_property
    def matrix(self) -> Matrix:
        """Its samples as arrays."""
        return Matrix(self.recording)

    def statistic(self, name: str) -> FloatArray:
        """`Matrix.statistic`, kept for the next time."""
        return self._matrices.get(name, lambda: self.matrix.statistic(name))
