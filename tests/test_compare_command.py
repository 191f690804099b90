"""`gradwatch compare`: what it shows, its exit status, and which runs it takes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gradwatch.cli import main
from gradwatch.compare_command import MOST_LAYERS, SCHEMA_VERSION
from gradwatch.comparison import compare
from gradwatch.tensorboard.reader import read

from .tensorboard.builders import (
    chain,
    finding,
    usual_snapshot,
    write_healthy_training,
    write_run,
    write_training,
)

HOSTILE = "\x1b[2Jevil[red]\x07"
"""Moves the cursor, and is markup of rich."""


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """A healthy and a sick run, below the working directory."""
    write_healthy_training(tmp_path / "healthy")
    write_training(tmp_path / "sick")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


class TestText:
    """What a person reads."""

    def test_the_step_and_the_layer_come_first(self, runs, capsys):
        assert main(["compare", "healthy", "sick"]) == 0
        assert shown(capsys).startswith("sick leaves healthy at step 0, first in layer fc6: ")

    def test_runs_that_do_not_diverge_end_with_0_too(self, runs, capsys):
        assert main(["compare", "sick", "sick/gradwatch"]) == 0
        assert shown(capsys).startswith(
            "No divergence: what sick and sick/gradwatch stored is equal bit by bit"
        )

    @pytest.mark.parametrize(
        ("order", "line"),
        [
            (("healthy", "sick"), "New in sick: error, vanishing-gradient (GW101) on layers fc1"),
            (("sick", "healthy"), "Gone in healthy: error, vanishing-gradient (GW101) on layers"),
            (("sick", "sick"), "In both: error, vanishing-gradient (GW101) on layers fc1"),
            (("healthy", "healthy"), "No open finding in healthy nor in healthy."),
        ],
        ids=["new", "gone", "both", "none"],
    )
    def test_open_findings_are_told_apart(self, runs, order, line, capsys):
        main(["compare", *order])
        assert line in shown(capsys)

    def test_a_resolved_finding_is_not_among_them(self, runs, capsys):
        main(["compare", "healthy", "sick"])
        assert "GW202" not in shown(capsys)

    def test_the_losses_at_the_last_common_step(self, runs, capsys):
        main(["compare", "healthy", "sick"])
        assert "Loss at step 198: 0.953 in healthy, 0.953 in sick." in shown(capsys)

    def test_each_layer_has_its_step_and_its_ratio(self, runs, capsys):
        main(["compare", "healthy", "sick"])
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert ["fc1", "0", "1/2.0e6"] in rows
        assert ["fc7", "1/7.9"] in rows

    def test_the_layers_that_are_farthest_apart_are_shown(self, tmp_path, capsys):
        layers = chain(20)
        for name, decades in (("a", 0.1), ("b", 0.5)):
            write_run(
                tmp_path / name,
                [usual_snapshot(layers, step, decades=decades) for step in range(0, 60, 4)],
            )
        main(["compare", str(tmp_path / "a"), str(tmp_path / "b")])
        out = capsys.readouterr().out
        rows = [line.split()[0] for line in out.splitlines() if line.startswith("fc")]
        assert rows == [f"fc{row}" for row in range(1, MOST_LAYERS + 1)]
        assert "and 8 more layers nearer to each other" in out

    def test_layers_of_one_run_alone_are_named(self, tmp_path, capsys):
        for name, count in (("a", 6), ("b", 8)):
            write_run(
                tmp_path / name, [usual_snapshot(chain(count), step) for step in range(0, 60, 4)]
            )
        main(["compare", str(tmp_path / "a"), str(tmp_path / "b")])
        assert f"Only in {tmp_path / 'b'}: layers fc7 and fc8." in shown(capsys)

    def test_another_statistic_may_be_compared(self, runs, capsys):
        assert main(["compare", "healthy", "sick", "--statistic", "update_ratio"]) == 0
        assert "its update ratio is" in shown(capsys)

    def test_no_escape_sequence_of_a_name_reaches_the_terminal(self, tmp_path, capsys):
        for name, decades in (("a", 0.1), ("b", 1.0)):
            hostile = finding(layers=(HOSTILE,), name=HOSTILE)
            sink = write_run(
                tmp_path / name,
                [
                    usual_snapshot(chain(6, prefix=HOSTILE), step, decades=decades)
                    for step in range(0, 60, 4)
                ],
                close=False,
            )
            sink.write_findings([hostile], [hostile])
            sink.close()
        assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
        out = capsys.readouterr().out
        assert "\x1b[2J" not in out
        assert "\x07" not in out
        assert r"\x1b[2Jevil[red]\x07" in out


class TestJson:
    """What a script reads."""

    def test_it_is_the_comparison_with_a_schema_version(self, runs, capsys):
        assert main(["compare", "healthy", "sick", "--json"]) == 0
        captured = capsys.readouterr()
        document = json.loads(captured.out)
        a, b = (read(runs / name / "gradwatch") for name in ("healthy", "sick"))
        assert captured.out.isascii()
        assert captured.err == ""
        assert document.pop("schema") == SCHEMA_VERSION
        assert document.pop("version")
        assert document == compare(a, b, names=("healthy", "sick")).as_json()

    def test_a_wide_terminal_is_not_needed(self, runs, monkeypatch, capsys):
        monkeypatch.setenv("COLUMNS", "20")
        main(["compare", "healthy", "sick", "--json"])
        assert json.loads(capsys.readouterr().out)["divergence"]["layer"] == "fc6"


class TestNotCompared:
    """Exit status 2, nothing on standard output, and a sentence."""

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ((".", "sick"), "'.' holds 2 runs; pass one of 'healthy/gradwatch', 'sick/gradwatch'"),
            (("healthy", "missing"), "missing"),
            (("healthy", "empty"), "no run of gradwatch at or below 'empty'"),
            (("healthy", "sick", "--statistic", "loss"), "runs cannot be compared by 'loss'"),
        ],
        ids=["several runs", "no directory", "no run", "no statistic"],
    )
    @pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
    def test_what_cannot_be_used(self, runs, arguments, said, as_json, capsys):
        (runs / "empty").mkdir()
        assert main(["compare", *arguments, *as_json]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert said in captured.err

    def test_of_many_runs_the_first_are_named(self, tmp_path, capsys):
        for number in range(12):
            write_run(tmp_path / f"run{number:02}", [usual_snapshot(chain(2), 0)])
        assert main(["compare", str(tmp_path), str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert "run09" in error
        assert "run10" not in error
        assert "and 2 more" in error

    def test_a_damaged_run(self, runs, capsys):
        (path,) = (runs / "sick" / "gradwatch").iterdir()
        path.write_bytes(os.urandom(1000))
        assert main(["compare", "healthy", "sick"]) == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error
        assert "sick" in error

    def test_a_run_that_is_cut_off_is_compared_and_told_of(self, runs, capsys):
        (path,) = (runs / "sick" / "gradwatch").iterdir()
        path.write_bytes(path.read_bytes()[:-777])
        assert main(["compare", "healthy", "sick"]) == 0
        captured = capsys.readouterr()
        assert "sick leaves healthy at step 0" in captured.out
        assert "is cut off at byte" in captured.err


def test_a_run_with_others_below_it_can_be_named(tmp_path, capsys):
    write_training(tmp_path)
    write_healthy_training(tmp_path / "gradwatch" / "later")
    assert main(["compare", str(tmp_path / "gradwatch"), str(tmp_path / "gradwatch/later")]) == 0
    assert "first in layer fc6" in " ".join(capsys.readouterr().out.split())  # a long path wraps
