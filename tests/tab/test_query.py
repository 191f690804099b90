"""An argument that cannot be used is told with its name, its value and the next step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.tab.query import LONGEST_SHOWN, Query, RequestError, shown


@pytest.mark.parametrize("value", ["1", "4000", "0012"])
def test_a_whole_number_in_range_is_taken(value):
    assert Query({"columns": value}).count("columns", most=4000) == int(value)


@pytest.mark.parametrize(
    "value", ["0", "4001", "-1", "1.5", "", "x", "1_0", "\u0661", " 1", "9" * 10_000, "NaN"]
)
def test_anything_else_is_no_count(value):
    with pytest.raises(RequestError, match=r"columns=.* is not a whole number from 1 to 4,000"):
        Query({"columns": value}).count("columns", most=4000)


@pytest.mark.parametrize("value", ["0", "-5", "2.5", "1e3", "9" * 30])
def test_a_number_is_a_step(value):
    assert Query({"step": value}).step("step") == float(value)


@pytest.mark.parametrize("value", ["", "x", "nan", "inf", "-inf", "1e999", "0x10", "1,000"])
def test_anything_else_is_no_step(value):
    with pytest.raises(RequestError, match=r"step=.* is not a number; pass a step"):
        Query({"step": value}).step("step")


@pytest.mark.parametrize("ask", ["text", "step"])
def test_a_missing_argument_is_named(ask):
    with pytest.raises(RequestError, match="'run' is missing; add run=") as told:
        getattr(Query({}), ask)("run")
    assert told.value.status == 400


@pytest.mark.parametrize("arguments", [{}, {"last": ""}])
def test_what_may_be_missing_may_be_empty_too(arguments):
    assert Query(arguments).optional_step("last", 7.0) == 7.0
    assert Query(arguments).optional_text("last") is None


@given(st.text(max_size=300))
def test_what_is_repeated_is_printable_and_short(value):
    repeated = shown(value)
    assert repeated.replace("\\n", "").isprintable()
    assert len(repeated) <= 12 * LONGEST_SHOWN
