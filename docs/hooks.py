"""MkDocs hook: rule pages and tables from the code, formulas as MathML.

A page asks for a table by a line of its own, `<!-- table: rules -->`.
"""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pkgutil import iter_modules

from latex2mathml.converter import convert
from markdown.extensions.toc import slugify
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from rule_page import causes_of, qualified_name, rule_page, rule_path, summary, table

from gradwatch import fixes
from gradwatch.finding import Fix
from gradwatch.layer import Layer
from gradwatch.report_words import fix_caveats
from gradwatch.rules import ALL_RULES, PRECEDENCE
from gradwatch.snapshot import STATISTICS, Needs
from gradwatch.tensorboard.scalars import OPEN_FINDINGS, SNAPSHOT_SCALARS

TABLE_MARKER = re.compile(r"^<!-- table: (\w+) -->$", re.MULTILINE)
INLINE_FORMULA = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
BLOCK_FORMULA = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
PRIME = "<mo lspace='0' rspace='0'>&#x02032;</mo>"
MENDED: tuple[tuple[str, str], ...] = (
    # As a superscript a prime is drawn twice as small as it is meant to be, and hardly seen.
    (r"<msup>(<mi>\w</mi>)<mi>&#x02032;</mi></msup>", rf"\1{PRIME}"),
    (
        r"<msubsup>(<mi>\w</mi>)(<mi>\w</mi>)<mi>&#x02032;</mi></msubsup>",
        rf"<msub><mrow>\1{PRIME}</mrow>\2</msub>",
    ),
    # Operators by the converter's book, set too wide here: a derivative's d, a fraction's slash.
    (r"<mo>(&#x02202;)</mo>", r"<mi>\1</mi>"),
    (r"<mo>(&#x0002F;)</mo>", r"<mo lspace='0.1em' rspace='0.1em'>\1</mo>"),
    (r"<mo>(&#x0007C;)</mo>", r"<mo stretchy='false' lspace='0' rspace='0'>\1</mo>"),
    (r"<mi>:</mi>", "<mo>:</mo>"),
)
"""Pattern in a MathML element → what stands in its place."""

RULES_SECTION = "Rules"

EXAMPLE_LAYERS = (
    Layer(
        "body.0", "Linear", fan_in=64, fan_out=64, activation="sigmoid", activation_module="body.1"
    ),
    Layer("body.2", "Linear", fan_in=64, fan_out=64, activation="relu", activation_module="body.3"),
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
    links = _fix_links()
    for rule in ALL_RULES:
        files.append(File.generated(config, rule_path(rule), content=rule_page(rule, links)))
    return files


def _fix_links() -> dict[str, str]:
    """Qualified name of a function that makes a fix → link to its section, from a rule's page."""
    links = {}
    for module in iter_modules(fixes.__path__):
        for make in () if module.ispkg else _fix_functions(module.name):
            title = make(EXAMPLE_LAYERS).title
            links[qualified_name(make.func)] = f"[{title}](../fixes.md#{slugify(title, '-')})"
    return links


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
    element: str = convert(html.unescape(latex).strip(), display=display)
    for pattern, mended in MENDED:
        element = re.sub(pattern, mended, element)
    return element


def statistics_table(needs: Needs) -> str:
    """Every stored statistic that needs parameters or signals, in the order of a snapshot."""
    rows = [
        (
            f"`{statistic.name}`<br>{statistic.unit}",
            f'<span class="formula">${statistic.formula}$</span>{statistic.meaning}'
            f"<br><small>{statistic.source}</small>",
        )
        for statistic in STATISTICS
        if statistic.needs == needs
    ]
    return table(("name and unit", "formula, what it says, and where it comes from"), rows)


def fix_sections() -> str:
    """Every fix by family, with the code that it would hand to the owner of `EXAMPLE_LAYERS`."""
    parts = []
    for module in iter_modules(fixes.__path__):
        if not module.ispkg:
            parts += [f"## {module.name.replace('_', ' ').capitalize()}"]
            parts += [_fix_section(make(EXAMPLE_LAYERS)) for make in _fix_functions(module.name)]
    return "\n\n".join(parts)


def _fix_functions(name: str) -> list[partial[Fix]]:
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
    caveats = "".join(f"- {caveat}\n" for caveat in fix_caveats(fix))
    code = "\n\n".join(
        f"{framework}\n\n```python\n{fix.snippets[key]}\n```"
        for key, framework in (("torch", "PyTorch:"), ("keras", "Keras:"))
    )
    return (
        f"### {fix.title}\n\n{fix.rationale}\n\n{caveats}\n<small>{fix.reference}</small>\n\n{code}"
    )


def scalars_table() -> str:
    """Every curve that an event file holds for TensorBoard's own dashboards."""
    rows = [
        (f"`{scalar.tag}`", scalar.description) for scalar in (*SNAPSHOT_SCALARS, OPEN_FINDINGS)
    ]
    return table(("tag", "what it says"), rows)


def rules_table() -> str:
    """Every rule, by code."""
    rows = [
        (
            f"[{rule.code}]({rule.code.lower()}.md)<br>{rule.name}",
            f"{summary(rule)}<br><small>{', '.join(causes_of(rule))}</small>",
        )
        for rule in ALL_RULES
    ]
    return table(("rule", "what it finds, and the causes that it names"), rows)


def precedence_list() -> str:
    """The codes in the order in which one explains the others away."""
    return " → ".join(f"[{code}]({code.lower()}.md)" for code in PRECEDENCE)


TABLES: dict[str, Callable[[], str]] = {
    "fixes": fix_sections,
    "precedence": precedence_list,
    "rules": rules_table,
    "scalars": scalars_table,
    "parameter_statistics": partial(statistics_table, "parameters"),
    "signal_statistics": partial(statistics_table, "signals"),
}
"""Name in a page's marker → what stands in its place."""
