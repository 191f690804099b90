"""A real TensorBoard, in a process of its own, and what its routes answer."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

Answer = TypeVar("Answer")

START_SECONDS = 60


def wait_until(ask: Callable[[], Answer], *, seconds: float = START_SECONDS) -> Answer:
    """The first answer that is true; the last one when the time is up."""
    end = time.monotonic() + seconds
    while not (answer := ask()) and time.monotonic() < end:
        time.sleep(0.1)
    return answer


class TensorBoard:
    """The routes of a running TensorBoard.

    Args:
        address: Its address, without a slash at the end.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def get(self, route: str, **query: str) -> object:
        """The JSON that a route answers."""
        url = f"{self.address}/data/{route}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=30) as response:
            return json.load(response)

    def scalars(self, run: str, tag: str) -> list[list[float]]:
        """Points of a curve: wall time, step, value."""
        return self.get("plugin/scalars/scalars", run=run, tag=tag)

    def texts(self, run: str, tag: str) -> list[dict[str, object]]:
        """Versions of a text, as HTML."""
        return self.get("plugin/text/text", run=run, tag=tag, markdown="true")


@contextmanager
def running(log_dir: Path, *, load_fast: bool, path_prefix: str = "") -> Iterator[TensorBoard]:
    """A TensorBoard that has found the runs in a directory.

    Args:
        log_dir: The directory.
        load_fast: Whether the data server in Rust reads the event files, else the Python loader.
        path_prefix: As `tensorboard --path_prefix`.
    """
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(log_dir), "--port", "0"]
    command += [f"--load_fast={str(load_fast).lower()}", "--reload_interval", "1"]
    command += ["--path_prefix", path_prefix] if path_prefix else []
    log = log_dir.with_name(f"{log_dir.name}.tensorboard.log")
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        try:
            server = TensorBoard(_address(process, log) + path_prefix)
            wait_until(lambda: server.get("runs"))
            yield server
        finally:
            process.terminate()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    def announced() -> re.Match[str] | None:
        assert process.poll() is None, log.read_text()
        return re.search(r"(http://localhost:\d+)/", log.read_text())

    found = wait_until(announced)
    assert found, log.read_text()
    return found.group(1)
