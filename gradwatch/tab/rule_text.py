"""Rule text: a rule's page as sections of plain blocks, so that the browser parses no Markdown."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

from gradwatch.report_words import figure
from gradwatch.rule_pages import (
    FORMULA,
    docstring,
    matching_rule,
    nearest_rules,
    plain_formula,
    threshold_meanings,
    when_it_speaks,
)
from gradwatch.rules import Rule
from gradwatch.tab.query import RequestError, shown

_DISPLAYED = re.compile(r"(\$\$[^$]+\$\$)")
_CODE = re.compile(r"`([^`]*)`")
_NEXT_ITEM = re.compile(r"\n(?=- )")

Block = dict[str, str]


def rule_text(wanted: str) -> dict[str, Any]:
    """A rule's page for JSON: what it means, how it is measured, when it is wrong.

    Args:
        wanted: Its code or its name.

    Raises:
        RequestError: If there is no such rule.
    """
    rule = matching_rule(wanted)
    if rule is None:
        near = " or ".join(entry.code for entry in nearest_rules(wanted)[:2])
        raise RequestError(
            f"There is no page on rule {shown(wanted)}, which may be one of your own; of "
            f"gradwatch's own rules the nearest are {near}.",
            status=404,
        )
    lead, *sections = re.split(r"^## ", docstring(rule), flags=re.MULTILINE)
    return {
        "code": rule.code,
        "name": rule.name,
        "summary": _plain(lead),
        "sections": [
            *(_section(*section.split("\n", 1)) for section in sections),
            *_measured(rule),
        ],
    }


def _section(title: str, body: str) -> dict[str, Any]:
    parts = (part for part in _DISPLAYED.split(body) if part.strip())
    return {"title": title.strip(), "blocks": [block for part in parts for block in _blocks(part)]}


def _blocks(text: str) -> list[Block]:
    """The blocks of a displayed formula, or of the paragraphs and items between two."""
    if text.startswith("$$"):
        return [{"kind": "formula", "text": plain_formula(text.strip("$"))}]
    return [
        _block(part)
        for paragraph in re.split(r"\n\s*\n", text.strip())
        for part in _NEXT_ITEM.split(paragraph)
    ]


def _block(part: str) -> Block:
    if part.startswith("- "):
        return {"kind": "item", "text": _plain(part.removeprefix("- "))}
    return {"kind": "text", "text": _plain(part)}


def _measured(rule: Rule) -> list[dict[str, Any]]:
    """When the rule speaks, and its thresholds with unit and source."""
    speaks = {"kind": "text", "text": f"It speaks {when_it_speaks(rule)}."}
    sections: list[dict[str, Any]] = [{"title": "When it speaks", "blocks": [speaks]}]
    if fields(rule):
        thresholds = [{"kind": "item", "text": line} for line in _thresholds(rule)]
        sections.append({"title": "Thresholds", "blocks": thresholds})
    return sections


def _thresholds(rule: Rule) -> list[str]:
    meanings = threshold_meanings(rule)
    lines = []
    for entry in fields(rule):
        unit = str(entry.metadata.get("unit", "1"))
        value = figure(getattr(rule, entry.name)) + ("" if unit == "1" else f" {unit}")
        meaning = _plain(meanings.get(entry.name, "")).rstrip(".")
        source = _plain(str(entry.metadata.get("source", "")))
        lines.append(f"{entry.name} {value}: {meaning} ({source}).")
    return lines


def _plain(markdown: str) -> str:
    """One line of text, formulas in plain characters and code without its marks."""
    text = FORMULA.sub(lambda found: plain_formula(found[1] or found[2]), markdown)
    return " ".join(_CODE.sub(r"\1", text).split())
