"""`gradwatch report`: what it shows, its exit status, and what it says of files it cannot read."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2

from gradwatch.cli import main
from gradwatch.report_command import ReportCommand
from gradwatch.rules import ALL_RULES
from gradwatch.tensorboard.events import EventWriter, _masked_crc, event_files
from gradwatch.tensorboard.schema import PLUGIN_NAME, SCHEMA_VERSION, digest
from gradwatch.tensorboard.values import ValueBuilder

from .tensorboard.builders import (
    chain,
    random_run,
    usual_snapshot,
    write_healthy_training,
    write_run,
    write_training,
)

NOBODY = 65534
HOSTILE = "\x1b[2Jevil[red]\x07\u202e</script>"
"""Moves the cursor, is markup of rich and of HTML, turns the direction of writing."""


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def report(log_dir: Path, *arguments: str) -> int:
    return main(["report", str(log_dir), *arguments])


def stored_file(log_dir: Path) -> Path:
    (path,) = event_files(log_dir / "gradwatch")
    return path


def records(path: Path) -> list[bytes]:
    """The bodies of a file's records."""
    octets, bodies, offset = path.read_bytes(), [], 0
    while offset < len(octets):
        (length,) = struct.unpack_from("<Q", octets, offset)
        bodies.append(octets[offset + 12 : offset + 12 + length])
        offset += 16 + length
    return bodies


def write_records(path: Path, bodies: list[bytes]) -> None:
    crc = _masked_crc()
    framed = []
    for body in bodies:
        length = struct.pack("<Q", len(body))
        framed += [length, struct.pack("<I", crc(length)), body, struct.pack("<I", crc(body))]
    path.write_bytes(b"".join(framed))


