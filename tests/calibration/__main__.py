"""Run the cases and print the score: `python -m tests.calibration --help`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from .baselines import BASELINES
from .case import Case
from .case_sets import ALL_CASES, CASE_SETS
from .scoring import Result, Tally, evaluate, flagged_by_gradwatch, scored, tally
from .training import Run, watched

HEADINGS = ("case", "seed", "P", "P fixed", "counts", "expected", "found", "verdict")
PIPE_WIDTH = 170
"""Columns where the output goes to a file or a pipe."""


def main() -> None:
    """Run the chosen cases on the chosen seeds; print rows, totals and the time taken."""
    options = parser().parse_args()
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    torch.set_num_threads(1)
    started = time.perf_counter()
    results = []
    with console.status("training") as status:
        for result in run_all(chosen(options), options.seeds, options.counterfactuals):
            results.append(result)
            status.update(f"{result.case.name}, seed {result.seed}: {result.verdict}")
    console.print(result_table(results))
    totals = all_tallies(results) if options.counterfactuals != "only" else {}
    if totals:
        console.print(total_table(totals))
        console.print(cause_line(results))
    console.print(
        f"{len(results)} rows in {time.perf_counter() - started:.0f} s, "
        f"{time.process_time():.0f} s of them on the processor"
    )
    if options.json:
        options.json.write_text(json.dumps(as_json(results, totals), indent=1), encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(prog="python -m tests.calibration", description=__doc__)
    out.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    out.add_argument(
        "--set",
        choices=CASE_SETS,
        default="all",
        help="the forty that the thresholds were set on, the further ones, or all (the default)",
    )
    out.add_argument(
        "--cases", nargs="+", choices=[case.name for case in ALL_CASES], metavar="CASE"
    )
    out.add_argument("--fast", action="store_true", help="the test suite's subset")
    out.add_argument(
        "--counterfactuals",
        nargs="?",
        choices=("check", "only", "skip"),
        default="check",
        const="only",
        help="train the fixed twins too (check, the default), do nothing else and leave gradwatch "
        "out (only, or no value), or take the labels as they are (skip)",
    )
    out.add_argument("--json", type=Path, metavar="FILE", help="write rows and totals there too")
    return out


def chosen(options: argparse.Namespace) -> list[Case]:
    """The cases that the options ask for, in table order."""
    return [
        case
        for case in CASE_SETS[options.set]
        if (case.fast or not options.fast) and (not options.cases or case.name in options.cases)
    ]


def run_all(cases: Sequence[Case], seeds: Sequence[int], counterfactuals: str) -> Iterator[Result]:
    """Results, one by one."""
    for case in cases:
        for seed in seeds:
            yield evaluate(
                case,
                seed,
                watch_factory=None if counterfactuals == "only" else watched,
                counterfactual=counterfactuals != "skip",
            )


def result_table(results: Sequence[Result]) -> Table:
    """A row for each result."""
    table = Table()
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading.startswith("P") else "left")
    for result in results:
        table.add_row(*result_row(result))
    return table


def result_row(result: Result) -> tuple[str, ...]:
    """One row of the table of results."""
    case = result.case
    fixed = "" if result.fixed_progress is None else f"{result.fixed_progress:.2f}"
    expected = " · ".join(
        filter(None, ("/".join(sorted(case.accepted)), case.cause, ", ".join(case.layers)))
    )
    found = "\n".join(describe(result))
    counts = "yes" if result.counts else "no"
    return (
        case.name,
        str(result.seed),
        f"{result.run.progress:.2f}",
        fixed,
        counts,
        expected or "nothing",
        found,
        result.verdict if result.run.history else "",
    )


def describe(result: Result) -> Iterator[str]:
    """Each alarm as code, cause, layers and the steps at which it was open."""
    for finding in result.alarms:
        layers = list(finding.layers)
        names = ", ".join(layers if len(layers) <= 3 else [layers[0], "…", layers[-1]])
        end = "" if finding.resolved_step is None else str(finding.resolved_step)
        yield f"{finding.code} · {finding.cause} · {names} @{finding.step}-{end}"


def all_tallies(results: Sequence[Result]) -> dict[str, Tally]:
    """Totals of gradwatch and of every baseline."""
    totals = {"gradwatch": tally(results, flagged_by_gradwatch)}
    for name, flags in BASELINES.items():
        totals[name] = tally(results, partial(flagged_by_rival, flags=flags))
    return totals


def flagged_by_rival(result: Result, flags: Callable[[Run], bool]) -> bool:
    """A baseline's yes or no."""
    return flags(result.run)


def total_table(totals: dict[str, Tally]) -> Table:
    """Totals, a row for each detector."""
    table = Table("detector", "caught", "missed", "false alarms", "F1")
    for name, total in totals.items():
        figures = (total.caught, total.missed, total.false_alarms)
        table.add_row(name, *map(str, figures), f"{total.f1:.2f}")
    return table


def cause_line(results: Sequence[Result]) -> str:
    """Of the caught: right causes, right layers where the label has any, open at the end."""
    caught = [result for result in scored(results) if result.catches]
    located = [result for result in caught if result.case.layers]
    causes = sum(result.right_cause for result in caught)
    layers = sum(result.right_layers for result in located)
    at_end = sum(result.caught_at_end for result in caught)
    return (
        f"right cause {causes} of {len(caught)}, right layers {layers} of {len(located)}, "
        f"still open at the end {at_end} of {len(caught)}"
    )


def as_json(results: Sequence[Result], totals: dict[str, Tally]) -> dict[str, object]:
    """Rows and totals, for machines."""
    return {
        "rows": [dict(zip(HEADINGS, result_row(result), strict=True)) for result in results],
        "totals": {
            name: {
                "caught": total.caught,
                "missed": total.missed,
                "false_alarms": total.false_alarms,
                "f1": total.f1,
            }
            for name, total in totals.items()
        },
    }


if __name__ == "__main__":
    main()
