"""Files of schema 1 stay readable, also where a newer gradwatch resumed the run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.snapshot import State
from gradwatch.tensorboard.chunk import decode_chunk, decode_header
from gradwatch.tensorboard.reader import read
from gradwatch.tensorboard.schema import Rows

from .builders import Clock, as_written, chain, random_run, usual_snapshot, write_run
from .schema_1 import chunk_of_schema_1, write_run_of_schema_1


@given(
    seed=st.integers(0, 2**32 - 1),
    layer_count=st.integers(0, 5),
    steps=st.lists(st.integers(0, 2**40), min_size=1, max_size=6, unique=True).map(sorted),
)
def test_any_chunk_comes_back_bit_by_bit(seed, layer_count, steps):
    layers = chain(layer_count)
    snapshots = random_run(layers, steps, seed=seed)
    header, body = chunk_of_schema_1(snapshots, session="s", rows="r")
    chunk = decode_chunk(decode_header(header), body, Rows(layers))
    assert chunk.header.schema == 1
    assert as_written(chunk.samples().snapshots()) == as_written(snapshots)


@pytest.mark.parametrize("change", [lambda body: body + b"\0", lambda body: body[:-4]])
def test_a_body_of_another_length_is_refused(change):
    header, body = chunk_of_schema_1([usual_snapshot(chain(3), 0)], session="s", rows="r")
    with pytest.raises(ValueError, match=r"its 2\d\d bytes are (more|fewer) than"):
        decode_chunk(decode_header(header), change(body), Rows(chain(3)))


@pytest.mark.parametrize("state", [-1, len(State)])
def test_a_state_that_is_none_is_refused(state):
    snapshots = random_run(chain(2), range(3))
    snapshots[1].states[1] = state
    header, body = chunk_of_schema_1(snapshots, session="s", rows="r")
    with pytest.raises(ValueError, match="states that no layer can be in"):
        decode_chunk(decode_header(header), body, Rows(chain(2)))


def test_a_file_comes_back_bit_by_bit(tmp_path):
    snapshots = random_run(chain(3), range(0, 20, 2))
    write_run_of_schema_1(tmp_path, snapshots, clock=Clock())
    recording = read(tmp_path / "gradwatch")
    assert as_written(recording.snapshots) == as_written(snapshots)
    assert recording.troubles == ()


def test_a_run_that_a_newer_gradwatch_resumed_has_both_sessions(tmp_path):
    clock = Clock()
    old, new = random_run(chain(3), range(20), seed=1), random_run(chain(3), range(8, 30), seed=2)
    write_run_of_schema_1(tmp_path, old, clock=clock)
    clock.now += 3600
    write_run(tmp_path, new, clock=clock)
    recording = read(tmp_path / "gradwatch")
    assert as_written(recording.snapshots) == as_written(old[:8] + new)
    assert recording.troubles == ()
