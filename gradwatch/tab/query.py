"""Query: the arguments of a request, checked; what cannot be used is told in a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping

from gradwatch.errors import GradwatchError
from gradwatch.report_words import printable

LONGEST_SHOWN = 80
"""Characters of an argument that a message repeats."""


class RequestError(GradwatchError):
    """A request cannot be answered.

    Args:
        sentence: What it is about, the value, and the next step.
        status: HTTP status: 400 for an argument that cannot be used, 404 for what is not there.
    """

    def __init__(self, sentence: str, *, status: int = 400) -> None:
        super().__init__(sentence)
        self.status = status


class Query:
    """The arguments of a request.

    Args:
        arguments: Name → value as it stands in the address.
    """

    def __init__(self, arguments: Mapping[str, str]) -> None:
        self._arguments = arguments

    def text(self, name: str) -> str:
        """An argument that has to be there.

        Raises:
            RequestError: If it is missing.
        """
        value = self._arguments.get(name)
        if value is None:
            raise RequestError(f"The argument {name!r} is missing; add {name}=... to the address.")
        return value

    def optional_text(self, name: str) -> str | None:
        """An argument; None if it is missing or empty."""
        return self._arguments.get(name) or None

    def count(self, name: str, *, most: int) -> int:
        """A whole number from 1 to `most`.

        Raises:
            RequestError: If it is missing or something else.
        """
        value = self.text(name)
        digits = value.isascii() and value.isdigit() and len(value) <= len(str(most))
        if not digits or not 1 <= int(value) <= most:
            raise RequestError(
                f"{name}={shown(value)} is not a whole number from 1 to {most:,}; pass one."
            )
        return int(value)

    def step(self, name: str) -> float:
        """A step, which may lie between two.

        Raises:
            RequestError: If it is missing or no number.
        """
        value = self.text(name)
        try:
            step = float(value)
        except ValueError:
            step = math.nan
        if not math.isfinite(step):
            raise RequestError(f"{name}={shown(value)} is not a number; pass a step.")
        return step

    def optional_step(self, name: str, default: float) -> float:
        """A step; the default if it is missing or empty.

        Raises:
            RequestError: If it is no number.
        """
        return default if self.optional_text(name) is None else self.step(name)


def shown(value: str) -> str:
    """An argument as a message repeats it: in quotes, in printable characters, not too long."""
    cut = value if len(value) <= LONGEST_SHOWN else f"{value[:LONGEST_SHOWN]}..."
    return repr(printable(cut))
