"""The report in a terminal and in a log: the table of layers, then the findings."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from rich.console import Console

from gradwatch.report import Report
from gradwatch.snapshot import State

from .report_builder import (
    ENDLESS,
    GONE,
    LAYERS,
    NAMES,
    NOTICE,
    OVERHEAD,
    SICK,
    WARNING,
    chain,
    deep_report,
    finding,
    history,
    line_with,
    printed,
    report,
    snapshot,
)


def test_deeper_layers_have_shorter_bars_and_the_output_layer_a_full_one():
    text = printed(report(), 80, "ascii")
    lengths = [line_with(text, name).count("#") for name in NAMES]
    assert lengths == sorted(set(lengths))
    assert "." not in line_with(text, "head").partition("#")[2].partition(" ")[0]


def test_a_layer_without_signal_has_no_bar():
    newest = snapshot(LAYERS, output_grad_norm=[0.0, math.nan, 1e-3, 1e-2])
    text = printed(report(newest=newest))
    assert "zero" in line_with(text, "fc1")
    assert "not observed" in line_with(text, "fc2")
    assert "█" not in line_with(text, "fc1") + line_with(text, "fc2")


def test_the_table_shows_the_newest_step_with_signals():
    taken = history(SICK)
    taken.append(snapshot(LAYERS, 24, signals=False))
    text = printed(Report((), taken))
    assert "-5.0" in line_with(text, "fc1")
    assert "Step 16." in text


def test_a_layer_that_appeared_late_is_not_observed_yet():
    taken = history(SICK)
    more = (*LAYERS, replace(LAYERS[-1], name="adapter", depth=4))
    taken.append(snapshot(more, 24, signals=False))
    assert "not observed" in line_with(printed(Report((), taken)), "adapter")


def test_states_are_a_column_only_if_a_layer_is_not_trained():
    states = [State.FROZEN, State.NO_GRADIENT, State.TRAINED, State.TRAINED]
    text = printed(report(newest=snapshot(LAYERS, states=states)))
    assert "frozen" in line_with(text, "fc1")
    assert "no gradient" in line_with(text, "fc2")
    assert " state " not in printed(report())


def test_dead_and_saturated_shares_are_told_apart():
    newest = snapshot(
        LAYERS,
        dead_fraction=[0.5, math.nan, math.nan, math.nan],
        saturation_fraction=[math.nan, 0.92, 0.001, math.nan],
    )
    text = printed(report(newest=newest))
    assert "50 % dead" in line_with(text, "fc1")
    assert "92 % saturated" in line_with(text, "fc2")
    assert "<1 % saturated" in line_with(text, "fc3")


@pytest.mark.parametrize("width", [40, 80, 120])
def test_no_name_is_cut_short_however_narrow_the_terminal(width):
    names = [f"encoder.layers.{index}.attention.output" for index in range(4)]
    text = printed(report(newest=snapshot(chain(names))), width)
    assert all(len(line) <= width for line in text.splitlines())
    start = [line.split("  ")[0] for line in text.splitlines()]
    joined = "".join(start)
    assert [name for name in names if name in joined] == names


def test_layers_of_a_finding_have_its_colour():
    console = Console(
        file=io.StringIO(), width=120, force_terminal=True, color_system="standard", no_color=False
    )
    console.print(report(finding(), replace(WARNING, layers=("fc2", "fc3"))))
    text = console.file.getvalue().partition("log10")[2]
    start = {name: line_with(text, f"{name} ").partition(name)[0] for name in NAMES}
    assert start["fc1"] == start["fc2"] == "\x1b[1;31m"
    assert start["fc3"] == "\x1b[1;33m"
    assert start["head"] == ""


def test_a_fold_says_how_many_layers_it_hides_and_what_their_signal_is():
    assert "-2.8 to -2.1" in line_with(printed(deep_report(60)), "15 more layers")


def test_findings_stand_worst_first_and_resolved_ones_fold_into_a_line():
    text = printed(report(NOTICE, WARNING, finding(), replace(GONE, cause="weights")))
    places = [text.index(word) for word in (" ERROR ", " WARNING ", " NOTICE ", "Resolved: ")]
    assert places == sorted(places)
    resolved = line_with(text, "Resolved: ")
    assert "GW101" in resolved
    assert "from step 16 to step 64" in resolved
    assert text.count("Fix 1") == 3


def test_a_finding_shows_evidence_beside_its_threshold():
    assert "backward depth -5.23 (threshold -3.5)" in printed(report(finding()))


def test_a_finding_names_its_layers_once():
    told = finding(message="The signal dies in layers fc1 and fc2.")
    assert printed(report(told)).count("layers fc1 and fc2") == 2  # verdict and message


def test_the_last_line_says_what_it_cost():
    assert printed(report(), ENDLESS).splitlines()[-1] == (
        "gradwatch took 0.42 s, 0.9 % of the run's time, for 21 full samples and 11 of parameters "
        "alone in 300 steps; now it reads parameters every 10 steps and signals every 25."
    )


@pytest.mark.parametrize(("share", "explained"), [(0.009, False), (0.4, True)])
def test_a_large_cost_is_explained(share, explained):
    text = printed(report(overhead=replace(OVERHEAD, share=share)), ENDLESS)
    assert ("up to step 128 are exempt" in text) is explained


def test_markup_in_a_layer_name_stays_text():
    newest = snapshot(chain(["[bold]body[/bold]", "head"]))
    assert "[bold]body[/bold]" in printed(report(newest=newest))
