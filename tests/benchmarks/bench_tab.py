"""Size and speed of the GradWatch tab, beside one stock scalar a layer for the same layers.

Run it with `python -m tests.benchmarks.bench_tab`; it takes some minutes and 250 MB below the
temporary directory, removed at the end. Both recordings are of 200 layers over 10,000 steps: ours
with five statistics, the other with one scalar a layer, an event each, as user code writes them.
Each is served by a TensorBoard of its own, and "ready" counts from the start of that process. The
stock route answers one tag at a time, so that 200 layers are 200 requests.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from gradwatch.layer import Layer
from gradwatch.snapshot import ROW_OF, Snapshot, State, empty_statistics
from gradwatch.tensorboard.events import EventWriter
from gradwatch.tensorboard.scalars import Scalar
from gradwatch.tensorboard.sink import TensorBoardSink
from gradwatch.tensorboard.stored import Troubles, stored_points
from gradwatch.tensorboard.values import ValueBuilder
from tests.browser.driving import CHROMIUM, DRIVER, chromium
from tests.tensorboard.server import TensorBoard, running, wait_until

LEVELS = {
    "grad_norm": 0.1,
    "weight_norm": 8.0,
    "update_ratio": 1e-3,
    "output_grad_norm": 0.1,
    "output_rms": 1.0,
}
"""The five statistics, and the level about which each wanders."""

DRAWN = """
const [mark] = performance.getEntriesByName("gradwatch heatmap drawn");
const [answer] = performance.getEntriesByType("resource").filter((entry) =>
  entry.name.includes("/heatmap?"));
return mark && answer ? (mark.startTime - answer.responseEnd) / 1000 : null;
"""
"""Seconds between the heatmap's answer and its last pixel."""

COLUMNS = 800
READY_SECONDS = 900


@dataclass(frozen=True)
class Size:
    """What is recorded.

    Args:
        layers: Number of layers.
        steps: Number of steps, each of them stored.
    """

    layers: int
    steps: int

    def chain(self) -> tuple[Layer, ...]:
        """Layers one after the other."""
        return tuple(
            Layer(
                name=f"blocks.{row}.linear",
                kind="Linear",
                depth=row,
                fan_in=64,
                fan_out=64,
                parameter_count=4160,
                activation="relu" if row < self.layers - 1 else None,
                inputs=(row - 1,) if row else (),
            )
            for row in range(self.layers)
        )

    def figures(self) -> Iterator[np.ndarray]:
        """The five statistics of each step, shape (5, layers)."""
        generator = np.random.default_rng(0)
        levels = np.log10([*LEVELS.values()])[:, np.newaxis]
        for _ in range(self.steps):
            yield 10 ** (levels + generator.normal(0, 0.05, size=(len(LEVELS), self.layers)))


@dataclass(frozen=True)
class Measured:
    """What one recording costs; None for what was not measured.

    Args:
        name: What it is called in the table.
        octets_a_step: Size of the event files over the number of steps, the usual curves included.
        layer_octets_a_step: The same of what is stored layer by layer alone.
        ready: Seconds from the start of TensorBoard until the last step is served.
        cold: Seconds until all that the first view needs was answered for the first time.
        cached: The same for the second time.
        painted: Seconds from the answer until the browser has drawn it.
    """

    name: str
    octets_a_step: float
    layer_octets_a_step: float
    ready: float
    cold: float
    cached: float
    painted: float | None = None


def write_ours(log_dir: Path, size: Size) -> None:
    """The five statistics through the sink that `watch(log_dir=...)` uses."""
    layers, states = size.chain(), np.full(size.layers, State.TRAINED, dtype=np.int8)
    rows = [ROW_OF[name] for name in LEVELS]
    sink = TensorBoardSink(log_dir, framework="torch")
    for step, figures in enumerate(size.figures()):
        packed = empty_statistics(size.layers)
        packed[rows] = figures
        packed[ROW_OF["forward_calls"]] = 1
        packed[ROW_OF["nonfinite_count"]] = 0
        sink.write_snapshot(
            Snapshot.unpacked(
                packed, step=step, layers=layers, states=states, loss=2.0, wall_time=time.time()
            )
        )
    sink.close()


def write_scalars(log_dir: Path, size: Size) -> None:
    """The first of the statistics as one scalar a layer."""
    values, events = ValueBuilder(), EventWriter(str(log_dir / "scalars"))
    curves = [Scalar(f"grad_norm/{layer.name}", "", "") for layer in size.chain()]
    for step, figures in enumerate(size.figures()):
        for curve, value in zip(curves, figures[0], strict=True):
            events.add([values.scalar(curve, value)], step=step)
    events.close()


