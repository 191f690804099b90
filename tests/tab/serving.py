"""The tab in a real TensorBoard application, asked through werkzeug's client."""

from __future__ import annotations

import json
import struct
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.backend import application
from werkzeug.test import Client, TestResponse

from gradwatch.tab.entry import GradWatchLoader
from tests.tensorboard.server import wait_until
from tests.tensorboard.test_loaders import PythonLoader, rust_loader

BASE = "/data/plugin/gradwatch"


class Tab:
    """The routes of the tab.

    Args:
        provider: A data provider of TensorBoard.
        path_prefix: As `tensorboard --path_prefix`.
    """

    def __init__(self, provider: object, *, path_prefix: str = "") -> None:
        self._prefix = path_prefix
        flags = Namespace(
            logdir="", path_prefix=path_prefix, samples_per_plugin={}, window_title=""
        )
        self.application = application.TensorBoardWSGIApp(
            flags=flags,
            plugins=[GradWatchLoader()],
            data_provider=provider,
        )
        self._client = Client(self.application)

    def ask(self, route: str, *, method: str = "GET", **query: object) -> TestResponse:
        """The response of a route of ours."""
        return self.open(f"{self._prefix}{BASE}/{route}", method=method, query_string=query)

    def open(self, path: str, **arguments: Any) -> TestResponse:
        """The response of any path."""
        return self._client.open(path, **arguments)

    def json(self, route: str, **query: object) -> Any:
        """The JSON of a route of ours that succeeds."""
        response = self.ask(route, **query)
        assert response.status_code == 200, response.get_data(as_text=True)
        return strict_json(response.get_data())

    def arrays(self, route: str, **query: object) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Meta and arrays of a route of ours that succeeds."""
        response = self.ask(route, **query)
        assert response.status_code == 200, response.get_data(as_text=True)
        return decode(response.get_data())


def strict_json(octets: bytes) -> Any:
    """What JSON holds; the NaN and Infinity that a browser refuses are refused here too."""

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    return json.loads(octets, parse_constant=refuse)


def decode(octets: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Meta and arrays of a binary response, by its description and not by its encoder."""
    (length,) = struct.unpack_from("<I", octets)
    assert (4 + length) % 8 == 0
    header = strict_json(octets[4 : 4 + length])
    arrays = {}
    for entry in header["arrays"]:
        assert entry["offset"] % 8 == 0
        arrays[entry["name"]] = np.frombuffer(
            octets,
            np.dtype(entry["dtype"]).newbyteorder("<"),
            count=int(np.prod(entry["shape"])),
            offset=4 + length + entry["offset"],
        ).reshape(entry["shape"])
    return header["meta"], arrays


@contextmanager
def provided(log_dir: Path, loader: str) -> Iterator[object]:
    """A data provider that has loaded a directory: "python" or "rust"."""
    with ExitStack() as stack:
        if loader == "python":
            yield PythonLoader(log_dir).provider()
        else:
            yield stack.enter_context(rust_loader(log_dir)).provider()


def loaded(tab: Tab, samples: Mapping[str, int]) -> Tab:
    """The tab, as soon as each run has so many samples: the data server loads by itself."""

    def has_all() -> bool:
        listed = {run["name"] for run in tab.json("runs")["runs"]}
        return samples.keys() <= listed and all(
            tab.json("run", run=name)["samples"] == count for name, count in samples.items()
        )

    assert wait_until(has_all, seconds=20)
    return tab
