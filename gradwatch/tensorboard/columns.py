"""Columns: arrays put into a byte string and taken from it, one after the other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from gradwatch.samples import Flags


def column(entries: ArrayLike, dtype: DTypeLike) -> bytes:
    """The entries, row after row."""
    return np.asarray(entries, dtype=dtype).tobytes()


def flag_column(flags: ArrayLike) -> bytes:
    """The flags, row after row, a bit each: the first is the highest bit of the first octet."""
    return np.packbits(np.asarray(flags, dtype=np.bool_)).tobytes()


class Columns:
    """Arrays taken from a byte string.

    Args:
        octets: What `column` and `flag_column` gave, one after the other.
    """

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._offset = 0

    def take(self, dtype: DTypeLike, *shape: int) -> NDArray[Any]:
        """The next numbers.

        Raises:
            ValueError: If there are fewer.
        """
        count, size = math.prod(shape), np.dtype(dtype).itemsize
        if self._offset + count * size > len(self._octets):
            raise ValueError(f"its {len(self._octets):,} bytes are fewer than its header calls for")
        entries: NDArray[Any] = np.empty(0, dtype)
        if count:
            entries = np.frombuffer(self._octets, dtype, count, self._offset)
        self._offset += entries.nbytes
        return entries.reshape(shape)

    def take_flags(self, *shape: int) -> Flags:
        """The next flags, stored a bit each.

        Raises:
            ValueError: If there are fewer.
        """
        count = math.prod(shape)
        bits = np.unpackbits(self.take("u1", -(-count // 8)), count=count)
        return bits.astype(np.bool_).reshape(shape)

    def take_octet_flags(self, *shape: int) -> Flags:
        """The next flags, stored an octet each, as schema 1 did.

        Raises:
            ValueError: If there are fewer.
        """
        return self.take("u1", *shape).astype(np.bool_)

    def expect_end(self) -> None:
        """Nothing, if all was taken.

        Raises:
            ValueError: If there is more.
        """
        if self._offset != len(self._octets):
            raise ValueError(
                f"its {len(self._octets):,} bytes are more than the {self._offset:,} that its "
                "header calls for"
            )
