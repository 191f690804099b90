"""The text summary: what it says, and that a layer's name is nothing but a name in it."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from gradwatch.tensorboard.summary import code_name, escape, findings_summary, healthy_summary

from .builders import finding

pytestmark = pytest.mark.filterwarnings("ignore:html5lib's sanitizer:DeprecationWarning")

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![pixel](https://example.org/x.png)",
    "[click](https://example.org)",
    "`code`",
    "a`b",
    "**bold** _em_ __init__",
    "# heading",
    "- item",
    "+ item",
    "1. item",
    "> quote",
    "a | b",
    "a\\",
    "\\`",
    "&lt;b&gt; &amp;",
    "<https://example.org>",
    "[ref]: https://example.org",
    "```",
    "~~~",
    "<!-- comment",
    "---",
    "    indented",
]


class Page(HTMLParser):
    """Tags and text of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.words += data


def page(markdown: str) -> Page:
    """What TensorBoard makes of the Markdown; its import warns, which only a test may ignore."""
    from tensorboard.plugin_util import markdown_to_safe_html

    return Page(markdown_to_safe_html(markdown))


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_text_shows_as_it_is(text):
    shown = page(escape(text))
    assert (shown.tags, shown.words) == (["p"], text.strip())


@pytest.mark.parametrize("text", HOSTILE)
def test_a_name_shows_as_it_is(text):
    shown = page(f"Layers: {code_name(text)}, {code_name('fc1')}.")
    assert set(shown.tags) <= {"p", "code"}
    assert shown.words == f"Layers: {text.strip()}, fc1."


@pytest.mark.parametrize("name", ["encoder.layers.0", "conv_1", "block[2]", "a b", "__init__"])
def test_a_usual_name_shows_as_code(name):
    assert code_name(name) == f"`{name}`"


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\nb", "a b"), ("a\x00b", "a\\\\x00b"), ("\u202eb", "\\\\u202eb"), ("\ud800", "\\\\ud800")],
)
def test_invisible_characters_show_as_their_codes(text, shown):
    assert escape(text) == shown


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_layer_changes_nothing_around_it(name):
    seen = finding(layers=(name,), message=f"Layer {name} does not learn.")
    calm_name = "fc1" if code_name(name).startswith("`") else "<calm>"
    calm = finding(layers=(calm_name,), message="Layer x does not learn.")
    hostile_page = page(findings_summary([seen], framework="torch"))
    calm_page = page(findings_summary([calm], framework="torch"))
    assert hostile_page.tags == calm_page.tags
    assert f"Layer {name} does not learn." in hostile_page.words


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_figure_stays_in_its_row(name):
    shown = page(findings_summary([finding(evidence={name: 1.0, "b": 2.0})], framework="torch"))
    cells = [cell.strip() for cell in shown.words.split("threshold\n")[1].split("\n") if cell]
    assert cells[:2] == [name.replace("_", " ").strip(), "1"]
    assert shown.tags.count("td") == 2 * 3


@pytest.mark.parametrize("fence", ["```", "````", "~~~", "</code></pre><h1>"])
def test_a_snippet_stays_in_its_block(fence):
    fix = finding().fixes[0]
    snippets = {"torch": f"x = 1\n{fence}\n# still code"}
    fenced = finding(fixes=(type(fix)("activation", "Title", "Why", "Ref", snippets),))
    shown = page(findings_summary([fenced], framework="torch"))
    assert "# still code" in shown.words
    assert shown.tags.count("h1") == 0
    assert shown.tags[-2:] == ["pre", "code"]


@pytest.mark.parametrize(
    ("severities", "verdict"),
    [
        (["error"], "Training cannot work as it is. Open findings: 1 error."),
        (
            ["notice", "warning", "error", "warning"],
            "Training cannot work as it is. Open findings: 1 error, 2 warnings and 1 notice.",
        ),
        (["warning"], "Training works badly, or may. Open findings: 1 warning."),
        (["notice"], "No problem found, only notices. Open findings: 1 notice."),
    ],
)
def test_the_verdict_is_that_of_the_worst_open_finding(severities, verdict):
    findings = [finding(severity=severity) for severity in severities]
    findings.append(finding(severity="error", resolved_step=30))
    assert page(findings_summary(findings, framework="torch")).words.startswith(verdict)


def test_open_findings_come_worst_first_and_resolved_ones_last():
    findings = [
        finding(code="GW301", resolved_step=30),
        finding(code="GW901", severity="notice"),
        finding(code="GW101", severity="error"),
    ]
    text = findings_summary(findings, framework="torch")
    places = [text.index(code) for code in ("GW101", "GW901", "### Resolved", "GW301")]
    assert places == sorted(places)
    assert "GW301 vanishing-gradient (activation), steps 16 to 30. Layers: `fc1`" in text


def test_a_run_whose_findings_are_all_resolved_says_so():
    text = findings_summary([finding(resolved_step=30)], framework="torch")
    assert text.startswith("**No open findings**; 1 finding resolved.")


@pytest.mark.parametrize(
    ("framework", "code"), [("torch", "nn.ReLU()"), ("keras", "keras.layers.Dense")]
)
def test_the_snippet_is_that_of_the_framework(framework, code):
    text = findings_summary([finding()], framework=framework)
    assert f"```python\n{finding().fixes[0].snippets[framework]}\n```" in text
    assert code in text


def test_a_figure_stands_beside_its_threshold():
    text = findings_summary([finding()], framework="torch")
    assert "| backward depth | -7 | -3.5 |" in text
    assert "| activation share | 0.9 |  |" in text
    assert "threshold | -3.5 | |" not in text


def test_other_fixes_are_listed_by_title():
    text = findings_summary([finding()], framework="torch")
    assert "Other fixes:\n\n- Add a normalisation before each sigmoid" in text


def test_a_fix_that_needs_a_smaller_learning_rate_says_so():
    text = findings_summary([finding()], framework="torch")
    assert "Learning rate: try lr/5 with it." in text


def test_when_the_first_fix_is_wrong_is_said():
    first, *others = finding().fixes
    fixes = (replace(first, avoid_when="the range has to stay bounded"), *others)
    text = findings_summary([finding(fixes=fixes)], framework="torch")
    assert "Not if the range has to stay bounded." in text


def test_many_layers_are_counted():
    names = tuple(f"fc{row}" for row in range(100))
    text = findings_summary([finding(layers=names)], framework="torch")
    assert "`fc11` and 88 more." in text
    assert "`fc12`" not in text


def test_a_healthy_run_names_what_was_observed():
    text = healthy_summary(observed=1234, last_step=10_000)
    assert text == "**No findings** in 1,234 observed steps; the last is step 10,000."
