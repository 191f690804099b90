"""The code of the documentation and the examples: all of it runs."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import nbclient
import nbformat
import numpy as np
import pytest
import torch
from torch import nn

import gradwatch

ROOT = Path(__file__).parents[1]

PYTHON = re.compile(r"^( *)```python\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
TEXT = re.compile(r"^```text\n(.*?)^```", re.MULTILINE | re.DOTALL)
INCLUDE = "--8<--"


def python_blocks(path: Path) -> list[str]:
    """The Python of a page, each block on the lines where it stands there."""
    page = path.read_text(encoding="utf-8")
    return [
        "\n" * (page.count("\n", 0, found.start()) + 1) + textwrap.dedent(found[2])
        for found in PYTHON.finditer(page)
        if INCLUDE not in found[2]
    ]


PAGES = sorted((ROOT / "docs").rglob("*.md"))
WITH_CODE = [path for path in [ROOT / "README.md", *PAGES] if python_blocks(path)]


def reader_names() -> dict:
    """What the reader of a page has: a model, its optimizer, a loss, a few batches."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    return {
        "gradwatch": gradwatch,
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loss_function": nn.CrossEntropyLoss(),
        "batches": [(torch.randn(16, 8), torch.randint(2, (16,))) for _ in range(4)],
    }


def keras_reader_names() -> dict:
    """The same for Keras: a compiled model and its arrays."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8), keras.layers.Dense(2)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    generator = np.random.default_rng(0)
    x = generator.standard_normal((128, 8), dtype=np.float32)
    return {"gradwatch": gradwatch, "model": model, "x": x, "y": generator.integers(2, size=128)}


def comparable(printed: str) -> str:
    """The words of a printed report: other machines round otherwise and break lines elsewhere."""
    return " ".join(re.sub(r"\d+(\.\d+)?", "0", printed).split())


def test_the_guides_have_code():
    names = {path.name for path in WITH_CODE}
    assert {"README.md", "findings.md", "keras.md", "writing-a-rule.md"} <= names


@pytest.mark.parametrize("path", WITH_CODE, ids=lambda path: path.name)
def test_the_code_of_a_page_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, keras_names = reader_names(), keras_reader_names()
    for block in python_blocks(path):
        exec(compile(block, path, "exec"), keras_names if "keras" in block else names)


def test_the_finding_in_the_guide_is_what_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    guide = ROOT / "docs" / "findings.md"
    exec(compile(python_blocks(guide)[0], guide, "exec"), {})
    printed = comparable(capsys.readouterr().out)
    (shown,) = TEXT.findall(guide.read_text(encoding="utf-8"))
    parts = re.split(r"^ *\.\.\.$", shown, flags=re.MULTILINE)
    assert [part for part in parts if comparable(part) not in printed] == []


@pytest.mark.parametrize("name", ["pytorch_loop.py", "keras_fit.py"])
def test_an_example_script_runs(name, tmp_path):
    run = subprocess.run(
        [sys.executable, ROOT / "examples" / name, "--log-dir", tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "GW101" in run.stdout
    assert list(tmp_path.rglob("*tfevents*"))


each_notebook = pytest.mark.parametrize("name", ["notebook.ipynb", "keras_notebook.ipynb"])


@each_notebook
def test_every_cell_of_a_notebook_may_run_twice(name, tmp_path):
    notebook = nbformat.read(ROOT / "examples" / name, as_version=4)
    notebook.cells = [cell for cell in notebook.cells for _ in range(2)]
    client = nbclient.NotebookClient(notebook, resources={"metadata": {"path": tmp_path}})
    client.execute()
    assert "GW101" in str(notebook.cells[-1].outputs)


@each_notebook
def test_a_notebook_is_stored_without_outputs(name):
    notebook = nbformat.read(ROOT / "examples" / name, as_version=4)
    assert [cell.id for cell in notebook.cells if cell.get("outputs")] == []
