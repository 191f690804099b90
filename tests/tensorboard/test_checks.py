"""What was read is of the types that it should be of, or it is refused."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import pytest

from gradwatch.finding import Fix
from gradwatch.tensorboard.checks import check_layers, check_types
from gradwatch.tensorboard.schema import Rows, RunFacts

from .builders import chain, finding


@dataclass(frozen=True)
class Everything:
    number: float = 1.0
    count: int = 1
    flag: bool = True
    name: str = "a"
    maybe: int | None = None
    names: tuple[str, ...] = ("a",)
    colour: Literal["red", "blue"] = "red"
    figures: Mapping[str, float] = None
    part: Fix | None = None


SOUND = Everything(figures={"a": 1.0})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"number": 1},
        {"number": float("nan")},
        {"count": -(2**63)},
        {"maybe": 3},
        {"names": ()},
        {"figures": {}},
        {"part": Fix("clipping", "Clip", "It is large.", "Pascanu 2013")},
    ],
    ids=str,
)
def test_what_is_sound_passes(changes):
    check_types(replace(SOUND, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"number": "1"},
        {"number": True},
        {"number": 2**64},
        {"count": 1.0},
        {"count": True},
        {"count": 2**63},
        {"count": None},
        {"flag": 1},
        {"name": b"a"},
        {"maybe": "3"},
        {"names": ["a"]},
        {"names": ("a", 1)},
        {"names": "a"},
        {"colour": "green"},
        {"colour": ["red"]},
        {"figures": None},
        {"figures": {1: 1.0}},
        {"figures": {"a": None}},
        {"part": {"kind": "clipping"}},
        {"part": Fix("clipping", None, "It is large.", "Pascanu 2013")},
    ],
    ids=str,
)
def test_what_is_of_another_type_is_refused(changes):
    with pytest.raises(ValueError, match=r"(Everything|Fix)\.\w+ cannot be "):
        check_types(replace(SOUND, **changes))


def test_the_message_is_short():
    with pytest.raises(ValueError, match=r"^Everything\.count cannot be 'x{59}\.\.\.$"):
        check_types(replace(SOUND, count="x" * 10_000))


def test_what_gradwatch_stores_passes():
    check_types(finding(resolved_step=3))
    check_types(RunFacts("s", "torch", "0.1", 1.7e9, finished=True))
    check_types(Rows(chain(3)))
    check_layers(chain(3))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inputs": (3,)}, "reads a layer that is not there"),
        ({"inputs": (-1,)}, "reads a layer that is not there"),
        ({"fan_in": -1}, "negative size"),
        ({"parameter_count": -1}, "negative size"),
        ({"name": None}, "Layer.name cannot be None"),
        ({"inputs": (True,)}, "Layer.inputs"),
    ],
    ids=str,
)
def test_layers_that_cannot_be_rows_are_refused(changes, said):
    first, *others = chain(3)
    with pytest.raises(ValueError, match=said):
        check_layers((replace(first, **changes), *others))
