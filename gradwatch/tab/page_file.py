"""File of a page: written whole or not at all, and never in place of something else."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from gradwatch.errors import ArgumentError
from gradwatch.tab.page import MARK

HEAD = 1000
"""Characters in which a page of ours has its mark."""


def check_target(path: Path) -> None:
    """Make sure that a page may be written there, before the work is done.

    Raises:
        ArgumentError: If it is a directory, has no directory to go to, or holds something else.
    """
    try:
        if not path.parent.is_dir():
            raise ArgumentError(
                f"the report cannot be written to {str(path)!r}: there is no directory "
                f"{str(path.parent)!r}; create it first"
            )
        if path.is_dir():
            raise ArgumentError(
                f"the report cannot be written to {str(path)!r}, which is a directory; name a "
                f"file, for example {str(path / 'report.html')!r}"
            )
        if path.exists() and not _may_be_replaced(path):
            raise ArgumentError(
                f"{str(path)!r} is there already and is no report of gradwatch, so it is not "
                "overwritten; name another file"
            )
    except OSError as error:
        raise ArgumentError(_refused(path, error)) from error


def write_page(path: Path, content: str) -> int:
    """Write a page and return its size in octets; what was there stays until all is on disk.

    Args:
        path: Where it goes; of a symbolic link, to what it leads.
        content: The page.

    Raises:
        ArgumentError: If it cannot be written.
    """
    check_target(path)
    target = path.resolve()
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        try:
            with draft.open("x", encoding="utf-8", newline="\n") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            size = draft.stat().st_size
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise ArgumentError(_refused(path, error)) from error
    return size


def _may_be_replaced(path: Path) -> bool:
    """Whether it is an earlier page of ours, or an empty file."""
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        head = file.read(HEAD)
    return not head or MARK in head


def _refused(path: Path, error: OSError) -> str:
    return (
        f"the report cannot be written to {str(path)!r} ({error.strerror or error}); name another "
        "file with --html"
    )
