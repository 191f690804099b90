"""Snapshots, findings and points for the tests of the event files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gradwatch.finding import Finding, Fix
from gradwatch.layer import Layer
from gradwatch.snapshot import ROW_OF, STATISTICS, Snapshot, State, empty_statistics
from gradwatch.tensorboard.reader import Point
from gradwatch.tensorboard.schema import PLUGIN_NAME, parse_plugin_content
from gradwatch.tensorboard.sink import TensorBoardSink

SPECIAL_BITS = (0x7FC00000, 0x7F800000, 0xFF800000, 0x80000000, 0x00000000, 0x7FC00001, 0x00000001)
"""NaN, +inf, -inf, -0, 0, a NaN with a payload, the smallest positive number."""


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self, now: float = 1.7e9) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def chain(count: int, *, prefix: str = "fc", activation: str = "sigmoid") -> tuple[Layer, ...]:
    """Layers one after the other, an activation after all but the last."""
    return tuple(
        Layer(
            name=f"{prefix}{row + 1}",
            kind="Linear",
            depth=row,
            fan_in=64,
            fan_out=64,
            parameter_count=4160,
            activation=activation if row < count - 1 else None,
            activation_module=f"act{row + 1}" if row < count - 1 else None,
            inputs=(row - 1,) if row else (),
        )
        for row in range(count)
    )


def random_snapshot(
    rng: np.random.Generator, layers: tuple[Layer, ...], step: int, limits: tuple[str, ...] = ()
) -> Snapshot:
    """A step of which every bit is random, special numbers and rows of one number included."""
    shape = (len(STATISTICS), len(layers))
    bits = rng.integers(0, 2**32, size=shape, dtype=np.uint32)
    bits[rng.random(shape) < 0.3] = rng.choice(np.array(SPECIAL_BITS, dtype=np.uint32))
    even = rng.random(len(STATISTICS)) < 0.4
    bits[even] = rng.choice(np.array(SPECIAL_BITS, dtype=np.uint32), size=(even.sum(), 1))
    return Snapshot.unpacked(
        bits.view(np.float32),
        step=step,
        layers=layers,
        states=rng.integers(0, len(State), size=len(layers), dtype=np.int8),
        loss=float(rng.choice([rng.normal(), np.nan, np.inf, -np.inf, 1 / 3])),
        skipped=bool(rng.random() < 0.5),
        limits=limits,
        wall_time=float(rng.random() * 2e9),
    )


def random_run(
    layers: tuple[Layer, ...], steps: Iterable[int], *, seed: int = 0
) -> tuple[Snapshot, ...]:
    """A random snapshot for each step."""
    rng = np.random.default_rng(seed)
    return tuple(random_snapshot(rng, layers, step) for step in steps)


def usual_snapshot(
    layers: tuple[Layer, ...], step: int, *, decades: float = 1.0, signals: bool = True
) -> Snapshot:
    """A step of a net whose backward signal loses so many decades a layer; the loss falls.

    Args:
        layers: The rows, one after the other.
        step: The step.
        decades: Decades that the backward signal loses from a layer to the one before it.
        signals: Whether forward and backward signals were observed.
    """
    rng = np.random.default_rng(step)
    count = len(layers)
    noise = 10.0 ** rng.normal(0, 0.05, size=count)
    backward = 0.02 * 10.0 ** (-decades * np.arange(count)[::-1]) * noise
    packed = empty_statistics(count)
    observed: dict[str, object] = {
        "grad_norm": backward * 8,
        "weight_norm": 5.0 * noise,
        "update_ratio": 1e-3 * np.minimum(1.0, backward * 50) * noise,
        "decay_ratio": np.zeros(count),
        "nonfinite_count": np.zeros(count),
    }
    if signals:
        flat = np.clip(0.2 + 0.002 * step + rng.normal(0, 0.02, size=count), 0, 1)
        flat[-1] = np.nan
        observed |= {
            "unit_spread_ratio": 0.9 * noise,
            "forward_calls": np.ones(count),
            "input_rms": 0.6 * noise,
            "output_rms": 0.7 * noise,
            "output_grad_norm": backward,
            "output_grad_rms": backward / 60,
            "input_grad_norm": backward / 2,
            "activation_gain_log10": np.append(np.full(count - 1, -0.7), np.nan),
            "mean_slope": np.append(np.full(count - 1, 0.2), np.nan),
            "saturation_fraction": flat,
            "tiny_log10": np.full(count, -45.0),
        }
    for name, values in observed.items():
        packed[ROW_OF[name]] = values
    return Snapshot.unpacked(
        packed,
        step=step,
        layers=layers,
        states=np.full(count, State.TRAINED, dtype=np.int8),
        loss=2.3 * 0.995**step + 0.1,
        wall_time=1.7e9 + step,
    )


def finding(**changes: object) -> Finding:
    """A vanishing gradient on the first three layers, with the given fields changed."""
    fields: dict[str, object] = {
        "code": "GW101",
        "name": "vanishing-gradient",
        "severity": "error",
        "step": 16,
        "layers": ("fc1", "fc2", "fc3"),
        "cause": "activation",
        "message": "The backward signal falls by 7.0 decades from fc8 to fc1, and the sigmoids "
        "take 0.7 of each. Layers fc1, fc2 and fc3 do not learn.",
        "evidence": {
            "backward_depth": -7.0,
            "backward_depth_threshold": -3.5,
            "activation_share": 0.9,
        },
        "fixes": (
            Fix(
                kind="activation",
                title="Use ReLU with He initialisation",
                rationale="The slope of a sigmoid is at most 1/4, of a ReLU it is 1.",
                reference="He et al. 2015",
                snippets={
                    "torch": "model.act1 = nn.ReLU()\nnn.init.kaiming_normal_(model.fc1.weight)",
                    "keras": 'keras.layers.Dense(64, activation="relu")',
                },
                lr_factor=0.2,
            ),
            Fix(
                kind="normalisation",
                title="Add a normalisation before each sigmoid",
                rationale="It keeps the inputs where the slope is largest.",
                reference="Ioffe & Szegedy 2015",
            ),
        ),
        **changes,
    }
    return Finding(**fields)  # type: ignore[arg-type]  # the tests name the fields


def write_run(
    log_dir: Path,
    snapshots: Sequence[Snapshot],
    *,
    clock: Clock | None = None,
    name: str | None = None,
    close: bool = True,
) -> TensorBoardSink:
    """A sink that took the snapshots."""
    sink = TensorBoardSink(log_dir, name, framework="torch", clock=clock or Clock())
    for snapshot in snapshots:
        sink.write_snapshot(snapshot)
    if close:
        sink.close()
    return sink


def exact(snapshot: Snapshot) -> dict[str, object]:
    """Everything of a snapshot as bits, so that NaN equals NaN and -0 differs from 0."""
    return {
        "step": snapshot.step,
        "layers": snapshot.layers,
        "states": (snapshot.states.dtype.str, snapshot.states.tolist()),
        "statistics": snapshot.packed().tobytes(),
        "loss": np.float64(snapshot.loss).tobytes(),
        "skipped": snapshot.skipped,
        "limits": snapshot.limits,
        "wall_time": np.float64(snapshot.wall_time).tobytes(),
    }


def as_written(snapshots: Iterable[Snapshot]) -> list[dict[str, object]]:
    """`exact` of each snapshot."""
    return [exact(snapshot) for snapshot in snapshots]


def provider_points(provider: object, context: object, run: str) -> list[Point]:
    """gradwatch's points of a run, read through one of TensorBoard's data providers."""
    tags = provider.list_tensors(context, experiment_id="", plugin_name=PLUGIN_NAME)[run]
    read = provider.read_tensors(
        context, experiment_id="", plugin_name=PLUGIN_NAME, downsample=100_000
    )[run]
    points = []
    for tag in tags.keys() & read.keys():  # a running loader may have more by the second question
        series = read[tag]
        content = parse_plugin_content(tags[tag].plugin_content, tag=tag)
        for datum in series:
            parts = tuple(bytes(part) for part in datum.numpy)
            points.append(Point(content, datum.step, datum.wall_time, parts))
    return points


def write_training(log_dir: Path, *, steps: int = 200) -> None:
    """A run of 8 layers whose first three do not learn; a second problem comes and goes."""
    layers = chain(8)
    sink = TensorBoardSink(log_dir, framework="torch", clock=Clock())
    vanishing = finding(step=16)
    saturated = finding(
        code="GW202",
        name="saturated-activation",
        severity="warning",
        step=40,
        layers=("fc6", "fc7"),
        cause="weights",
        message="60 % of the values of layers fc6 and fc7 lie where the sigmoid is flat.",
        evidence={"saturation_fraction": 0.6, "saturation_fraction_threshold": 0.5},
        fixes=(),
    )
    for step in range(0, steps, 2):
        sink.write_snapshot(usual_snapshot(layers, step, signals=step % 4 == 0))
        if step == 16:
            sink.write_findings([vanishing], [vanishing])
        if step == 40:
            sink.write_findings([saturated], [vanishing, saturated])
        if step == 80:
            resolved = replace(saturated, resolved_step=80)
            sink.write_findings([resolved], [vanishing, resolved])
    sink.close()


def write_healthy_training(log_dir: Path, *, steps: int = 200) -> None:
    """A run of 8 layers without a finding."""
    layers = chain(8, activation="relu")
    write_run(log_dir, [usual_snapshot(layers, s, decades=0.1) for s in range(0, steps, 2)])
