"""Time and peak memory of `gradwatch report` on recordings of 200 layers.

Run it with `python -m tests.benchmarks.bench_report`; it takes some minutes, most of them for the
run that is sick throughout. The recordings (300 MB below the temporary directory, removed at the
end) are read and judged in a fresh process each; `--json` is timed, as it has no table to draw.
"Judging" leaves out the start of Python and the imports.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from gradwatch.layer import Layer
from gradwatch.schedule import Sample, Schedule
from gradwatch.snapshot import ROW_OF, STATISTICS, FloatArray, Snapshot, State
from gradwatch.tensorboard.sink import TensorBoardSink

LAYERS = 200
STEPS = 10_000
NOISE = 0.05
"""Deviation of every figure from its level, log10: no two samples or layers are alike."""

LEVELS = {
    "grad_norm": 0.1,
    "weight_norm": 8.0,
    "update_ratio": 1e-3,
    "decay_ratio": 1e-5,
    "nonfinite_count": 0.0,
    "unit_spread_ratio": 0.9,
    "input_rms": 1.0,
    "output_rms": 1.0,
    "output_grad_norm": 0.1,
    "output_grad_rms": 0.003,
    "input_grad_norm": 0.1,
    "mean_slope": 0.5,
    "saturation_fraction": 0.1,
    "dead_fraction": 0.05,
    "direction_spread": 0.5,
    "logit_misfit_ratio": 0.8,
}
"""Figures of a healthy layer that wander; those below do not."""

CONSTANT = {"forward_calls": 1.0, "tiny_log10": -44.9}
GAINS = {"activation_gain_log10": -0.15}

TIMED = (
    "import sys, time; began = time.perf_counter(); from gradwatch.cli import main; "
    "loaded = time.perf_counter(); status = main(['report', sys.argv[1], '--json']); "
    "print('judged in', time.perf_counter() - loaded, 's', file=sys.stderr); sys.exit(status)"
)


@dataclass(frozen=True)
class Case:
    """A recording to read.

    Args:
        name: What it is called in the table.
        every_step: Whether every step is stored, with signals; by the default schedule otherwise.
        vanishing: Decades that the backward signal loses over the whole network.
    """

    name: str
    every_step: bool
    vanishing: float

    def steps(self) -> Iterator[tuple[int, Sample]]:
        """The observed steps, each with what is observed of it."""
        schedule = Schedule(1 if self.every_step else "auto", None)
        for step in range(STEPS):
            sample = schedule.plan()
            schedule.close_step(sample, 0.01, 0.0)
            if sample is not Sample.NOTHING:
                yield step, sample


CASES = (
    Case("healthy, every step", every_step=True, vanishing=0.0),
    Case("vanishing, every step", every_step=True, vanishing=8.0),
    Case("healthy, default schedule", every_step=False, vanishing=0.0),
    Case("vanishing, default schedule", every_step=False, vanishing=8.0),
)


def chain() -> tuple[Layer, ...]:
    """Layers in a row, ReLU after all but the last."""
    return tuple(
        Layer(
            name=f"blocks.{row}.linear",
            kind="Linear",
            depth=row,
            fan_in=64,
            fan_out=64,
            parameter_count=4160,
            activation="relu" if row < LAYERS - 1 else None,
            activation_module=f"blocks.{row}.relu" if row < LAYERS - 1 else None,
            inputs=(row - 1,) if row else (),
        )
        for row in range(LAYERS)
    )


def snapshots(case: Case) -> Iterator[Snapshot]:
    """The samples of a case: figures that wander about their levels."""
    layers, generator = chain(), np.random.default_rng(0)
    back = np.linspace(-case.vanishing, 0.0, LAYERS)
    signals = [ROW_OF[statistic.name] for statistic in STATISTICS if statistic.needs == "signals"]
    for step, sample in case.steps():
        packed = _figures(generator, back)
        if sample is not Sample.SIGNALS:
            packed[signals] = np.nan
        yield Snapshot.unpacked(
            packed,
            step=step,
            layers=layers,
            states=np.full(LAYERS, State.TRAINED, dtype=np.int8),
            loss=2.3 if case.vanishing else 2.3 * 0.9995**step + 0.1,
            wall_time=1.7e9 + step,
        )


def _figures(generator: np.random.Generator, back: FloatArray) -> FloatArray:
    packed = np.full((len(STATISTICS), LAYERS), np.nan, dtype=np.float32)
    for name, level in LEVELS.items():
        packed[ROW_OF[name]] = level * 10.0 ** generator.normal(0.0, NOISE, LAYERS)
    for name, level in CONSTANT.items():
        packed[ROW_OF[name]] = level
    for name, level in GAINS.items():
        packed[ROW_OF[name]] = level + generator.normal(0.0, NOISE / 5, LAYERS)
    for name in ("output_grad_norm", "input_grad_norm", "output_grad_rms", "grad_norm"):
        packed[ROW_OF[name]] *= 10.0**back
    packed[ROW_OF["activation_gain_log10"]] += float(back[0]) / LAYERS
    packed[ROW_OF["dead_fraction"], -1] = np.nan
    packed[ROW_OF["logit_misfit_ratio"], :-1] = np.nan
    return packed


def write(log_dir: Path, samples: Iterable[Snapshot]) -> None:
    """Store the samples as a watch would, without judging them."""
    sink = TensorBoardSink(log_dir, framework="torch")
    for snapshot in samples:
        sink.write_snapshot(snapshot)
    sink.close()


@dataclass(frozen=True, order=True)
class Cost:
    """What one report took.

    Args:
        seconds: From the start of Python to its end.
        processor_seconds: Time on the processor in them, which other processes do not stretch.
        judging_seconds: Without the start of Python and the imports.
        peak_megabytes: Largest resident set.
    """

    seconds: float
    processor_seconds: float
    judging_seconds: float
    peak_megabytes: float


def measure(log_dir: Path) -> Cost:
    """The cost of a report in a process of its own."""
    began = time.perf_counter()
    ran = subprocess.Popen(
        [sys.executable, "-c", TIMED, str(log_dir)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    told = ran.stderr.read()
    _, _, usage = os.wait4(ran.pid, 0)
    seconds = time.perf_counter() - began
    judged = re.search(r"judged in ([\d.]+) s", told)
    if judged is None:
        raise RuntimeError(told)
    processor = usage.ru_utime + usage.ru_stime
    return Cost(seconds, processor, float(judged[1]), usage.ru_maxrss / 1024)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", default="", help="part of a case's name; all by default")
    parser.add_argument("--keep", type=Path, help="where recordings are kept for the next time")
    parser.add_argument("--runs", type=int, default=3, help="the fastest counts")
    arguments = parser.parse_args()
    table = Table(
        "recording", "samples", "MB stored", "s", "s on processor", "s judging", "MB peak"
    )
    with tempfile.TemporaryDirectory() as temporary:
        for case in CASES:
            if arguments.case in case.name:
                log_dir = (arguments.keep or Path(temporary)) / re.sub(r"\W+", "-", case.name)
                if not log_dir.exists():
                    write(log_dir, snapshots(case))
                stored = sum(path.stat().st_size for path in log_dir.rglob("*tfevents*")) / 1e6
                cost = min(measure(log_dir) for _ in range(arguments.runs))
                table.add_row(
                    case.name,
                    f"{sum(1 for _ in case.steps()):,}",
                    f"{stored:.0f}",
                    f"{cost.seconds:.2f}",
                    f"{cost.processor_seconds:.2f}",
                    f"{cost.judging_seconds:.2f}",
                    f"{cost.peak_megabytes:.0f}",
                )
    Console().print(table)


if __name__ == "__main__":
    main()
