"""Static files: the page's modules, each served by its exact name and no other file of the disk."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

ROOT = Path(__file__).with_name("static")

MIME_TYPES = {".css": "text/css", ".js": "text/javascript"}
"""Ending of a name → the type that it is served as; a file with another ending is not served."""


def names() -> tuple[str, ...]:
    """Every file of the page, sorted, as the page asks for it: "vendor/uPlot.esm.js"."""
    files = (path for path in ROOT.rglob("*") if path.suffix in MIME_TYPES and path.is_file())
    return tuple(sorted(path.relative_to(ROOT).as_posix() for path in files))


def mime_type(name: str) -> str:
    """The type that a file is served as."""
    return MIME_TYPES[PurePosixPath(name).suffix]
