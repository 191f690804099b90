"""The command `gradwatch compare`: two stored runs → where they diverge, as text or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from gradwatch._version import __version__
from gradwatch.comparison import ComparedLayer, Comparison, compare
from gradwatch.comparison.words import ratio_words
from gradwatch.errors import ArgumentError, MissingExtraError
from gradwatch.finding import Finding, listed
from gradwatch.report_words import counted, figure, headline, printable
from gradwatch.run_reading import in_words, nothing_found, warnings_on_stderr
from gradwatch.tensorboard.reader import Recording, read
from gradwatch.tensorboard.schema import encode_json
from gradwatch.tensorboard.search import search

SCHEMA_VERSION = 1
"""Of the JSON document; raised when a field goes or changes its meaning."""

COMPARED = 0

MOST_LAYERS = 12
"""Layers that the table shows: those that are farthest apart."""

MOST_NAMED = 10
"""Runs that a message names."""


@dataclass(frozen=True)
class CompareCommand:
    """Holds one run against another.

    Args:
        statistic: What to compare by, None for the backward signal where both have it.
        as_json: Whether standard output gets one JSON document, and nothing else.
    """

    statistic: str | None = None
    as_json: bool = False

    def run(self, place_a: Path, place_b: Path, console: Console) -> int:
        """Show where the second run leaves the first.

        Args:
            place_a: A run's directory, or one that has exactly one run below it.
            place_b: The same of the other.
            console: Where the comparison goes.

        Returns:
            0.

        Raises:
            ArgumentError: If one of the runs cannot be read, or the statistic cannot be used.
            MissingExtraError: If TensorBoard or google-crc32c is not installed.
        """
        with warnings_on_stderr():
            a, b = _recording(place_a), _recording(place_b)
            comparison = compare(a, b, names=(str(place_a), str(place_b)), statistic=self.statistic)
        if self.as_json:
            console.out(document(comparison), highlight=False)
        else:
            console.print(comparison_view(comparison, a.findings, b.findings))
        return COMPARED


def document(comparison: Comparison) -> str:
    """The comparison as one JSON document, ASCII and indented."""
    whole = {"schema": SCHEMA_VERSION, "version": __version__, **comparison.as_json()}
    return json.dumps(json.loads(encode_json(whole)), indent=2)


def comparison_view(
    comparison: Comparison, findings_a: Iterable[Finding], findings_b: Iterable[Finding]
) -> RenderableType:
    """The comparison for a terminal: the sentence, the findings, the losses, the layers."""
    parts: list[RenderableType] = [
        Text(printable(comparison.sentence), "bold" if comparison.divergence else "")
    ]
    parts += map(_text, _finding_lines(comparison, findings_a, findings_b))
    if comparison.losses is not None:
        a, b = comparison.names
        losses = comparison.losses
        parts.append(
            _text(
                f"Loss at step {losses.step:,}: {figure(losses.a)} in {a}, "
                f"{figure(losses.b)} in {b}."
            )
        )
    parts += map(_text, _lone_layers(comparison))
    if any(layer.ratio_log10 is not None for layer in comparison.layers):
        parts += ["", _layer_table(comparison)]
    return Group(*parts)


def _recording(place: Path) -> Recording:
    """The only run at or below a directory."""
    found = search(place)
    directories = [place] if place in found.directories else list(found.directories)
    if not directories:
        raise ArgumentError(nothing_found(place, found))
    if len(directories) > 1:
        named = ", ".join(repr(str(directory)) for directory in directories[:MOST_NAMED])
        more = len(directories) - MOST_NAMED
        raise ArgumentError(
            f"{str(place)!r} holds {counted(len(directories), 'run')}; pass one of {named}"
            + (f" and {more:,} more" if more > 0 else "")
        )
    try:
        return read(directories[0])
    except MissingExtraError:
        raise
    except Exception as error:
        raise ArgumentError(in_words(directories[0], error)) from error


def _finding_lines(
    comparison: Comparison, findings_a: Iterable[Finding], findings_b: Iterable[Finding]
) -> list[str]:
    a, b = comparison.names
    of_a = {f"{found.code}/{found.cause}": found for found in findings_a}
    of_b = {f"{found.code}/{found.cause}": found for found in findings_b}
    keys = comparison.findings
    lines = [
        *(f"New in {b}: {_headline(of_b[key])}" for key in keys["only_b"]),
        *(f"Gone in {b}: {_headline(of_a[key])}" for key in keys["only_a"]),
        *(f"In both: {_headline(of_b[key])}" for key in keys["both"]),
    ]
    return lines or [f"No open finding in {a} nor in {b}."]


def _headline(finding: Finding) -> str:
    return f"{finding.severity}, {headline(finding)}, cause: {finding.cause}."


def _lone_layers(comparison: Comparison) -> list[str]:
    """What is said of the layers that one run alone has."""
    lines = []
    for found_in, name in zip(("a", "b"), comparison.names, strict=True):
        lone = tuple(layer.name for layer in comparison.layers if layer.found_in == found_in)
        if lone:
            lines.append(f"Only in {name}: {listed(lone)}.")
    return lines


def _layer_table(comparison: Comparison) -> Table:
    a, b = (_text(name) for name in comparison.names)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, caption_justify="left")
    table.add_column("layer")
    table.add_column("leaves at\nstep", justify="right")
    table.add_column(Text.assemble(b, " to ", a, "\nat the end"), justify="right")
    farthest = _farthest(comparison.common_layers)
    for layer in farthest:
        leaves = layer.first_step is not None
        table.add_row(
            _text(layer.name, "bold" if leaves else ""),
            f"{layer.first_step:,}" if layer.first_step is not None else "",
            "not observed" if layer.ratio_log10 is None else ratio_words(layer.ratio_log10),
        )
    left_out = len(comparison.common_layers) - len(farthest)
    if left_out:
        table.caption = Text(f"and {counted(left_out, 'more layer')} nearer to each other", "dim")
    return table


def _farthest(layers: Sequence[ComparedLayer]) -> list[ComparedLayer]:
    """The layers that are farthest apart, in forward order."""
    apart = sorted(layers, key=lambda layer: -abs(layer.ratio_log10 or 0.0))[:MOST_LAYERS]
    kept = {layer.name for layer in apart}
    return [layer for layer in layers if layer.name in kept]


def _text(text: str, style: str = "") -> Text:
    return Text(printable(text), style)
