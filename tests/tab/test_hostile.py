"""Whatever an event file holds, every route answers in words, and TensorBoard goes on."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorboard.data.provider import TensorDatum, TensorTimeSeries

from gradwatch.tensorboard import schema
from gradwatch.tensorboard.chunk import encode_chunk
from gradwatch.tensorboard.events import EventWriter, required
from gradwatch.tensorboard.reader import Point
from gradwatch.tensorboard.values import ValueBuilder
from tests.tensorboard.builders import chain, finding, random_run, write_run, write_training
from tests.tensorboard.schema_1 import chunk_of_schema_1

from .recordings import session_points
from .serving import Tab, decode, provided, strict_json

RUN = "a/gradwatch"
FUZZED = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.too_slow],
)


class InMemory:
    """A data provider of one run that was never on a disk.

    Args:
        tensors: Tag → its `plugin_data.content` and its points.
    """

    def __init__(self, tensors: dict[str, tuple[bytes, Sequence[TensorDatum]]]) -> None:
        self._tensors = tensors

    def list_plugins(self, *_, **__):
        return ["gradwatch"]

    def list_tensors(self, *_, **__):
        return {
            RUN: {
                tag: TensorTimeSeries(
                    max_step=max((datum.step for datum in data), default=None),
                    max_wall_time=max((datum.wall_time for datum in data), default=None),
                    plugin_content=content,
                    description="",
                    display_name="",
                )
                for tag, (content, data) in self._tensors.items()
            }
        }

    def read_tensors(self, *_, run_tag_filter, **__):
        return {
            RUN: {
                tag: data for tag, (_, data) in self._tensors.items() if tag in run_tag_filter.tags
            }
        }


def in_memory(points: Sequence[Point]) -> InMemory:
    """The provider of points, a tag each."""
    return InMemory(
        {
            f"gradwatch/{point.content}/{number}": (
                schema.plugin_content(point.content),
                [TensorDatum(point.step, point.wall_time, np.asarray(point.parts, dtype=object))],
            )
            for number, point in enumerate(points)
        }
    )


def answers(tab: Tab, run: str = RUN) -> dict[str, object]:
    """What each route answers; all of them succeed, and their JSON is the browser's."""
    routes = {
        "runs": {},
        "run": {"run": run},
        "profile": {"run": run, "step": "3"},
        "compare": {"a": run, "b": run},
        "heatmap": {"run": run, "statistic": "output_grad_norm", "columns": "3"},
    }
    found = {}
    for route, query in routes.items():
        response = tab.ask(route, **query)
        octets = response.get_data()
        assert response.status_code == 200, (route, octets)
        found[route] = (decode if route == "heatmap" else strict_json)(octets)
    return found


SOUND, OLDER = (
    session_points(
        random_run(chain(3), range(6)),
        findings=[finding(step=2), finding(code="GW202", cause="inputs")],
        encode=encode,
    )
    for encode in (encode_chunk, chunk_of_schema_1)
)

of_each_schema = pytest.mark.parametrize("sound", [SOUND, OLDER], ids=["sound", "older"])


@of_each_schema
def test_a_sound_run_has_no_troubles(sound):
    found = answers(Tab(in_memory(sound)))
    assert found["run"]["samples"] == 6
    assert found["run"]["troubles"] == []


