"""How far apart healthy twins are, and sick runs from fixed ones: where `compare` has its factor.

Twins are runs of one case under other seeds. `python -m tests.calibration.twins` prints, for each
statistic that runs are compared by, the ratios that twins reach and keep, and how many twins and
how many pairs of a sick run and its fixed one diverge; `--help` has the rest.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import gradwatch
from gradwatch.comparison import DEFAULTS, FACTOR, OTHERWISE, PERSISTENCE, Comparison, compare
from gradwatch.comparison.alignment import align, largest_lasting
from gradwatch.comparison.series import series_of
from gradwatch.tensorboard.reader import Recording, read

from .case import Build, Case
from .case_sets import CASE_SETS
from .scoring import COUNTERFACTUAL_GAIN
from .training import train

STATISTICS = tuple(dict.fromkeys((*DEFAULTS, *OTHERWISE)))

SLOW = frozenset({"cnn_relu30_xavier", "h_cnn30_he", "h_cnn_bn20_convbias", "h_preln12"})
"""Cases that take longer than a third of a minute on three seeds; only `--set` has them."""

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Stored:
    """A run as it was read back, and how far it got (see `Run.progress`)."""

    recording: Recording
    progress: float


@dataclass(frozen=True)
class Pair:
    """Two runs to compare.

    Attributes:
        case: Name of the case, `+fixed` behind it for twins that have the fix.
        twins: Whether they are healthy and differ in their seeds alone.
        a: One run, the fixed one of a sick and a fixed one.
        b: The other.
    """

    case: str
    twins: bool
    a: Recording
    b: Recording

    def lasting_log10(self, statistic: str) -> float:
        """Largest |log10| of a layer's ratio that lasts; NaN where none was observed for long."""
        aligned = align(series_of(self.a, statistic), series_of(self.b, statistic))
        lasting = largest_lasting(aligned, persistence=PERSISTENCE)
        return float(np.fmax.reduce(lasting, initial=np.nan))

    def comparison(self, statistic: str | None = None) -> Comparison:
        """What `compare` says of them."""
        return compare(self.a, self.b, names=("a", "b"), statistic=statistic)


def main() -> None:
    """Train the chosen cases on the chosen seeds; print the ratios and the time taken."""
    options = parser().parse_args()
    console = Console(width=None if Console().is_terminal else 120)
    torch.set_num_threads(1)
    started = time.perf_counter()
    cases = [
        case
        for case in CASE_SETS[options.set or "forty"]
        if options.set is not None or case.name not in SLOW
    ]
    with console.status("training"), tempfile.TemporaryDirectory() as directory:
        pairs = [
            pair
            for case in cases
            for pair in pairs_of(case, options.seeds, Path(directory) / case.name)
        ]
        console.print(ratio_table(pairs), divergence_table(pairs))
        for line in unlike(pairs):
            console.print(line)
    console.print(f"{len(cases)} cases in {time.perf_counter() - started:.0f} s")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(prog="python -m tests.calibration.twins", description=__doc__)
    out.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    out.add_argument(
        "--set",
        choices=CASE_SETS,
        help="these cases; by default those of the forty that train quickly",
    )
    return out


def pairs_of(case: Case, seeds: Sequence[int], directory: Path) -> Iterator[Pair]:
    """Twins of a healthy case, or of the fix of a sick one, and each sick run with its fixed one.

    A sick run whose fix does not prove the label on that seed stands for nothing, and is left out.
    """
    healthy = case.fixed or case.build
    name = f"{case.name}+fixed" if case.sick else case.name
    fit = [stored(healthy, seed, directory / f"healthy {seed}") for seed in seeds]
    for a, b in combinations(fit, 2):
        yield Pair(name, True, a.recording, b.recording)
    for seed, cured in zip(seeds if case.sick else (), fit, strict=False):
        sick = stored(case.build, seed, directory / f"sick {seed}")
        if cured.progress - sick.progress >= COUNTERFACTUAL_GAIN:
            yield Pair(case.name, False, cured.recording, sick.recording)


def stored(build: Build, seed: int, log_dir: Path) -> Stored:
    """A run that was trained, written to event files and read back."""
    run = train(
        build(seed),
        lambda model, optimizer: gradwatch.watch(
            model, optimizer, budget=None, verbose=0, log_dir=log_dir
        ),
    )
    return Stored(read(log_dir / "gradwatch"), run.progress)


def ratio_table(pairs: Iterable[Pair]) -> Table:
    """The ratios that healthy twins reach and keep, by statistic."""
    twins = [pair for pair in pairs if pair.twins]
    table = Table(title=f"Largest ratio of healthy twins that lasts {PERSISTENCE} samples")
    for heading in ("statistic", "twins", *(f"{percentile} %" for percentile in PERCENTILES)):
        table.add_column(heading, justify="left" if heading == "statistic" else "right")
    for statistic in STATISTICS:
        lasting = [pair.lasting_log10(statistic) for pair in twins]
        known = np.sort([level for level in lasting if not math.isnan(level)])
        levels = [known[math.ceil(len(known) * share / 100) - 1] for share in PERCENTILES]
        ratios = ["infinite" if math.isinf(level) else f"{10**level:.1f}" for level in levels]
        table.add_row(statistic, str(len(known)), *ratios)
    return table


def divergence_table(pairs: Sequence[Pair]) -> Table:
    """How many pairs diverge, by statistic."""
    table = Table(title=f"Pairs that diverge: beyond a factor of {FACTOR:g}")
    for heading in ("statistic", "twins", "sick and fixed"):
        table.add_column(heading, justify="left" if heading == "statistic" else "right")
    for statistic in STATISTICS:
        table.add_row(
            statistic,
            *shares(pairs, partial(diverges, statistic=statistic)),
        )
    table.add_row("told of by default", *shares(pairs, told_apart))
    return table


def shares(pairs: Iterable[Pair], counts: Callable[[Pair], bool]) -> tuple[str, str]:
    """Of the twins and of the others, how many count."""
    twins = [counts(pair) for pair in pairs if pair.twins]
    others = [counts(pair) for pair in pairs if not pair.twins]
    return tuple(f"{sum(apart)} of {len(apart)}" for apart in (twins, others))


def diverges(pair: Pair, statistic: str) -> bool:
    """Whether a statistic leaves the factor."""
    return pair.comparison(statistic).divergence is not None


def told_apart(pair: Pair) -> bool:
    """Whether the sentence names a step, be it of the backward signal or of another statistic."""
    comparison = pair.comparison()
    return comparison.divergence is not None or bool(comparison.otherwise)


def unlike(pairs: Iterable[Pair]) -> Iterator[str]:
    """What does not go the way it should: a line for each kind of pair."""
    kinds = {
        "Twins whose backward signals diverge": [
            pair.case for pair in pairs if pair.twins and pair.comparison().divergence
        ],
        "Sick runs told from fixed ones by nothing": [
            pair.case for pair in pairs if not pair.twins and not told_apart(pair)
        ],
    }
    for said, cases in kinds.items():
        yield f"{said}: {', '.join(dict.fromkeys(cases)) or 'none'}"


if __name__ == "__main__":
    main()
