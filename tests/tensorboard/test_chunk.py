"""A chunk gives back every bit of the snapshots that went in."""

import json
import struct
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.errors import ArgumentError
from gradwatch.snapshot import STATISTICS, Snapshot, State, empty_statistics
from gradwatch.tensorboard.chunk import (
    MOST_SNAPSHOTS,
    decode_chunk,
    decode_header,
    encode_chunk,
    fits,
)
from gradwatch.tensorboard.schema import SCHEMA_VERSION, Rows
from gradwatch.tensorboard.sink import LARGEST_CHUNK

from .builders import as_written, chain, random_run, usual_snapshot


def round_trip(snapshots, rows):
    header, body = encode_chunk(snapshots, session="s", rows="r")
    return decode_chunk(decode_header(header), body, rows).samples().snapshots()


@given(
    seed=st.integers(0, 2**32 - 1),
    layer_count=st.integers(0, 5),
    steps=st.lists(st.integers(0, 2**40), min_size=1, max_size=6, unique=True).map(sorted),
)
def test_any_snapshot_comes_back_bit_by_bit(seed, layer_count, steps):
    layers = chain(layer_count)
    snapshots = random_run(layers, steps, seed=seed)
    assert as_written(round_trip(snapshots, Rows(layers))) == as_written(snapshots)


def test_the_arrays_that_come_back_are_contiguous_float32():
    layers = chain(4)
    (snapshot,) = round_trip([usual_snapshot(layers, 3)], Rows(layers))
    assert {getattr(snapshot, statistic.name).dtype for statistic in STATISTICS} == {
        np.dtype(np.float32)
    }


def test_limits_and_session_are_in_the_header():
    snapshot = replace(usual_snapshot(chain(2), 7), limits=("no signals: compiled",))
    header = decode_header(encode_chunk([snapshot], session="abc", rows="123")[0])
    assert (header.session, header.rows, header.limits) == ("abc", "123", snapshot.limits)
    assert (header.first_step, header.snapshot_count) == (7, 1)


def test_a_statistic_the_writer_did_not_know_is_not_observed():
    layers = chain(2)
    snapshot = usual_snapshot(layers, 0)
    renamed = tuple(
        "of_the_future" if statistic.name == "grad_norm" else statistic.name
        for statistic in STATISTICS
    )
    (read,) = round_trip([snapshot], Rows(layers, renamed))
    assert np.isnan(read.grad_norm).all()
    assert read.weight_norm.tolist() == snapshot.weight_norm.tolist()


def test_statistics_in_another_order_are_found_by_name():
    layers = chain(3)
    rows = Rows(layers, tuple(reversed(Rows(layers).statistics)))
    (read,) = round_trip([usual_snapshot(layers, 0)], rows)
    assert read.packed().tobytes() == usual_snapshot(layers, 0).packed()[::-1].tobytes()


@pytest.mark.parametrize("change", [lambda body: body + b"\0", lambda body: body[:-4]])
def test_a_body_of_another_length_is_refused(change):
    layers = chain(3)
    header, body = encode_chunk([usual_snapshot(layers, 0)], session="s", rows="r")
    with pytest.raises(ValueError, match=r"its 2\d\d bytes are (more|fewer) than"):
        decode_chunk(decode_header(header), change(body), Rows(layers))


def header_with(**changes):
    header, _ = encode_chunk([usual_snapshot(chain(2), 7)], session="s", rows="r")
    return json.dumps(json.loads(header) | changes).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"snapshot_count": 10**12},
        {"snapshot_count": MOST_SNAPSHOTS + 1},
        {"snapshot_count": 0},
        {"snapshot_count": -1},
        {"snapshot_count": True},
        {"snapshot_count": 1.0},
        {"first_step": "7"},
        {"first_step": 2**63},
        {"session": None},
        {"rows": ["r"]},
        {"limits": [1]},
        {"limits": 5},
        {"schema": 0},
        {"schema": "2"},
        {"schema": True},
        {"schema": None},
    ],
    ids=str,
)
def test_a_header_that_claims_what_cannot_be_is_refused(changes):
    with pytest.raises(ValueError, match=r"ChunkHeader\.|its header|it claims"):
        decode_header(header_with(**changes))


