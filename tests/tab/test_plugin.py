"""The routes answer in a real TensorBoard, whichever of its loaders reads the event files."""

import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from werkzeug.test import Client

from gradwatch.tab.statistics import TAB_STATISTICS
from gradwatch.tab.stored_run import StoredRun
from gradwatch.tensorboard.reader import read
from tests.tensorboard.builders import (
    Clock,
    chain,
    random_run,
    write_healthy_training,
    write_run,
    write_training,
)
from tests.tensorboard.test_loaders import PythonLoader, rust_loader

from .serving import BASE, Tab, loaded, provided, strict_json

SICK, HEALTHY = "sick/gradwatch", "deep/er/healthy/gradwatch"
JSON_ROUTES = {
    "runs": {},
    "run": {"run": SICK},
    "profile": {"run": SICK, "step": "40"},
    "compare": {"a": SICK, "b": HEALTHY},
    "rule": {"code": "GW101"},
}
HEATMAP = {"run": SICK, "statistic": "grad_norm", "columns": "50"}
ALL_ROUTES = {**JSON_ROUTES, "heatmap": HEATMAP}


def write_both(log_dir: Path) -> None:
    write_training(log_dir / "sick")
    write_healthy_training(log_dir / "deep" / "er" / "healthy")


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tab") / "logs"
    write_both(directory)
    return directory


@pytest.fixture(scope="module", params=["python", "rust"])
def tab(log_dir, request):
    """The tab on a sick and a healthy run, through either loader."""
    with provided(log_dir, request.param) as provider:
        yield loaded(Tab(provider), {SICK: 100, HEALTHY: 100})


@pytest.fixture(scope="module")
def python_tab(log_dir):
    """The same through the Python loader alone: what does not hang on the loader."""
    with provided(log_dir, "python") as provider:
        yield Tab(provider)


def stored(log_dir: Path, name: str) -> StoredRun:
    return StoredRun(name, "", read(log_dir / name))


def test_runs_are_listed_by_name(tab):
    listed = tab.json("runs")["runs"]
    assert [run["name"] for run in listed] == [HEALTHY, SICK]
    assert len({run["token"] for run in listed}) == 2


def test_a_run_is_told_with_verdict_layers_and_findings(tab):
    run = tab.json("run", run=SICK)
    tokens = {entry["name"]: entry["token"] for entry in tab.json("runs")["runs"]}
    assert (run["name"], run["token"]) == (SICK, tokens[SICK])
    assert (run["samples"], run["severity"], run["finished"]) == (100, "error", True)
    assert [layer["name"] for layer in run["layers"]] == [f"fc{row}" for row in range(1, 9)]
    assert [(card["key"], card["open"]) for card in run["findings"]] == [
        ("GW101/activation", True),
        ("GW202/weights", False),
    ]
    assert run["troubles"] == []


def test_a_heatmap_has_every_sample_of_the_event_files(tab, log_dir):
    meta, arrays = tab.arrays("heatmap", run=SICK, statistic="grad_norm", columns=4000)
    matrix = stored(log_dir, SICK).matrix
    assert meta["samples"] == 100
    assert arrays["first_steps"].tolist() == matrix.steps.tolist()
    assert arrays["values"].tobytes() == matrix.statistic("grad_norm").T.tobytes()
    assert arrays["states"].tolist() == matrix.states.T.tolist()


@pytest.mark.parametrize("statistic", [entry.name for entry in TAB_STATISTICS])
def test_every_statistic_can_be_asked_for(python_tab, statistic):
    meta, arrays = python_tab.arrays("heatmap", run=SICK, statistic=statistic, columns=7)
    assert meta["statistic"] == statistic
    assert arrays["values"].shape == arrays["states"].shape == (8, 7)


def test_a_range_of_steps_can_be_asked_for(python_tab):
    _, arrays = python_tab.arrays("heatmap", **HEATMAP, first="20", last="25.5")
    assert arrays["first_steps"].tolist() == [20, 22, 24]


def test_a_profile_is_that_of_the_nearest_step(tab):
    profile = tab.json("profile", run=SICK, step=41)
    assert profile["step"] == 40
    assert profile["path"] == list(range(8))
    assert -8 < profile["depth"] < -6