@of_each_schema
@FUZZED
@given(change=st.data())
def test_octets_that_were_changed_are_told_or_read_but_never_break(sound, change):
    """As long as its record's checksum fits, TensorBoard hands on whatever is there."""
    points = list(sound)
    for _ in range(change.draw(st.integers(1, 4))):
        place = change.draw(st.integers(0, len(points) - 1))
        parts = list(points[place].parts)
        part = change.draw(st.integers(0, len(parts) - 1))
        octets = bytearray(parts[part])
        at = change.draw(st.integers(0, max(len(octets) - 1, 0)))
        octets[at : at + change.draw(st.integers(0, 3))] = change.draw(st.binary(max_size=4))
        parts[part] = bytes(octets)
        points[place] = replace(points[place], parts=tuple(parts))
    answers(Tab(in_memory(points)))


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["torch", "s", "GW101", "error", "NaN", "Infinity"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@FUZZED
@given(change=st.data())
def test_fields_that_were_changed_are_told_or_read_but_never_break(change):
    points = list(SOUND)
    for _ in range(change.draw(st.integers(1, 3))):
        place = change.draw(st.integers(0, len(points) - 1))
        parsed = json.loads(points[place].parts[0])
        holder, key = parsed, change.draw(st.sampled_from(sorted(parsed)))
        while isinstance(holder[key], dict | list) and holder[key] and change.draw(st.booleans()):
            holder = holder[key]
            keys = sorted(holder) if isinstance(holder, dict) else range(len(holder))
            key = change.draw(st.sampled_from(keys))
        holder[key] = change.draw(JSON_VALUES)
        points = with_first_part(points, place, json.dumps(parsed).encode())
    answers(Tab(in_memory(points)))


def with_first_part(points: Sequence[Point], place: int, encoded: bytes) -> list[Point]:
    """The points with another JSON at one place; chunks of layers that changed still name them."""
    before = points[place].parts[0]
    names = schema.digest(before).encode(), schema.digest(encoded).encode()
    changed = [
        replace(point, parts=(point.parts[0].replace(*names), *point.parts[1:])) for point in points
    ]
    changed[place] = replace(points[place], parts=(encoded, *points[place].parts[1:]))
    return changed


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(3, dtype=np.float32),
        np.asarray([10**9]),
        np.asarray(b"", dtype=object),
        np.asarray(["text", "text"], dtype=object),
        np.asarray([], dtype=object),
        np.asarray([[b"{}", b""], [b"", b""]], dtype=object),
        np.asarray([b"[" * 100_000], dtype=object),
        np.asarray([b"1" * 10_000], dtype=object),
    ],
    ids=["float", "integer", "scalar", "text", "none", "matrix", "nested", "digits"],
)
@pytest.mark.parametrize("content", ["run", "layers", "statistics", "finding"])
def test_a_tensor_of_another_kind_is_told_of(array, content):
    tensors = {"gradwatch/x": (schema.plugin_content(content), [TensorDatum(0, 0.0, array)])}
    found = answers(Tab(InMemory(tensors)))
    assert "gradwatch/x is damaged and left out" in found["run"]["troubles"][0]
    assert found["run"]["layers"] == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "gradwatch/x is damaged and left out"),
        (b"\xff\xfe", "gradwatch/x is damaged and left out"),
        (b"[]", "gradwatch/x is damaged and left out"),
        (b'{"schema": "new"}', "gradwatch/x is damaged and left out"),
        (b'{"schema": 1}', "gradwatch/x is damaged and left out"),
        (b'{"schema": 1, "content": []}', "gradwatch/x is damaged and left out"),
        (b'{"schema": 99, "content": "statistics"}', "pip install --upgrade gradwatch"),
    ],
    ids=str,
)
def test_metadata_of_another_kind_is_told_of(content, said):
    data = [TensorDatum(0, 0.0, np.asarray([b"x", b"y"], dtype=object))]
    found = answers(Tab(InMemory({"gradwatch/x": (content, data)})))
    troubles = found["run"]["troubles"]
    assert not troubles or said in troubles[0]
    assert troubles or content == b'{"schema": 1, "content": []}'


def test_a_content_that_a_newer_version_added_is_passed_over():
    tensors = {"gradwatch/x": (b'{"schema": 1, "content": "images"}', [])}
    assert answers(Tab(InMemory(tensors)))["run"]["troubles"] == []


@pytest.mark.parametrize("name", ["<img src=x onerror=alert(1)>", "\u202e\x00\x1b[31m", "a\ud800"])
def test_names_travel_as_they_are_and_as_text(name):
    layers = tuple(replace(layer, name=f"{name}{layer.depth}") for layer in chain(2))
    points = session_points(
        random_run(layers, range(3)), findings=[finding(message=name, layers=(name,))]
    )
    run = answers(Tab(in_memory(points)))["run"]
    assert [layer["name"] for layer in run["layers"]] == [f"{name}0", f"{name}1"]
    assert run["findings"][0]["message"] == name


