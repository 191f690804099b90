"""Summary: the findings of a run as one Markdown text for TensorBoard's Text dashboard.

Names of layers, and so messages and snippets, are the user's own: nothing in them may act as
Markdown or as HTML.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gradwatch.finding import SEVERITIES, Finding, Fix, Severity
from gradwatch.report_words import counted, figure, fix_caveats, severity_counts

VERDICTS: dict[Severity, str] = {
    "error": "Training cannot work as it is.",
    "warning": "Training works badly, or may.",
    "notice": "No problem found, only notices.",
}
"""What the worst open finding means for the run."""

_MOST_LAYERS = 12
_PLAIN_NAME = re.compile(r"[\w.:/\[\]-]+( [\w.:/\[\]-]+)*", re.ASCII)


NO_FINDINGS_YET = (
    "**No findings so far.** gradwatch writes here when a layer does not learn: which one, why, "
    "and what to change."
)
"""The text of a run that goes on and has no finding; it must stay true without being rewritten."""


def healthy_summary(*, observed: int, last_step: int) -> str:
    """The text of a run that ended without a finding.

    Args:
        observed: Number of observed steps.
        last_step: The last of them.
    """
    steps = counted(observed, "observed step")
    return f"**No findings** in {steps}; the last is step {last_step:,}."


def findings_summary(findings: Sequence[Finding], *, framework: str) -> str:
    """The text of a run that has findings: a verdict, the open ones, then the resolved ones.

    Args:
        findings: At least one.
        framework: "torch" or "keras", whose snippets are shown.
    """
    opened = [finding for finding in findings if finding.is_open]
    opened.sort(key=lambda finding: -SEVERITIES.index(finding.severity))
    resolved = [finding for finding in findings if not finding.is_open]
    blocks = [_verdict(opened, resolved)]
    for finding in opened:
        blocks += _open_blocks(finding, framework)
    if resolved:
        blocks += ["### Resolved", "\n".join(_resolved_line(finding) for finding in resolved)]
    return "\n\n".join(blocks)


def escape(text: str) -> str:
    """The text as one line of Markdown that shows every character and acts on none."""
    text = "".join(map(_visible, text)).strip()
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_\[\]!|#])", r"\\\1", text)
    return re.sub(r"^(\d*)([-+.])", r"\1\\\2", text)


def code_name(name: str) -> str:
    """A layer's name as code; in plain text if it holds what code cannot show for certain."""
    return f"`{name}`" if _PLAIN_NAME.fullmatch(name) else escape(name)


def _verdict(opened: Sequence[Finding], resolved: Sequence[Finding]) -> str:
    if not opened:
        return f"**No open findings**; {counted(len(resolved), 'finding')} resolved."
    return f"**{VERDICTS[opened[0].severity]}** Open findings: {severity_counts(opened)}."


def _open_blocks(finding: Finding, framework: str) -> list[str]:
    blocks = [
        f"### {escape(finding.code)} {escape(finding.name)} ({finding.severity})",
        escape(finding.message),
        f"Since step {finding.step:,}. Cause: {escape(finding.cause)}. {_layers(finding.layers)}",
    ]
    if finding.evidence:
        blocks.append(_evidence(finding))
    for fix in finding.fixes[:1]:
        blocks += _fix_blocks(fix, framework)
    if finding.fixes[1:]:
        titles = "\n".join(f"- {escape(fix.title)}" for fix in finding.fixes[1:])
        blocks += ["Other fixes:", titles]
    return blocks


def _evidence(finding: Finding) -> str:
    """A table of the figures, each with its threshold beside it where the evidence holds one."""
    evidence = finding.evidence
    threshold_of = {name: f"{name}_threshold" for name in evidence}
    rows = ["| evidence | value | threshold |", "|---|---|---|"]
    for name, value in evidence.items():
        limit = evidence.get(threshold_of[name])
        beside = "" if limit is None else figure(limit)
        if name not in threshold_of.values():
            rows.append(f"| {escape(name.replace('_', ' '))} | {figure(value)} | {beside} |")
    return "\n".join(rows)


def _fix_blocks(fix: Fix, framework: str) -> list[str]:
    reference = f" ({escape(fix.reference)})" if fix.reference else ""
    blocks = [f"**Fix: {escape(fix.title)}.** {escape(fix.rationale)}{reference}"]
    if caveats := fix_caveats(fix):
        blocks.append(escape(" ".join(caveats)))
    if snippet := fix.snippets.get(framework):
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", snippet)), default=0))
        blocks.append(f"{fence}python\n{snippet.strip()}\n{fence}")
    return blocks


def _resolved_line(finding: Finding) -> str:
    name = f"{escape(finding.code)} {escape(finding.name)} ({escape(finding.cause)})"
    steps = f"steps {finding.step:,} to {finding.resolved_step:,}"
    return f"- {name}, {steps}. {_layers(finding.layers)}"


def _layers(names: Sequence[str]) -> str:
    if not names:
        return "It is about the whole run."
    shown = ", ".join(code_name(name) for name in names[:_MOST_LAYERS])
    more = len(names) - _MOST_LAYERS
    return f"Layers: {shown} and {more} more." if more > 0 else f"Layers: {shown}."


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else character.encode("unicode_escape").decode()