def test_two_runs_are_compared(tab):
    found = tab.json("compare", a=SICK, b=HEALTHY)
    assert (found["a"], found["b"]) == (SICK, HEALTHY)
    assert found["statistic"] == "output_grad_norm"
    assert found["divergence"]["step"] == 0
    assert found["findings"]["only_a"] == ["GW101/activation"]
    by_update = tab.json("compare", a=SICK, b=HEALTHY, statistic="update_ratio")
    assert by_update["statistic"] == "update_ratio"


def test_a_rule_is_explained(python_tab):
    assert python_tab.json("rule", code="GW202")["name"] == "saturated-activation"


@pytest.mark.parametrize(
    ("route", "query", "status", "said"),
    [
        ("run", {}, 400, "The argument 'run' is missing; add run=..."),
        ("run", {"run": "none"}, 404, "There is no run 'none' of gradwatch here"),
        ("run", {"run": ""}, 404, "There is no run '' of gradwatch here"),
        ("run", {"run": "../sick/gradwatch"}, 404, "There is no run '../sick/gradwatch'"),
        ("heatmap", HEATMAP | {"run": "none"}, 404, "There is no run 'none'"),
        ("heatmap", HEATMAP | {"statistic": "gradients"}, 400, "no statistic 'gradients'; take"),
        ("heatmap", HEATMAP | {"columns": "0"}, 400, "columns='0' is not a whole number from 1"),
        ("heatmap", HEATMAP | {"columns": "4001"}, 400, "columns='4001' is not a whole number"),
        ("heatmap", HEATMAP | {"columns": "many"}, 400, "columns='many' is not a whole number"),
        ("heatmap", HEATMAP | {"first": "NaN"}, 400, "first='NaN' is not a number; pass a step"),
        ("heatmap", HEATMAP | {"last": "end"}, 400, "last='end' is not a number; pass a step"),
        ("heatmap", {"run": SICK, "columns": "5"}, 400, "The argument 'statistic' is missing"),
        ("heatmap", {"run": SICK, "statistic": "grad_norm"}, 400, "'columns' is missing"),
        ("profile", {"run": SICK}, 400, "The argument 'step' is missing"),
        ("profile", {"run": SICK, "step": "x"}, 400, "step='x' is not a number"),
        ("profile", {"run": "none", "step": "1"}, 404, "There is no run 'none'"),
        ("compare", {"a": SICK}, 400, "The argument 'b' is missing"),
        ("compare", {"a": SICK, "b": "none"}, 404, "There is no run 'none'"),
        (
            "compare",
            {"a": SICK, "b": SICK, "statistic": "tiny_log10"},
            400,
            "runs cannot be compared by 'tiny_log10'; take one of",
        ),
        ("rule", {}, 400, "The argument 'code' is missing"),
        ("rule", {"code": "GW999"}, 404, "no page on rule 'GW999'"),
    ],
    ids=str,
)
def test_what_cannot_be_answered_is_told_in_a_sentence(python_tab, route, query, status, said):
    response = python_tab.ask(route, **query)
    assert response.status_code == status
    assert response.mimetype == "application/json"
    error = json.loads(response.get_data())["error"]
    assert said in error
    assert error.endswith(".")


@pytest.mark.parametrize("route", ALL_ROUTES)
def test_nothing_that_may_change_is_cached_or_guessed(python_tab, route):
    response = python_tab.ask(route, **ALL_ROUTES[route])
    binary = route == "heatmap"
    assert response.mimetype == ("application/octet-stream" if binary else "application/json")
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_an_error_is_not_cached_or_guessed_either(python_tab):
    response = python_tab.ask("run")
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("route", ["run", "dom.js"])
def test_only_reading_is_answered(python_tab, route, method):
    response = python_tab.ask(route, method=method, run=SICK)
    assert response.status_code == 405
    assert "use GET" in json.loads(response.get_data())["error"]


def test_the_head_of_a_response_can_be_asked_for(python_tab):
    response = python_tab.ask("run", method="HEAD", run=SICK)
    assert response.status_code == 200
    assert response.get_data() == b""


