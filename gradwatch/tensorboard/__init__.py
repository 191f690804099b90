"""TensorBoard: event files in, event files out; importing this package imports none of it."""

from __future__ import annotations
