"""Rule settings: thresholds as they are written on the command line, such as GW101.depth=-4."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import Field, fields, replace

from gradwatch.errors import ArgumentError
from gradwatch.report_words import figure
from gradwatch.rule_pages import matching_rule, nearest_rules
from gradwatch.rules import ALL_RULES, Rule


def rules_with(settings: Iterable[str]) -> tuple[Rule, ...]:
    """All rules, with these thresholds in place of their defaults.

    Args:
        settings: `CODE.THRESHOLD=NUMBER` each; the rule's name does as well as its code, and of two
            for the same threshold the later one holds.

    Raises:
        ArgumentError: If one cannot be used; the message names what can.
    """
    changes: dict[str, dict[str, float]] = {}
    for setting in settings:
        key, separator, number = setting.partition("=")
        code, dot, name = key.strip().rpartition(".")
        if not separator or not dot:
            raise ArgumentError(
                f"--set {setting!r} is not CODE.THRESHOLD=NUMBER, for example GW101.depth=-4"
            )
        rule = known_rule(code)
        changes.setdefault(rule.code, {})[_known_threshold(rule, name)] = _number(setting, number)
    return tuple(replace(rule, **changes.get(rule.code, {})) for rule in ALL_RULES)


def codes_of(wanted: str) -> frozenset[str]:
    """The codes in a list with commas, of rules by code or name.

    Raises:
        ArgumentError: If one is unknown; the message names the nearest.
    """
    return frozenset(known_rule(entry).code for entry in wanted.split(","))


def known_rule(wanted: str) -> Rule:
    """The rule with this code or name, in any case.

    Raises:
        ArgumentError: If there is none; the message names the nearest.
    """
    rule = matching_rule(wanted)
    if rule is None:
        nearest = ", ".join(f"{near.code} {near.name}" for near in nearest_rules(wanted))
        raise ArgumentError(
            f"there is no rule {wanted!r}; the nearest are {nearest}; `gradwatch rules` lists all"
        )
    return rule


def _known_threshold(rule: Rule, wanted: str) -> str:
    known = {entry.name: entry for entry in fields(rule)}
    if wanted in known:
        return wanted
    if not known:
        raise ArgumentError(f"{rule.code} {rule.name} has no thresholds to set")
    nearest = difflib.get_close_matches(wanted, known, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else "."
    listed = ", ".join(_in_words(rule, entry) for entry in known.values())
    raise ArgumentError(
        f"{rule.code} {rule.name} has no threshold {wanted!r}{hint} It has {listed}"
    )


def _in_words(rule: Rule, entry: Field[float]) -> str:
    unit = entry.metadata.get("unit", "1")
    beside = "" if unit == "1" else f" {unit}"
    return f"{entry.name} (default {figure(getattr(rule, entry.name))}{beside})"


def _number(setting: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ArgumentError(f"--set {setting!r}: {text.strip()!r} is not a finite number")
    return number
