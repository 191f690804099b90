"""How well each fix works on what it is for: `python -m tests.calibration.fix_effects --help`.

Every sick case is trained until gradwatch has a finding. Each fix that the finding suggests is then
applied to a fresh copy, its snippet run as it stands, at the case's learning rate and at a fifth of
it, and trained to the end. Popular generic remedies, applied to all hidden layers at the case's own
learning rate, are the rivals.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from gradwatch import Finding
from gradwatch.finding import Fix
from gradwatch.fixes.activation import relu_with_he
from gradwatch.fixes.initialisation import matching_initialisation
from gradwatch.fixes.normalisation import insert_normalisation
from gradwatch.fixes.residual import residual_path
from gradwatch.layer import Layer

from .case import Case
from .case_sets import ALL_CASES
from .fix_application import (
    activations_as_modules,
    label,
    needs_an_edit,
    paste,
    scale_learning_rate,
)
from .scoring import COUNTERFACTUAL_GAIN
from .setups import Setup
from .training import Run, train, watched

WIDTH = 170
"""Columns of the output."""

LOWER = 0.2
"""The smaller learning rate, over the case's own."""

RIVALS: dict[str, Callable[[Sequence[Layer]], Fix]] = {
    "normalisation everywhere": insert_normalisation,
    "ReLU and He everywhere": relu_with_he,
    "right initialisation everywhere": matching_initialisation,
    "residual everywhere": residual_path,
}

OWN_TWIN = {
    "mse_sigmoid_wrong": "loss",
    "sigmoid_head": "loss",
    "gpt_softmax_head": "loss",
    "diffusion_raw_inputs": "inputs",
}
"""Case → kind of fix whose snippet does not fit its targets, in their shape or their scale."""


@dataclass(frozen=True)
class Effect:
    """One fix on one case.

    Attributes:
        case: Name of the case.
        seed: Of the run.
        code: Rule code of the finding.
        cause: Its cause.
        fix: The fix in words, figures that depend on the case left out.
        kind: Its family; empty for a rival without one.
        rank: Place among the suggestions, from 1; 0 for a rival.
        lr_factor: What the fix says to multiply the learning rate by.
        before: P without the fix.
        after: P with it; None where the fix could not be tried.
        after_lower: P with it at a fifth of the learning rate; None where that was not tried.
        own_variant: Whether the case's own fixed twin stands for an edit of the code.
    """

    case: str
    seed: int
    code: str
    cause: str
    fix: str
    kind: str
    rank: int
    before: float
    after: float | None
    after_lower: float | None = None
    own_variant: bool = False
    lr_factor: float = 1.0

    @property
    def advised_gain(self) -> float | None:
        """P with the fix, at the learning rate that it advises, less P before."""
        progress = self.after if self.lr_factor == 1 else self.after_lower
        return gained(self, progress)

    @property
    def gain(self) -> float | None:
        """Best P with the fix, at either rate, less P before; None where it was not tried."""
        tried = [figure for figure in (self.after, self.after_lower) if figure is not None]
        return max(tried) - self.before if tried else None


def main() -> None:
    """Try the fixes on the chosen cases and seeds; print the table."""
    options = parser().parse_args()
    torch.set_num_threads(1)
    console = Console(width=WIDTH)
    started = time.perf_counter()
    effects = [Effect(**row) for path in options.rows for row in json.loads(path.read_text())]
    for case in [] if effects else sick_cases(options.cases):
        for seed in options.seeds:
            for effect in effects_on(case, seed):
                effects.append(effect)
                console.log(progress_line(effect))
            if options.json:
                rows = [asdict(effect) for effect in effects]
                options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    for lines in (suggestion_table(effects), rival_table(effects)):
        console.print(lines, markup=False)
    console.print(f"{len(effects)} rows in {time.perf_counter() - started:.0f} s")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(prog="python -m tests.calibration.fix_effects")
    names = [case.name for case in sick_cases(None)]
    out.add_argument("--seeds", type=int, nargs="+", default=[0])
    out.add_argument("--cases", nargs="+", choices=names, metavar="CASE")
    out.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    out.add_argument(
        "--rows", type=Path, nargs="+", default=[], metavar="FILE", help="show these and run none"
    )
    return out


def sick_cases(names: Sequence[str] | None) -> list[Case]:
    """The sick cases with these names, all of them for None."""
    return [case for case in ALL_CASES if case.sick and (names is None or case.name in names)]


def effects_on(case: Case, seed: int) -> Iterator[Effect]:
    """What each suggestion, and each rival, does to a case; nothing if nothing was found."""
    run = train(activations_as_modules(case.build(seed)), watched)
    finding = first_alarm(case, run)
    if finding is None:
        return
    make = partial(Effect, case.name, seed, finding.code, finding.cause, before=run.progress)
    for rank, fix in enumerate(finding.fixes, start=1):
        named = partial(make, label(fix), fix.kind, rank, lr_factor=fix.lr_factor)
        others = () if fix.kind == "learning_rate" else (LOWER,)
        yield from trial(case, seed, fix, named, others=others, is_first=rank == 1)
    suggested = {label(fix) for fix in finding.fixes}
    hidden = hidden_layers(run)
    for name, rival in RIVALS.items():
        fix = rival(hidden)
        named = partial(make, name, fix.kind, 0)
        if label(fix) not in suggested or {layer.name for layer in hidden} != set(finding.layers):
            yield from trial(case, seed, fix, named)
    if finding.cause != "learning rate":
        raised = train(scale_learning_rate(case.build(seed), 10.0)).progress
        yield make("learning rate x 10", "", 0, after=raised)
    yield make("Adam at 1e-3", "", 0, after=train(with_adam(case.build(seed))).progress)


