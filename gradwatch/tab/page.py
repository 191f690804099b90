"""Page: runs as one HTML file that opens from disk, the same page as the tab in TensorBoard.

The page's modules, its styles and the answers of the routes are inside the file. Nothing is asked
of any server: the file's Content-Security-Policy allows its own scripts alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any

from gradwatch._version import __version__
from gradwatch.finding import Finding
from gradwatch.report_words import headline, printable, resolved_line
from gradwatch.tab.page_answers import JudgedRun, answers
from gradwatch.tab.page_modules import ENTRY, import_map, policy, stylesheet
from gradwatch.tensorboard.schema import encode_json

MARK = '<meta name="generator" content="gradwatch'
"""What every page of ours has in its head: a file without it is not overwritten."""

START = f'import {{ render }} from "{ENTRY}";\nrender();\n'


def page(judged: Sequence[JudgedRun], *, title: str) -> str:
    """The page of these runs.

    Args:
        judged: The runs, sorted by name.
        title: Title of the window.

    Raises:
        ArgumentError: If there are too many runs for one page.
    """
    inline = script_json(answers(judged))
    modules = import_map()
    return "\n".join(
        (
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'{MARK} {__version__}">',
            '<meta http-equiv="Content-Security-Policy" '
            f'content="{escape(policy((modules, inline, START)))}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{_text(title)}</title>",
            f"<style>\n{stylesheet()}\n</style>",
            f'<script type="importmap">{modules}</script>',
            f'<script type="application/json" id="gradwatch-inline">{inline}</script>',
            f'<script type="module">{START}</script>',
            "</head>",
            "<body>",
            "<noscript>",
            *_plain(judged, title),
            "</noscript>",
            "</body>",
            "</html>",
            "",
        )
    )


def script_json(content: Any) -> str:
    """JSON for a script element: ASCII, and no "<" that could end the element."""
    return encode_json(content).decode("ascii").replace("<", r"\u003c")


def _plain(judged: Iterable[JudgedRun], title: str) -> Iterator[str]:
    """The verdicts and findings as HTML without a script."""
    yield f"<h1>{_text(title)}</h1>"
    yield "<p>Heatmaps and profiles need JavaScript, which is turned off.</p>"
    for one in judged:
        yield f"<h2>{_text(one.run.name)}</h2>"
        yield f"<p>{_text(one.report.verdict)}</p>"
        for finding in one.report.open_findings:
            yield from _finding(finding)
        for finding in one.report.resolved_findings:
            yield f"<p>{_text(resolved_line(finding))}</p>"


def _finding(finding: Finding) -> Iterator[str]:
    yield f"<h3>{_text(f'{finding.severity}: {headline(finding)}')}</h3>"
    yield f"<p>{_text(finding.message)} Cause: {_text(finding.cause)}.</p>"
    if finding.fixes:
        titles = (f"<li>{_text(fix.title)}: {_text(fix.rationale)}</li>" for fix in finding.fixes)
        yield f"<ol>{''.join(titles)}</ol>"


def _text(text: str) -> str:
    return escape(printable(text))


__all__ = ["MARK", "JudgedRun", "page", "script_json"]
