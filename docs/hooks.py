"""MkDocs hook: rule pages and tables from the code, formulas as MathML.

A rule's page is its module docstring, so that the text cannot drift from the rule. A page asks for
a table by a line of its own, `<!-- table: rules -->`.
"""

from __future__ import annotations

import html
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import partial
from importlib import import_module
from pkgutil import iter_modules

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from gradwatch import fixes
from gradwatch.finding import Fix
from gradwatch.layer import Layer
from gradwatch.report_words import figure
from gradwatch.rules import ALL_RULES, PRECEDENCE, Rule
from gradwatch.snapshot import STATISTICS, Needs
from gradwatch.tensorboard.scalars import OPEN_FINDINGS, SNAPSHOT_SCALARS

TABLE_MARKER = re.compile(r"^<!-- table: (\w+) -->$", re.MULTILINE)
INLINE_FORMULA = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
BLOCK_FORMULA = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
PRIME = re.compile(r"<msup>(<mi>\w</mi>)<mi>&#x02032;</mi></msup>")
RULES_SECTION = "Rules"

EXAMPLE_LAYERS = (
    Layer("body.0", "Linear", 0, activation="sigmoid", activation_module="body.1"),
    Layer("body.2", "Linear", 1, activation="relu", activation_module="body.3", inputs=(0,)),
)
"""Layers that the snippets on the page of fixes name."""

EXAMPLE_FIGURE = 10.0
"""What stands for a figure that a fix takes from the evidence."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The configuration with one navigation entry a rule."""
    for entry in config.nav or ():
        if RULES_SECTION in entry and isinstance(entry, dict):
            entry[RULES_SECTION] += [
                {f"{rule.code} {rule.name}": rule_path(rule)} for rule in ALL_RULES
            ]
            return config
    raise PluginError(f"mkdocs.yml has no {RULES_SECTION!r} section in its nav")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files with one generated page a rule."""
    for rule in ALL_RULES:
        files.append(File.generated(config, rule_path(rule), content=rule_page(rule)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """The page with every table marker replaced by its table."""

    def table_of(marker: re.Match[str]) -> str:
        try:
            return TABLES[marker[1]]()
        except KeyError:
            path = page.file.src_uri
            raise PluginError(
                f"{path} asks for table {marker[1]!r}; there are {', '.join(TABLES)}"
            ) from None

    return TABLE_MARKER.sub(table_of, markdown)


def on_page_content(content: str, **_: object) -> str:
    """The rendered page with every formula as MathML, which browsers draw without a script."""
    content = INLINE_FORMULA.sub(lambda found: mathml(found[1], display="inline"), content)
    return BLOCK_FORMULA.sub(lambda found: mathml(found[1], display="block"), content)


def mathml(latex: str, *, display: str) -> str:
    """A formula as a MathML element.

    Args:
        latex: LaTeX as it stands in HTML, entities included.
        display: "inline" or "block".
    """
    element = convert(html.unescape(latex).strip(), display=display)
    # As a superscript a prime is drawn twice as small as it is meant to be, and hardly seen.
    return PRIME.sub(r"\1<mo lspace='0' rspace='0'>&#x02032;</mo>", element)


def rule_path(rule: Rule) -> str:
    """Where a rule's page lies below `docs`; codes never change, so neither do links."""
    return f"rules/{rule.code.lower()}.md"


def docstring(rule: Rule) -> str:
    """The docstring of the module that defines a rule."""
    return inspect.cleandoc(sys.modules[type(rule).__module__].__doc__ or "")


def summary(rule: Rule) -> str:
    """What a rule finds, in one sentence: the first paragraph of its module."""
    return " ".join(docstring(rule).partition("\n\n")[0].split())


def rule_page(rule: Rule) -> str:
    """A rule's page: docstring, how many samples it needs, thresholds."""
    body = docstring(rule).partition("\n\n")[2]
    parts = [
        f"# {rule.code} {rule.name}",
        summary(rule),
        body,
        "## When it speaks",
        _when(rule),
        "## Thresholds",
        _thresholds(rule),
    ]
    return "\n\n".join(parts) + "\n"


