"""Search: the directories at or below another one that hold a run."""

from __future__ import annotations

import os
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gradwatch.tensorboard.stored import Troubles, existing, stored_points

_FIRST_RECORDS = 64
"""A file of ours holds something of ours this early, even if its first records are damaged."""


@dataclass(frozen=True)
class Found:
    """What a search came upon.

    Args:
        directories: Directories that hold a run, sorted.
        foreign_files: Number of event files without anything of gradwatch in directories without a
            run.
        troubles: What could not be read outside those directories, a sentence each.
    """

    directories: tuple[Path, ...]
    foreign_files: int
    troubles: tuple[str, ...]


def find_recordings(log_dir: str | os.PathLike[str]) -> list[Path]:
    """Directories at or below `log_dir` that `reader.read` can read, sorted.

    Args:
        log_dir: What is given to TensorBoard.

    Raises:
        ArgumentError: If it is not a directory.
        MissingExtraError: If TensorBoard or google-crc32c is not installed.
    """
    return list(search(log_dir).directories)


def search(log_dir: str | os.PathLike[str]) -> Found:
    """The runs at or below a directory, symbolic links followed, and what stands in the way.

    Args:
        log_dir: What is given to TensorBoard.

    Raises:
        ArgumentError: If it is not a directory.
        MissingExtraError: If TensorBoard or google-crc32c is not installed.
    """
    walking = Troubles()
    files: dict[Path, list[Path]] = defaultdict(list)
    for path in _event_files(existing(log_dir), walking):
        files[path.parent].append(path)
    runs, foreign = [], 0
    for directory in sorted(files):
        troubles = Troubles()
        if any(_holds_a_run(path, troubles) for path in sorted(files[directory])):
            runs.append(directory)
        else:
            foreign += len(files[directory])
            for sentence in troubles.sentences:
                walking.tell(sentence)
    return Found(tuple(runs), foreign, walking.sentences)


def _holds_a_run(path: Path, troubles: Troubles) -> bool:
    return any(True for _ in stored_points(path, troubles, most_records=_FIRST_RECORDS))


def _event_files(root: Path, troubles: Troubles) -> Iterator[Path]:
    """Every event file below a directory, once: a link may lead back, or to where others lead."""
    seen: set[tuple[int, int]] = set()
    pending, links = deque([root]), deque[Path]()
    while pending or links:
        directory = (pending or links).popleft()
        try:
            status = directory.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(directory) as entries:
                for entry in entries:
                    if _is_directory(entry):
                        (links if entry.is_symlink() else pending).append(Path(entry.path))
                    elif "tfevents" in entry.name and _is_file(entry):
                        yield Path(entry.path)
        except OSError as error:
            troubles.tell(f"{directory} cannot be read ({error.strerror}); see to its permissions.")


def _is_directory(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, or a link to one; a link that leads nowhere or to itself is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
