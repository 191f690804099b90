"""The page without a server: the same answers as the routes', the report's findings, its size."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from gradwatch.comparison import compare
from gradwatch.errors import ArgumentError
from gradwatch.finding import Finding
from gradwatch.report import Report
from gradwatch.snapshot import Snapshot
from gradwatch.tab import page_file, page_modules
from gradwatch.tab.heatmap import heatmap
from gradwatch.tab.overview import overview, stored_report
from gradwatch.tab.page import JudgedRun, page, script_json
from gradwatch.tab.page_answers import (
    COLUMNS,
    LARGEST_SIZE,
    MOST_COMPARED,
    MOST_PROFILES,
    USUAL_SIZE,
    answers,
    extent_of,
    key,
    profile_steps,
    size_of,
)
from gradwatch.tab.profile import profile
from gradwatch.tab.rule_text import rule_text
from gradwatch.tab.static_files import ROOT
from gradwatch.tab.statistics import STATISTIC_OF
from gradwatch.tab.stored_run import StoredRun
from gradwatch.tensorboard.reader import Recording, assemble

from ..tensorboard.builders import chain, finding, usual_snapshot
from .recordings import session_points

LAYERS = chain(5)


def judged(
    name: str = "a/gradwatch",
    *,
    steps: Iterable[int] = range(0, 40, 2),
    layers: int = 5,
    signals: bool = True,
    findings: Sequence[Finding] = (),
) -> JudgedRun:
    snapshots = [usual_snapshot(chain(layers), step, signals=signals) for step in steps]
    return of_snapshots(name, snapshots, findings)


def of_snapshots(
    name: str, snapshots: Sequence[Snapshot], findings: Sequence[Finding] = ()
) -> JudgedRun:
    recording: Recording = assemble(session_points(snapshots, findings=findings, chunk_size=64))
    return JudgedRun(StoredRun(name, "stored", recording), stored_report(recording))


class TestAnswers:
    """Each is what the route answers."""

    def test_the_runs_are_listed(self):
        found = answers([judged("a"), judged("b")])
        assert found["runs"] == {
            "runs": [{"name": "a", "token": "stored"}, {"name": "b", "token": "stored"}]
        }

    def test_a_run_is_its_overview(self):
        one = judged(findings=[finding()])
        assert answers([one])[key("run", run="a/gradwatch")] == overview(one.run)

    def test_the_findings_are_those_of_the_report(self):
        one = judged(findings=[finding()])
        other = finding(code="GW301", name="exploding-gradient", cause="depth", fixes=())
        report = Report((other,), one.report.history)
        shown = answers([replace(one, report=report)])[key("run", run="a/gradwatch")]
        assert [card["key"] for card in shown["findings"]] == ["GW301/depth"]
        assert shown["verdict"] == report.verdict
        assert shown["severity"] == "error"

    @pytest.mark.parametrize("statistic", ["output_grad_norm", "grad_rms", "saturation_fraction"])
    def test_a_heatmap_has_the_octets_of_the_route(self, statistic):
        one = judged()
        stored = answers([one])[key("heatmap", run="a/gradwatch", statistic=statistic)]
        assert base64.b64decode(stored["base64"]) == heatmap(
            one.run, STATISTIC_OF[statistic], columns=400
        )

    def test_every_observed_statistic_has_a_heatmap(self):
        found = answers([judged()])
        listed = {entry["name"] for entry in found[key("run", run="a/gradwatch")]["statistics"]}
        stored = {name.split("statistic=")[1] for name in found if name.startswith("heatmap")}
        assert stored == listed
        assert "output_grad_norm" in stored

    def test_a_profile_is_that_of_the_route_in_fewer_digits(self):
        one = judged()
        stored = answers([one])[key("profile", run="a/gradwatch", step="6")]
        exact = profile(one.run, 6)
        assert stored["step"] == 6
        assert stored["path"] == exact["path"]
        assert stored["backward"] == pytest.approx(exact["backward"], abs=0.001)
        assert len(script_json(stored)) < len(script_json(exact))

    @pytest.mark.parametrize(
        ("samples", "kept"), [(7, 7), (MOST_PROFILES, MOST_PROFILES), (200, MOST_PROFILES)]
    )
    def test_profiles_go_from_the_first_to_the_last_step(self, samples, kept):
        steps = profile_steps(judged(steps=range(0, 3 * samples, 3)).run)
        assert len(steps) == len(set(steps)) == kept
        assert (steps[0], steps[-1]) == (0, 3 * (samples - 1))

    def test_a_run_without_signals_has_no_profile(self):
        found = answers([judged(signals=False)])
        assert not [name for name in found if name.startswith("profile")]
        assert found[key("run", run="a/gradwatch")]["default_statistic"] == "grad_norm"

    def test_each_run_is_compared_to_each_by_the_findings_of_the_report(self):
        a, b = judged("a"), judged("b", findings=[finding()])
        found = answers([a, b])
        assert (
            found[key("compare", a="a", b="b")]
            == compare(a.run.recording, b.run.recording, names=("a", "b")).as_json()
        )
        cleared = replace(b, report=Report((), b.report.history))
        compared = answers([a, cleared])[key("compare", a="b", b="a")]
        assert compared["findings"] == {"both": [], "only_a": [], "only_b": []}

    def test_many_runs_are_not_compared(self):
        few = [judged(str(number), steps=[0]) for number in range(MOST_COMPARED)]
        compared = [name for name in answers(few) if name.startswith("compare")]
        assert len(compared) == MOST_COMPARED * (MOST_COMPARED - 1)
        assert not [name for name in answers([*few, judged("x")]) if name.startswith("compare")]

    def test_the_rules_of_the_findings_are_explained_and_a_users_own_is_not(self):
        own = finding(code="MY1", cause="loss")
        found = answers([judged(findings=[finding(), own])])
        assert found[key("rule", code="GW101")] == rule_text("GW101")
        assert key("rule", code="MY1") not in found

    def test_a_run_without_a_sample_is_a_page_too(self):
        assert "Nothing observed yet" in page([of_snapshots("a", [])], title="t")

    @pytest.mark.parametrize(
        ("value", "encoded"),
        [("a b", "a%20b"), ("a/b&c=d", "a%2Fb%26c%3Dd"), ("é+~*", "%C3%A9%2B~%2A")],
    )
    def test_a_key_says_what_was_asked(self, value, encoded):
        assert key("run", run=value) == f"run?run={encoded}"

    def test_the_query_of_a_key_is_sorted(self):
        assert key("profile", step="3", run="a") == "profile?run=a&step=3"


class TestSize:
    """Bounded, however many layers, samples and runs."""

    def test_a_small_run_has_all_columns_and_statistics(self):
        one = judged()
        extent = extent_of([one])
        assert extent.columns == COLUMNS[0]
        assert extent.statistics == len(one.run.matrix.observed)

    @pytest.mark.parametrize(
        ("runs", "columns", "statistics"), [(1, 150, 20), (4, 60, 16), (6, 60, 11), (40, 60, 4)]
    )
    def test_columns_go_first_and_then_statistics(self, runs, columns, statistics):
        wide = sized(layers=256, samples=1000)
        assert len(wide.run.matrix.observed) == 20
        extent = extent_of([wide] * runs)
        assert (extent.columns, extent.statistics) == (columns, statistics)

    def test_the_least_that_a_page_has_may_be_too_much(self):
        wide = sized(layers=256, samples=1000)
        with pytest.raises(ArgumentError, match=r"the heatmaps of 900 runs .* a subdirectory"):
            extent_of([wide] * 900)

    def test_the_size_that_is_planned_is_that_of_the_heatmaps(self):
        one = sized(layers=256, samples=250)
        found = answers([one])
        heatmaps = sum(
            len(answer["base64"]) for name, answer in found.items() if name.startswith("heatmap")
        )
        planned = size_of([one], extent_of([one]))
        assert planned <= USUAL_SIZE < LARGEST_SIZE
        assert planned == pytest.approx(heatmaps, rel=0.05)


def sized(*, layers: int, samples: int) -> JudgedRun:
    """A run of so many samples, each the same but for its step."""
    first = usual_snapshot(chain(layers), 0)
    return of_snapshots("a", [replace(first, step=step) for step in range(samples)])


class TestModules:
    """The page's files inside one file."""

    @pytest.mark.parametrize(
        ("line", "rewritten"),
        [
            ('import { a } from "./x.js";', 'import { a } from "gradwatch/x.js";'),
            (
                'import uPlot from "./vendor/uPlot.esm.js";',
                'import uPlot from "gradwatch/vendor/uPlot.esm.js";',
            ),
            ('// see "./x.js"', '// see "./x.js"'),
        ],
    )
    def test_imports_get_bare_names(self, line, rewritten):
        assert page_modules.inlined(f"{line}\ncode();\n") == f"{rewritten}\ncode();\n"

    @pytest.mark.parametrize(
        "line",
        ['import {\n  a,\n} from "./x.js"', "import('./x.js')", "export * from './x.js';"],
        ids=["no semicolon", "when it runs", "export"],
    )
    def test_another_form_is_refused(self, line):
        with pytest.raises(ArgumentError, match="cannot be inlined"):
            page_modules.inlined(line)

    def test_styles_override_each_other_as_in_the_tab(self):
        (listed,) = re.findall(r"STYLES = (\[.*\]);", (ROOT / "index.js").read_text("utf-8"))
        assert json.loads(listed) == list(page_modules.STYLESHEETS)

    def test_the_policy_allows_the_scripts_of_the_page_and_no_other(self):
        text = page([judged()], title="t")
        (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
        scripts = re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL)
        assert len(scripts) == 3
        for script in scripts:
            assert page_modules.content_hash(script) in policy.replace("&#x27;", "'")
        assert "unsafe-inline" not in policy.split("style-src")[0]

    def test_a_missing_part_is_told(self, monkeypatch, tmp_path):
        monkeypatch.setattr(page_modules, "ROOT", tmp_path)
        with pytest.raises(ArgumentError, match=r"\.js, a part of the page, cannot be read"):
            page([judged()], title="t")


