"""What importing gradwatch loads: NumPy, and no framework."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "gradwatch"

FOREIGN = (
    "google_crc32c",
    "jax",
    "keras",
    "lightning",
    "rich",
    "sklearn",
    "tensorboard",
    "tensorflow",
    "torch",
    "transformers",
)
"""Packages that the core must not load."""

OUTSIDE_CORE = (
    "cli.py",
    "compare_command.py",
    "console.py",
    "demo",
    "keras",
    "notebook.py",
    "report.py",
    "report_command.py",
    "rule_pages.py",
    "tab",
    "tensorboard",
    "terminal.py",
    "torch",
)
"""Files and folders with dependencies of their own; whatever is not listed is core."""

CORE_FILES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in OUTSIDE_CORE
)

CORE_MODULES = ("gradwatch", "gradwatch.rules", "gradwatch.fixes", "gradwatch.watcher")


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    """A folder with an empty package for each foreign one, so that an import shows even where the
    real package is not installed, and an `except ImportError` hides nothing."""
    for name in FOREIGN:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    return tmp_path


def loaded_by(statement: str, *search_path: Path) -> set[str]:
    """Top-level modules in a fresh interpreter after the statement."""
    script = f"import json, sys\n{statement}\nprint(json.dumps(list(sys.modules)))"
    path = os.pathsep.join(map(str, (*search_path, PACKAGE.parent)))
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in json.loads(run.stdout)}


def imported_packages(source: str) -> set[str]:
    """Top-level names of every import in a module, late and type-checking ones included."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("gradwatch" if node.level else str(node.module).partition(".")[0])
    return names


@pytest.mark.parametrize("module", CORE_MODULES)
def test_the_core_loads_no_framework(module, stand_ins):
    assert not loaded_by(f"import {module}", stand_ins) & set(FOREIGN)


@pytest.mark.parametrize("package", FOREIGN)
def test_a_module_that_loads_a_framework_is_caught(package, stand_ins):
    (stand_ins / "culprit.py").write_text(f"try:\n    import {package}\nexcept ImportError: pass\n")
    assert loaded_by("import culprit", stand_ins) & set(FOREIGN) == {package}


@pytest.mark.parametrize("path", CORE_FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_core_file_imports_numpy_and_the_standard_library_only(path):
    allowed = {"gradwatch", "numpy", *sys.stdlib_module_names}
    assert imported_packages(path.read_text(encoding="utf-8")) <= allowed


@pytest.mark.parametrize(
    "source",
    ["import torch", "from torch import nn", "def late():\n    import torch.nn as nn"],
)
def test_a_core_file_that_imports_a_framework_is_caught(source):
    assert imported_packages(source) == {"torch"}
