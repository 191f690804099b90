"""Answers of the routes that a page without a server brings along, and how much of each."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any
from urllib.parse import quote

import numpy as np

from gradwatch.comparison import compare
from gradwatch.errors import ArgumentError
from gradwatch.report import Report
from gradwatch.report_words import counted
from gradwatch.tab.cards import card
from gradwatch.tab.heatmap import heatmap
from gradwatch.tab.overview import overview
from gradwatch.tab.profile import profile
from gradwatch.tab.query import RequestError
from gradwatch.tab.rule_text import rule_text
from gradwatch.tab.statistics import TabStatistic
from gradwatch.tab.stored_run import StoredRun

COLUMNS = (400, 300, 200, 150, 100, 60)
"""Columns of a heatmap: the most that the size allows."""

FEWEST_STATISTICS = 4
"""Statistics that every run keeps, the most telling first, however many runs there are."""

USUAL_SIZE = 6_800_000
"""Characters of all heatmaps together beyond which they get fewer columns, then fewer in number."""

LARGEST_SIZE = 40_000_000
"""Characters of all heatmaps together that no page has: a browser would take its time."""

CELL_SIZE = (4 + 1) * 4 / 3
"""Characters of one layer in one column: a float32 and a state, in base64."""

MOST_PROFILES = 60
"""Steps of a run whose profile is kept."""

PROFILE_DIGITS = 3
"""Decimals of a level (log10) in a profile: 0.2 % of the figure itself."""

MOST_COMPARED = 6
"""Runs of which each is compared to each: their number grows with the square."""


@dataclass(frozen=True)
class JudgedRun:
    """A run of a page.

    Args:
        run: What is stored of it.
        report: What the rules say of it.
    """

    run: StoredRun
    report: Report


@dataclass(frozen=True, slots=True)
class Extent:
    """How much of each run a page has.

    Args:
        columns: Most columns of a heatmap.
        statistics: Most statistics of a run that have one.
    """

    columns: int
    statistics: int


def answers(judged: Sequence[JudgedRun]) -> dict[str, Any]:
    """Route with its query → its answer; a binary one is `{"base64": ...}`.

    Args:
        judged: The runs, sorted by name.

    Raises:
        ArgumentError: If a page of so many runs would be too large.
    """
    extent = extent_of(judged)
    found: dict[str, Any] = {
        "runs": {"runs": [{"name": one.run.name, "token": one.run.token} for one in judged]}
    }
    for one in judged:
        found |= _of_run(one, extent)
    if len(judged) <= MOST_COMPARED:
        found |= {
            key("compare", a=a.run.name, b=b.run.name): compare(
                a.run.recording,
                b.run.recording,
                names=(a.run.name, b.run.name),
                findings=(a.report.findings, b.report.findings),
            ).as_json()
            for a, b in permutations(judged, 2)
        }
    codes = sorted({finding.code for one in judged for finding in one.report.findings})
    return found | dict(_rules(codes))


def extent_of(judged: Sequence[JudgedRun]) -> Extent:
    """As much as fits into `USUAL_SIZE`: fewer columns first, then fewer statistics.

    Raises:
        ArgumentError: If the least there is does not fit into `LARGEST_SIZE`.
    """
    all_of_them = max((len(one.run.matrix.observed) for one in judged), default=0)
    choices = [
        *(Extent(columns, all_of_them) for columns in COLUMNS),
        *(Extent(COLUMNS[-1], count) for count in range(all_of_them, FEWEST_STATISTICS - 1, -1)),
    ]
    for extent in choices:
        if size_of(judged, extent) <= USUAL_SIZE:
            return extent
    if size_of(judged, choices[-1]) <= LARGEST_SIZE:
        return choices[-1]
    layers = sum(len(one.run.matrix.layers) for one in judged)
    raise ArgumentError(
        f"one page cannot hold the heatmaps of {counted(len(judged), 'run')} with {layers:,} "
        "layers in all; pass a subdirectory with fewer runs"
    )


def size_of(judged: Iterable[JudgedRun], extent: Extent) -> float:
    """Characters of all heatmaps."""
    return sum(
        CELL_SIZE
        * len(one.run.matrix.layers)
        * min(extent.columns, len(one.run.matrix))
        * min(extent.statistics, len(one.run.matrix.observed))
        for one in judged
    )


def key(route: str, **query: str) -> str:
    """The name of an answer: the route, and its query sorted by name."""
    encoded = (f"{name}={quote(value, safe='')}" for name, value in sorted(query.items()))
    return f"{route}?{'&'.join(encoded)}"


def judged_overview(one: JudgedRun, statistics: Sequence[TabStatistic]) -> dict[str, Any]:
    """The overview with the verdict and the findings of the report, and these statistics alone."""
    report, whole = one.report, overview(one.run)
    names = {statistic.name for statistic in statistics}
    return whole | {
        "framework": report.framework,
        "verdict": report.verdict,
        "severity": report.severity,
        "judged": report.is_judged,
        "statistics": [entry for entry in whole["statistics"] if entry["name"] in names],
        "findings": [
            card(finding, framework=report.framework)
            for finding in (*report.open_findings, *report.resolved_findings)
        ],
    }


def profile_steps(run: StoredRun) -> list[int]:
    """Steps with signals: all of them, or as many as are kept, from the first to the last."""
    steps = run.matrix.steps[run.matrix.has_signals]
    count = min(len(steps), MOST_PROFILES)
    rows = np.linspace(0, len(steps) - 1, count).round().astype(np.intp)
    return [int(step) for step in steps[rows]]


def _of_run(one: JudgedRun, extent: Extent) -> dict[str, Any]:
    run, name = one.run, one.run.name
    statistics = run.matrix.observed[: extent.statistics]
    found: dict[str, Any] = {key("run", run=name): judged_overview(one, statistics)}
    for statistic in statistics:
        octets = heatmap(run, statistic, columns=extent.columns)
        found[key("heatmap", run=name, statistic=statistic.name)] = {
            "base64": base64.b64encode(octets).decode("ascii")
        }
    for step in profile_steps(run):
        found[key("profile", run=name, step=str(step))] = _rounded(profile(run, step))
    return found


def _rounded(answer: Any) -> Any:
    """An answer whose numbers have no more digits than a page can show."""
    if isinstance(answer, float):
        return round(answer, PROFILE_DIGITS)
    if isinstance(answer, list):
        return [_rounded(entry) for entry in answer]
    if isinstance(answer, dict):
        return {name: _rounded(entry) for name, entry in answer.items()}
    return answer


def _rules(codes: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Pages of these rules; a rule of the user's own has none."""
    for code in codes:
        try:
            yield key("rule", code=code), rule_text(code)
        except RequestError:
            continue