def test_times_that_are_not_finite_are_json():
    facts = b'{"session": "s", "framework": "torch", "version": "x", "started": Infinity}'
    run = answers(Tab(in_memory([Point("run", 0, 0.0, (facts,))])))["run"]
    assert run["started"] == "Infinity"


@pytest.mark.parametrize("step", [2**53 + 1, 2**63 - 1])
def test_steps_beyond_what_the_browser_counts_are_answered(step):
    found = answers(Tab(in_memory(session_points(random_run(chain(2), [step])))))
    assert found["run"]["last_step"] == step


def newer_file(octets: bytes) -> bytes:
    return octets.replace(b'{"schema":%d' % schema.SCHEMA_VERSION, b'{"schema":9')


def cut(octets: bytes) -> bytes:
    return octets[: len(octets) * 2 // 3]


def zeros(octets: bytes) -> bytes:
    middle = len(octets) // 2
    return octets[:middle] + bytes(500) + octets[middle + 500 :]


@pytest.mark.parametrize("damage", [cut, zeros, newer_file, lambda octets: octets[:5]])
def test_a_damaged_file_leaves_the_rest_of_the_board(tmp_path, damage: Callable[[bytes], bytes]):
    write_training(tmp_path / "sound")
    write_training(tmp_path / "damaged")
    (path,) = (tmp_path / "damaged" / "gradwatch").iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with provided(tmp_path, "python") as provider:
        tab = Tab(provider)
        names = {run["name"] for run in tab.json("runs")["runs"]}
        assert "sound/gradwatch" in names
        for name in names:
            answers(tab, name)


def test_a_file_of_a_newer_gradwatch_says_what_to_do(tmp_path):
    events, values = EventWriter(str(tmp_path / "gradwatch"), clock=lambda: 1.0), ValueBuilder()
    value = values.stored("gradwatch/stats/0", "statistics", [b"?", b"?"])
    value.metadata.plugin_data.content = b'{"schema": 9, "content": "statistics"}'
    events.add([value], step=0)
    events.close()
    with provided(tmp_path, "python") as provider:
        (trouble,) = answers(Tab(provider), "gradwatch")["run"]["troubles"]
    assert "was written with schema 9" in trouble
    assert "pip install --upgrade gradwatch" in trouble


def test_a_chunk_of_a_newer_gradwatch_under_an_older_tag_says_what_to_do():
    """TensorBoard may keep the metadata of the session that wrote to the tag first."""
    points = list(SOUND)
    place = next(n for n, point in enumerate(points) if point.content == "statistics")
    header = json.loads(points[place].parts[0]) | {"schema": 9}
    points = with_first_part(points, place, json.dumps(header).encode())
    (trouble,) = answers(Tab(in_memory(points)))["run"]["troubles"]
    assert "its chunk was written with schema 9" in trouble
    assert "pip install --upgrade gradwatch" in trouble


def test_a_tensor_that_is_none_is_told_of(tmp_path):
    """Its shape does not fit its values, so TensorBoard cannot make an array of it."""
    write_run(tmp_path, random_run(chain(2), range(3)))
    events, values = EventWriter(str(tmp_path / "gradwatch"), clock=lambda: 2.0), ValueBuilder()
    value = values.stored("gradwatch/stats/9", "statistics", [b"?", b"?"])
    shape = required("tensorboard.compat.proto.tensor_shape_pb2").TensorShapeProto
    value.tensor.tensor_shape.CopyFrom(shape(dim=[shape.Dim(size=7)]))
    events.add([value], step=9)
    events.close()
    with provided(tmp_path, "python") as provider:
        run = answers(Tab(provider), "gradwatch")["run"]
    assert run["samples"] == 3
    (trouble,) = run["troubles"]
    assert trouble.startswith("gradwatch/stats/9 is damaged and left out")


def test_a_fault_of_our_own_is_a_sentence_and_one_warning(caplog):
    class Broken(InMemory):
        def list_tensors(self, *_, **__):
            raise OSError("the data server is gone")

    response = Tab(Broken({})).ask("runs")
    assert response.status_code == 500
    assert "please report it" in json.loads(response.get_data())["error"]
    (record,) = [record for record in caplog.records if record.name == "gradwatch"]
    assert record.exc_info is None
