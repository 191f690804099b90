"""Words and figures of a report: the same in a log, a terminal and a notebook."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from gradwatch.finding import SEVERITIES, Finding, Fix, listed
from gradwatch.report_rows import Fold, LayerRow, Scale
from gradwatch.schedule import EARLY_STEPS, Overhead
from gradwatch.snapshot import State

USUAL_BUDGET = 0.01
"""Share of the run's time beyond which a report says why it is so large."""


def printable(text: str) -> str:
    """The text with control characters escaped, line ends kept.

    Layer names are the user's, or come from a stored file: no escape sequence in one reaches the
    terminal.
    """
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


def counted(count: int, noun: str) -> str:
    """The count with its noun, in the plural unless it is one: "1 step", "1,200 steps"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def severity_counts(findings: Iterable[Finding]) -> str:
    """How many of each severity, worst first: "1 error and 2 warnings"; empty without findings."""
    counts = Counter(finding.severity for finding in findings)
    words = [
        counted(counts[severity], severity) for severity in reversed(SEVERITIES) if counts[severity]
    ]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def headline(finding: Finding) -> str:
    """The finding in a few words: name, code, layers."""
    where = f" on {listed(finding.layers)}" if finding.layers else ""
    return f"{finding.name} ({finding.code}){where}"


def resolved_line(finding: Finding) -> str:
    """A finding that is gone, in one line."""
    return (
        f"Resolved: {headline(finding)}, cause: {finding.cause}, "
        f"from step {finding.step:,} to step {finding.resolved_step:,}."
    )


def fix_caveats(fix: Fix) -> tuple[str, ...]:
    """What to do with the learning rate, and when the fix is wrong: a sentence each, if any."""
    avoid = f"Not if {fix.avoid_when}." if fix.avoid_when else ""
    return tuple(filter(None, (_learning_rate(fix), avoid)))


def _learning_rate(fix: Fix) -> str:
    if fix.kind == "learning_rate":
        return ""
    if fix.lr_factor == 1:
        return "Learning rate: unchanged."
    change = f"lr/{1 / fix.lr_factor:.3g}" if fix.lr_factor < 1 else f"lr x {fix.lr_factor:.3g}"
    return f"Learning rate: try {change} with it."


def figure(value: float) -> str:
    """A number in three significant digits: "0.013", "-5.23", "1,600", "not observed"."""
    if math.isnan(value):
        return "not observed"
    if math.isinf(value):
        return "not finite" if value > 0 else "-inf"
    if value == round(value) and abs(value) < 1e6:
        return f"{value:,.0f}"
    if 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return power(value)


def power(ratio: float) -> str:
    """A number in two digits and a power of ten: "1.2e-3"; "-" where it was not observed."""
    if math.isnan(ratio):
        return "-"
    if math.isinf(ratio):
        return "inf"
    if ratio == 0:
        return "0"
    digits, exponent = f"{ratio:.1e}".split("e")
    return f"{digits}e{int(exponent)}"


def percent(fraction: float) -> str:
    """A fraction as "92 %"; only an exact 0 or 1 reads "0 %" or "100 %"."""
    if 0 < fraction < 0.005:
        return "<1 %"
    if 0.995 <= fraction < 1:
        return ">99 %"
    return f"{100 * fraction:.0f} %"


def level_name(level: float) -> str:
    """A backward level (log10 against the output layer's): "-5.2", "zero", "not observed"."""
    if math.isnan(level):
        return "not observed"
    if math.isinf(level):
        return "zero" if level < 0 else "not finite"
    return f"{round(level, 1) + 0.0:.1f}"


def flat_name(row: LayerRow) -> str:
    """The share of flat units or values: "92 % saturated"; empty where it was not observed."""
    return "" if row.flat_kind is None else f"{percent(row.flat_fraction)} {row.flat_kind}"


def kind_name(row: LayerRow) -> str:
    """The module's class and the activation that follows: "Conv2d, sigmoid"."""
    follows = f", {row.layer.activation}" if row.layer.activation else ""
    return f"{row.layer.kind}{follows}"


def state_name(state: State) -> str:
    """The state in words: "no gradient"."""
    return state.name.lower().replace("_", " ")


def fold_names(fold: Fold) -> tuple[str, str]:
    """What a fold stands for, and the range of its backward levels."""
    levels = fold.backward_range
    return (
        f"{len(fold.rows):,} more layers",
        f"{level_name(levels[0])} to {level_name(levels[1])}" if levels else "not observed",
    )


def evidence_words(evidence: Mapping[str, float]) -> str:
    """The figures, each with its threshold beside it where the evidence holds one."""
    thresholds = {f"{name}_threshold" for name in evidence} & set(evidence)
    words = []
    for name, value in evidence.items():
        limit = evidence.get(f"{name}_threshold")
        beside = "" if limit is None else f" (threshold {figure(limit)})"
        if name not in thresholds:
            words.append(f"{name.replace('_', ' ')} {figure(value)}{beside}")
    return ", ".join(words)


def legend(scale: Scale, step: int | None) -> str:
    """How to read the bars of the table of layers."""
    lead = "" if step is None else f"Step {step:,}. "
    return (
        f"{lead}Bar: log10 |dL/dy| against the output layer's, "
        f"{scale.low:.0f} empty to {scale.high:.0f} full."
    )


def overhead_line(overhead: Overhead) -> str:
    """What gradwatch cost and how often it looks now, in one sentence."""
    alone = overhead.parameter_samples - overhead.signal_samples
    samples = counted(overhead.signal_samples, "full sample")
    samples += f" and {alone:,} of parameters alone" if alone else ""
    exempt = f" Samples up to step {max(EARLY_STEPS)} are exempt from the budget."
    return (
        f"gradwatch took {overhead.seconds:.2f} s, {100 * overhead.share:.1f} % of the run's time, "
        f"for {samples} in {counted(overhead.steps, 'step')}; now it reads parameters every "
        f"{overhead.parameter_interval:,} steps and signals every {overhead.signal_interval:,}."
        f"{exempt if overhead.share > USUAL_BUDGET else ''}"
    )
