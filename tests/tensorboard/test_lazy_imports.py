"""The package loads TensorBoard only to write or read, and a framework never."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRAMEWORKS = ("jax", "keras", "tensorflow", "torch")
WRITE_AND_READ = """
from tests.tensorboard.builders import write_training
from gradwatch.tensorboard.reader import find_recordings, read
write_training({log_dir!r})
assert read(find_recordings({log_dir!r})[0]).snapshots
"""


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    """Empty frameworks, which TensorBoard would import where they are installed."""
    for name in FRAMEWORKS:
        (tmp_path / "stand_ins" / name).mkdir(parents=True)
        (tmp_path / "stand_ins" / name / "__init__.py").touch()
    return tmp_path / "stand_ins"


def run(script: str, *search_path: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, (*search_path, ROOT)))
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def loaded_by(script: str, *search_path: Path) -> set[str]:
    done = run(f"{script}\nimport json, sys\nprint(json.dumps(list(sys.modules)))", *search_path)
    assert not done.returncode, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


@pytest.mark.parametrize(
    "module",
    [
        *("schema", "chunk", "columns", "packed", "events"),
        *("scalars", "summary", "values", "sink", "reader"),
    ],
)
def test_importing_a_module_loads_no_extra(module, stand_ins):
    foreign = {*FRAMEWORKS, "google_crc32c", "rich", "tensorboard"}
    assert not loaded_by(f"import gradwatch.tensorboard.{module}", stand_ins) & foreign


def test_writing_and_reading_a_run_loads_no_framework(stand_ins, tmp_path):
    script = WRITE_AND_READ.format(log_dir=str(tmp_path / "logs"))
    script = f"from pathlib import Path\n{script}".replace("training('", "training(Path('")
    loaded = loaded_by(script.replace("logs')\nassert", "logs'))\nassert"), stand_ins)
    assert "tensorboard" in loaded
    assert not loaded & set(FRAMEWORKS)


@pytest.mark.parametrize("package", ["tensorboard", "google_crc32c"])
def test_a_sink_without_its_extra_names_what_to_install(package, tmp_path):
    script = (
        f"import sys\nsys.modules[{package!r}] = None\n"
        "from gradwatch.tensorboard.sink import TensorBoardSink\n"
        f"TensorBoardSink({str(tmp_path)!r}, framework='torch')"
    )
    done = run(script)
    assert "MissingExtraError: " in done.stderr
    assert 'run `pip install "gradwatch[tensorboard]"`' in done.stderr
