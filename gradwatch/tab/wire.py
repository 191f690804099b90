"""Wire: how numbers travel to the page, as JSON or as arrays behind a JSON header.

A binary response is, little-endian: uint32 N; N octets of UTF-8 JSON, padded with spaces so that
4 + N is a multiple of 8; then the arrays, each padded with zeros to a multiple of 8. The header is
`{"meta": {...}, "arrays": [{"name", "dtype", "shape", "offset"}]}`, offsets counted from its end.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradwatch.tensorboard.schema import encode_json, number

DTYPES = {"float32": "<f4", "float64": "<f8", "int32": "<i4", "uint8": "u1"}
"""Name of a type in the header → how it is stored."""

ALIGNMENT = 8
"""Octets: a typed array of the browser must begin at a multiple of the size of its numbers."""


def observed(value: float) -> float | str | None:
    """As `number`, but None for NaN, which stands for "not observed"."""
    return None if math.isnan(value) else number(value)


def observed_list(values: Iterable[float]) -> list[float | str | None]:
    """`observed` of each value."""
    return [observed(float(value)) for value in values]


def encode(meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The octets of a binary response.

    Args:
        meta: What JSON can express.
        arrays: Name → array whose type is one of `DTYPES`.

    Raises:
        KeyError: If an array has another type.
    """
    entries, octets, offset = [], [], 0
    for name, array in arrays.items():
        dtype = DTYPES[array.dtype.name]
        body = _padded(np.ascontiguousarray(array, dtype=dtype).tobytes(), b"\0")
        entry = {"name": name, "dtype": array.dtype.name, "shape": array.shape, "offset": offset}
        entries.append(entry)
        octets.append(body)
        offset += len(body)
    prefix = struct.calcsize("<I")
    header = _padded(b" " * prefix + encode_json({"meta": meta, "arrays": entries}), b" ")[prefix:]
    return b"".join((struct.pack("<I", len(header)), header, *octets))


def _padded(octets: bytes, filling: bytes) -> bytes:
    return octets + filling * (-len(octets) % ALIGNMENT)