@pytest.mark.parametrize("prefix", ["/board", "/a/b"])
def test_routes_are_below_the_prefix_of_the_path(log_dir, prefix):
    with provided(log_dir, "python") as provider:
        tab = Tab(provider, path_prefix=prefix)
        assert len(tab.json("runs")["runs"]) == 2
        listing = strict_json(tab.open(f"{prefix}/data/plugins_listing").get_data())
        assert listing["gradwatch"]["loading_mechanism"] == {
            "type": "IFRAME",
            "module_path": f"{prefix}{BASE}/index.js",
        }
        entry = tab.open(f"{prefix}/data/plugin_entry.html?name=gradwatch").get_data(as_text=True)
        assert '<base href="plugin/gradwatch/" />' in entry
        assert 'import("./index.js")' in entry


def test_behind_a_proxy_that_strips_its_prefix_the_routes_are_the_same(python_tab):
    def stripped(environ, start_response):
        environ["PATH_INFO"] = environ["PATH_INFO"].removeprefix("/proxy")
        return python_tab.application(environ, start_response)

    response = Client(stripped).get(f"/proxy{BASE}/run", query_string={"run": SICK})
    assert json.loads(response.get_data())["samples"] == 100


def test_the_tab_is_shown_where_a_run_is(tab):
    listing = strict_json(tab.open("/data/plugins_listing").get_data())["gradwatch"]
    assert (listing["enabled"], listing["tab_name"]) == (True, "GradWatch")


def test_without_a_run_the_tab_is_hidden_and_has_no_runs(tmp_path):
    with provided(tmp_path, "python") as provider:
        tab = Tab(provider)
        listing = strict_json(tab.open("/data/plugins_listing").get_data())
        assert listing["gradwatch"]["enabled"] is False
        assert tab.json("runs") == {"runs": []}


def test_a_run_of_one_step_is_shown(tmp_path):
    (snapshot,) = random_run(chain(3), [7])
    write_run(tmp_path, [snapshot])
    with provided(tmp_path, "python") as provider:
        tab = Tab(provider)
        run = tab.json("run", run="gradwatch")
        assert (run["samples"], run["first_step"], run["last_step"]) == (1, 7, 7)
        _, arrays = tab.arrays("heatmap", run="gradwatch", statistic="grad_norm", columns=4000)
        np.testing.assert_array_equal(arrays["values"][:, 0], snapshot.grad_norm)
        assert tab.json("profile", run="gradwatch", step=0)["step"] in (7, None)
        compared = tab.json("compare", a="gradwatch", b="gradwatch")
        assert compared["divergence"] is None


def test_five_thousand_layers_are_shown(tmp_path):
    write_run(tmp_path, random_run(chain(5000), range(5)))
    with provided(tmp_path, "python") as provider:
        tab = Tab(provider)
        assert len(tab.json("run", run="gradwatch")["layers"]) == 5000
        _, arrays = tab.arrays("heatmap", run="gradwatch", statistic="grad_norm", columns=2)
        assert arrays["values"].shape == (5000, 2)
        assert len(tab.json("profile", run="gradwatch", step=0)["backward"]) in (0, 5000)


@pytest.mark.parametrize("loader", ["python", "rust"])
def test_a_run_that_is_still_written_is_followed(tmp_path, loader):
    log_dir, clock, snapshots = tmp_path / "logs", Clock(), random_run(chain(3), range(100))
    sink = write_run(log_dir, snapshots[:40], clock=clock, close=False)
    with ExitStack() as stack:
        python = PythonLoader(log_dir)
        source = stack.enter_context(rust_loader(log_dir)) if loader == "rust" else python
        tab = loaded(Tab(source.provider()), {"gradwatch": 31})
        early = tab.json("run", run="gradwatch")
        assert (early["finished"], early["last_step"]) == (False, 30)
        clock.now += 60
        for snapshot in snapshots[40:]:
            sink.write_snapshot(snapshot)
        sink.close()
        python.provider()
        late = loaded(tab, {"gradwatch": 100}).json("run", run="gradwatch")
    assert (late["last_step"], late["token"] != early["token"]) == (99, True)


def test_thousands_of_samples_are_pooled_to_the_columns(tmp_path):
    write_run(tmp_path, random_run(chain(2), range(3000)))
    with provided(tmp_path, "python") as provider:
        meta, arrays = Tab(provider).arrays(
            "heatmap", run="gradwatch", statistic="grad_norm", columns=100
        )
        assert meta["samples"] == 3000
        assert arrays["counts"].tolist() == [30] * 100
