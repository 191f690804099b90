"""Names and comments in snippets, for any names there are."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.fixes.snippets.text import comment, filled, literal, program, quoted

NUMBERED = tuple(f"features.{index}.conv" for index in range(0, 60, 2))


def evaluated(expression: str) -> list[str]:
    return list(eval(expression, {"__builtins__": {"range": range}}))


@given(st.lists(st.text(), unique=True))
def test_a_literal_holds_exactly_the_names(names):
    assert evaluated(literal(names)) == names


@given(
    st.text(), st.text(), st.integers(0, 20), st.sampled_from([-3, -1, 1, 2]), st.integers(7, 12)
)
def test_a_literal_of_numbered_names_holds_exactly_the_names(prefix, suffix, start, step, count):
    first = start + 3 * count
    names = [f"{prefix}{first + step * index}{suffix}" for index in range(count)]
    assert evaluated(literal(names)) == names


def test_a_name_that_comes_twice_is_listed_once():
    assert literal(["act", "fc", "act"]) == "('act', 'fc')"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (NUMBERED, "[f'features.{i}.conv' for i in range(0, 60, 2)]"),
        ([f"fc{index}" for index in range(12)], "[f'fc{i}' for i in range(12)]"),
        ([f"fc{index}" for index in range(3, 12)], "[f'fc{i}' for i in range(3, 12)]"),
        ([f"a.{index}.b.0" for index in range(8)], "[f'a.{i}.b.0' for i in range(8)]"),
        ([f"a.0.b.{index}" for index in range(8)], "[f'a.0.b.{i}' for i in range(8)]"),
    ],
)
def test_many_evenly_numbered_names_become_a_comprehension(names, expected):
    assert literal(names) == expected


@pytest.mark.parametrize(
    "names",
    [
        [f"fc{index:02}" for index in range(12)],
        [f"{{fc{index}}}" for index in range(12)],
        [f"it's {index}" for index in range(12)],
        [f"fc{index**2}" for index in range(12)],
    ],
    ids=["leading zeros", "braces", "quotes", "uneven"],
)
def test_names_that_a_comprehension_would_get_wrong_are_listed(names):
    assert "for" not in literal(names)
    assert evaluated(literal(names)) == names


def test_a_long_list_of_names_is_wrapped():
    names = [f"encoder.block_{index**2}.projection" for index in range(30)]
    assert max(map(len, literal(names).splitlines())) <= 88


@given(st.lists(st.text(), min_size=1))
def test_a_comment_stays_a_comment(names):
    tree = ast.parse(program(comment(f"After {quoted(names)}: nothing.")))
    assert tree.body == []


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), "the whole model"),
        (("a",), "'a'"),
        (("a", "b", "c"), "'a', 'b' and 'c'"),
        (tuple("abcdefgh"), "'a' to 'h' (8 layers)"),
    ],
)
def test_names_in_a_comment(names, expected):
    assert quoted(names) == expected


def test_what_is_filled_in_is_not_a_template():
    assert filled("$a and $b", a="$b", b="2") == "$b and 2"
