"""The command line: rules, explain, report, and what it says of wrong arguments."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields

import pytest

import gradwatch
from gradwatch.cli import main
from gradwatch.rule_pages import matching_rule, nearest_rules, plain_formula
from gradwatch.rules import ALL_RULES

RULES = pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.code)


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def gradwatch_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "gradwatch", *arguments],
        capture_output=True,
        env=os.environ | environment,
        check=False,
    )


def test_version_is_printed(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"gradwatch {gradwatch.__version__}\n"


def test_without_a_command_the_commands_are_shown(capsys):
    assert main([]) == 2
    shown = capsys.readouterr().err
    assert [word for word in ("demo", "rules", "explain", "report") if word in shown] == [
        *("demo", "rules", "explain", "report")
    ]


@RULES
def test_rules_lists_every_rule_with_its_thresholds(rule, capsys):
    assert main(["rules"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert f"{rule.code} {rule.name} " in words
    assert all(entry.name.replace("_", " ") in words for entry in fields(rule))


@RULES
def test_explain_shows_the_page_of_a_rule_and_the_source_of_each_threshold(rule, capsys):
    assert main(["explain", rule.code]) == 0
    shown = capsys.readouterr().out
    words = " ".join(shown.split())
    assert shown.startswith(f"{rule.code} {rule.name}\n")
    assert "How it is measured" in shown
    assert all(entry.name in words for entry in fields(rule))
    assert all(entry.metadata["source"][:30] in words for entry in fields(rule))


@RULES
def test_no_latex_is_left_in_a_page(rule, capsys):
    main(["explain", rule.code])
    shown = capsys.readouterr().out
    assert "$" not in shown
    assert "\\" not in shown


@pytest.mark.parametrize("wanted", ["GW101", "gw101", " GW101 ", "vanishing-gradient"])
def test_a_rule_is_found_by_code_or_name(wanted):
    found = matching_rule(wanted)
    assert found is not None
    assert found.code == "GW101"


@pytest.mark.parametrize(
    ("wanted", "nearest"),
    [("GW1O1", "GW101"), ("exploding", "GW301"), ("dead-unit", "GW201")],
)
def test_an_unknown_rule_ends_with_the_nearest_ones(wanted, nearest, capsys):
    assert main(["explain", wanted]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert repr(wanted) in captured.err
    assert nearest in captured.err
    assert nearest_rules(wanted)[0].code == nearest


def test_an_error_shows_what_was_typed_and_not_what_it_could_mean(capsys):
    main(["explain", "[red]x[/red]"])
    assert "[red]x[/red]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("latex", "plain"),
    [
        (
            r"B = \log_{10}(\lVert \Delta_{in} \rVert / \lVert \Delta_{out} \rVert)",
            "B = log10(‖Δ_in‖ / ‖Δ_out‖)",
        ),
        (r"\partial E/\partial w = f'(wx) \cdot x", "∂E/∂w = f'(wx) · x"),
        (r"|f'| < 0.05 \max f'", "|f'| < 0.05 max f'"),
        ("10^{1.5}", "10^1.5"),
    ],
)
def test_a_formula_reads_as_plain_text(latex, plain):
    assert plain_formula(latex) == plain


def test_the_module_runs_as_a_command():
    ran = gradwatch_command("rules")
    assert ran.returncode == 0
    assert b"GW101" in ran.stdout
    assert ran.stderr == b""


def test_the_exit_status_of_the_module_is_that_of_the_command():
    assert gradwatch_command("explain", "GW999").returncode == 2


def test_a_terminal_without_unicode_is_no_error():
    ran = gradwatch_command("explain", "GW101", PYTHONIOENCODING="ascii")
    assert ran.returncode == 0
    assert ran.stdout.isascii()


@pytest.mark.parametrize("steps", ["0", "-3", "many"])
def test_a_demo_needs_a_number_of_steps(steps, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--steps", steps])
    assert stopped.value.code == 2
    assert "--steps" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["torch", "sklearn", "tensorboard", "google_crc32c"])
def test_a_demo_without_its_extra_says_what_to_install(module, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["demo"]) == 2
    error = capsys.readouterr().err
    assert module in error
    assert 'pip install "gradwatch[demo]"' in error


def test_a_report_of_a_directory_without_a_run_says_so(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_a_report_of_no_directory_says_so(tmp_path, capsys):
    assert main(["report", str(tmp_path / "missing")]) == 2
    assert "missing" in capsys.readouterr().err
