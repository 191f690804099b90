"""Terminal: a report in rich, in colour or, for a log, in plain ASCII."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pygments.token import (  # type: ignore[import-untyped]  # no types; rich brings it along
    Comment,
    Keyword,
    Operator,
    String,
)
from rich import box
from rich.console import Console, ConsoleOptions, ConsoleRenderable, Group, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.style import Style
from rich.syntax import ANSISyntaxTheme, Syntax
from rich.table import Table
from rich.text import Text

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

COLOUR: dict[Severity | None, str] = {
    "error": "red",
    "warning": "yellow",
    "notice": "cyan",
    None: "green",
}
"""Severity → colour of its layers and findings; None stands for a layer that no finding names."""

HEADERS = {
    "layer": "layer",
    "kind": "kind",
    "state": "state",
    "bar": "backward\nsignal",
    "level": "log10",
    "update": "update\nratio",
    "relative": "relative\ngradient",
    "flat": "dead or\nsaturated",
}
"""Column → its header, in the order of the table of layers."""

LEFT_OUT_FIRST = ("relative", "kind", "flat")
"""Columns that a narrow terminal leaves out, before it breaks the names of layers."""

FIGURES = frozenset({"level", "update", "relative", "flat"})
"""Columns that align to the right."""

GAP = 2
"""Blanks between two columns: one of padding, one that the box draws."""

ASCII_HEAD = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
"""A line below the header and nothing else, as `rich.box.SIMPLE_HEAD`."""

SHORTEST_BAR = 12
LONGEST_BAR = 24
EIGHTHS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")

SNIPPET_THEME = ANSISyntaxTheme(
    {
        Comment: Style(dim=True),
        Keyword: Style(bold=True),
        Operator.Word: Style(bold=True),
        String: Style(color="green"),
    }
)
"""Colours that can be read on a dark and on a light background."""

Cells = Mapping[str, ConsoleRenderable]


@dataclass(frozen=True)
class Bar:
    """A bar as wide as its column, in eighths of a character, or in "#" where only ASCII shows.

    Args:
        share: Share that is filled, 0 to 1; what is above 0 shows.
        colour: Of the filled part.
    """

    share: float
    colour: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(options.max_width, LONGEST_BAR)
        eighths = math.ceil(self.share * width * 8)
        if options.ascii_only:
            filled, track = "#" * math.ceil(eighths / 8), "."
        else:
            filled, track = "█" * (eighths // 8) + EIGHTHS[eighths % 8], "·"
        rest = track * (width - len(filled))
        yield Text.assemble((filled, self.colour), (rest, "bright_black"))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(SHORTEST_BAR, SHORTEST_BAR)


@dataclass(frozen=True)
class LayersTable:
    """The layers in forward order, each with the backward signal as a bar.

    Args:
        report: Whose layers.
    """

    report: Report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = self.report.rows
        scale = Scale.of(unfolded(rows))
        cells = [_cells(row, scale) for row in rows]
        table = Table(
            box=ASCII_HEAD if options.ascii_only else box.SIMPLE_HEAD,
            padding=(0, GAP - 1, 0, 0),
            pad_edge=False,
            show_edge=False,
        )
        widths = _fitting(_widths(cells, console, options), options.max_width)
        for column in widths:
            table.add_column(
                Text(HEADERS[column]),
                width=widths[column] if column == "bar" else None,
                justify="right" if column in FIGURES else "left",
                overflow="fold",
                no_wrap=column != "layer",
            )
        for row in cells:
            table.add_row(*(row[column] for column in widths))
        yield table
        yield _text(legend(scale, self.report.table_step), "dim")


def report_view(report: Report) -> ConsoleRenderable:
    """The whole report."""
    parts: list[ConsoleRenderable] = [verdict_view(report)]
    if report.rows:
        parts += [Text(), LayersTable(report)]
    for finding in report.open_findings:
        parts += [Text(), finding_view(finding, report.framework)]
    if report.resolved_findings:
        parts.append(Text())
    parts += [_text(resolved_line(finding), "dim") for finding in report.resolved_findings]
    if report.overhead is not None:
        parts += [Text(), _text(overhead_line(report.overhead), "dim")]
    return Group(*parts)


def verdict_view(report: Report) -> Text:
    """The verdict, its first words in the colour of its severity."""
    lead, colon, rest = report.verdict.partition(":")
    colour = COLOUR[report.severity] if report.is_judged else "default"
    return Text.assemble((printable(lead), f"bold {colour}"), colon, printable(rest))


def finding_view(finding: Finding, framework: str, *, most_fixes: int | None = None) -> Group:
    """A finding with its evidence and fixes.

    Args:
        finding: The finding.
        framework: Whose snippets are shown.
        most_fixes: Fixes to show, None for all.
    """
    colour = COLOUR[finding.severity]
    head = Text.assemble(
        (f" {finding.severity.upper()} ", f"bold reverse {colour}"),
        (f" {finding.code} {printable(finding.name)}", f"bold {colour}"),
        f", cause: {finding.cause}, since step {finding.step:,}",
    )
    body: list[ConsoleRenderable] = []
    where = listed(finding.layers)
    if finding.layers and where not in finding.message:
        body.append(_text(f"On {where}.", "bold"))
    body.append(_text(finding.message))
    if finding.evidence:
        body.append(_text(f"Evidence: {evidence_words(finding.evidence)}", "dim"))
    for number, fix in enumerate(finding.fixes[:most_fixes], start=1):
        body += [Text(), _fix_view(fix, number, framework)]
    return Group(head, _indented(Group(*body), 2))


def _fix_view(fix: Fix, number: int, framework: str) -> Group:
    parts: list[ConsoleRenderable] = [
        Text.assemble((f"Fix {number}: ", "bold green"), (printable(fix.title), "bold")),
        Text.assemble(printable(fix.rationale), (f" [{printable(fix.reference)}]", "dim")),
    ]
    if caveats := fix_caveats(fix):
        parts.append(_text(" ".join(caveats)))
    snippet = fix.snippets.get(framework)
    if snippet is not None:
        parts.append(_indented(snippet_view(snippet), 4))
    return Group(*parts)


def snippet_view(code: str) -> Syntax:
    """Python code in the terminal's own colours."""
    return Syntax(
        printable(code).strip("\n"),
        "python",
        theme=SNIPPET_THEME,
        background_color="default",
        word_wrap=True,
    )


