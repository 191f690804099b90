"""Both of TensorBoard's loaders serve all that was stored, and lose nothing of the user's own."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tensorboard import context as tensorboard_context
from tensorboard.backend.event_processing import (
    data_ingester,
    data_provider,
    plugin_event_multiplexer,
)
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.data import server_ingester
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util import grpc_util

from gradwatch.tensorboard.reader import assemble, read

from .builders import (
    Clock,
    as_written,
    chain,
    finding,
    provider_points,
    random_run,
    usual_snapshot,
    write_run,
)
from .server import wait_until

CONTEXT = tensorboard_context.RequestContext()
EVERYTHING = 100_000


class PythonLoader:
    """The multiplexer that TensorBoard falls back to."""

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = str(log_dir)
        self._multiplexer = plugin_event_multiplexer.EventMultiplexer(
            size_guidance=data_ingester.DEFAULT_SIZE_GUIDANCE,
            tensor_size_guidance=data_ingester.DEFAULT_TENSOR_SIZE_GUIDANCE,
        )
        self._provider = data_provider.MultiplexerDataProvider(self._multiplexer, self._log_dir)

    def provider(self):
        """The data provider, after everything on the disk was loaded."""
        self._multiplexer.AddRunsFromDirectory(self._log_dir)
        self._multiplexer.Reload()
        return self._provider


class RustLoader:
    """The data server that TensorBoard prefers; it reloads by itself, every second."""

    def __init__(self, address: str) -> None:
        credentials = grpc_util.ChannelCredsType.LOCAL
        ingester = server_ingester.ExistingServerDataIngester(
            address, channel_creds_type=credentials
        )
        self._provider = ingester.data_provider

    def provider(self):
        """The data provider."""
        return self._provider


@contextmanager
def rust_loader(log_dir: Path) -> Iterator[RustLoader]:
    try:
        binary = server_ingester.get_server_binary()
    except server_ingester.NoDataServerError as error:
        pytest.skip(f"no data server for this machine: {error}")
    port_file = log_dir.with_name(f"{log_dir.name}.port")
    command = [binary.path, f"--logdir={log_dir}", "--reload=1", "--port=0", "--die-after-stdin"]
    with subprocess.Popen([*command, f"--port-file={port_file}"], stdin=subprocess.PIPE) as server:
        port = wait_until(lambda: port_file.exists() and port_file.read_text().strip())
        assert port, "the data server did not start"
        yield RustLoader(f"localhost:{port}")
        server.kill()


Start = Callable[[Path], "PythonLoader | RustLoader"]


@pytest.fixture(params=["python", "rust"])
def start(request) -> Iterator[Start]:
    """Starts a loader on a directory."""
    with ExitStack() as stack:
        if request.param == "python":
            yield PythonLoader
        else:
            yield lambda log_dir: stack.enter_context(rust_loader(log_dir))


def recorded(loader, run: str, *, enough: Callable) -> object:
    """The recording that a loader serves, as soon as there is enough of it."""

    def ask():
        provider = loader.provider()
        if run not in {entry.run_name for entry in provider.list_runs(CONTEXT, experiment_id="")}:
            return None
        recording = assemble(provider_points(provider, CONTEXT, run))
        return recording if enough(recording) else None

    return wait_until(ask, seconds=20)


def test_every_snapshot_of_a_long_run_is_served(tmp_path, start):
    snapshots = random_run(chain(5), range(3000))
    write_run(tmp_path / "logs", snapshots)
    recording = recorded(
        start(tmp_path / "logs"), "gradwatch", enough=lambda found: len(found.snapshots) == 3000
    )
    assert as_written(recording.snapshots) == as_written(snapshots)
    assert recording.sessions[0].framework == "torch"


def test_every_one_of_many_small_chunks_is_served(tmp_path, start):
    snapshots, clock = random_run(chain(2), range(0, 30_000, 100)), Clock()
    sink = write_run(tmp_path / "logs", [], clock=clock, close=False)
    for snapshot in snapshots:
        clock.now += 60
        sink.write_snapshot(snapshot)
    sink.close()
    recording = recorded(
        start(tmp_path / "logs"), "gradwatch", enough=lambda found: len(found.snapshots) == 300
    )
    assert as_written(recording.snapshots) == as_written(snapshots)


def test_the_latest_of_many_updates_of_a_finding_is_served(tmp_path, start):
    layers = chain(3)
    sink = write_run(tmp_path / "logs", [], close=False)
    for step in range(300):
        seen = finding(step=step // 2)
        sink.write_snapshot(usual_snapshot(layers, step))
        sink.write_findings([seen], [seen])
    sink.close()
    recording = recorded(
        start(tmp_path / "logs"), "gradwatch", enough=lambda found: found.sessions[0].finished
    )
    assert recording.findings == (finding(step=149),)


def test_a_resumed_run_is_served_as_it_is_on_the_disk(tmp_path, start):
    layers, clock = chain(3), Clock()
    for steps in (range(100), range(60, 95), range(64, 90)):
        sink = write_run(tmp_path / "logs", [], clock=clock, close=False)
        for snapshot in random_run(layers, steps, seed=len(steps)):
            sink.write_snapshot(snapshot)
            if snapshot.step == 70:
                sink.write_findings([finding(step=70)], [finding(step=70)])
        sink.close()
        clock.now += 1000
    stored = read(tmp_path / "logs" / "gradwatch")
    served = recorded(
        start(tmp_path / "logs"),
        "gradwatch",
        enough=lambda found: sum(session.finished for session in found.sessions) == 3,
    )
    assert as_written(served.snapshots) == as_written(stored.snapshots)
    assert [snapshot.step for snapshot in served.snapshots] == list(range(90))
    assert served.findings == stored.findings == (finding(step=70),)


def user_point(step: int) -> event_pb2.Event:
    value = summary_pb2.Summary.Value(tag="loss/train", simple_value=step / 2)
    return event_pb2.Event(
        wall_time=1.7e9 + step, step=step, summary=summary_pb2.Summary(value=[value])
    )


def user_points(provider) -> list[tuple[int, float]]:
    """The user's points that are served so far."""
    served = provider.read_scalars(
        CONTEXT, experiment_id="", plugin_name="scalars", downsample=EVERYTHING
    )
    series = served.get(".", {}).get("loss/train", [])
    return [(datum.step, datum.value) for datum in series]


def test_the_users_own_points_beside_ours_are_all_served(tmp_path, start):
    log_dir = tmp_path / "logs"
    theirs = EventFileWriter(str(log_dir))
    ours = write_run(log_dir, [], close=False)
    loader = start(log_dir)
    for step in range(9):
        theirs.add_event(user_point(step))
        theirs.flush()
        ours.write_snapshot(usual_snapshot(chain(3), step))
        wait_until(lambda upto=step: len(user_points(loader.provider())) > upto, seconds=5)
    theirs.close()
    ours.close()
    assert user_points(loader.provider()) == [(step, step / 2) for step in range(9)]
    recording = recorded(loader, "gradwatch", enough=lambda found: len(found.snapshots) == 9)
    assert [snapshot.step for snapshot in recording.snapshots] == list(range(9))
