"""TensorBoard's own dashboards in a real browser: what a user sees without installing a plugin."""

from collections.abc import Iterator

import pytest

from gradwatch.tensorboard.scalars import CHARTS

from ..tensorboard.builders import (
    chain,
    finding,
    usual_snapshot,
    write_healthy_training,
    write_run,
    write_training,
)
from ..tensorboard.server import TensorBoard, running, wait_until
from .driving import ACTS_IF_RUN, elements, needs_browser, shows, visit

pytestmark = needs_browser


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[TensorBoard]:
    log_dir = tmp_path_factory.mktemp("logs")
    write_training(log_dir / "sick")
    write_healthy_training(log_dir / "healthy")
    hostile = finding(layers=(ACTS_IF_RUN,), message=f"Layer {ACTS_IF_RUN} does not learn.")
    sink = write_run(log_dir / "hostile", [usual_snapshot(chain(8), 16)], close=False)
    sink.write_findings([hostile], [hostile])
    sink.close()
    with running(log_dir, load_fast=True) as server:
        wait_until(lambda: len(server.get("runs")) == 3)
        yield server


def test_time_series_shows_a_card_for_each_curve(server, browser):
    visit(browser, server, "timeseries")
    assert not shows(browser, "10 cards", "sick/gradwatch", "healthy/gradwatch")
    tags = {tag.strip() for tag in elements(browser, "scalar-card .tag")}
    assert {"gradwatch/backward_depth_log10", "gradwatch/elasticity_log10/max"} <= tags


def test_scalars_shows_the_curves_under_their_titles(server, browser):
    visit(browser, server, "scalars")
    assert not shows(browser, "Backward depth B (log10)", "Open findings", "Layers with NaN")


def test_text_shows_the_verdict_the_evidence_and_the_snippet(server, browser):
    visit(browser, server, "text")
    assert not shows(browser, "Training cannot work as it is.", "No findings", "Resolved")
    assert "model.act1 = nn.ReLU()" in " ".join(elements(browser, "pre code"))
    assert "backward depth" in elements(browser, "table td")


def test_a_hostile_layer_name_is_shown_and_not_run(server, browser):
    visit(browser, server, "text")
    assert not shows(browser, f"Layer {ACTS_IF_RUN} does not learn.")
    assert browser.title == "TensorBoard"


def test_custom_scalars_draws_the_charts(server, browser):
    visit(browser, server, "custom_scalars")
    titles = [chart.title for chart in CHARTS]
    assert not shows(browser, *titles, "Matches (9)", "Matches (6)", "Matches (3)")
    smoothed_and_raw = 2 * (9 + 6 + 3)
    assert wait_until(lambda: len(elements(browser, "path.line")) == smoothed_and_raw, seconds=20)
