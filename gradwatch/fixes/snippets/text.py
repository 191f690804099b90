"""Text of a snippet: names as Python literals, comments, and templates filled in.

A layer's name may hold any character, so it enters a program as its `repr` and in no other way.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from string import Template

from gradwatch.layer import Layer

WIDTH = 88
"""Columns of a snippet; only a name that is longer goes beyond."""

FEW = 6
"""Names that are listed in full where words are enough."""

ONCE = "# Run this once, after the model is built and before the first step."
REBUILD = "# Then make the optimizer: the model has new parameters."

EACH_STEP = "# At each step:\n"
"""Line of a snippet above which code runs once and below which it is the training loop's body."""

_NUMBER = re.compile(r"\d+")
_PLAIN = re.compile(r"[\w.\-]*")


def program(*parts: str) -> str:
    """The non-empty parts as one program, a blank line between them."""
    return "\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"


def filled(template: str, **parts: str) -> str:
    """The template with `$part` replaced; what is put in is not looked at again."""
    return Template(template.strip("\n")).substitute(parts)


def comment(text: str) -> str:
    """The text as comment lines."""
    lines = textwrap.wrap(
        text, WIDTH - 2, break_long_words=False, break_on_hyphens=False, subsequent_indent="  "
    )
    return "\n".join(f"# {line}" for line in lines)


def layer_names(layers: Iterable[Layer]) -> tuple[str, ...]:
    """Names of the layers, in order."""
    return tuple(layer.name for layer in layers)


def quoted(names: Sequence[str]) -> str:
    """The names for a comment: all of a few, the first and the last of many."""
    if not names:
        return "the whole model"
    if len(names) > FEW:
        return f"{names[0]!r} to {names[-1]!r} ({len(names)} layers)"
    return " and ".join(filter(None, (", ".join(map(repr, names[:-1])), repr(names[-1]))))


def literal(names: Iterable[str]) -> str:
    """A Python expression for a sequence of the names, each once.

    Many names that differ in one evenly spaced number become a list comprehension; others that do
    not fit on a line are wrapped.
    """
    unique = tuple(dict.fromkeys(names))
    counted = _counted(unique) if len(unique) > FEW else None
    if counted is not None:
        return counted
    line = f"({', '.join(map(repr, unique))}{',' if len(unique) == 1 else ''})"
    return line if len(line) <= WIDTH - 16 else _wrapped(unique)


def _wrapped(names: Sequence[str]) -> str:
    lines = [""]
    for name in names:
        item = f"{name!r}, "
        if lines[-1] and len(lines[-1]) + len(item) > WIDTH - 8:
            lines.append("")
        lines[-1] += item
    return "(\n" + "".join(f"    {line.rstrip()}\n" for line in lines) + ")"


def _counted(names: Sequence[str]) -> str | None:
    """`[f'block.{i}' for i in range(0, 8, 2)]` if the names are of that form, else None."""
    for number in _NUMBER.finditer(names[0]):
        prefix, suffix = names[0][: number.start()], names[0][number.end() :]
        numbers = _numbers(names, prefix, suffix)
        if numbers and _PLAIN.fullmatch(prefix + suffix):
            bounds = (numbers.start, numbers.stop, numbers.step)[: 2 + (numbers.step != 1)]
            shown = str(bounds[1:] if bounds[:-1] == (0,) else bounds).replace(",)", ")")
            return f"[f'{prefix}{{i}}{suffix}' for i in range{shown}]"
    return None


def _numbers(names: Sequence[str], prefix: str, suffix: str) -> range | None:
    """The numbers between prefix and suffix, None if they are not evenly spaced."""
    pattern = re.compile(f"{re.escape(prefix)}(0|[1-9][0-9]*){re.escape(suffix)}")
    matches = [pattern.fullmatch(name) for name in names]
    numbers = [int(match[1]) for match in matches if match is not None]
    if len(numbers) < len(names):
        return None
    step = numbers[1] - numbers[0]
    evenly = range(numbers[0], numbers[-1] + step, step)
    return evenly if list(evenly) == numbers else None
