"""The JSON document: its fields are a contract, pinned here as docs/report.md has them."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

import gradwatch
from gradwatch.cli import main
from gradwatch.finding import Finding, Fix
from gradwatch.layer import Layer
from gradwatch.report import Report
from gradwatch.report_json import SCHEMA_VERSION, document, run_entry
from gradwatch.rules import ALL_RULES
from gradwatch.snapshot import Snapshot
from gradwatch.tensorboard.reader import read

from .tensorboard.builders import (
    Clock,
    chain,
    finding,
    usual_snapshot,
    write_healthy_training,
    write_run,
    write_training,
)

PAGE = Path(__file__).parents[1] / "docs" / "report.md"

TOP = {"schema", "version", "log_dir", "severity", "thresholds", "unread", "runs"}
RUN = {
    "directory",
    "framework",
    "version",
    "sessions",
    "finished",
    "samples",
    "first_step",
    "last_step",
    "verdict",
    "judged",
    "severity",
    "findings",
    "layers",
    "limits",
    "unread",
}
FINDING = {entry.name for entry in fields(Finding)} | {"open"}
FIX = {entry.name for entry in fields(Fix)}
LAYER = {entry.name for entry in fields(Layer)} | {"severity"}


def reported(log_dir: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    main(["report", str(log_dir), "--json", *arguments])
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def sick(tmp_path, capsys) -> dict:
    write_training(tmp_path)
    return reported(tmp_path, capsys)


def test_the_fields_are_those_of_this_schema(sick):
    assert sick["schema"] == SCHEMA_VERSION == 1
    assert set(sick) == TOP
    (run,) = sick["runs"]
    assert set(run) == RUN
    assert {key for entry in run["findings"] for key in entry} == FINDING
    assert {key for entry in run["findings"] for fix in entry["fixes"] for key in fix} == FIX
    assert {key for layer in run["layers"] for key in layer} == LAYER


@pytest.mark.parametrize(
    "names", [TOP, RUN, FINDING, FIX, LAYER], ids=["top", "run", "finding", "fix", "layer"]
)
def test_every_field_is_in_the_guide(names):
    described = set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE))
    assert names <= described


def test_a_sick_run_says_what_is_wrong(sick, tmp_path):
    assert (sick["version"], sick["log_dir"]) == (gradwatch.__version__, str(tmp_path))
    assert (sick["severity"], sick["unread"]) == ("error", [])
    (run,) = sick["runs"]
    assert run["directory"] == str(tmp_path / "gradwatch")
    assert (run["framework"], run["version"]) == ("torch", gradwatch.__version__)
    assert (run["sessions"], run["finished"]) == (1, True)
    assert (run["samples"], run["first_step"], run["last_step"]) == (100, 0, 198)
    assert (run["judged"], run["severity"]) == (True, "error")
    assert run["verdict"].startswith("1 error")
    (found,) = run["findings"]
    assert (found["code"], found["open"], found["resolved_step"]) == ("GW101", True, None)
    assert found["evidence"]["backward_depth_log10_threshold"] == -3.5
    assert found["fixes"][0]["snippets"]["torch"]
    assert [layer["name"] for layer in run["layers"]] == [f"fc{row}" for row in range(1, 9)]
    assert {layer["name"]: layer["severity"] for layer in run["layers"]}["fc1"] == "error"


def test_a_healthy_run_has_no_severity(tmp_path, capsys):
    write_healthy_training(tmp_path)
    whole = reported(tmp_path, capsys)
    (run,) = whole["runs"]
    assert (whole["severity"], run["severity"], run["findings"]) == (None, None, [])
    assert {layer["severity"] for layer in run["layers"]} == {None}


def test_the_worst_run_gives_the_severity(tmp_path, capsys):
    write_healthy_training(tmp_path / "a")
    write_training(tmp_path / "b")
    whole = reported(tmp_path, capsys)
    assert whole["severity"] == "error"
    assert [run["severity"] for run in whole["runs"]] == [None, "error"]


def test_a_run_too_short_for_a_verdict_is_not_judged(tmp_path, capsys):
    write_run(tmp_path, [usual_snapshot(chain(8), step) for step in range(4)])
    (run,) = reported(tmp_path, capsys)["runs"]
    assert (run["judged"], run["severity"]) == (False, None)


def test_thresholds_are_those_that_ran(tmp_path, capsys):
    write_training(tmp_path)
    thresholds = reported(tmp_path, capsys, "--set", "GW101.depth=-20")["thresholds"]
    assert thresholds["GW101"]["depth"] == -20.0
    assert {code: set(own) for code, own in thresholds.items()} == {
        rule.code: set(rule.thresholds()) for rule in ALL_RULES
    }


def test_limits_and_what_could_not_be_read_are_told(tmp_path, capsys):
    snapshots = [usual_snapshot(chain(8), step) for step in range(30)]
    write_run(tmp_path, [replace(entry, limits=("half is unseen",)) for entry in snapshots])
    (path,) = (tmp_path / "gradwatch").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    whole = reported(tmp_path, capsys)
    (run,) = whole["runs"]
    assert run["limits"] == ["half is unseen"]
    assert (run["finished"], whole["unread"]) == (False, [])
    (sentence,) = run["unread"]
    assert f"{path} is cut off" in sentence


def test_what_could_not_be_read_beside_the_runs_is_told(tmp_path, capsys):
    write_healthy_training(tmp_path)
    other = tmp_path / "events.out.tfevents.1"
    other.write_bytes(b"of another kind, and not empty")
    (sentence,) = reported(tmp_path, capsys)["unread"]
    assert sentence.startswith(f"{other} is damaged at byte 0")


def test_sessions_are_counted(tmp_path, capsys):
    clock = Clock()
    for first in (0, 50):
        snapshots = [usual_snapshot(chain(8), step) for step in range(first, first + 60)]
        write_run(tmp_path, snapshots, clock=clock)
        clock.now += 3600
    (run,) = reported(tmp_path, capsys)["runs"]
    assert (run["sessions"], run["samples"], run["last_step"]) == (2, 110, 109)


@pytest.mark.parametrize(
    ("number", "stored"),
    [(np.nan, "NaN"), (np.inf, "Infinity"), (-np.inf, "-Infinity"), (0.5, 0.5)],
)
def test_numbers_that_are_not_finite_are_strings(tmp_path, number, stored):
    write_healthy_training(tmp_path)
    recording = read(tmp_path / "gradwatch")
    found = finding(evidence={"figure": number})
    entry = run_entry("d", recording, report_on(recording.snapshots, found))
    assert entry["findings"][0]["evidence"] == {"figure": stored}
    parsed = json.loads(document("d", [entry], [], ALL_RULES), parse_constant=pytest.fail)
    assert parsed["runs"][0]["findings"][0]["evidence"] == {"figure": stored}


def test_the_document_is_ascii(tmp_path):
    write_healthy_training(tmp_path)
    recording = read(tmp_path / "gradwatch")
    entry = run_entry(
        "d\udcff", recording, report_on(recording.snapshots, finding(message="λ\x1b"))
    )
    whole = document("d", [entry], ["ü"], ALL_RULES)
    assert whole.isascii()
    assert json.loads(whole)["runs"][0]["findings"][0]["message"] == "λ\x1b"


def report_on(snapshots: tuple[Snapshot, ...], *findings: Finding) -> Report:
    from gradwatch.testing import history_of

    return Report(findings, history_of(snapshots))


def test_a_run_that_died_before_its_first_step_is_not_the_newest(tmp_path, capsys):
    died = write_run(tmp_path / "killed", [], clock=Clock(1.7e9), close=False)
    shutil.copytree(tmp_path / "killed", tmp_path / "run")
    died.close()
    layers = chain(4, activation="relu")
    snapshots = [usual_snapshot(layers, step, decades=0.1) for step in range(12)]
    write_run(tmp_path / "run", snapshots, clock=Clock(1.7e9 + 60))
    (run,) = reported(tmp_path / "run", capsys)["runs"]
    assert (run["sessions"], run["finished"], run["last_step"]) == (2, True, 11)
