"""TensorBoard's own dashboards, asked over HTTP, with either loader."""

import json
import re

import pytest

from gradwatch.tensorboard.scalars import CHARTS, OPEN_FINDINGS, SNAPSHOT_SCALARS
from gradwatch.tensorboard.sink import SUMMARY_TAG

from .builders import write_healthy_training, write_training
from .server import running, wait_until

SICK, HEALTHY = "sick/gradwatch", "healthy/gradwatch"
DRAWN = {
    "gradwatch/backward_depth_log10",
    "gradwatch/backward_growth_log10",
    "gradwatch/forward_drift_log10",
    "gradwatch/update_ratio_log10/max",
    "gradwatch/update_ratio_log10/median",
    "gradwatch/elasticity_log10/max",
    "gradwatch/saturation_fraction/max",
    "gradwatch/nonfinite_layers",
    "gradwatch/loss",
    "gradwatch/open_findings",
}


@pytest.fixture(scope="module", params=[False, True], ids=["python", "rust"])
def server(request, tmp_path_factory):
    log_dir = tmp_path_factory.mktemp("logs")
    write_training(log_dir / "sick")
    write_healthy_training(log_dir / "healthy")
    with running(log_dir, load_fast=request.param) as server:
        wait_until(lambda: len(server.get("runs")) == 2)
        yield server


def test_both_runs_are_found(server):
    assert server.get("runs") == [HEALTHY, SICK]


def test_the_curves_are_about_ten_and_have_titles(server):
    tags = server.get("plugin/scalars/tags")[SICK]
    assert set(tags) == DRAWN
    titles = {scalar.tag: scalar.title for scalar in (*SNAPSHOT_SCALARS, OPEN_FINDINGS)}
    assert {tag: found["displayName"] for tag, found in tags.items()} == {
        tag: titles[tag] for tag in DRAWN
    }
    assert all(found["description"] for found in tags.values())


def test_a_curve_has_a_point_for_each_sample(server):
    points = server.scalars(SICK, "gradwatch/backward_depth_log10")
    assert [step for _, step, _ in points] == list(range(0, 200, 4))
    assert [wall_time for wall_time, _, _ in points] == [1.7e9 + step for step in range(0, 200, 4)]
    assert all(-7.5 < value < -6.5 for _, _, value in points)


def test_open_findings_are_counted_step_by_step(server):
    points = server.scalars(SICK, "gradwatch/open_findings")
    counts = {int(step): value for _, step, value in points}
    assert [counts[step] for step in (0, 14, 16, 38, 40, 78, 80, 198)] == [0, 0, 1, 1, 2, 2, 1, 1]


def test_the_text_names_the_findings(server):
    assert server.get("plugin/text/tags")[SICK] == [SUMMARY_TAG]
    newest = server.texts(SICK, SUMMARY_TAG)[-1]
    assert newest["step"] == 80
    assert "<strong>Training cannot work as it is.</strong>" in newest["text"]
    assert re.search(r"<pre><code[^>]*>model.act1 = nn.ReLU\(\)", newest["text"])
    assert "<h3>Resolved</h3>" in newest["text"]


def test_the_text_of_a_healthy_run_says_so(server):
    newest = server.texts(HEALTHY, SUMMARY_TAG)[-1]
    assert newest["step"] == 198
    assert "<strong>No findings</strong> in 100 observed steps" in newest["text"]


def test_the_charts_of_two_runs_are_one_layout(server):
    layout = server.get("plugin/custom_scalars/layout")
    (category,) = layout["category"]
    assert category["title"] == "gradwatch"
    assert [chart["title"] for chart in category["chart"]] == [chart.title for chart in CHARTS]


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.title)
def test_a_chart_draws_its_curves(server, chart):
    for_layout = server.get("plugin/custom_scalars/layout")["category"][0]["chart"]
    (patterns,) = (c["multiline"]["tag"] for c in for_layout if c["title"] == chart.title)
    served = [
        server.get("plugin/custom_scalars/scalars", run=SICK, tag=pattern) for pattern in patterns
    ]
    drawn = [tag for answer in served for tag in answer["tag_to_events"]]
    assert drawn == [tag for tag in chart.tags if tag in DRAWN]
    assert "NaN" not in json.dumps(served)