class TestText:
    """What a name may hold."""

    HOSTILE = "</script></style></noscript><!--<img src=x onerror=alert(1)>\ud800\x1b"

    def test_nothing_of_a_name_becomes_an_element(self):
        hostile = finding(layers=(self.HOSTILE,), message=self.HOSTILE, name=self.HOSTILE, fixes=())
        snapshots = [usual_snapshot(chain(3, prefix=self.HOSTILE), step) for step in (0, 2)]
        text = page([of_snapshots("a", snapshots, [hostile])], title=self.HOSTILE)
        assert "<img" not in text
        assert "<!--" not in text
        assert text.count("</script>") == 3
        assert text.count("</style>") == text.count("</noscript>") == 1
        text.encode("utf-8")

    def test_the_answers_are_in_the_page(self):
        text = page([judged()], title="t")
        (inline,) = re.findall(r'id="gradwatch-inline">(.*?)</script>', text)
        assert json.loads(inline) == json.loads(script_json(answers([judged()])))

    def test_json_in_a_script_is_read_as_it_was(self):
        content = {"name": self.HOSTILE, "value": "Infinity"}
        assert "<" not in script_json(content)
        assert json.loads(script_json(content)) == content

    def test_figures_that_are_not_finite_are_no_trouble(self):
        snapshots = [usual_snapshot(LAYERS, step) for step in range(0, 40, 4)]
        broken = [
            replace(
                entry,
                output_grad_norm=np.full(5, np.inf, dtype=np.float32),
                grad_norm=np.zeros(5, dtype=np.float32),
                loss=math.inf,
            )
            for entry in snapshots
        ]
        runs = [of_snapshots("a", snapshots), of_snapshots("b", broken)]
        assert json.loads(script_json(answers(runs)))