def test_a_header_of_a_newer_schema_is_refused_with_the_way_out():
    newer = {"schema": SCHEMA_VERSION + 1, "snapshot_count": "unlike today's"}
    with pytest.raises(ArgumentError, match=r"schema 3.* run `pip install --upgrade gradwatch`"):
        decode_header(header_with(**newer))


def test_a_header_without_a_field_is_refused():
    with pytest.raises(ValueError, match="no header of a chunk"):
        decode_header(b'{"session": "s"}')


def test_more_snapshots_than_there_are_bytes_ask_for_no_memory():
    _, body = encode_chunk([usual_snapshot(chain(2), 7)], session="s", rows="r")
    header = decode_header(header_with(snapshot_count=MOST_SNAPSHOTS))
    tracemalloc.start()
    with pytest.raises(ValueError, match="fewer than its header calls for"):
        decode_chunk(header, body, Rows(chain(2)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def test_the_sink_writes_no_chunk_that_is_refused():
    assert LARGEST_CHUNK <= MOST_SNAPSHOTS


@pytest.mark.parametrize(
    ("first_step", "steps"), [(7, [7, 7]), (7, [7, 6]), (6, [7, 8]), (-3, [-3, 4])]
)
def test_steps_that_do_not_increase_from_the_header_on_are_refused(first_step, steps):
    snapshots = random_run(chain(2), steps)
    _, body = encode_chunk(snapshots, session="s", rows="r")
    header = decode_header(header_with(snapshot_count=2, first_step=first_step))
    with pytest.raises(ValueError, match="steps do not increase"):
        decode_chunk(header, body, Rows(chain(2)))


@pytest.mark.parametrize("state", [-1, len(State), 77])
def test_a_state_that_is_none_is_refused(state):
    snapshot = usual_snapshot(chain(2), 7)
    snapshot.states[1] = state
    header, body = encode_chunk([snapshot], session="s", rows="r")
    with pytest.raises(ValueError, match="states that no layer can be in"):
        decode_chunk(decode_header(header), body, Rows(chain(2)))


def test_a_chunk_without_its_first_states_is_refused():
    snapshots = random_run(chain(2), range(8))
    header, body = encode_chunk(snapshots, session="s", rows="r")
    changed_at = 8 * (8 + 8 + 8) + 1  # behind steps, wall times, losses and the flags `skipped`
    cut = body[:changed_at] + bytes([body[changed_at] & 0x7F]) + body[changed_at + 1 + 2 :]
    with pytest.raises(ValueError, match="lacks the states of its first snapshot"):
        decode_chunk(decode_header(header), cut, Rows(chain(2)))


@pytest.mark.parametrize(("step", "kept"), [(0, []), (3, [2]), (5, [2, 4]), (9, [2, 4, 6])])
def test_what_a_later_chunk_took_the_place_of_can_be_left_out(step, kept):
    snapshots = random_run(chain(2), [2, 4, 6])
    header, body = encode_chunk(snapshots, session="s", rows="r")
    chunk = decode_chunk(decode_header(header), body, Rows(chain(2))).before(step)
    assert chunk.kept == len(kept)
    assert as_written(chunk.samples().snapshots()) == as_written(snapshots[: len(kept)])


def test_a_row_that_was_not_observed_takes_one_number():
    layers = chain(100)
    _, with_signals = encode_chunk([usual_snapshot(layers, 0)], session="s", rows="r")
    _, without = encode_chunk([usual_snapshot(layers, 0, signals=False)], session="s", rows="r")
    uneven = 9  # of the signals in usual_snapshot, those that differ from layer to layer
    assert len(with_signals) - len(without) == uneven * (100 - 1) * struct.calcsize("f")


def states_in(*rows: Sequence[int]) -> list[Snapshot]:
    """A snapshot for each row of states."""
    layers = chain(len(rows[0]))
    return [
        replace(usual_snapshot(layers, step), states=np.array(row, dtype=np.int8))
        for step, row in enumerate(rows)
    ]


@pytest.mark.parametrize(
    ("rows", "stored"),
    [
        ([[0, 0, 0]] * 64, 1),
        ([[0, 0, 0]] * 63 + [[0, 0, 1]], 2),
        ([[0, 0, 0], [0, 1, 0]] * 32, 64),
        ([[0, 0, 0]] * 20 + [[3, 0, 0]] * 24 + [[0, 0, 0]] * 20, 3),
    ],
    ids=["the same", "others at the end", "others at each", "others in between"],
)
def test_states_are_stored_where_they_change(rows, stored):
    snapshots = states_in(*rows)
    header, body = encode_chunk(snapshots, session="s", rows="r")
    chunk = decode_chunk(decode_header(header), body, Rows(snapshots[0].layers))
    assert len(chunk.state_rows) == stored
    assert chunk.states.tolist() == rows
    assert chunk.before(40).samples().states.tolist() == rows[:40]


def test_a_wide_chunk_takes_little_more_than_its_numbers():
    """The goal of 4,100 octets a step was set for 200 layers and five statistics."""
    layers = chain(200)
    snapshots = []
    for step in range(LARGEST_CHUNK):
        packed = empty_statistics(200)
        packed[:5] = np.random.default_rng(step).random((5, 200))
        states = np.full(200, State.TRAINED, dtype=np.int8)
        snapshots.append(Snapshot.unpacked(packed, step=step, layers=layers, states=states))
    parts = encode_chunk(snapshots, session="01234567", rows="0123456789ab")
    assert sum(map(len, parts)) / LARGEST_CHUNK < 4_100


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"step": 6}, True),
        ({"step": 5}, False),
        ({"step": 4}, False),
        ({"step": 6, "limits": ("new",)}, False),
        ({"step": 6, "layers": chain(3)}, True),
        ({"step": 6, "layers": chain(3, prefix="conv")}, False),
    ],
)
def test_a_chunk_holds_later_steps_of_the_same_rows_and_limits(changes, expected):
    first = usual_snapshot(chain(3), 5)
    assert fits(replace(first, **changes), [first]) is expected


