"""Modules of the page inside one HTML file: no server, no other file.

A module that is part of a page has no address, so that `./x.js` leads nowhere from it. Each module
is a `data:` URL here, under a bare name in an import map, and imports the others by these names.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable

from gradwatch.errors import ArgumentError
from gradwatch.tab.static_files import ROOT, names

ENTRY = "gradwatch/index.js"
"""Bare name of the module that draws the page."""

STYLESHEETS = ("style.css", "panels.css", "vendor/uPlot.min.css")
"""In the order in which `index.js` loads them: a later one overrides an earlier one."""

_IMPORT = re.compile(r'^(import [^"\n]+ from )"\./([^"\n]+)";$', re.MULTILINE)
_RELATIVE = re.compile(r"""(?:\bfrom|\bimport)\s*\(?\s*["'`]\.""")


def import_map() -> str:
    """The import map with every module in it, JSON without "<"."""
    modules = [name for name in names() if name.endswith(".js")]
    return json.dumps({"imports": {_bare(name): _as_url(name) for name in modules}})


def stylesheet() -> str:
    """All style sheets, one after the other."""
    styles = "\n".join(_text(name) for name in STYLESHEETS)
    if "</" in styles:
        raise ArgumentError("a style sheet of gradwatch holds '</'; install gradwatch again")
    return styles


def inlined(source: str) -> str:
    """A module that imports others by their bare names.

    Args:
        source: A module whose imports are lines of the form `import { a } from "./x.js";`.

    Raises:
        ArgumentError: If an import has another form, and so would lead nowhere.
    """
    rewritten = _IMPORT.sub(lambda found: f'{found[1]}"{_bare(found[2])}";', source)
    if left := _RELATIVE.search(rewritten):
        raise ArgumentError(
            f"a module of the page imports in a form that cannot be inlined ({left[0]!r}); "
            "install gradwatch again"
        )
    return rewritten


def content_hash(content: str) -> str:
    """An element's content as a Content-Security-Policy names it."""
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def policy(scripts: Iterable[str]) -> str:
    """The Content-Security-Policy of a page: these scripts and `data:` modules, no other host.

    Args:
        scripts: Contents of the page's own script elements.
    """
    allowed = " ".join(content_hash(script) for script in scripts)
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {allowed} data:",
            "style-src 'unsafe-inline'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _bare(name: str) -> str:
    return f"gradwatch/{name}"


def _as_url(name: str) -> str:
    octets = inlined(_text(name)).encode()
    return f"data:text/javascript;base64,{base64.b64encode(octets).decode()}"


def _text(name: str) -> str:
    try:
        return (ROOT / name).read_text(encoding="utf-8")
    except OSError as error:
        raise ArgumentError(
            f"{name}, a part of the page, cannot be read ({error.strerror}); install gradwatch "
            "again"
        ) from error