def with_parts(log_dir: Path, tag: str, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Put other byte strings into the stored tensors whose tag begins like this."""
    path, bodies = stored_file(log_dir), []
    for body in records(path):
        event = event_pb2.Event.FromString(body)
        for value in event.summary.value:
            if value.tag.startswith(f"gradwatch/{tag}"):
                parts = change(list(value.tensor.string_val))
                del value.tensor.string_val[:]
                value.tensor.string_val.extend(parts)
        bodies.append(event.SerializeToString())
    write_records(path, bodies)


def with_json(log_dir: Path, tag: str, **changes: object) -> None:
    """Other fields in the JSON of the stored tensors whose tag begins like this."""

    def change(parts: list[bytes]) -> list[bytes]:
        return [json.dumps(json.loads(parts[0]) | changes).encode(), *parts[1:]]

    with_parts(log_dir, tag, change)


def with_rows(log_dir: Path, change: Callable[[dict], None]) -> None:
    """Other rows, under the digest that the chunks name."""
    digests = []

    def changed(parts: list[bytes]) -> list[bytes]:
        rows = json.loads(parts[0])
        change(rows)
        encoded = json.dumps(rows).encode()
        digests.append(digest(encoded))
        return [encoded]

    with_parts(log_dir, "layers", changed)
    with_json(log_dir, "stats", rows=digests[-1])


class TestVerdict:
    """Healthy, sick, too short, and by other thresholds."""

    def test_a_healthy_run_ends_with_0(self, tmp_path, capsys):
        write_healthy_training(tmp_path)
        assert report(tmp_path) == 0
        captured = capsys.readouterr()
        assert "Healthy: 8 layers, up to step 198" in captured.out
        assert captured.err == ""

    def test_a_sick_run_ends_with_1(self, tmp_path, capsys):
        write_training(tmp_path)
        assert report(tmp_path) == 1
        shown = capsys.readouterr().out
        assert str(tmp_path / "gradwatch") in shown
        assert "vanishing-gradient (GW101)" in shown

    def test_one_sick_run_among_healthy_ones_ends_with_1(self, tmp_path, capsys):
        write_healthy_training(tmp_path / "a")
        write_training(tmp_path / "b")
        write_healthy_training(tmp_path / "c")
        assert report(tmp_path) == 1
        shown = capsys.readouterr().out
        places = [shown.index(str(tmp_path / name / "gradwatch")) for name in "abc"]
        assert places == sorted(places)

    def test_a_finding_that_is_gone_ends_with_0(self, tmp_path):
        layers = chain(8)
        write_run(
            tmp_path,
            [usual_snapshot(layers, s, decades=1.0 if s < 30 else 0.1) for s in range(80)],
        )
        assert report(tmp_path) == 0

    def test_a_run_too_short_for_a_verdict_ends_with_0_and_says_so(self, tmp_path, capsys):
        write_run(tmp_path, [usual_snapshot(chain(8), step) for step in range(4)])
        assert report(tmp_path) == 0
        assert "Too short for a verdict" in capsys.readouterr().out

    def test_another_threshold_gives_another_verdict(self, tmp_path):
        write_training(tmp_path)
        assert report(tmp_path, "--set", "GW101.depth=-20") == 0

    def test_only_the_rules_that_are_asked_for_count(self, tmp_path, capsys):
        write_training(tmp_path)
        assert report(tmp_path, "--rules", "GW201,GW501") == 0
        assert "GW101" not in capsys.readouterr().out
        assert report(tmp_path, "--rules", "vanishing-gradient") == 1

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--set", "GW101.depht=-4"], "did you mean depth?"),
            (["--set", "GW101.depth=deep"], "is not a finite number"),
            (["--rules", "GW1O1"], "the nearest are GW101"),
        ],
        ids=lambda entry: entry[-1] if isinstance(entry, list) else "",
    )
    def test_an_argument_that_cannot_be_used_ends_with_2(self, tmp_path, arguments, said, capsys):
        write_training(tmp_path)
        assert report(tmp_path, *arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert said in captured.err

    def test_the_run_itself_can_be_named(self, tmp_path):
        write_training(tmp_path)
        assert report(tmp_path / "gradwatch") == 1


class TestNothingReadable:
    """Exit status 2."""

    @pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
    def test_an_empty_directory(self, tmp_path, as_json, capsys):
        assert report(tmp_path, *as_json) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert f"no run of gradwatch at or below '{tmp_path}'; pass the log_dir" in captured.err

    def test_event_files_of_others_are_counted(self, tmp_path, capsys):
        for name in ("a", "b"):
            write_scalars(tmp_path / name)
        (tmp_path / "events.out.tfevents.1.host").touch()
        assert report(tmp_path) == 2
        assert "(3 event files there, without anything of gradwatch" in capsys.readouterr().err

    def test_a_file_that_is_none_is_named(self, tmp_path, capsys):
        path = tmp_path / "events.out.tfevents.1.host"
        path.write_bytes(os.urandom(1000))
        assert report(tmp_path) == 2
        assert f"{path} is damaged at byte 0" in capsys.readouterr().err

    def test_a_newer_schema_says_what_to_install(self, tmp_path, capsys):
        write_training(tmp_path)
        newer(stored_file(tmp_path))
        assert report(tmp_path) == 2
        error = capsys.readouterr().err
        assert f"schema {SCHEMA_VERSION + 1}" in error
        assert "pip install --upgrade gradwatch" in error

    def test_a_run_whose_first_record_alone_is_left(self, tmp_path, capsys):
        write_training(tmp_path)
        path = stored_file(tmp_path)
        write_records(path, records(path)[:1])
        assert report(tmp_path) == 2


def newer(path: Path) -> None:
    """Let everything in the file claim to be of a later schema."""
    bodies = []
    for body in records(path):
        event = event_pb2.Event.FromString(body)
        for value in event.summary.value:
            plugin = value.metadata.plugin_data
            if plugin.plugin_name == PLUGIN_NAME:
                content = json.loads(plugin.content) | {"schema": SCHEMA_VERSION + 1}
                plugin.content = json.dumps(content).encode()
        bodies.append(event.SerializeToString())
    write_records(path, bodies)


def write_scalars(directory: Path) -> None:
    """An event file of another writer."""
    from gradwatch.tensorboard.scalars import Scalar

    writer, values = EventWriter(str(directory)), ValueBuilder()
    for step in range(100):
        writer.add([values.scalar(Scalar("loss", "Loss", "The loss."), 1.0)], step=step)
    writer.close()


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut off": (lambda d: truncate(d, 777), "is cut off at byte"),
    "one record damaged": (lambda d: flip(d, -2_000), "one record is left out"),
    "a length damaged": (lambda d: flip_length(d, 40), "what comes after is lost"),
    "a finding is no finding": (
        lambda d: with_json(d, "findings", severity="fatal"),
        "Finding.severity cannot be 'fatal'",
    ),
    "a finding is a list": (
        lambda d: with_parts(d, "findings", lambda parts: [b"[1, 2]"]),
        "is damaged and left out",
    ),
    "a finding is deep": (
        lambda d: with_parts(d, "findings", lambda parts: [b"[" * 100_000]),
        "is damaged and left out",
    ),
    "a finding is no JSON": (
        lambda d: with_parts(d, "findings", lambda parts: [b"\xff\xfe{"]),
        "is damaged and left out",
    ),
    "a finding has no bytes": (
        lambda d: with_parts(d, "findings", lambda parts: []),
        "it holds 0 byte strings, not 1",
    ),
    "a finding has a code that cannot be printed": (
        lambda d: with_json(d, "findings", code=HOSTILE),
        "cannot be",
    ),
    "the facts are lost": (
        lambda d: with_parts(d, "run", lambda parts: [b"null"]),
        "its framework is taken to be torch",
    ),
    "a later chunk is absurd": (
        lambda d: with_json_of_chunk(d, 126, snapshot_count=10**15),
        "it claims to hold 1000000000000000 snapshots",
    ),
    "a later chunk goes on for ever": (
        lambda d: with_json_of_chunk(d, 126, snapshot_count=200),
        "bytes are fewer than its header calls for",
    ),
    "a later chunk has other layers": (
        lambda d: with_json_of_chunk(d, 126, rows="f00"),
        "whose layers (f00) are not stored",
    ),
    "a later chunk has no body": (
        lambda d: with_parts(d, "stats/126", lambda parts: parts[:1]),
        "it holds 1 byte strings, not 2",
    ),
}
"""What can befall a file, and what is said of it; its first chunks stay whole."""


def truncate(log_dir: Path, octets: int) -> None:
    path = stored_file(log_dir)
    path.write_bytes(path.read_bytes()[:-octets])


def flip(log_dir: Path, place: int) -> None:
    path = stored_file(log_dir)
    octets = bytearray(path.read_bytes())
    octets[place] ^= 0x10
    path.write_bytes(octets)


def flip_length(log_dir: Path, last: int) -> None:
    """A wrong bit in the length of a record some way from the end."""
    path = stored_file(log_dir)
    bodies = records(path)[:-last]
    octets = bytearray(path.read_bytes())
    octets[sum(16 + len(body) for body in bodies)] ^= 0x01
    path.write_bytes(octets)


def with_json_of_chunk(log_dir: Path, first_step: int, **changes: object) -> None:
    with_json(log_dir, f"stats/{first_step}", **changes)


class TestDamage:
    """What is readable is read, and what is not is named."""

    @pytest.mark.parametrize(("damage", "said"), DAMAGE.values(), ids=DAMAGE.keys())
    def test_the_rest_of_a_damaged_run_is_judged(self, tmp_path, damage, said, capsys):
        write_training(tmp_path)
        damage(tmp_path)
        assert report(tmp_path) == 1
        captured = capsys.readouterr()
        assert "vanishing-gradient (GW101)" in captured.out
        assert str(stored_file(tmp_path)) in captured.err or "session" in captured.err
        assert said in captured.err
        assert "Traceback" not in captured.err

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"name": 5}, "Layer.name cannot be 5"),
            ({"inputs": [99]}, "reads a layer that is not there"),
            ({"inputs": [-1]}, "reads a layer that is not there"),
            ({"inputs": None}, "it is not what is stored there"),
            ({"fan_out": -1}, "negative size"),
            ({"depth": 10**30}, "Layer.depth cannot be 1000"),
            ({"depth": None}, "Layer.depth cannot be None"),
            ({"activation": ["relu"]}, "Layer.activation cannot be"),
        ],
        ids=str,
    )
    def test_a_layer_that_cannot_be_leaves_nothing_to_judge(self, tmp_path, changes, said, capsys):
        write_training(tmp_path)
        with_rows(tmp_path, lambda rows: rows["layers"][3].update(changes))
        assert report(tmp_path) == 0
        captured = capsys.readouterr()
        assert f"{stored_file(tmp_path)}, gradwatch/layers/" in captured.err
        assert said in captured.err
        assert "are not stored" in captured.err

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"layers": [5]}, "it is not what is stored there"),
            ({"layers": None}, "it is not what is stored there"),
            ({"layers": []}, "bytes are more than"),
            ({"statistics": [1, 2]}, "Rows.statistics cannot be"),
            ({"statistics": 5}, "it is not what is stored there"),
            ({"statistics": []}, "bytes are more than"),
        ],
        ids=str,
    )
    def test_rows_that_cannot_be_leave_nothing_to_judge(self, tmp_path, changes, said, capsys):
        write_training(tmp_path)
        with_rows(tmp_path, lambda rows: rows.update(changes))
        assert report(tmp_path) == 0
        assert said in capsys.readouterr().err

    @pytest.mark.parametrize("seed", range(40))
    def test_random_damage_never_ends_in_a_traceback(self, tmp_path, seed, capsys):
        write_training(tmp_path, steps=60)
        path = stored_file(tmp_path)
        generator = np.random.default_rng(seed)
        bodies = [bytearray(body) for body in records(path)]
        for _ in range(8):
            body = bodies[generator.integers(len(bodies))]
            body[generator.integers(len(body))] ^= 1 << generator.integers(8)
        write_records(path, list(map(bytes, bodies)))
        assert report(tmp_path) in (0, 1, 2)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        assert "cannot be judged" not in captured.err

    @pytest.mark.filterwarnings("ignore::RuntimeWarning")
    def test_snapshots_of_random_bits_are_judged(self, tmp_path, capsys):
        write_run(tmp_path, random_run(chain(6), range(100)))
        assert report(tmp_path) in (0, 1)
        assert capsys.readouterr().err == ""

    def test_an_unreadable_run_does_not_hide_the_others(self, tmp_path, capsys):
        for name in ("a", "b", "c"):
            write_healthy_training(tmp_path / name)
        newer(stored_file(tmp_path / "b"))
        assert report(tmp_path) == 0
        captured = capsys.readouterr()
        assert str(tmp_path / "a" / "gradwatch") in captured.out
        assert str(tmp_path / "c" / "gradwatch") in captured.out
        assert str(tmp_path / "b" / "gradwatch") in captured.err

    def test_a_fault_of_our_own_does_not_hide_the_others(self, tmp_path, monkeypatch, capsys):
        write_healthy_training(tmp_path / "a")
        write_training(tmp_path / "b")
        judged = ReportCommand._judged

        def fails(self, recording):
            if recording.snapshots[0].layers[0].activation == "relu":
                raise ZeroDivisionError("by design")
            return judged(self, recording)

        monkeypatch.setattr(ReportCommand, "_judged", fails)
        assert report(tmp_path) == 1
        error = capsys.readouterr().err
        assert f"{tmp_path / 'a' / 'gradwatch'} cannot be judged (ZeroDivisionError" in error
        assert "please report it" in error

    def test_sentences_end_after_twenty(self, tmp_path, capsys):
        write_training(tmp_path)
        path = stored_file(tmp_path)
        bodies = records(path)
        event = event_pb2.Event(step=1)
        for number in range(100):
            value = summary_pb2.Summary.Value(tag=f"gradwatch/findings/{number}")
            value.metadata.plugin_data.plugin_name = PLUGIN_NAME
            value.metadata.plugin_data.content = b"{}"
            value.tensor.CopyFrom(tensor_pb2.TensorProto(string_val=[b"{}"]))
            event.summary.value.append(value)
        write_records(path, [*bodies, event.SerializeToString()])
        assert report(tmp_path) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 21
        assert "80 more" in lines[-1]


class TestHostileNames:
    """No escape sequence, no markup of a layer's name reaches the terminal."""

    @pytest.fixture
    def log_dir(self, tmp_path) -> Path:
        layers = tuple(
            replace(layer, name=f"{HOSTILE}{row}", kind=HOSTILE, activation_module=HOSTILE)
            for row, layer in enumerate(chain(8))
        )
        log_dir = tmp_path / "\x1b[31m[bold]run"
        write_run(log_dir, [usual_snapshot(layers, step) for step in range(60)])
        return log_dir

    @pytest.mark.parametrize("arguments", [[], ["--json"]], ids=["text", "json"])
    def test_names_are_shown_and_do_nothing(self, log_dir, arguments, capsys):
        flip(log_dir, -500)
        assert report(log_dir, *arguments) == 1
        captured = capsys.readouterr()
        assert all(char.isprintable() or char == "\n" for char in captured.out + captured.err)
        assert "evil[red]" in captured.out
        assert "[bold]run" in captured.out
        assert "[bold]run" in captured.err


class TestDirectories:
    """Links, loops, dangling links, forbidden directories."""

    def test_links_to_runs_are_followed_and_no_run_is_shown_twice(self, tmp_path, capsys):
        write_healthy_training(tmp_path / "elsewhere" / "run")
        (tmp_path / "logs").mkdir()
        for name in ("first", "second"):
            (tmp_path / "logs" / name).symlink_to(tmp_path / "elsewhere" / "run")
        assert report(tmp_path / "logs") == 0
        assert capsys.readouterr().out.count("Healthy") == 1

    def test_a_loop_of_links_ends(self, tmp_path, capsys):
        write_healthy_training(tmp_path / "run")
        (tmp_path / "run" / "up").symlink_to(tmp_path)
        (tmp_path / "itself").symlink_to(tmp_path / "itself")
        (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
        (tmp_path / "events.out.tfevents.9").symlink_to(tmp_path / "missing")
        (tmp_path / "run" / "gradwatch" / "tfevents").mkdir()
        assert report(tmp_path) == 0
        captured = capsys.readouterr()
        assert captured.out.count("Healthy") == 1
        assert captured.err == ""

    def test_a_deep_tree_is_no_problem(self, tmp_path):
        deep = tmp_path.joinpath(*["d"] * 400)
        write_healthy_training(deep)
        assert report(tmp_path) == 0
        shutil.rmtree(tmp_path / "d", ignore_errors=True)

    @pytest.mark.parametrize("forbidden", ["b", "b/gradwatch"])
    def test_a_forbidden_directory_is_named(self, tmp_path, forbidden, capfd):
        write_healthy_training(tmp_path / "a")
        write_healthy_training(tmp_path / "b")
        status = as_nobody(tmp_path, tmp_path / forbidden)
        captured = capfd.readouterr()
        assert status == 0
        assert captured.out.count("Healthy") == 1
        assert f"{tmp_path / forbidden} cannot be read (Permission denied)" in captured.err

    def test_a_forbidden_file_is_named(self, tmp_path, capfd):
        write_healthy_training(tmp_path / "a")
        write_healthy_training(tmp_path / "b")
        path = stored_file(tmp_path / "b")
        assert as_nobody(tmp_path, path) == 0
        captured = capfd.readouterr()
        assert captured.out.count("Healthy") == 1
        assert f"{path} cannot be read (Permission denied)" in captured.err

    def test_where_all_is_forbidden_nothing_is_readable(self, tmp_path, capfd):
        write_healthy_training(tmp_path / "a")
        assert as_nobody(tmp_path, stored_file(tmp_path / "a")) == 2
        assert "Permission denied" in capfd.readouterr().err


def as_nobody(root: Path, forbidden: Path) -> int:
    """The exit status of a report for a user who may not read a path."""
    forbidden.chmod(0)
    if os.getuid():
        return report(root)
    for directory in (root, *root.parents[:-1]):
        directory.chmod(directory.stat().st_mode | 0o055)
    os.seteuid(NOBODY)
    try:
        return report(root)
    finally:
        os.seteuid(0)


class TestProcess:
    """As scripts see it."""

    def test_json_is_all_there_is_on_standard_output(self, tmp_path):
        write_training(tmp_path)
        truncate(tmp_path, 100)
        command = [sys.executable, "-m", "gradwatch", "report", str(tmp_path), "--json"]
        ran = subprocess.run(command, capture_output=True, check=False)
        assert ran.returncode == 1
        assert json.loads(ran.stdout)["severity"] == "error"
        assert b"is cut off" in ran.stderr

    def test_no_framework_is_imported(self, tmp_path):
        write_training(tmp_path)
        code = (
            "import sys; from gradwatch.cli import main; "
            f"main(['report', {str(tmp_path)!r}]); "
            "sys.exit(' '.join({'torch', 'keras', 'tensorflow', 'jax'} & set(sys.modules)))"
        )
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        assert ran.stderr == b"\n"

    def test_a_reader_that_goes_away_is_no_traceback(self, tmp_path):
        for name in range(20):
            write_training(tmp_path / str(name))
        command = f"{sys.executable} -m gradwatch report {tmp_path} | head -n 1"
        ran = subprocess.run(command, shell=True, capture_output=True, check=False)
        assert b"Traceback" not in ran.stderr

    def test_the_rules_that_run_are_all_by_default(self):
        assert ReportCommand(rules=ALL_RULES).codes is None
