"""The table of fixes in the documentation: its order, and that findings suggest what it lists.

Made again by `python -m tests.calibration.fix_effects`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from .case_sets import ALL_CASES
from .fix_application import activations_as_modules, label
from .fix_effects import first_alarm
from .training import train, watched

FIGURES = Path(__file__).parents[2] / "docs" / "figures.md"
ROW = re.compile(
    r"^\| (?P<finding>GW\d+ [a-z ]+) \| (?P<place>\d+) \| (?P<fix>[^|]+) \| \d+ \|"
    r" (?P<gain>-?[\d.]+|-) \|",
    re.MULTILINE,
)
CHANCE = 0.15
"""Difference of two gains on one seed that says nothing of their order."""

STEPS = 40
"""Enough for the first finding of every fast case."""

FAST = [case for case in ALL_CASES if case.sick and case.fast]


def table() -> dict[str, list[tuple[str, float | None]]]:
    """Finding and cause → fixes with their gains, in the order suggested."""
    found: dict[str, list[tuple[str, float | None]]] = {}
    for row in ROW.finditer(FIGURES.read_text(encoding="utf-8")):
        gain = None if row["gain"] == "-" else float(row["gain"])
        fix = row["fix"].removesuffix(" (own twin)")
        found.setdefault(row["finding"], []).append((fix, gain))
    return found


TABLE = table()


def test_the_table_was_read():
    assert len(TABLE) >= 15
    assert sum(map(len, TABLE.values())) >= 30


@pytest.mark.parametrize("finding", TABLE)
def test_fixes_stand_in_the_order_of_what_they_gained(finding):
    gains = [gain for _, gain in TABLE[finding] if gain is not None]
    assert [later - earlier <= CHANCE for earlier, later in pairwise(gains)] == [True] * (
        len(gains[1:])
    )


@pytest.mark.parametrize("case", FAST, ids=lambda case: case.name)
def test_a_finding_suggests_what_the_table_lists_in_its_order(case):
    setup = replace(activations_as_modules(case.build(0)), steps=STEPS)
    finding = first_alarm(case, train(setup, watched))
    assert finding is not None
    suggested = [label(fix) for fix in finding.fixes]
    listed = [fix for fix, _ in TABLE[f"{finding.code} {finding.cause}"]]
    assert [fix for fix in listed if fix in suggested] == suggested
