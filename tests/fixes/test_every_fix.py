"""What holds for every fix, whatever it changes."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Sequence

import pytest

import gradwatch.fixes
from gradwatch.finding import Fix

from .effects import CASES, Case, Outcome
from .nets import HOSTILE

PLAIN = ("fc1", "fc2", "fc3")
THIRTY = tuple(f"hidden_{index}" for index in range(30))
UNEVEN = tuple(f"layer_{index**2}_{'abc'[index % 3]}" for index in range(30))

every_fix = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_naming = pytest.mark.parametrize(
    "names", [PLAIN, HOSTILE, THIRTY, UNEVEN], ids=["plain", "hostile", "thirty", "uneven"]
)


def made(case: Case, names: Sequence[str]) -> Fix:
    return case.make(case.net(names).layers)


def public_functions() -> set[object]:
    """Every public function that a module of `gradwatch.fixes` defines; builders lie deeper."""
    names = [
        entry.name for entry in pkgutil.iter_modules(gradwatch.fixes.__path__) if not entry.ispkg
    ]
    modules = [importlib.import_module(f"gradwatch.fixes.{name}") for name in names]
    return {
        function
        for module in modules
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }


def structure(code: str) -> str:
    """The program with every string left out."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.dump(tree)


def test_no_fix_is_left_out_here():
    assert {case.function for case in CASES} == public_functions()


@every_fix
def test_a_fix_says_what_why_and_who(case):
    fix = made(case, PLAIN)
    assert 0 < len(fix.title) < 80
    assert not fix.title.endswith(".")
    assert 1 <= len(re.findall(r"[.!?](?:\s|$)", fix.rationale)) <= 2
    assert re.search(r"\b(19|20)\d\d\b|PyTorch documentation", fix.reference)
    assert fix.kind == case.function.__module__.rpartition(".")[2]


@every_fix
def test_a_fix_says_when_not_to_use_it(case):
    clause = made(case, PLAIN).avoid_when
    assert re.fullmatch(r"(?!Not )[A-Za-z].*[^.]", clause)
    assert len(clause) <= 180


@every_fix
def test_what_goes_with_the_learning_rate_is_a_usual_factor(case):
    assert made(case, PLAIN).lr_factor in {1.0, 0.2}


@every_fix
@every_naming
def test_the_torch_snippet_runs_and_does_what_it_says(case, names, capsys):
    subject = case.net(names)
    before = copy.deepcopy(subject.model)
    namespace = subject.run(case.make(subject.layers))
    case.check(Outcome(before, namespace, names, capsys.readouterr().out))


@every_fix
def test_the_check_of_a_fix_fails_on_an_untouched_model(case, capsys):
    subject = case.net(PLAIN)
    with pytest.raises((AssertionError, AttributeError, KeyError, TypeError)):
        case.check(Outcome(copy.deepcopy(subject.model), subject.namespace(), PLAIN, ""))


@every_fix
@every_naming
def test_the_keras_snippet_is_a_program(case, names):
    code = made(case, names).snippets["keras"]
    compile(code, "snippet", "exec")


@every_fix
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_a_snippet_names_the_layers(case, framework):
    code = made(case, PLAIN).snippets[framework]
    assert [repr(name) in code for name in PLAIN] == [True] * 3


@every_fix
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_a_hostile_name_is_nothing_but_a_string(case, framework):
    tame = [f"layer_{letter}" for letter in "abcdefghijklmnopq"[: len(HOSTILE)]]
    hostile_code = made(case, HOSTILE).snippets[framework]
    assert structure(hostile_code) == structure(made(case, tame).snippets[framework])


@every_fix
@pytest.mark.parametrize("framework", ["torch", "keras"])
@pytest.mark.parametrize("names", [THIRTY, UNEVEN], ids=["even", "uneven"])
def test_thirty_layers_stay_readable(case, names, framework):
    few, many = made(case, PLAIN).snippets[framework], made(case, names).snippets[framework]
    assert max(map(len, many.splitlines())) <= 100
    assert len(many.splitlines()) <= len(few.splitlines()) + 24


@every_fix
def test_a_group_without_layers_makes_a_program_too(case):
    fix = case.make(())
    assert fix.title
    assert [bool(compile(code, "snippet", "exec")) for code in fix.snippets.values()] == [True] * 2


@every_fix
def test_the_same_layers_give_the_same_fix(case):
    assert made(case, PLAIN) == made(case, PLAIN)


def test_fixes_load_no_framework():
    names = sorted({case.function.__module__ for case in CASES})
    code = (
        f"import sys, {', '.join(names)}; "
        "print([name for name in ('torch', 'keras', 'tensorflow', 'jax') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