def test_anything_fits_an_empty_chunk():
    assert fits(usual_snapshot(chain(1), 0), [])


def later_chunk(*, steps, seed=0, layer_count=3):
    layers = chain(layer_count)
    header, body = encode_chunk(random_run(layers, steps, seed=seed), session="s", rows="r")
    return decode_chunk(decode_header(header), body, Rows(layers))


@given(
    seed=st.integers(0, 2**32 - 1),
    layer_count=st.integers(0, 5),
    kept=st.integers(1, 6),
    name=st.sampled_from([statistic.name for statistic in STATISTICS]),
)
def test_one_statistic_is_what_all_of_them_unpacked_have(seed, layer_count, kept, name):
    chunk = later_chunk(steps=range(6), seed=seed, layer_count=layer_count).before(kept)
    found = chunk.statistic(name)
    assert found.shape == (kept, layer_count)
    assert found.tobytes() == np.ascontiguousarray(chunk.samples().statistic(name)).tobytes()


def test_one_statistic_that_the_writer_did_not_know_is_not_observed():
    layers = chain(2)
    header, body = encode_chunk([usual_snapshot(layers, 0)], session="s", rows="r")
    renamed = tuple(f"of_the_future_{statistic.name}" for statistic in STATISTICS)
    chunk = decode_chunk(decode_header(header), body, Rows(layers, renamed))
    assert np.isnan(chunk.statistic("grad_norm")).all()


@given(seed=st.integers(0, 2**32 - 1), kept=st.integers(1, 4))
def test_a_statistic_is_observed_where_any_number_of_it_is(seed, kept):
    chunk = later_chunk(steps=range(4), seed=seed, layer_count=2).before(kept)
    samples = chunk.samples()
    assert chunk.observed() == {
        statistic.name
        for statistic in STATISTICS
        if not np.isnan(samples.statistic(statistic.name)).all()
    }
