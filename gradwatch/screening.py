"""Screening: which rules a sample cannot concern, so that they need not run.

A rule is silent on a window none of whose samples it suspects, whatever came before. So a rule that
has no open finding, and suspects no sample of its newest window, changes nothing: it is not due.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from gradwatch.layer import Layer
from gradwatch.rules.base import Rule
from gradwatch.samples import Flags, Samples


class Screening:
    """Says of each sample which rules are due: those that could open a finding there.

    Args:
        rules: The rules; one whose own class does not define `suspects` is due at every sample.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = tuple(rules)
        self._calm = [0] * len(self._rules)
        self._layers: tuple[Layer, ...] | None = None

    def due(self, samples: Samples) -> Flags:
        """Which rules are due at which of the samples, shape (samples, rules).

        Args:
            samples: Those that were observed after the ones of the last call.
        """
        if samples.layers is not self._layers:
            # A suspicion knows its own sample's layers: a window of two kinds is not screened.
            self._calm = [0] * len(self._rules)
            self._layers = samples.layers
        due = np.ones((len(samples), len(self._rules)), dtype=np.bool_)
        for index, rule in enumerate(self._rules):
            # What a parent suspects may be too little for a subclass, whatever it overrides.
            if "suspects" in vars(type(rule)):
                calm = self._calm_after(index, rule.suspects(samples), samples)
                due[:, index] = calm < rule.size
                self._calm[index] = int(calm[-1])
        return due

    def _calm_after(self, index: int, suspected: Flags, samples: Samples) -> NDArray[np.intp]:
        """For each sample, how many that fit the rule came after its last suspect."""
        fits = ~samples.skipped
        if self._rules[index].needs == "signals":
            fits &= samples.has_signals
        fitting = np.cumsum(fits)
        latest = np.where(fits & suspected, fitting, -self._calm[index])
        return np.asarray(fitting - np.maximum.accumulate(latest))