def _cells(row: LayerRow | Fold, scale: Scale) -> Cells:
    if isinstance(row, Fold):
        name, levels = fold_names(row)
        texts = {"layer": name, "bar": levels}
        return {column: Text(texts.get(column, ""), "dim italic") for column in HEADERS}
    colour = COLOUR[row.severity]
    named = "" if row.severity is None else f"bold {colour}"
    level = level_name(row.backward_log10)
    apart = Text(level, "dim" if math.isnan(row.backward_log10) else named)
    observed = math.isfinite(row.backward_log10)
    trained = row.state is State.TRAINED
    return {
        "layer": _text(row.layer.name, named),
        "kind": _text(kind_name(row), "dim"),
        "state": Text("" if trained else state_name(row.state), named or "dim"),
        "bar": Bar(scale.share(row.backward_log10), colour) if observed else apart,
        "level": Text(level if observed else ""),
        "update": Text(power(row.update_ratio)),
        "relative": Text(power(row.relative_grad)),
        "flat": Text(flat_name(row)),
    }


def _widths(cells: Iterable[Cells], console: Console, options: ConsoleOptions) -> dict[str, int]:
    """Column → characters of its widest cell; a column without any content is left out."""
    widest: dict[str, int] = {}
    for row in cells:
        for column, cell in row.items():
            width = Measurement.get(console, options, cell).maximum
            widest[column] = max(width, widest.get(column, 0))
    headers = {column: Text(header) for column, header in HEADERS.items()}
    return {
        column: max(width, Measurement.get(console, options, headers[column]).maximum)
        for column, width in widest.items()
        if width
    }


def _fitting(widths: Mapping[str, int], most: int) -> dict[str, int]:
    """The columns to show, in order, with their widths.

    Where room is short, those that can be spared go first; room to spare makes the bars longer.
    """
    shown = dict(widths)
    for spare in LEFT_OUT_FIRST:
        if _total(shown) > most:
            shown.pop(spare, None)
    if "bar" in shown:
        shown["bar"] += min(max(most - _total(shown), 0), LONGEST_BAR - SHORTEST_BAR)
    return shown


def _total(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + GAP * (len(widths) - 1)


def _indented(content: ConsoleRenderable, columns: int) -> Padding:
    return Padding(content, (0, 0, 0, columns), expand=False)


def _text(text: str, style: str = "") -> Text:
    return Text(printable(text), style)
