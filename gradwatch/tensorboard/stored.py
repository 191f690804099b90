"""Stored: the tensors of ours that an event file holds, not yet taken apart."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from gradwatch.errors import ArgumentError
from gradwatch.tensorboard import schema
from gradwatch.tensorboard.events import event_parser, read_records

MOST_TROUBLES = 20
"""Sentences that are kept: a damaged file may have thousands of faults."""

_MARK = b"\x0a" + bytes([len(schema.PLUGIN_NAME)]) + schema.PLUGIN_NAME.encode()
"""The plugin's name as it stands in every record of ours: others need not be parsed."""

Decoded = TypeVar("Decoded")


@dataclass(frozen=True, slots=True)
class Point:
    """One stored tensor, from a file or from TensorBoard's data provider.

    Args:
        content: What it holds.
        step: Step of its event.
        wall_time: Seconds since the epoch, of its event.
        parts: The tensor's byte strings.
        source: Where it comes from, for messages.
    """

    content: schema.Content
    step: int
    wall_time: float
    parts: tuple[bytes, ...]
    source: str = "a stored tensor"


class Troubles:
    """What could not be read, a sentence each, the first of them if there are many."""

    def __init__(self) -> None:
        self._sentences: dict[str, None] = {}
        self._more = 0

    def tell(self, sentence: str) -> None:
        """Take a sentence; one that was told before counts once."""
        if sentence in self._sentences:
            return
        if len(self._sentences) < MOST_TROUBLES:
            self._sentences[sentence] = None
        else:
            self._more += 1

    @property
    def sentences(self) -> tuple[str, ...]:
        """The sentences, in the order in which they were told."""
        more = (f"{self._more:,} more things there cannot be read.",) if self._more else ()
        return (*self._sentences, *more)


def decoded(decode: Callable[[], Decoded], source: str, troubles: Troubles) -> Decoded | None:
    """What `decode` returns; None, and a sentence, where it finds something else than it expects.

    Args:
        decode: Takes apart what is stored.
        source: Where it is stored.
        troubles: Is told what is wrong.
    """
    try:
        return decode()
    except ArgumentError as error:
        troubles.tell(f"{source} is left out: {error}.")
    except (KeyError, AttributeError, TypeError, ValueError, RecursionError) as error:
        told = (
            str(error)
            if type(error) is ValueError
            else f"it is not what is stored there: {error!r}"
        )
        troubles.tell(f"{source} is damaged and left out: {told}.")
    return None


def stored_points(
    path: Path, troubles: Troubles, *, most_records: int | None = None
) -> Iterator[Point]:
    """The stored tensors of an event file, as far as it can be read.

    Args:
        path: The file.
        troubles: Is told what cannot be read.
        most_records: Records of any kind to look at, None for all.

    Raises:
        MissingExtraError: If TensorBoard or google-crc32c is not installed.
    """
    parse = event_parser()
    try:
        for record in islice(read_records(path, tell=troubles.tell), most_records):
            event = parse(record) if _MARK in record else None
            for value in event.summary.value if event is not None else ():
                plugin = value.metadata.plugin_data
                if plugin.plugin_name == schema.PLUGIN_NAME:
                    yield from _points(path, event, value, troubles)
    except OSError as error:
        troubles.tell(f"{path} cannot be read ({error.strerror}); see to its permissions.")


def existing(directory: str | os.PathLike[str]) -> Path:
    """The directory as a path.

    Raises:
        ArgumentError: If it is not a directory.
    """
    root = Path(directory)
    try:
        root = root.expanduser()
        is_directory = root.is_dir()
    except (OSError, RuntimeError):  # a forbidden parent, a name too long; no such user
        is_directory = False
    if not is_directory:
        raise ArgumentError(f"{str(root)!r} is not a directory; pass the one given to TensorBoard")
    return root


def _points(path: Path, event: Any, value: Any, troubles: Troubles) -> Iterator[Point]:
    plugin = value.metadata.plugin_data.content
    source = f"{path}, {value.tag}"
    content = decoded(lambda: schema.parse_plugin_content(plugin, tag=value.tag), source, troubles)
    if content is not None:
        parts = tuple(value.tensor.string_val)
        yield Point(content, event.step, event.wall_time, parts, source)