def _when(rule: Rule) -> str:
    reads = {
        "signals": "samples with forward and backward signals",
        "parameters": "every sample, with or without signals",
    }[rule.needs]
    after = "" if not rule.warm_up else f", leaving out the first {rule.warm_up} of the run"
    windows = "one window" if rule.persistence == 1 else f"{rule.persistence} windows in a row"
    size = "one sample" if rule.size == 1 else f"{rule.size} samples"
    return f"It reads {reads}{after}. It needs {windows} of {size} that agree."


def _thresholds(rule: Rule) -> str:
    rows = [
        (f"`{entry.name}`", figure(getattr(rule, entry.name)), *_unit_and_source(entry.metadata))
        for entry in fields(rule)
    ]
    if not rows:
        return "None: what it looks for is either there or not."
    intro = "Change one with `dataclasses.replace(rule, name=value)`.\n\n"
    return intro + _table(("threshold", "default", "unit", "source"), rows)


def _unit_and_source(metadata: object) -> tuple[str, str]:
    entries = dict(metadata)  # type: ignore[call-overload]  # a mapping proxy
    return entries["unit"], entries["source"]


def statistics_table(needs: Needs) -> str:
    """Every stored statistic that needs parameters or signals, in the order of a snapshot."""
    rows = [
        (
            f"`{statistic.name}`",
            f"${statistic.formula}$",
            statistic.unit,
            f"{statistic.meaning}<br><small>{statistic.source}</small>",
        )
        for statistic in STATISTICS
        if statistic.needs == needs
    ]
    return _table(("name", "formula", "unit", "what it says, and where it comes from"), rows)


def fix_sections() -> str:
    """Every fix by family, with the code that it would hand to the owner of `EXAMPLE_LAYERS`."""
    parts = []
    for module in iter_modules(fixes.__path__):
        if not module.ispkg:
            parts += [f"## {module.name.replace('_', ' ').capitalize()}"]
            parts += [_fix_section(make(EXAMPLE_LAYERS)) for make in _fix_functions(module.name)]
    return "\n\n".join(parts)


def _fix_functions(name: str) -> list[Callable[[tuple[Layer, ...]], Fix]]:
    """The functions of a family that make a fix, with their required figures filled in."""
    family = import_module(f"{fixes.__name__}.{name}")
    makers = []
    for _, function in inspect.getmembers(family, inspect.isfunction):
        signature = inspect.signature(function)
        if function.__module__ == family.__name__ and signature.return_annotation == "Fix":
            _, *options = signature.parameters.values()
            needed = [option.name for option in options if option.default is option.empty]
            makers.append(partial(function, **dict.fromkeys(needed, EXAMPLE_FIGURE)))
    return makers


def _fix_section(fix: Fix) -> str:
    rate = "\n\nUsually with a smaller learning rate." if fix.lower_learning_rate else ""
    return (
        f"### {fix.title}\n\n{fix.rationale}{rate}\n\n<small>{fix.reference}</small>\n\n"
        f"```python\n{fix.snippets['torch']}\n```"
    )


def scalars_table() -> str:
    """Every curve that an event file holds for TensorBoard's own dashboards."""
    rows = [
        (f"`{scalar.tag}`", scalar.description) for scalar in (*SNAPSHOT_SCALARS, OPEN_FINDINGS)
    ]
    return _table(("tag", "what it says"), rows)


def rules_table() -> str:
    """Every rule, by code."""
    rows = [
        (f"[{rule.code}]({rule.code.lower()}.md)", rule.name, summary(rule)) for rule in ALL_RULES
    ]
    return _table(("code", "name", "what it finds"), rows)


def precedence_list() -> str:
    """The codes in the order in which one explains the others away."""
    return " → ".join(f"[{code}]({code.lower()}.md)" for code in PRECEDENCE)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    r"""Text for a table cell; a bare bar would end it, `\vert` draws the same bar in a formula."""
    formula = text.startswith("$")
    return text.replace("|", r"\vert " if formula else r"\|")


TABLES: dict[str, Callable[[], str]] = {
    "fixes": fix_sections,
    "precedence": precedence_list,
    "rules": rules_table,
    "scalars": scalars_table,
    "parameter_statistics": partial(statistics_table, "parameters"),
    "signal_statistics": partial(statistics_table, "signals"),
}
"""Name in a page's marker → what stands in its place."""
