"""Cards: findings as the page shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradwatch.finding import Finding, Fix
from gradwatch.report_words import figure
from gradwatch.tensorboard.schema import number

THRESHOLD = "_threshold"
"""What the name of a figure's threshold ends with in the evidence."""


def card(finding: Finding, *, framework: str) -> dict[str, Any]:
    """A finding for JSON.

    Args:
        finding: The finding.
        framework: "torch" or "keras": whose snippets are shown.
    """
    return {
        "key": f"{finding.code}/{finding.cause}",
        "code": finding.code,
        "name": finding.name,
        "severity": finding.severity,
        "step": finding.step,
        "resolved_step": finding.resolved_step,
        "open": finding.is_open,
        "layers": list(finding.layers),
        "cause": finding.cause,
        "message": finding.message,
        "evidence": _evidence(finding.evidence),
        "fixes": [_fix(fix, framework) for fix in finding.fixes],
    }


def _evidence(evidence: Mapping[str, float]) -> list[dict[str, Any]]:
    """Each figure, its threshold beside it where the evidence holds one."""
    thresholds = {f"{name}{THRESHOLD}" for name in evidence} & set(evidence)
    return [
        {
            "name": name.replace("_", " "),
            "value": number(value),
            "text": figure(value),
            **_threshold(evidence.get(f"{name}{THRESHOLD}")),
        }
        for name, value in evidence.items()
        if name not in thresholds
    ]


def _threshold(limit: float | None) -> dict[str, Any]:
    if limit is None:
        return {"threshold": None, "threshold_text": None}
    return {"threshold": number(limit), "threshold_text": figure(limit)}


def _fix(fix: Fix, framework: str) -> dict[str, Any]:
    return {
        "kind": fix.kind,
        "title": fix.title,
        "rationale": fix.rationale,
        "reference": fix.reference,
        "snippet": fix.snippets.get(framework),
        "lr_factor": number(fix.lr_factor),
        "avoid_when": fix.avoid_when,
    }
