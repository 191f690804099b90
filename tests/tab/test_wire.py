"""What travels to the page arrives there as it was, and fits the browser's typed arrays."""

import struct

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.tab.wire import DTYPES, encode, observed, observed_list
from gradwatch.tensorboard.schema import number

from .serving import decode

ARRAYS = st.dictionaries(
    st.text(max_size=8),
    st.sampled_from(sorted(DTYPES)).flatmap(
        lambda dtype: npst.arrays(dtype, npst.array_shapes(max_dims=3, min_side=0, max_side=5))
    ),
    max_size=4,
)
META = st.dictionaries(
    st.text(max_size=8), st.none() | st.integers() | st.text(max_size=20), max_size=4
)


@given(meta=META, arrays=ARRAYS)
def test_any_arrays_arrive_bit_by_bit(meta, arrays):
    octets = encode(meta, arrays)
    found, decoded = decode(octets)
    assert found == meta
    assert list(decoded) == list(arrays)
    for name, array in arrays.items():
        assert decoded[name].shape == array.shape
        assert decoded[name].dtype == array.dtype
        assert decoded[name].tobytes() == array.tobytes()
    assert len(octets) % 8 == 0


def test_an_array_in_another_order_of_memory_arrives_by_rows():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    _, decoded = decode(encode({}, {"values": array.T}))
    assert decoded["values"].tolist() == array.T.tolist()


def test_numbers_are_little_endian_whatever_they_were():
    array = np.asarray([1, 2], dtype=np.dtype(">f8"))
    octets = encode({}, {"steps": array})
    assert octets[-16:] == struct.pack("<2d", 1, 2)


def test_a_name_of_lone_surrogates_is_escaped():
    meta, _ = decode(encode({"run": "a\ud800b"}, {}))
    assert meta == {"run": "a\ud800b"}


def test_a_type_that_the_page_does_not_read_is_refused():
    with pytest.raises(KeyError):
        encode({}, {"steps": np.zeros(1, dtype=np.int64)})


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.5, 1.5), (np.inf, "Infinity"), (-np.inf, "-Infinity"), (np.nan, "NaN")],
)
def test_a_number_that_json_lacks_is_a_string(value, expected):
    assert number(value) == expected
    assert type(number(np.float32(value))) is type(expected)


def test_what_was_not_observed_is_null():
    assert observed(np.nan) is None
    assert observed_list(np.asarray([np.nan, 0, np.inf])) == [None, 0.0, "Infinity"]
