"""Rule pages: the table of all rules and the page of one, for the command line."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from dataclasses import Field, fields

from rich import box
from rich.console import ConsoleRenderable, Group
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from gradwatch.report_words import figure
from gradwatch.rules import ALL_RULES, Rule

MOST_NEAREST = 3

FORMULA = re.compile(r"\$([^$]+)\$")
COMMAND = re.compile(r"\\([a-zA-Z]+) ?")
BRACES = re.compile(r"\{([^{}]*)\}")
SYMBOLS = {
    r"\lVert ": "‖",
    r" \rVert": "‖",
    r"\log_{10}": "log10",
    r"\bar W": "mean W",
    r"\partial ": "∂",
    r"\Delta": "Δ",
    r"\delta": "δ",
    r"\cdot": "·",
    r"\times": "\u00d7",
    r"\sum": "Σ",
    r"\sqrt": "√",
    r"\le ": "≤ ",
    r"\ge ": "≥ ",
    r"\max": "max",
    r"\min": "min",
}
"""LaTeX → what a terminal shows for it."""


def rules_table() -> Table:
    """Every rule: code, name, what it finds, and its thresholds with their units."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("code", style="bold cyan", no_wrap=True)
    table.add_column("name", style="bold", no_wrap=True)
    table.add_column("what it finds")
    table.add_column("thresholds", style="dim")
    for rule in ALL_RULES:
        thresholds = "\n".join(_threshold_in_words(rule, entry) for entry in fields(rule))
        table.add_row(rule.code, rule.name, Text(summary(rule)), Text(thresholds))
    return table


def rule_view(rule: Rule) -> ConsoleRenderable:
    """A rule's page: what it means, how it is measured, its thresholds with unit and source."""
    parts: list[ConsoleRenderable] = [
        Text.assemble((rule.code, "bold cyan"), (f" {rule.name}", "bold")),
        Text(),
        Markdown(page(rule)),
    ]
    if fields(rule):
        parts += [Text(), Text("Thresholds", "bold"), Text(), _thresholds_table(rule)]
    return Group(*parts)


def summary(rule: Rule) -> str:
    """What the rule finds, in one sentence: the first line of its class."""
    return inspect.cleandoc(type(rule).__doc__ or "").partition("\n")[0]


def page(rule: Rule) -> str:
    """The rule's page in Markdown, the docstring of its module, with formulas as plain text."""
    docstring = inspect.cleandoc(sys.modules[type(rule).__module__].__doc__ or "")
    return FORMULA.sub(lambda found: f"`{plain_formula(found[1])}`", docstring)


def plain_formula(latex: str) -> str:
    r"""A formula as a terminal can show it: `\lVert g \rVert` becomes `‖g‖`."""
    text = " ".join(latex.split())
    for command, symbol in SYMBOLS.items():
        text = text.replace(command, symbol)
    return BRACES.sub(r"\1", COMMAND.sub(r"\1", text))


def matching_rule(wanted: str) -> Rule | None:
    """The rule with this code or name, in any case; None without one."""
    known = {key: rule for rule in ALL_RULES for key in (rule.code.lower(), rule.name)}
    return known.get(wanted.strip().lower())


def nearest_rules(wanted: str) -> tuple[Rule, ...]:
    """The rules whose code or name is most like what was asked for, the nearest first."""

    def likeness(rule: Rule) -> float:
        asked = wanted.strip().lower()
        return max(
            difflib.SequenceMatcher(None, asked, known).ratio()
            for known in (rule.code.lower(), rule.name)
        )

    return tuple(sorted(ALL_RULES, key=likeness, reverse=True)[:MOST_NEAREST])


def _thresholds_table(rule: Rule) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("threshold", no_wrap=True)
    table.add_column("default", justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("source", style="dim")
    for entry in fields(rule):
        table.add_row(
            entry.name,
            figure(getattr(rule, entry.name)),
            str(entry.metadata.get("unit", "")),
            str(entry.metadata.get("source", "")),
        )
    return table


def _threshold_in_words(rule: Rule, entry: Field[float]) -> str:
    unit = str(entry.metadata.get("unit", "1"))
    name = entry.name.replace("_", " ")
    return f"{name} {figure(getattr(rule, entry.name))}{'' if unit == '1' else f' {unit}'}"
