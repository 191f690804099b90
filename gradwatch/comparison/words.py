"""Words of a comparison: one or two sentences for a report, the tab and the console."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradwatch.report_words import counted, figure, power

if TYPE_CHECKING:
    from gradwatch.comparison.result import Comparison, Divergence

NOUNS = {
    "output_grad_norm": "backward signal relative to the output layer",
    "grad_norm": "gradient norm",
    "input_grad_norm": "backward signal handed to the inputs",
    "output_grad_rms": "backward signal's rms",
    "activation_gain_log10": "activation's backward gain",
    "update_ratio": "update ratio",
    "weight_norm": "weight norm",
    "input_rms": "input's rms",
    "output_rms": "output's rms",
}
"""Statistics → what one says of them."""

LARGEST_LOG10 = 300
"""Beyond it a power of ten is no number any more: a stored log10 may be anything."""


def sentence(comparison: Comparison) -> str:
    """What became of the two runs, in plain words, with numbers."""
    a, b = comparison.names
    if not comparison.common_layers:
        return f"{a} and {b} have no layer in common, so they cannot be compared."
    if not comparison.steps:
        return (
            f"{a} and {b} share no step at which both observed the "
            f"{NOUNS[comparison.statistic]}, so they cannot be compared."
        )
    if comparison.is_same:
        return (
            f"No divergence: what {a} and {b} stored is equal bit by bit, up to step "
            f"{comparison.steps[-1]:,}."
        )
    said = [_leaving(comparison) if comparison.divergence else _staying(comparison)]
    said += (
        f"By their {NOUNS[statistic]} they diverge at step {divergence.step:,}, first in layer "
        f"{divergence.layer}."
        for statistic, divergence in comparison.otherwise.items()
    )
    if comparison.farthest_match:
        said.append(
            "Steps are held against the nearest that was observed, up to "
            f"{counted(comparison.farthest_match, 'step')} away."
        )
    return " ".join(said)


def ratio_words(ratio_log10: float) -> str:
    """A ratio of the second run to the first: "12 x", "1/340", "zero", "infinite"."""
    if math.isinf(ratio_log10):
        return "infinite" if ratio_log10 > 0 else "zero"
    size = _size(abs(ratio_log10))
    return f"{size} x" if ratio_log10 >= 0 or size == "1" else f"1/{size}"


def _staying(comparison: Comparison) -> str:
    layers = len(comparison.common_layers)
    of_layers = f"all {layers:,} common layers" if layers > 1 else "the only common layer"
    said = (
        f"No divergence: over {counted(len(comparison.steps), 'common step')} up to step "
        f"{comparison.steps[-1]:,}, the {NOUNS[comparison.statistic]} of {of_layers} stays within "
        f"a factor of {figure(comparison.factor)}"
    )
    largest = comparison.largest
    if largest is None:
        return f"{said}; that is too few steps to be sure."
    if largest.ratio_log10 == 0:
        return f"{said}."
    return f"{said}; the largest lasting ratio is {_size(largest.ratio_log10)}, in {largest.layer}."


def _leaving(comparison: Comparison) -> str:
    a, b = comparison.names
    divergence = comparison.divergence
    assert divergence is not None  # noqa: S101 -- the caller has asked
    ratio = divergence.ratio_log10
    way = "larger" if ratio > 0 else "smaller"
    share = "" if math.isinf(ratio) else f", {_size(abs(ratio))} times {way}"
    said = (
        f"{b} leaves {a} at step {divergence.step:,}, first in layer {divergence.layer}: its "
        f"{NOUNS[comparison.statistic]} is {_level(divergence.level_b)}, against "
        f"{_level(divergence.level_a)} in {a}{share}."
    )
    return f"{said} {_further(comparison, divergence)}"


def _further(comparison: Comparison, divergence: Divergence) -> str:
    leaving = sum(layer.first_step is not None for layer in comparison.layers)
    at_once = len(divergence.others) + 1
    when = "all" if at_once == leaving else f"{at_once:,} of them"
    return (
        f"{leaving:,} of {counted(len(comparison.common_layers), 'common layer')} come to differ "
        f"by more than a factor of {figure(comparison.factor)}, {when} from that step on."
    )


def _level(level: float) -> str:
    if math.isinf(level):
        return "zero" if level < 0 else "not finite"
    return power(10**level) if abs(level) < LARGEST_LOG10 else f"1e{level:.0f}"


def _size(ratio_log10: float) -> str:
    """10 to that power, in two significant digits."""
    if ratio_log10 >= LARGEST_LOG10:
        return "infinite" if math.isinf(ratio_log10) else f"1e{ratio_log10:.0f}"
    return figure(float(f"{10**ratio_log10:.2g}"))
