"""Words and figures of a report."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.report_words import figure, level_name, percent, power, printable


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (-5.23, "-5.2"),
        (-0.04, "0.0"),
        (-math.inf, "zero"),
        (math.nan, "not observed"),
        (math.inf, "not finite"),
    ],
)
def test_zero_and_not_observed_are_told_apart(level, expected):
    assert level_name(level) == expected


@given(st.text())
def test_printable_text_holds_no_control_character(text):
    assert all(char.isprintable() or char == "\n" for char in printable(text))


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0.0, "0"),
        (0.0134, "0.0134"),
        (-5.234, "-5.23"),
        (1600.0, "1,600"),
        (1234.5, "1,234"),
        (0.00001, "1.0e-5"),
        (3.2e12, "3.2e12"),
        (math.inf, "not finite"),
        (math.nan, "not observed"),
    ],
)
def test_figures_have_three_digits(number, expected):
    assert figure(number) == expected


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(0.00123, "1.2e-3"), (0.0, "0"), (math.nan, "-"), (math.inf, "inf"), (9.99e-4, "1.0e-3")],
)
def test_ratios_are_powers_of_ten(ratio, expected):
    assert power(ratio) == expected


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(0.0, "0 %"), (0.001, "<1 %"), (0.5, "50 %"), (0.998, ">99 %"), (1.0, "100 %")],
)
def test_only_all_is_a_hundred_percent(fraction, expected):
    assert percent(fraction) == expected
