"""Rule pages: what a rule's docstrings hold, the table of all rules, and the page of one."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from dataclasses import Field, dataclass, fields
from typing import cast, get_args

from rich import box
from rich.console import ConsoleRenderable, Group
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from gradwatch.finding import Cause, Severity
from gradwatch.history import History
from gradwatch.report_words import counted, figure
from gradwatch.rules import ALL_RULES, Rule
from gradwatch.schedule import EARLY_STEPS

MOST_NEAREST = 3

CAUSE = re.compile(r"^- `([a-z ]+)` \(([^)]+)\): ", re.MULTILINE)
THRESHOLD = re.compile(r"^    (\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)

FORMULA = re.compile(r"\$\$([^$]+)\$\$|\$([^$]+)\$")
WORDS = re.compile(r"\\(?:mathrm|text)\{([^{}]*)\}")
SCRIPT = re.compile(r"([_^√])\{([^{}]*)\}")
FRACTION = re.compile(r"\\frac ?\{([^{}]*)\} ?\{([^{}]*)\}")
COMMAND = re.compile(r"\\([a-zA-Z]+) ?")
BRACES = re.compile(r"\{([^{}]*)\}")
SYMBOLS = {
    r"\lVert ": "‖",
    r" \rVert": "‖",
    r"\log_{10}": "log10",
    r"\bar W": "mean W",
    r"\partial ": "∂",
    r"\Delta W": "ΔW",
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
    r"\_": "_",
}
"""LaTeX → what a terminal shows for it."""


@dataclass(frozen=True, slots=True)
class NamedCause:
    """A cause that a rule can name.

    Args:
        cause: As in a finding.
        severities: Those that a finding with this cause may have, mildest first.
    """

    cause: Cause
    severities: tuple[Severity, ...]


def docstring(rule: Rule) -> str:
    """The docstring of the module that defines the rule: its page."""
    return inspect.cleandoc(sys.modules[type(rule).__module__].__doc__ or "")


def summary(rule: Rule) -> str:
    """What the rule finds, in one sentence: the first line of its class."""
    return inspect.cleandoc(type(rule).__doc__ or "").partition("\n")[0]


def named_causes(rule: Rule) -> tuple[NamedCause, ...]:
    """The causes that the rule's page lists, in its order."""
    _, _, section = docstring(rule).partition("## Causes\n")
    return tuple(
        NamedCause(
            cast(Cause, cause),
            tuple(severity for severity in get_args(Severity) if severity in how),
        )
        for cause, how in CAUSE.findall(section.partition("\n## ")[0])
    )


def threshold_meanings(rule: Rule) -> dict[str, str]:
    """Threshold's name → what it is, from the docstring of the rule's class."""
    _, _, section = inspect.cleandoc(type(rule).__doc__ or "").partition("Args:\n")
    return {name: " ".join(meaning.split()) for name, meaning in THRESHOLD.findall(section)}


def earliest_step(rule: Rule) -> int:
    """The first step at which the rule can speak of a run that is sampled from step 0 on."""
    return sorted(EARLY_STEPS)[rule.warm_up + rule.size + rule.persistence - 2]


def when_it_speaks(rule: Rule) -> str:
    """How many samples have to agree before the rule speaks, and the earliest step, in words."""
    if rule.evaluate(History()) is not None:
        return "at once, whatever was sampled"
    if rule.size == rule.persistence == 1:
        needs = "at once, on a single sample"
    elif rule.persistence == 1:
        needs = f"on one window of {rule.size} samples"
    else:
        needs = f"when {rule.persistence} windows of {rule.size} samples in a row agree"
    after = f", the first {counted(rule.warm_up, 'sample')} left out" if rule.warm_up else ""
    return f"{needs}{after}; at step {earliest_step(rule)} at the earliest"


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
        Text(),
        Text(f"It speaks {when_it_speaks(rule)}."),
    ]
    if fields(rule):
        first = fields(rule)[0].name
        change = f"gradwatch report LOGDIR --set {rule.code}.{first}=VALUE"
        parts += [
            *(Text(), Text("Thresholds", "bold"), Text(), _thresholds_table(rule)),
            *(Text(), Text(f"To try another value on a stored run: {change}")),
        ]
    return Group(*parts)


def page(rule: Rule) -> str:
    """The rule's page in Markdown, the docstring of its module, with formulas as plain text."""
    return FORMULA.sub(lambda found: f"`{plain_formula(found[1] or found[2])}`", docstring(rule))


def plain_formula(latex: str) -> str:
    r"""A formula as a terminal can show it: `\lVert g \rVert` becomes `‖g‖`."""
    text = WORDS.sub(r"\1", " ".join(latex.split()))
    for command, symbol in SYMBOLS.items():
        text = text.replace(command, symbol)
    text = FRACTION.sub(_quotient, SCRIPT.sub(r"\1\2", text))
    return BRACES.sub(r"\1", COMMAND.sub(r"\1", text))


def _quotient(found: re.Match[str]) -> str:
    above, below = (f"({part})" if " " in part else part for part in found.groups())
    return f"({above} / {below})"


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
    table.add_column("what it is")
    table.add_column("source", style="dim")
    meanings = threshold_meanings(rule)
    for entry in fields(rule):
        table.add_row(
            entry.name,
            figure(getattr(rule, entry.name)),
            str(entry.metadata.get("unit", "")),
            meanings.get(entry.name, ""),
            str(entry.metadata.get("source", "")),
        )
    return table


def _threshold_in_words(rule: Rule, entry: Field[float]) -> str:
    unit = str(entry.metadata.get("unit", "1"))
    name = entry.name.replace("_", " ")
    return f"{name} {figure(getattr(rule, entry.name))}{'' if unit == '1' else f' {unit}'}"
