"""Severity, Finding and Fix: what a user reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from gradwatch.errors import ArgumentError

Severity = Literal["notice", "warning", "error"]
"""error: training cannot work as it is; warning: it works badly or may; notice: worth knowing."""

SEVERITIES: tuple[Severity, ...] = ("notice", "warning", "error")
"""All severities, mildest first."""

Cause = Literal[
    "activation",
    "weights",
    "inputs",
    "time",
    "precision",
    "learning rate",
    "loss",
    "wiring",
    "depth",
]
"""The factor of the chain rule, or the circumstance, that a finding blames.

"wiring" is how the parts are connected: a detached layer (GW401), or gradwatch itself (GW901,
GW902).
"""

FixKind = Literal[
    "activation",
    "initialisation",
    "normalisation",
    "residual",
    "inputs",
    "learning_rate",
    "loss",
    "loss_scale",
    "recurrent",
    "clipping",
    "pretraining",
    "wiring",
]


@dataclass(frozen=True, slots=True)
class Fix:
    """One change that fits the cause of a finding.

    Args:
        kind: Family of the fix.
        title: The change in one line.
        rationale: Why it fits this cause, in one or two sentences.
        reference: Paper and year, or the section of the documentation.
        snippets: Code per framework ("torch", "keras") that names the user's own layers.
        lr_factor: Factor for the learning rate that goes with the fix, besides what the snippet
            does; 1 leaves the rate alone.
        avoid_when: When the fix is wrong, as a clause that follows "Not if"; empty for a fix that
            can do no harm.

    Raises:
        ArgumentError: If there is no such kind.
    """

    kind: FixKind
    title: str
    rationale: str
    reference: str
    snippets: Mapping[str, str] = field(default_factory=dict)
    lr_factor: float = 1.0
    avoid_when: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(FixKind):
            raise ArgumentError(
                f"the kind {self.kind!r} of fix {self.title!r} is none of "
                f"{', '.join(get_args(FixKind))}; take the nearest"
            )


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem with one cause, on a group of layers.

    Its identity is (code, cause); layers, message and evidence are those of its latest update.

    Args:
        code: Rule code, for example `GW101`.
        name: The problem's name, for example `vanishing-gradient`.
        severity: "notice", "warning" or "error".
        step: Optimizer step at which it opened (at which it opened last, if it came back).
        layers: Names of the layers to change, in forward order.
        cause: The factor of the chain rule, or the circumstance, to blame.
        message: What was seen, where and why, in one or two sentences.
        evidence: Figure's name → value, thresholds included.
        fixes: Changes that fit the cause, the most promising first.
        resolved_step: Step at which it was gone, None while it is open.
    """

    code: str
    name: str
    severity: Severity
    step: int
    layers: tuple[str, ...]
    cause: Cause
    message: str
    evidence: Mapping[str, float] = field(default_factory=dict)
    fixes: tuple[Fix, ...] = ()
    resolved_step: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether the problem was still there at the latest sample."""
        return self.resolved_step is None


def listed(names: tuple[str, ...], most: int = 6) -> str:
    """Layer names in words: all of a few, the first and the last of many."""
    if not names:
        return "no layer"
    if len(names) == 1:
        return f"layer {names[0]}"
    if len(names) <= most:
        return f"layers {', '.join(names[:-1])} and {names[-1]}"
    return f"{len(names)} layers ({names[0]} to {names[-1]})"
