"""What README, CI, constraints and metadata say of each other."""

import re
import subprocess
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import gradwatch
from gradwatch import _version
from gradwatch.keras import versions

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
REQUIREMENTS = [Requirement(line) for line in metadata.requires("gradwatch") or ()]
PINS = {
    pin.name: pin
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
    for pin in [Requirement(line)]
}

UNUSED_YET = {"lightning", "transformers"}
"""Extras that only install their framework, so CI does not test them."""

TESTED = sorted({need.name for need in REQUIREMENTS} - UNUSED_YET - {"gradwatch"})


def ci_command(name: str) -> str:
    found = re.search(rf"^{name}='(.*)'$", CI, re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("name", ["demo_command", "test_command"])
def test_ci_runs_the_command_that_readme_gives(name):
    assert f"```bash\n{ci_command(name)}\n```" in README
    assert f'"${name}"' in CI


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_ci_runs_the_keras_tests_on_the_backend_as_the_contributing_notes_say(backend):
    notes = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    command = ci_command(f"{backend}_command")
    assert command.startswith(f"KERAS_BACKEND={backend} pytest -n 2 ")
    assert f"| `{command}` |" in notes
    assert f'"${backend}_command"' in CI
    assert all((ROOT / path).exists() for path in command.split()[4:])


def test_the_ci_script_is_valid_bash():
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)


def test_torch_is_pinned_to_the_release_that_ci_tests():
    assert str(PINS["torch"].specifier) == "==2.13.0"


def test_keras_is_pinned_to_the_newest_release_that_the_adapter_knows():
    pinned = Version(next(iter(PINS["keras"].specifier)).version)
    assert (pinned.major, pinned.minor) == versions.NEWEST


@pytest.mark.parametrize(
    ("minor", "accepted"), [(versions.OLDEST, True), (versions.NEWEST, True), ((3, 9), False)]
)
def test_the_extra_installs_the_range_of_keras_that_the_adapter_accepts(minor, accepted):
    needs = [need for need in REQUIREMENTS if need.name == "keras"]
    assert needs
    assert all(need.specifier.contains(f"{minor[0]}.{minor[1]}.0") is accepted for need in needs)


@pytest.mark.parametrize("package", TESTED)
def test_what_an_extra_installs_is_pinned_exactly(package):
    (pin,) = PINS[package].specifier
    assert pin.operator == "=="


@pytest.mark.parametrize("package", TESTED)
def test_a_pin_is_within_the_bounds_of_its_requirement(package):
    (pin,) = PINS[package].specifier
    needs = [need for need in REQUIREMENTS if need.name == package]
    assert all(need.specifier.contains(pin.version) for need in needs)


def test_without_extras_only_numpy_and_rich_are_required():
    assert {need.name for need in REQUIREMENTS if need.marker is None} == {"numpy", "rich"}


def test_the_version_has_one_source():
    assert gradwatch.__version__ is _version.__version__
    assert metadata.version("gradwatch") == _version.__version__


def test_no_other_file_of_the_package_spells_the_version_out():
    spelled = f'"{_version.__version__}"'
    sources = [*(ROOT / "gradwatch").rglob("*.py"), ROOT / "pyproject.toml"]
    holders = [path.name for path in sources if spelled in path.read_text(encoding="utf-8")]
    assert holders == ["_version.py"]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/figures.md"])
def test_a_module_that_a_page_runs_is_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"python -m (tests[\w.]+)", text))
    assert named
    assert [name for name in sorted(named) if find_spec(name) is None] == []


def test_every_long_run_is_in_the_contributing_notes():
    notes = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    started_by_a_test = {"tests.keras.distributed"}
    runs = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for path in (ROOT / "tests").rglob("*.py")
        if re.search(r"^if __name__ ==", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert runs
    assert started_by_a_test <= runs
    long = sorted(runs - started_by_a_test)
    assert [name for name in long if f"`python -m {name}`" not in notes] == []


def test_the_changelog_has_a_section_for_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(_version.__version__)}\b", changelog, re.MULTILINE)
