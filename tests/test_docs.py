"""The documentation: complete, self-contained, and its examples run."""

import inspect
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbclient
import nbformat
import pytest

import gradwatch
from gradwatch.rules import ALL_RULES
from gradwatch.snapshot import STATISTICS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

SECTIONS = [
    "What it means",
    "Why it matters",
    "How it is measured",
    "Example",
    "Fixes",
    "When it is wrong",
    "References",
]

each_rule = pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.code)
each_statistic = pytest.mark.parametrize("statistic", STATISTICS, ids=lambda entry: entry.name)


class Page(HTMLParser):
    """A built page: its links to other hosts that a browser loads, its text and its headings."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.loads: list[str] = []
        self.headings: list[str] = []
        self._heading = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "h2":
            self.headings.append("")
        self._heading = tag == "h2"
        if tag in {"script", "img", "iframe"}:
            self.loads.append(attributes.get("src") or "")
        if tag == "link" and attributes.get("rel") in {"stylesheet", "preconnect", "icon"}:
            self.loads.append(attributes.get("href") or "")

    def handle_data(self, data):
        if self._heading:
            self.headings[-1] += data


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


def docstring(rule) -> str:
    return inspect.cleandoc(sys.modules[type(rule).__module__].__doc__ or "")


@each_rule
def test_a_rule_documents_itself_in_the_fixed_sections(rule):
    assert re.findall(r"^## (.+)$", docstring(rule), re.MULTILINE) == SECTIONS


@each_rule
def test_no_section_of_a_rule_is_empty(rule):
    sections = re.split(r"^## .+$", docstring(rule), flags=re.MULTILINE)
    assert all(section.strip() for section in sections)


@each_rule
def test_a_rule_has_a_page_that_shows_its_docstring(rule, site):
    page = site[f"rules/{rule.code.lower()}"]
    assert f"{rule.code} {rule.name}" in page.html
    assert page.headings[: len(SECTIONS)] == SECTIONS


@each_rule
def test_a_page_of_a_rule_shows_its_thresholds(rule, site):
    page = site[f"rules/{rule.code.lower()}"]
    assert all(f"<code>{name}</code>" in page.html for name in rule.thresholds())


@each_rule
def test_the_list_of_rules_links_to_each(rule, site):
    assert f'href="{rule.code.lower()}/">{rule.code}</a>' in site["rules"].html


def test_readme_lists_exactly_the_rules_there_are():
    listed = re.findall(r"^\| (GW\d+) \| ([\w-]+) \|", README, re.MULTILINE)
    assert listed == [(rule.code, rule.name) for rule in ALL_RULES]


@each_statistic
def test_a_statistic_has_a_row_with_its_formula(statistic, site):
    (row,) = re.findall(
        rf"<tr>\s*<td><code>{statistic.name}</code></td>.*?</tr>",
        site["statistics"].html,
        re.DOTALL,
    )
    assert "<math" in row
    assert f"<td>{statistic.unit}</td>" in row


@pytest.mark.parametrize("name", sorted(set(gradwatch.__all__) - {"__version__"}))
def test_a_public_name_is_in_the_reference(name, site):
    assert re.search(rf'id="gradwatch\.[\w.]+\.{name}"', site["api"].html)


def test_no_formula_is_left_as_latex(site):
    assert [path for path, page in site.items() if 'class="arithmatex"' in page.html] == []


def test_pages_load_nothing_from_another_host(site):
    foreign = {
        address
        for page in site.values()
        for address in page.loads
        if address.startswith(("http:", "https:", "//"))
    }
    assert foreign == set()


def test_the_example_script_runs(tmp_path):
    script = ROOT / "examples" / "pytorch_loop.py"
    run = subprocess.run(
        [sys.executable, script, "--log-dir", tmp_path], capture_output=True, text=True, check=True
    )
    assert "GW101" in run.stdout


def test_every_cell_of_the_notebook_may_run_twice(tmp_path):
    notebook = nbformat.read(ROOT / "examples" / "notebook.ipynb", as_version=4)
    notebook.cells = [cell for cell in notebook.cells for _ in range(2)]
    client = nbclient.NotebookClient(notebook, resources={"metadata": {"path": tmp_path}})
    client.execute()
    assert "GW101" in str(notebook.cells[-1].outputs)


def test_the_notebook_is_stored_without_outputs():
    notebook = nbformat.read(ROOT / "examples" / "notebook.ipynb", as_version=4)
    assert [cell.id for cell in notebook.cells if cell.get("outputs")] == []
