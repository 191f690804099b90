"""Notebook: a report as one piece of HTML with inline styles, for dark and light themes alike.

Every text is escaped: layer names are the user's, findings may come from a stored file. Text keeps
the notebook's own colour; only chips, which bring their own background, and bars are coloured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

from gradwatch.finding import Finding, Fix, Severity, listed
from gradwatch.report import Report
from gradwatch.report_rows import Fold, LayerRow, Scale, unfolded
from gradwatch.report_words import (
    evidence_words,
    fix_caveats,
    flat_name,
    fold_names,
    kind_name,
    legend,
    level_name,
    overhead_line,
    power,
    printable,
    resolved_line,
    state_name,
)
from gradwatch.snapshot import State

CHIP: dict[Severity | None, str] = {
    "error": "#c62828",
    "warning": "#8a5a00",
    "notice": "#1565c0",
    None: "#2e7d32",
}
"""Severity → background below white text, contrast 4.5 or more."""

BAR: dict[Severity | None, str] = {
    "error": "#e5484d",
    "warning": "#b98500",
    "notice": "#3e8ed0",
    None: "#3d9a50",
}
"""Severity → colour of a bar, contrast 3 or more on white and on black."""

NEUTRAL = "#616161"
LINE = "rgba(127,127,127,.35)"
SHADE = "rgba(127,127,127,.14)"
MUTED = "opacity:.75;"
CELL = "padding:.2em .9em .2em 0;white-space:nowrap;"
CELL += f"border-bottom:1px solid {LINE};background:transparent;font-size:13px;"
LEFT = ("kind", "state", "backward signal")
RIGHT = ("log10", "update ratio", "relative gradient", "dead or saturated")


def report_html(report: Report) -> str:
    """The whole report as a `div`."""
    parts = [_verdict(report)]
    if report.rows:
        parts.append(_layers(report))
    parts += [_finding(finding, report.framework) for finding in report.open_findings]
    parts += [_paragraph(resolved_line(finding), MUTED) for finding in report.resolved_findings]
    if report.overhead is not None:
        parts.append(_paragraph(overhead_line(report.overhead), MUTED))
    style = "max-width:64em;line-height:1.5;font-size:14px;text-align:left;"
    return f'<div style="{style}">{"".join(parts)}</div>'


def _verdict(report: Report) -> str:
    lead, _, rest = report.verdict.partition(":")
    colour = CHIP[report.severity] if report.is_judged else NEUTRAL
    return (
        f'<p style="font-size:1.15em;margin:.4em 0 .9em;">{_chip(lead, colour)} '
        f"<strong>{_text(rest.strip())}</strong></p>"
    )


def _layers(report: Report) -> str:
    rows = report.rows
    scale = Scale.of(unfolded(rows))
    trained = all(row.state is State.TRAINED for row in unfolded(rows))
    columns = [column for column in LEFT + RIGHT if column != "state" or not trained]
    head = "".join(
        f'<th scope="col" style="{CELL}text-align:{"right" if column in RIGHT else "left"};">'
        f"{column}</th>"
        for column in ("layer", *columns)
    )
    body = "".join(
        _fold(row, len(columns) + 1) if isinstance(row, Fold) else _row(row, scale, columns)
        for row in rows
    )
    style = "border-collapse:collapse;border:none;margin:0;font-variant-numeric:tabular-nums;"
    return (
        f'<div style="overflow-x:auto;"><table style="{style}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
        + _paragraph(legend(scale, report.table_step), MUTED + "font-size:.9em;margin:.3em 0 1em;")
    )


def _row(row: LayerRow, scale: Scale, columns: Iterable[str]) -> str:
    level = level_name(row.backward_log10)
    observed = math.isfinite(row.backward_log10)
    trained = row.state is State.TRAINED
    weight = "normal" if row.severity is None else "bold"
    cells = {
        "kind": _left(kind_name(row), MUTED),
        "state": _left(state_name(row.state), MUTED if trained else f"font-weight:{weight};"),
        "backward signal": _bar(row, scale) if observed else _left(level, MUTED),
        "log10": _right(level if observed else ""),
        "update ratio": _right(power(row.update_ratio)),
        "relative gradient": _right(power(row.relative_grad)),
        "dead or saturated": _right(flat_name(row)),
    }
    mark = f"border-left:4px solid {BAR[row.severity]};padding-left:.6em;"
    name = (
        f'<th scope="row" style="{CELL}{mark}text-align:left;font-weight:{weight};">'
        f"{_text(row.layer.name)}</th>"
    )
    return f'<tr style="background:transparent;">{name}{"".join(cells[c] for c in columns)}</tr>'


def _fold(fold: Fold, columns: int) -> str:
    name, levels = fold_names(fold)
    text = f"{_text(name)}, backward signal {_text(levels)}"
    return (
        f'<tr style="background:transparent;"><td colspan="{columns}" '
        f'style="{CELL}{MUTED}border-left:4px solid transparent;padding-left:.6em;'
        f'text-align:left;font-style:italic;">{text}</td></tr>'
    )


def _bar(row: LayerRow, scale: Scale) -> str:
    share = 100 * scale.share(row.backward_log10)
    return (
        f'<td style="{CELL}"><div role="img" aria-label="{_text(level_name(row.backward_log10))}" '
        f'style="width:11em;height:.8em;background:{SHADE};border-radius:2px;">'
        f'<div style="width:{share:.1f}%;height:100%;background:{BAR[row.severity]};'
        f'border-radius:2px;"></div></div></td>'
    )


def _finding(finding: Finding, framework: str) -> str:
    where = listed(finding.layers)
    head = (
        f'<p style="margin:.2em 0;">{_chip(finding.severity, CHIP[finding.severity])} '
        f"<strong>{_text(finding.code)} {_text(finding.name)}</strong>, "
        f"cause: {_text(finding.cause)}, since step {finding.step:,}</p>"
    )
    lines = [head]
    if finding.layers and where not in finding.message:
        lines.append(_paragraph(f"On {where}.", "font-weight:bold;"))
    lines.append(_paragraph(finding.message))
    if finding.evidence:
        lines.append(_paragraph(f"Evidence: {evidence_words(finding.evidence)}", MUTED))
    lines += [_fix(fix, number, framework) for number, fix in enumerate(finding.fixes, start=1)]
    style = f"border-left:4px solid {BAR[finding.severity]};padding:.1em 0 .1em .9em;margin:1em 0;"
    return f'<div style="{style}">{"".join(lines)}</div>'


def _fix(fix: Fix, number: int, framework: str) -> str:
    """The first fix stands open, the others fold out."""
    parts = [
        _paragraph(fix.rationale),
        _paragraph(f"Source: {fix.reference}", MUTED),
    ]
    parts += [_paragraph(caveat) for caveat in fix_caveats(fix)]
    snippet = fix.snippets.get(framework)
    if snippet is not None:
        style = f"background:{SHADE};padding:.6em .9em;border-radius:4px;overflow-x:auto;"
        code = _text(snippet.strip("\n"))
        parts.append(
            f'<pre style="{style}margin:.4em 0;color:inherit;"><code style="color:inherit;'
            f'background:transparent;">{code}</code></pre>'
        )
    return (
        f'<details{" open" if number == 1 else ""} style="margin:.5em 0;">'
        f'<summary style="cursor:pointer;"><strong>Fix {number}: {_text(fix.title)}</strong>'
        f'</summary><div style="margin-left:1em;">{"".join(parts)}</div></details>'
    )


def _chip(word: str, colour: str) -> str:
    return (
        f'<span style="background:{colour};color:#fff;padding:.1em .55em;border-radius:4px;'
        f'font-weight:bold;">{_text(word)}</span>'
    )


def _paragraph(text: str, style: str = "") -> str:
    return f'<p style="margin:.2em 0;{style}">{_text(text)}</p>'


def _left(text: str, style: str = "") -> str:
    return f'<td style="{CELL}text-align:left;{style}">{_text(text)}</td>'


def _right(text: str) -> str:
    return f'<td style="{CELL}text-align:right;">{_text(text)}</td>'


def _text(text: str) -> str:
    return escape(printable(text))
