"""Time of `import gradwatch` against `import numpy`, in interleaved subprocesses.

Run it with `python -m tests.benchmarks.bench_import`; it takes about ten seconds. It also lists
what gradwatch imports beyond NumPy, slowest first.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]

MEASURE = "import time; began = time.perf_counter(); import {}; print(time.perf_counter() - began)"

IMPORT_TIME = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \|\s*(\S+)")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that finds this checkout's package."""
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )


def import_seconds(module: str) -> float:
    """How long the import takes, start of the interpreter left out."""
    return float(run("-c", MEASURE.format(module)).stdout)


def slowest(module: str, count: int) -> list[tuple[str, float]]:
    """(module, milliseconds of its own) of what it imports once NumPy is there."""
    lines = run("-X", "importtime", "-c", f"import numpy; import sys; import {module}").stderr
    found = [(name, int(own) / 1e3) for own, _, name in IMPORT_TIME.findall(lines)]
    names = [name for name, _ in found]
    beyond = found[names.index("numpy") + 1 :]
    return sorted(beyond, key=lambda entry: -entry[1])[:count]


def main(pairs: int = 21) -> None:
    """Measure, and print a table."""
    taken: dict[str, list[float]] = {"numpy": [], "gradwatch": []}
    for turn in range(pairs):
        for module in ("numpy", "gradwatch") if turn % 2 else ("gradwatch", "numpy"):
            taken[module].append(import_seconds(module))
    ratios = [after / before for before, after in zip(*taken.values(), strict=True)]
    console = Console()
    console.print(
        f"import numpy {1e3 * statistics.median(taken['numpy']):.0f} ms, import gradwatch "
        f"{1e3 * statistics.median(taken['gradwatch']):.0f} ms: "
        f"{100 * (statistics.median(ratios) - 1):+.0f} %"
    )
    table = Table("beyond NumPy", "ms of its own")
    for name, milliseconds in slowest("gradwatch", 12):
        table.add_row(name, f"{milliseconds:.1f}")
    console.print(table)


if __name__ == "__main__":
    main()
