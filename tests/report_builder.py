"""Histories, findings and reports for the tests of the views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from rich.console import Console

from gradwatch.finding import Finding, Fix
from gradwatch.history import History
from gradwatch.layer import Layer
from gradwatch.report import Report
from gradwatch.schedule import EARLY_STEPS, Overhead
from gradwatch.snapshot import ROW_OF, Snapshot, State, empty_statistics

STEPS = tuple(sorted(EARLY_STEPS))


def chain(names: Sequence[str], activation: str | None = "sigmoid") -> tuple[Layer, ...]:
    """Layers one after the other, an activation after all but the last."""
    last = len(names) - 1
    return tuple(
        Layer(
            name=name,
            kind="Linear",
            depth=row,
            fan_in=64,
            fan_out=64,
            parameter_count=4160,
            activation=activation if row < last else None,
            inputs=(row - 1,) if row else (),
        )
        for row, name in enumerate(names)
    )


def snapshot(
    layers: tuple[Layer, ...],
    step: int = 0,
    *,
    states: Sequence[State] | None = None,
    signals: bool = True,
    skipped: bool = False,
    **statistics: Sequence[float],
) -> Snapshot:
    """A step at which the given statistics were observed, and the rest was unremarkable."""
    packed = empty_statistics(len(layers))
    usual = {"grad_norm": 0.1, "weight_norm": 8.0, "update_ratio": 1e-3, "nonfinite_count": 0.0}
    if signals:
        usual |= {"forward_calls": 1.0, "output_grad_norm": 0.01}
    for name, value in usual.items():
        packed[ROW_OF[name]] = value
    for name, values in statistics.items():
        packed[ROW_OF[name]] = values
    kept = np.asarray(states if states is not None else [State.TRAINED] * len(layers), np.int8)
    return Snapshot.unpacked(packed, step=step, layers=layers, states=kept, skipped=skipped)


def history(newest: Snapshot, samples: int = 9) -> History:
    """A history of so many samples on the automatic schedule, all like the newest."""
    steps = STEPS[:samples]
    taken = History()
    for step in steps:
        taken.append(replace(newest, step=step))
    return taken


RELU_FIX = Fix(
    kind="activation",
    title="Use ReLU with He initialisation in fc1 and fc2",
    rationale="The slope of a sigmoid is at most 1/4, so each layer divides the signal by four.",
    reference="He et al. 2015",
    snippets={
        "torch": "model.act1 = nn.ReLU()\nnn.init.kaiming_normal_(model.fc1.weight)",
        "keras": 'keras.layers.Dense(64, activation="relu", kernel_initializer="he_normal")',
    },
    lr_factor=0.2,
)


def finding(**changes: object) -> Finding:
    """A vanishing gradient on fc1 and fc2, with the given fields changed."""
    fields: Mapping[str, object] = {
        "code": "GW101",
        "name": "vanishing-gradient",
        "severity": "error",
        "step": 16,
        "layers": ("fc1", "fc2"),
        "cause": "activation",
        "message": "The backward signal falls by 5.2 decades from fc4 to fc1.",
        "evidence": {"backward_depth": -5.23, "backward_depth_threshold": -3.5},
        "fixes": (RELU_FIX,),
        **changes,
    }
    return Finding(**fields)  # type: ignore[arg-type]  # the tests name the fields


OVERHEAD = Overhead(
    steps=300,
    parameter_samples=32,
    signal_samples=21,
    seconds=0.42,
    step_seconds=0.01,
    share=0.0094,
    parameter_interval=10,
    signal_interval=25,
)

NAMES = ("fc1", "fc2", "fc3", "head")
LAYERS = chain(NAMES)
SICK = snapshot(LAYERS, 16, output_grad_norm=[1e-7, 1e-5, 1e-3, 1e-2])
ENDLESS = 10_000
"""Columns of a terminal that breaks no line."""


def report(
    *findings: Finding,
    newest: Snapshot = SICK,
    samples: int = 9,
    overhead: Overhead | None = OVERHEAD,
    framework: str = "torch",
) -> Report:
    """A report on so many samples that are all like the newest."""
    return Report(tuple(findings), history(newest, samples), overhead, framework)


def printed(shown: Report, width: int = 120, encoding: str = "utf-8") -> str:
    """What a terminal without colours shows."""
    console = Console(width=width, color_system=None, force_terminal=False, force_jupyter=False)
    options = replace(console.options, encoding=encoding)
    lines = console.render_lines(shown, options)
    return "\n".join("".join(segment.text for segment in line).rstrip() for line in lines)


def line_with(text: str, word: str) -> str:
    """The first line that holds the word."""
    return next(line for line in text.splitlines() if word in line)


NOTICE = finding(code="GW902", name="observation-degraded", severity="notice", layers=())
BLIND = replace(NOTICE, code="GW901", name="nothing-observed", message="No gradient came.")
WARNING = finding(code="GW202", name="saturated-activation", severity="warning", cause="weights")
GONE = finding(resolved_step=64)


def deep_report(layer_count: int) -> Report:
    """A warning on the layers 20 to 22 of many."""
    names = [f"layer{index}" for index in range(layer_count)]
    newest = snapshot(chain(names), output_grad_norm=np.geomspace(1e-3, 1, layer_count))
    return report(replace(WARNING, layers=tuple(names[20:23])), newest=newest)


HOSTILE = '</td><script>alert("x")</script>\x1b[2J'


def hostile_report() -> Report:
    """HTML and an escape sequence wherever a text is shown."""
    newest = snapshot(chain([HOSTILE, "head"]), output_grad_norm=[1e-7, 1e-2])
    fix = replace(RELU_FIX, title=HOSTILE, rationale=HOSTILE, snippets={"torch": HOSTILE})
    sick = finding(
        name=HOSTILE,
        layers=(HOSTILE,),
        message=f"{HOSTILE} is bad.",
        evidence={HOSTILE: 1.0},
        fixes=(replace(fix, reference=HOSTILE),),
    )
    return report(sick, replace(sick, cause="weights", resolved_step=48), newest=newest)
