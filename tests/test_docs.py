"""The documentation: complete, in agreement with the code, and self-contained."""

import ast
import html
import inspect
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import get_args

import pytest

import gradwatch
from gradwatch import fixes
from gradwatch.finding import Cause, Severity
from gradwatch.layer import Layer
from gradwatch.rule_pages import docstring, earliest_step, named_causes, threshold_meanings
from gradwatch.rules import ALL_RULES
from gradwatch.snapshot import STATISTICS, Snapshot

from .built_page import Page

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

SECTIONS = [
    "What it means",
    "Why it matters",
    "How it is measured",
    "Causes",
    "Example",
    "Fixes",
    "When it is wrong",
    "References",
]
ON_THE_PAGE = [*SECTIONS[:3], "Thresholds", *SECTIONS[3:]]

WITHOUT_A_FIX = {"GW901", "GW902"}
"""Rules about gradwatch itself: the message says what to do."""

FORMULA_LEFT = re.compile(r"\$|\\[a-zA-Z]+[ {]")

EXAMPLE_LAYERS = (
    Layer("body.0", "Linear", 0, activation="sigmoid", activation_module="body.1"),
    Layer("body.2", "Linear", 1, activation="relu", activation_module="body.3", inputs=(0,)),
)


def rule_module(rule):
    return sys.modules[type(rule).__module__]


def strings_in(rule) -> set[str]:
    """Every string in the code of a rule's module, docstrings left out by their length."""
    tree = ast.parse(inspect.getsource(rule_module(rule)))
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def evidence_in(rule) -> set[str]:
    """Names in the evidence of a rule, those of thresholds left out."""
    tree = ast.parse(inspect.getsource(rule_module(rule)))
    names = {
        ast.literal_eval(key)
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "evidence"
        for entry in ast.walk(node.value)
        if isinstance(entry, ast.Dict)
        for key in entry.keys
        if key is not None  # a dictionary that is unpacked in another; it is walked as well
    }
    return {name for name in names if not name.endswith(("_threshold", "_smallest", "_largest"))}


def fix_makers() -> list:
    """Every function of the catalogue that makes a fix."""
    families = [
        import_module(f"{fixes.__name__}.{entry.name}")
        for entry in iter_modules(fixes.__path__)
        if not entry.ispkg
    ]
    return [
        function
        for family in families
        for _, function in inspect.getmembers(family, inspect.isfunction)
        if function.__module__ == family.__name__
        and inspect.signature(function).return_annotation == "Fix"
    ]


def title_of(maker) -> str:
    """The title of a fix for two layers, with a figure of 10 where it takes one."""
    _, *options = inspect.signature(maker).parameters.values()
    needed = {option.name: 10.0 for option in options if option.default is option.empty}
    return maker(EXAMPLE_LAYERS, **needed).title


