"""Case: a labelled run, its expected finding, and the fix that proves the label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .setups import Setup

Build = Callable[[int], Setup]


@dataclass(frozen=True)
class Case:
    """A labelled run.

    Attributes:
        name: Unique; healthy ones start with `h_`.
        build: From a seed to the run.
        codes: Rule codes, any of which counts as a catch; empty for a healthy case.
        cause: The one that a finding has to name.
        layers: Those that a finding has to name, where the cause sits in known layers.
        also: Further (code, cause) pairs that are as right, where the case may go two ways.
        fixed: The same run with the right fix; None for a healthy case.
        fast: Part of the subset that the test suite runs.
    """

    name: str
    build: Build
    codes: tuple[str, ...] = ()
    cause: str | None = None
    layers: tuple[str, ...] = ()
    also: tuple[tuple[str, str], ...] = ()
    fixed: Build | None = None
    fast: bool = False

    @property
    def accepted(self) -> frozenset[str]:
        """The codes that count as a catch."""
        return frozenset(self.codes) | {code for code, _ in self.also}

    @property
    def sick(self) -> bool:
        """Whether a finding is expected."""
        return bool(self.codes)
