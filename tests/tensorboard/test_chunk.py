"""A chunk gives back every bit of the snapshots that went in."""

import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.snapshot import STATISTICS
from gradwatch.tensorboard.chunk import decode_chunk, decode_header, encode_chunk, fits
from gradwatch.tensorboard.schema import Rows

from .builders import as_written, chain, random_run, usual_snapshot


def round_trip(snapshots, rows):
    header, body = encode_chunk(snapshots, session="s", rows="r")
    return decode_chunk(decode_header(header), body, rows)


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
    with pytest.raises(ValueError, match=r"chunk of step 0|buffer"):
        decode_chunk(decode_header(header), change(body), Rows(layers))


def test_a_row_that_was_not_observed_takes_one_number():
    layers = chain(100)
    _, with_signals = encode_chunk([usual_snapshot(layers, 0)], session="s", rows="r")
    _, without = encode_chunk([usual_snapshot(layers, 0, signals=False)], session="s", rows="r")
    uneven = 9  # of the signals in usual_snapshot, those that differ from layer to layer
    assert len(with_signals) - len(without) == uneven * (100 - 1) * struct.calcsize("f")


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
