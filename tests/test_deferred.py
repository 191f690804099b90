"""Fixes whose texts are built only when somebody looks at them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from gradwatch.finding import Fix
from gradwatch.fixes.clipping import clip_gradients
from gradwatch.fixes.learning_rate import warm_up
from gradwatch.rules import Deferred
from gradwatch.testing import chain

LAYERS = chain(2)
FIXES = (warm_up(LAYERS), clip_gradients(LAYERS))


class Builder:
    """Builds the fixes and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> tuple[Fix, ...]:
        self.calls += 1
        return FIXES


def test_nothing_is_built_before_somebody_looks():
    build = Builder()
    Deferred(build)
    assert build.calls == 0


@pytest.mark.parametrize(
    ("look", "seen"),
    [(tuple, FIXES), (len, 2), (lambda fixes: fixes[-1], FIXES[-1]), (bool, True)],
    ids=["all", "how many", "one", "whether any"],
)
def test_looking_twice_builds_once(look: Callable[[Sequence[Fix]], object], seen: object):
    build = Builder()
    fixes = Deferred(build)
    assert [look(fixes), look(fixes)] == [seen, seen]
    assert build.calls == 1