class TestFile:
    """Whole or not at all."""

    def test_a_link_stays_and_what_it_leads_to_is_written(self, tmp_path):
        (tmp_path / "there").mkdir()
        link = tmp_path / "report.html"
        link.symlink_to(tmp_path / "there" / "report.html")
        page_file.write_page(link, "page")
        assert link.is_symlink()
        assert (tmp_path / "there" / "report.html").read_text() == "page"

    def test_an_empty_file_is_filled(self, tmp_path):
        path = tmp_path / "report.html"
        path.touch()
        assert page_file.write_page(path, "päge") == 5
        assert path.read_text("utf-8") == "päge"

    def test_a_device_is_no_file(self):
        with pytest.raises(ArgumentError, match="is there already and is no report of gradwatch"):
            page_file.check_target(page_file.Path("/dev/null"))

    def test_a_name_that_is_too_long_is_told(self, tmp_path):
        with pytest.raises(ArgumentError, match="File name too long"):
            page_file.write_page(tmp_path / ("x" * 300), "page")
        assert list(tmp_path.iterdir()) == []

    def test_every_page_has_the_mark_that_lets_it_be_replaced(self, tmp_path):
        path = tmp_path / "report.html"
        page_file.write_page(path, page([judged()], title="t" * 5000))
        page_file.write_page(path, "later")
        assert path.read_text() == "later"