each_rule = pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.code)
each_fix = pytest.mark.parametrize("maker", fix_makers(), ids=lambda maker: maker.__name__)
each_statistic = pytest.mark.parametrize("statistic", STATISTICS, ids=lambda entry: entry.name)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The strictly built site: path below it → page. A dead link or a missing page fails here."""
    folder = tmp_path_factory.mktemp("site")
    build = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert build.returncode == 0, build.stderr
    return {
        path.parent.relative_to(folder).as_posix(): Page(path.read_text(encoding="utf-8"))
        for path in folder.rglob("index.html")
    }


def page_of(rule, site) -> Page:
    return site[f"rules/{rule.code.lower()}"]


class TestRules:
    """Every rule is documented, and its page says what its code does."""

    @each_rule
    def test_a_rule_documents_itself_in_the_fixed_sections(self, rule):
        assert re.findall(r"^## (.+)$", docstring(rule), re.MULTILINE) == SECTIONS

    @each_rule
    def test_no_section_of_a_rule_is_empty(self, rule):
        sections = re.split(r"^## .+$", docstring(rule), flags=re.MULTILINE)
        assert all(section.strip() for section in sections)

    @each_rule
    def test_a_rule_describes_each_of_its_thresholds(self, rule):
        assert list(threshold_meanings(rule)) == list(rule.thresholds())

    @each_rule
    def test_the_page_names_the_causes_that_the_code_names(self, rule):
        causes = [entry.cause for entry in named_causes(rule)]
        assert set(causes) == strings_in(rule) & set(get_args(Cause))
        assert len(causes) == len(set(causes))

    @each_rule
    def test_the_page_names_the_severities_that_the_code_gives(self, rule):
        severities = {severity for entry in named_causes(rule) for severity in entry.severities}
        assert severities == strings_in(rule) & set(get_args(Severity))

    @each_rule
    def test_a_rule_has_a_page_that_shows_its_docstring(self, rule, site):
        page = page_of(rule, site)
        assert f"{rule.code} {rule.name}" in page.html
        assert page.headings == ON_THE_PAGE

    @each_rule
    def test_a_page_of_a_rule_shows_its_thresholds(self, rule, site):
        page = page_of(rule, site)
        assert all(f"<code>{name}</code>" in page.html for name in rule.thresholds())

    @each_rule
    def test_a_page_of_a_rule_links_to_the_fixes_that_its_code_makes(self, rule, site):
        makers = [
            value
            for value in vars(rule_module(rule)).values()
            if inspect.isfunction(value) and value.__module__.startswith("gradwatch.fixes.")
        ]
        linked = {link for link in page_of(rule, site).links if "/fixes/#" in link}
        assert len(linked) == len(makers)
        assert bool(makers) is (rule.code not in WITHOUT_A_FIX)

    @each_rule
    def test_the_list_of_rules_links_to_each_and_names_its_causes(self, rule, site):
        causes = ", ".join(entry.cause for entry in named_causes(rule))
        row = rf'<td><a href="{rule.code.lower()}/">{rule.code}</a><br>{rule.name}</td>'
        assert re.search(rf"{row}\s*<td>.+<small>{causes}</small></td>", site["rules"].html)

    @each_rule
    def test_a_rule_has_a_test_file_of_its_own(self, rule):
        tests = ROOT / "tests" / "rules" / f"test_{rule.code.lower()}.py"
        assert type(rule).__name__ in tests.read_text(encoding="utf-8")

    @pytest.mark.parametrize(
        ("code", "step"), [("GW101", 16), ("GW301", 0), ("GW302", 0), ("GW901", 4)]
    )
    def test_a_page_says_when_its_rule_can_speak_first(self, code, step, site):
        (rule,) = (rule for rule in ALL_RULES if rule.code == code)
        assert earliest_step(rule) == step
        assert f"at step {step} at the earliest" in page_of(rule, site).prose

    def test_readme_lists_exactly_the_rules_there_are(self):
        listed = re.findall(r"^\| (GW\d+) \| ([\w-]+) \|", README, re.MULTILINE)
        assert listed == [(rule.code, rule.name) for rule in ALL_RULES]


class TestFixes:
    """Every fix is documented and tested."""

    @each_fix
    def test_a_fix_has_a_section_on_the_page_of_fixes(self, maker, site):
        assert html.escape(title_of(maker), quote=False) in site["fixes"].html

    @each_fix
    def test_a_fix_is_tested_by_name(self, maker):
        tests = (ROOT / "tests" / "fixes").glob("test_*.py")
        assert any(maker.__name__ in path.read_text(encoding="utf-8") for path in tests)


class TestStatistics:
    """Every statistic is documented, and so is every figure in the evidence of a finding."""

    @each_statistic
    def test_a_statistic_has_a_row_with_its_formula_unit_and_source(self, statistic, site):
        (row,) = re.findall(
            rf"<tr>\s*<td><code>{statistic.name}</code><br>.*?</tr>",
            site["statistics"].html,
            re.DOTALL,
        )
        assert "<math" in row
        assert f"<br>{html.escape(statistic.unit)}</td>" in row
        assert html.escape(statistic.source, quote=False) in row

    @pytest.mark.parametrize(
        "name",
        [
            name
            for name, value in vars(Snapshot).items()
            if not name.startswith("_") and (isinstance(value, property) or hasattr(value, "func"))
        ],
    )
    def test_a_derived_statistic_has_a_row_with_its_formula(self, name, site):
        (row,) = re.findall(
            rf"<tr>\s*<td><code>{name}</code><br>.*?</tr>", site["statistics"].html, re.DOTALL
        )
        assert "<math" in row

    @each_rule
    def test_a_figure_in_the_evidence_is_explained(self, rule, site):
        shown = set(re.findall(r"<code>(\w+)</code>", site["statistics"].html))
        assert evidence_in(rule)
        assert evidence_in(rule) <= shown


class TestSite:
    """The site is whole and loads nothing from elsewhere."""

    @pytest.mark.parametrize("name", sorted(set(gradwatch.__all__) - {"__version__"}))
    def test_a_public_name_is_in_the_reference(self, name, site):
        assert re.search(rf'id="gradwatch\.[\w.]+\.{name}"', site["api"].html)

    def test_every_page_is_in_the_navigation(self, site):
        linked = {link.strip("/") or "." for link in site["."].links}
        assert set(site) - linked == set()

    def test_no_formula_is_left_as_latex(self, site):
        left = {path: FORMULA_LEFT.findall(page.prose) for path, page in site.items()}
        assert {path: found for path, found in left.items() if found} == {}

    def test_formulas_are_drawn_without_a_script(self, site):
        scripts = {address for page in site.values() for address in page.loads}
        assert not [address for address in scripts if re.search("mathjax|katex", address)]
        assert "<math" in site["rules/gw101"].html

    def test_pages_load_nothing_from_another_host(self, site):
        foreign = {
            address
            for page in site.values()
            for address in page.loads
            if address.startswith(("http:", "https:", "//"))
        }
        assert foreign == set()

    def test_a_threshold_that_a_command_sets_is_there(self, site):
        known = {f"{rule.code}.{name}" for rule in ALL_RULES for name in rule.thresholds()}
        sources = [README, *(re.sub(r"<[^>]+>", "", page.html) for page in site.values())]
        named = {name for text in sources for name in re.findall(r"--set (GW\d+\.\w+)=", text)}
        assert "GW101.depth" in named
        assert named <= known
