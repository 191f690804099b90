"""The demo: the same network with and without the fix, and gradwatch's word on both."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from rich.console import Console

from gradwatch import cli
from gradwatch.cli import main
from gradwatch.demo import keras_networks, torch_networks
from gradwatch.demo.contest import Outcome, Training, show
from gradwatch.demo.digits import load
from gradwatch.demo.frameworks import networks_of

STEPS = 200


LAYERS = {
    "torch": ["conv1", "conv2", "fc1", "fc2", "head"],
    "keras": ["conv1", "conv2", "conv3", "fc1", "fc2", "head"],
}

HE = {"torch": "kaiming_normal_", "keras": "HeNormal"}
"""What the snippet of the first fix calls."""


@dataclass(frozen=True)
class Shown:
    """One run of the demo.

    Attributes:
        framework: "torch" or "keras".
        sick: The sigmoid network.
        healthy: The ReLU network.
        text: What was printed.
        log_dir: Where the runs are.
    """

    framework: str
    sick: Outcome
    healthy: Outcome
    text: str
    log_dir: Path


@pytest.fixture(scope="module", params=["torch", "keras"])
def shown(request, tmp_path_factory) -> Shown:
    log_dir = tmp_path_factory.mktemp("demo") / "first try"
    console = Console(file=io.StringIO(), width=200, force_terminal=False, color_system=None)
    networks = networks_of(request.param)
    sick, healthy = show(console, networks, log_dir=log_dir, steps=STEPS, seed=0)
    return Shown(request.param, sick, healthy, console.file.getvalue(), log_dir)


def test_the_sigmoid_network_does_not_learn_and_the_cause_is_named(shown):
    (finding,) = [entry for entry in shown.sick.report.open_findings if entry.code == "GW101"]
    assert finding.cause == "activation"
    assert "conv1" in finding.layers
    assert shown.sick.loss > 2.2
    assert shown.sick.accuracy < 0.25


def test_the_same_network_with_relu_and_he_learns_and_is_healthy(shown):
    count = len(LAYERS[shown.framework])
    assert shown.healthy.report.verdict == f"Healthy: {count} layers, {STEPS} steps, no finding."
    assert shown.healthy.loss < 0.5
    assert shown.healthy.accuracy > 0.85


def test_both_networks_have_the_same_layers(shown):
    names = [
        [layer.name for layer in outcome.report.history.layers]
        for outcome in (shown.sick, shown.healthy)
    ]
    assert names[0] == names[1] == LAYERS[shown.framework]


def test_verdicts_snippet_and_accuracies_are_printed(shown):
    assert shown.sick.report.verdict in shown.text
    assert shown.healthy.report.verdict in shown.text
    assert HE[shown.framework] in shown.text
    assert shown.text.count("Fix ") == 1
    assert f"{100 * shown.healthy.accuracy:.1f} %" in shown.text


def test_the_last_line_is_the_command_to_run_next(shown):
    assert shown.text.splitlines()[-1] == f"tensorboard --logdir '{shown.log_dir}'"


def test_each_network_has_its_own_run(shown):
    runs = {path.parent.name for path in shown.log_dir.rglob("*tfevents*")}
    assert runs == {"sigmoid", "relu"}


def test_the_stored_runs_can_be_reported(shown, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["report", str(shown.log_dir)]) == 1
    printed = capsys.readouterr().out
    assert shown.sick.report.verdict in printed
    count, last = len(LAYERS[shown.framework]), shown.healthy.report.history[-1].step
    assert f"Healthy: {count} layers, up to step {last}" in printed


def test_an_earlier_run_is_not_overwritten(shown, capsys):
    before = sorted(shown.log_dir.rglob("*"))
    arguments = ["demo", "--framework", shown.framework, "--log-dir", str(shown.log_dir)]
    assert main(arguments) == 2
    assert "'sigmoid' already" in capsys.readouterr().err
    assert sorted(shown.log_dir.rglob("*")) == before


def test_without_a_directory_a_new_one_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--steps", "2"]) == 0
    (made,) = (tmp_path / "runs").iterdir()
    assert f"tensorboard --logdir runs/{made.name}" in capsys.readouterr().out


@pytest.mark.parametrize("networks", [torch_networks, keras_networks], ids=["torch", "keras"])
def test_weights_and_batches_come_from_the_seed(networks, tmp_path):
    digits = load(0)
    lost: dict[str, list[float]] = {"first": [], "again": [], "other": []}
    for run, losses in lost.items():
        networks.train(
            networks.CONTESTANTS[1],
            Training(digits, 3, int(run == "other"), tmp_path / run, losses.append),
        )
    assert len(lost["first"]) == 3
    assert lost["first"] == lost["again"]
    assert lost["first"] != lost["other"]


def test_an_interrupted_demo_ends_cleanly(tmp_path, monkeypatch, capsys):
    def interrupted(*_: object, **__: object) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch_networks.F, "cross_entropy", interrupted)
    assert main(["demo", "--log-dir", str(tmp_path)]) == 130
    assert "Interrupted." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("framework", "extras"), [("torch", "gradwatch[demo]"), ("keras", "gradwatch[demo,keras]")]
)
def test_a_missing_framework_is_named_with_its_extra(framework, extras, monkeypatch, capsys):
    found = cli.find_spec
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == framework else found(name))
    assert main(["demo", "--framework", framework]) == 2
    said = capsys.readouterr().err
    assert f"the demo needs {framework}:" in said
    assert extras in said


def test_a_missing_backend_of_keras_is_named_with_those_that_are_there(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['jax'] = None\n")
    run = subprocess.run(
        [sys.executable, "-m", "gradwatch", "demo", "--framework", "keras"],
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert "Keras is to run on jax, which is not installed" in run.stderr
    assert "set KERAS_BACKEND to tensorflow or torch" in run.stderr
