"""Result of a comparison: where two runs diverge, and how far apart they are at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gradwatch.comparison.words import sentence


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where one run leaves the other.

    Args:
        step: First step of the first run from which on it does.
        layer: The layer that a change reaches first, of those that leave at this step.
        ratio_log10: log10 of the second run's figure over the first's in the samples that make the
            divergence, their median; infinite where one of the two is zero or not finite.
        level_a: log10 of the first run's figure in those samples, their median.
        level_b: The same of the second run.
        others: Further layers that leave at the same step, in forward order.
    """

    step: int
    layer: str
    ratio_log10: float
    level_a: float
    level_b: float
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Largest:
    """The largest ratio that lasts as long as a divergence has to.

    Args:
        layer: Its layer.
        ratio_log10: Distance of the ratio from 1, log10: of 10 and of 1/10 alike it is 1.
    """

    layer: str
    ratio_log10: float


@dataclass(frozen=True, slots=True)
class ComparedLayer:
    """What became of one layer.

    Args:
        name: Its name.
        found_in: "both", or the only run that has it.
        first_step: Step from which on the runs diverge in it, None where they do not.
        ratio_log10: log10 of the second run's figure over the first's, the median over the last
            quarter of the common steps; None where it was not observed in both.
    """

    name: str
    found_in: Literal["both", "a", "b"]
    first_step: int | None = None
    ratio_log10: float | None = None


@dataclass(frozen=True, slots=True)
class Losses:
    """The losses of both runs at the last common step that has them; +inf if not finite."""

    step: int
    a: float
    b: float


@dataclass(frozen=True)
class Comparison:
    """Two runs held against each other.

    Args:
        names: Of the first run ("a") and of the second ("b").
        statistic: What was compared; of `output_grad_norm` the profile against the output layer.
        factor: Ratio beyond which the runs diverge.
        steps: Steps of the first run that were compared.
        farthest_match: Largest distance of a step to the one that it was held against.
        is_same: Whether everything stored of the two is the same, bit by bit.
        largest: The largest ratio that lasts, None where no layer was observed for as long.
        divergence: Where they diverge first, None if they do not.
        otherwise: Other statistic → where the runs diverge by it; empty where they do by the one
            that was compared, or where that one was asked for.
        layers: In the forward order of the first run, then those of the second alone.
        losses: None where no common step has a loss in both.
        open_findings: Keys ("GW101/activation") of each run's findings that are open at its end.
    """

    names: tuple[str, str]
    statistic: str
    factor: float
    steps: tuple[int, ...]
    farthest_match: int
    is_same: bool
    largest: Largest | None
    divergence: Divergence | None
    otherwise: Mapping[str, Divergence]
    layers: tuple[ComparedLayer, ...]
    losses: Losses | None
    open_findings: tuple[frozenset[str], frozenset[str]]

    @property
    def sentence(self) -> str:
        """What became of the two, in plain words, with numbers."""
        return sentence(self)

    @property
    def common_layers(self) -> tuple[ComparedLayer, ...]:
        """The layers that both runs have."""
        return tuple(layer for layer in self.layers if layer.found_in == "both")

    @property
    def findings(self) -> dict[str, list[str]]:
        """Keys of the open findings, sorted: "both", "only_a" (gone in b) and "only_b" (new)."""
        a, b = self.open_findings
        return {"both": sorted(a & b), "only_a": sorted(a - b), "only_b": sorted(b - a)}

    def as_json(self) -> dict[str, Any]:
        """What JSON can express: a number that is not finite is a string, as in the event files."""
        divergence, losses = self.divergence, self.losses
        return {
            "a": self.names[0],
            "b": self.names[1],
            "statistic": self.statistic,
            "factor": self.factor,
            "steps_compared": len(self.steps),
            "sentence": self.sentence,
            "divergence": None
            if divergence is None
            else {
                "step": divergence.step,
                "layer": divergence.layer,
                "ratio_log10": _number(divergence.ratio_log10),
                "others": list(divergence.others),
            },
            "layers": [
                {
                    "name": layer.name,
                    "in": layer.found_in,
                    "first_step": layer.first_step,
                    "ratio_log10": _number(layer.ratio_log10),
                }
                for layer in self.layers
            ],
            "losses": None
            if losses is None
            else {"step": losses.step, "a": _number(losses.a), "b": _number(losses.b)},
            "findings": self.findings,
        }


def _number(figure: float | None) -> float | str | None:
    if figure is None or math.isfinite(figure):
        return figure
    if math.isnan(figure):
        return "NaN"
    return "Infinity" if figure > 0 else "-Infinity"