def first_alarm(case: Case, run: Run) -> Finding | None:
    """The first finding that the case expects, else the first above a notice."""
    alarms = [finding for finding in run.findings if finding.severity != "notice"]
    expected = [
        finding for finding in alarms if finding.code in case.codes and finding.cause == case.cause
    ]
    return next(iter(expected or alarms), None)


def trial(
    case: Case,
    seed: int,
    fix: Fix,
    named: Callable[..., Effect],
    *,
    others: Sequence[float] = (),
    is_first: bool = False,
) -> Iterator[Effect]:
    """The fix at the case's learning rate, and at the others, as far as it can be tried.

    Args:
        case: To build afresh.
        seed: Of the run.
        fix: To apply.
        named: Makes the effect of the figures.
        others: Further learning rates, over the case's own; at most one.
        is_first: Whether the case's own fixed twin stands for it where it needs an edit by hand.
    """
    if needs_an_edit(fix) or OWN_TWIN.get(case.name) == fix.kind:
        own = case.fixed if is_first else None
        after = train(own(seed)).progress if own else None
        yield named(after=after, own_variant=own is not None)
        return
    after, *lower = (progress_with(case, seed, fix, factor) for factor in (1.0, *others))
    yield named(after=after, after_lower=lower[0] if lower else None)


def progress_with(case: Case, seed: int, fix: Fix, lr_factor: float) -> float:
    """P of the case with the fix and the learning rate times a factor."""
    setup = scale_learning_rate(activations_as_modules(case.build(seed)), lr_factor)
    torch.manual_seed(seed)
    return paste(setup, fix).progress()


def with_adam(setup: Setup) -> Setup:
    """The run with Adam at its usual rate."""
    optimizer = torch.optim.Adam(setup.model.parameters(), lr=1e-3)
    return type(setup)(**{**vars(setup), "optimizer": optimizer, "scheduler": None})


def hidden_layers(run: Run) -> list[Layer]:
    """The weighted layers that feed another one, in forward order."""
    layers = run.history[-1].layers
    feeding = {row for layer in layers for row in layer.inputs}
    hidden = [layer for row, layer in enumerate(layers) if row in feeding and layer.weighted]
    return sorted(hidden, key=lambda layer: layer.depth)


def progress_line(effect: Effect) -> str:
    """One effect in a line of a log."""
    shown = [figure(number) for number in (effect.before, effect.after, effect.after_lower)]
    return f"{effect.case} {effect.seed} {effect.code} {effect.rank} {effect.fix}: {shown}"


def suggestion_table(effects: Iterable[Effect]) -> str:
    """A Markdown table, a row for each finding's cause and suggestion, in the order suggested.

    The place of a fix is the one that it has where every other suggestion applies too.
    """
    by_fix: dict[tuple[str, str, str], list[Effect]] = {}
    for effect in effects:
        if effect.rank:
            by_fix.setdefault((effect.code, effect.cause, effect.fix), []).append(effect)
    groups = {
        (code, cause, max(effect.rank for effect in group), fix): group
        for (code, cause, fix), group in by_fix.items()
    }
    lines = [
        "| finding | place | fix | cases | gain as advised | gain at lr | at lr/5 | helped |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (code, cause, place, fix), group in sorted(groups.items(), key=lambda item: item[0]):
        twin = " (own twin)" if any(effect.own_variant for effect in group) else ""
        figures = (
            mean([effect.advised_gain for effect in group]),
            mean([gained(effect, effect.after) for effect in group]),
            mean([gained(effect, effect.after_lower) for effect in group]),
        )
        first = (f"{code} {cause}", str(place), fix + twin, str(len(group)))
        cells = (*first, *figures, helped(group))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rival_table(effects: Iterable[Effect]) -> str:
    """A Markdown table, a row for each generic remedy over all cases."""
    groups: dict[str, list[Effect]] = {}
    for effect in effects:
        if not effect.rank:
            groups.setdefault(effect.fix, []).append(effect)
    lines = ["| generic remedy | cases | gain | helped |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {fix} | {len(group)} | {mean([effect.gain for effect in group])} | {helped(group)} |"
        for fix, group in groups.items()
    ]
    return "\n".join(lines)


def helped(group: Sequence[Effect]) -> str:
    """In how many of the cases where it was tried the better learning rate gained enough."""
    tried = [effect.gain for effect in group if effect.gain is not None]
    enough = sum(gain > COUNTERFACTUAL_GAIN for gain in tried)
    return f"{enough} of {len(tried)}" if tried else "not tried"


def gained(effect: Effect, progress: float | None) -> float | None:
    """How much of P was gained; None where there was no such run."""
    return None if progress is None else progress - effect.before


def mean(figures: Iterable[float | None]) -> str:
    """The mean of the figures that there are, in two digits."""
    known = [number for number in figures if number is not None]
    return figure(statistics.fmean(known) if known else None)


def figure(number: float | None) -> str:
    """A number in two digits, a dash for none."""
    return "-" if number is None else f"{number + 0.0:.2f}"


if __name__ == "__main__":
    main()