def measure_ours(log_dir: Path, size: Size, *, load_fast: bool) -> Measured:
    """The routes of the tab: `run` and `heatmap`."""
    began = time.perf_counter()
    with running(log_dir, load_fast=load_fast) as server:
        ready = _ready(server, "gradwatch", "gradwatch/loss", size.steps - 1, began)
        time.sleep(2)  # the facts that the run is finished stand behind the last loss
        cold = _timed(lambda: _first_view(server, size))
        cached = _timed(lambda: _first_view(server, size))
        painted = seconds_until_painted(server)
    return Measured(
        f"GradWatch tab, 5 statistics, {_loader(load_fast)}",
        _octets(log_dir) / size.steps,
        _packed_octets(log_dir) / size.steps,
        ready,
        cold,
        cached,
        painted,
    )


def measure_scalars(log_dir: Path, size: Size, *, load_fast: bool) -> Measured:
    """The stock route `scalars`, once a layer."""
    tags = [f"grad_norm/{layer.name}" for layer in size.chain()]

    def all_layers() -> None:
        for tag in tags:
            server.scalars("scalars", tag)

    began = time.perf_counter()
    with running(log_dir, load_fast=load_fast) as server:
        ready = _ready(server, "scalars", tags[-1], size.steps - 1, began)
        cold, cached = _timed(all_layers), _timed(all_layers)
    return Measured(
        f"one scalar a layer, 1 statistic, {_loader(load_fast)}",
        _octets(log_dir) / size.steps,
        _octets(log_dir) / size.steps,
        ready,
        cold,
        cached,
    )


def seconds_until_painted(server: TensorBoard) -> float | None:
    """Seconds from the heatmap's answer until it is drawn in Chromium; None without a browser."""
    if not (CHROMIUM and DRIVER):
        return None
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as browser:
        browser.get(f"{server.address}/#gradwatch")

        def drawn() -> float | None:
            browser.switch_to.default_content()
            for frame in browser.find_elements("css selector", "iframe"):
                browser.switch_to.frame(frame)
                seconds = browser.execute_script(DRAWN)
                if seconds is not None:
                    return float(seconds)
                browser.switch_to.default_content()
            return None

        return wait_until(drawn)


def _first_view(server: TensorBoard, size: Size) -> None:
    overview = json.loads(_get(server, "run", run="gradwatch"))
    assert overview["samples"] == size.steps, overview["samples"]
    octets = _get(
        server,
        "heatmap",
        run="gradwatch",
        statistic=overview["default_statistic"],
        columns=str(COLUMNS),
    )
    assert len(octets) > 5 * size.layers * min(size.steps, COLUMNS)


def _get(server: TensorBoard, route: str, **query: str) -> bytes:
    url = f"{server.address}/data/plugin/gradwatch/{route}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=300) as response:
        return response.read()


def _ready(server: TensorBoard, run: str, tag: str, last_step: int, began: float) -> float:
    """Seconds from `began` until the last step of a curve is served."""

    def served() -> bool:
        tags = server.get("plugin/scalars/tags")
        return tag in tags.get(run, {}) and server.scalars(run, tag)[-1][1] == last_step

    assert wait_until(served, seconds=READY_SECONDS), f"{tag} was not loaded"
    return time.perf_counter() - began


def _timed(act: Callable[[], None]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def _octets(log_dir: Path) -> int:
    return sum(path.stat().st_size for path in log_dir.rglob("*tfevents*"))


def _packed_octets(log_dir: Path) -> int:
    """Octets of the chunks of samples."""
    paths = log_dir.rglob("*tfevents*")
    points = (point for path in paths for point in stored_points(path, Troubles()))
    return sum(sum(map(len, point.parts)) for point in points if point.content == "statistics")


def _loader(load_fast: bool) -> str:
    return "Rust loader" if load_fast else "Python loader"


def _table(rows: list[Measured]) -> Table:
    seconds = [f"{measure} (s)" for measure in ("ready", "cold", "cached", "painted")]
    table = Table("recording", "octets a step", "by layer", *seconds)
    for row in rows:
        painted = "-" if row.painted is None else f"{row.painted:.2f}"
        table.add_row(
            row.name,
            f"{row.octets_a_step:,.0f}",
            f"{row.layer_octets_a_step:,.0f}",
            f"{row.ready:.1f}",
            f"{row.cold:.2f}",
            f"{row.cached:.3f}",
            painted,
        )
    return table


def main() -> None:
    """Write both recordings, serve each, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=200)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument(
        "--python-loader", action="store_true", help="both with TensorBoard's Python loader, too"
    )
    parser.add_argument("--ours-only", action="store_true", help="without the stock scalars")
    arguments = parser.parse_args()
    size = Size(arguments.layers, arguments.steps)
    loaders = (True, False) if arguments.python_loader else (True,)
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        ours, scalars = Path(directory, "ours"), Path(directory, "scalars")
        write_ours(ours, size)
        rows += [measure_ours(ours, size, load_fast=fast) for fast in loaders]
        if not arguments.ours_only:
            write_scalars(scalars, size)
            rows += [measure_scalars(scalars, size, load_fast=fast) for fast in loaders]
    Console(width=120).print(_table(rows))


if __name__ == "__main__":
    main()
