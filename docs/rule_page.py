"""A rule's page: its module docstring, with what the code knows of it put in.

The text is the rule's own, so it cannot drift from the rule.
"""

from __future__ import annotations

import ast
import html
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from gradwatch import fixes
from gradwatch.finding import SEVERITIES
from gradwatch.report_words import figure
from gradwatch.rule_pages import docstring, named_causes, threshold_meanings, when_it_speaks
from gradwatch.rules import Rule

READS = {
    "signals": "samples with forward and backward signals",
    "parameters": "every sample, with or without signals",
}


def rule_path(rule: Rule) -> str:
    """Where a rule's page lies below `docs`; codes never change, so neither do links."""
    return f"rules/{rule.code.lower()}.md"


def summary(rule: Rule) -> str:
    """What a rule finds, in one sentence: the first paragraph of its module."""
    return " ".join(docstring(rule).partition("\n\n")[0].split())


def causes_of(rule: Rule) -> list[str]:
    """The causes that a rule can name, in the order of its page."""
    return [entry.cause for entry in named_causes(rule)]


def rule_page(rule: Rule, fix_links: Mapping[str, str]) -> str:
    """A rule's page: facts, the sections of its docstring, thresholds, and links to its fixes.

    Args:
        rule: The rule.
        fix_links: Qualified name of a function that makes a fix → Markdown link to its section.
    """
    _, *sections = re.split(r"^## ", docstring(rule), flags=re.MULTILINE)
    parts = [f"# {rule.code} {rule.name}", summary(rule), _facts(rule)]
    for section in sections:
        parts += [f"## {section.strip()}"]
        if section.startswith("How it is measured\n"):
            parts += ["## Thresholds", _thresholds(rule)]
        if section.startswith("Fixes\n"):
            parts += [_list_of(fix_links[name] for name in fix_makers(rule))]
    return "\n\n".join(parts) + "\n"


def fix_makers(rule: Rule) -> list[str]:
    """Qualified names of the functions that make the rule's fixes, in the order of its code."""
    module = sys.modules[type(rule).__module__]
    calls = sorted(
        (node.lineno, node.col_offset, node.func.id)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    )
    called = (getattr(module, name, None) for _, _, name in calls)
    return list(dict.fromkeys(map(qualified_name, filter(_makes_fix, called))))


def qualified_name(function: Callable[..., Any]) -> str:
    """Module and name of a function."""
    return f"{function.__module__}.{function.__qualname__}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _makes_fix(called: object) -> bool:
    return inspect.isfunction(called) and called.__module__.startswith(f"{fixes.__name__}.")


def _list_of(entries: Iterable[str]) -> str:
    return "\n".join(f"- {entry}" for entry in entries)


def _facts(rule: Rule) -> str:
    """The rule in four lines: severity, causes, what it reads, when it speaks."""
    found = {severity for entry in named_causes(rule) for severity in entry.severities}
    facts = {
        "Severity": ", ".join(severity for severity in SEVERITIES if severity in found),
        "Cause": ", ".join(causes_of(rule)),
        "Reads": READS[rule.needs],
        "Speaks": when_it_speaks(rule),
    }
    entries = "".join(
        f"<dt>{name}</dt><dd>{html.escape(fact)}</dd>\n" for name, fact in facts.items()
    )
    return f'<dl class="facts">\n{entries}</dl>'


def _thresholds(rule: Rule) -> str:
    meanings = threshold_meanings(rule)
    rows = [
        (
            f"`{entry.name}`<br>{figure(getattr(rule, entry.name))}{_unit(entry.metadata['unit'])}",
            f"{meanings.get(entry.name, '')}<br><small>{entry.metadata['source']}</small>",
        )
        for entry in fields(rule)
    ]
    if not rows:
        return "None: what it looks for is either there or not."
    first = fields(rule)[0].name
    changed = f"{rule.code}.{first}={figure(getattr(rule, first)).replace(',', '')}"
    header = ("threshold and default", "what it is, and where it comes from")
    return (
        f"{table(header, rows)}\n\n"
        "To see what another value makes of a stored run (for a live one, see "
        "[Changing a threshold](index.md#changing-a-threshold)):\n\n"
        f"```bash\ngradwatch report runs/first --set {changed}\n```"
    )


def _unit(unit: str) -> str:
    return "" if unit == "1" else f" {unit}"


def _cell(text: str) -> str:
    r"""Text for a table cell; a bare bar would end it, `\vert` draws the same bar in a formula."""
    formulas = re.split(r"(\$[^$]+\$)", text)
    return "".join(
        part.replace("|", r"\vert " if part.startswith("$") else r"\|") for part in formulas
    )
