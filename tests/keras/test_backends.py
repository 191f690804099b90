"""Each backend is imported alone, versions are checked, and what is not seen is said."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

keras = pytest.importorskip("keras")

from gradwatch.errors import GradwatchError  # noqa: E402 -- after the check
from gradwatch.keras.versions import (  # noqa: E402 -- needs Keras
    BACKENDS,
    NEWEST,
    OLDEST,
    check_versions,
)
from tests.keras.own_steps import Silent  # noqa: E402 -- needs Keras
from tests.keras.training import BACKEND, compiled, fit, watch  # noqa: E402 -- needs Keras

layers = keras.layers

pytestmark = [
    # Keras itself, and what it imports, calls NumPy in ways that NumPy 2.4 deprecates.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

FRAMEWORKS = ("tensorflow", "jax", "torch", "tensorboard")


def imported_by(statement):
    """The frameworks that a fresh process has imported after a statement."""
    script = f"import sys; {statement}; sys.stdout.write(' '.join(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={**os.environ, "KERAS_BACKEND": BACKEND},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(FRAMEWORKS) & set(run.stdout.split())


TRAINING = """
import numpy as np, keras, gradwatch.keras
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
callback = gradwatch.keras.GradWatch(verbose=0)
model.fit(np.zeros((4, 2)), np.zeros((4, 1)), verbose=0, callbacks=[callback])
assert len(callback.history) == 1
"""


def test_a_training_imports_no_framework_that_keras_does_not_import_itself():
    training = f"exec({TRAINING!r})"
    alone = training.replace("gradwatch.keras", "gradwatch").replace(
        "callback = gradwatch.GradWatch(verbose=0)", "callback = keras.callbacks.Callback()"
    )
    alone = alone.replace("assert len(callback.history) == 1", "")
    plain = imported_by(alone)
    assert BACKEND in plain
    assert imported_by(training) == plain


def test_a_framework_that_is_imported_besides_would_be_noticed():
    assert "tensorboard" in imported_by("import tensorboard")


# --- versions


def test_versions_that_were_run_are_taken():
    for_each = [OLDEST, NEWEST]
    assert [check_versions(f"{major}.{minor}.0") for major, minor in for_each] == [None, None]


@pytest.mark.parametrize("version", ["3.9.2", "2.15.0"])
def test_an_older_keras_is_refused_with_the_way_out(version):
    with pytest.raises(GradwatchError, match=rf"Keras {version} is older.*pip install -U .*3\.12"):
        check_versions(version)


def test_a_backend_that_does_not_train_is_refused_with_the_way_out():
    with pytest.raises(GradwatchError, match='"numpy", which does not train: set it to one of'):
        check_versions(backend="numpy")


def test_a_newer_keras_is_taken_with_a_warning():
    with pytest.warns(
        UserWarning, match=r"made for Keras 3\.12 to .*, and was never run with 3\.99\.0"
    ):
        check_versions("3.99.0")


@pytest.mark.parametrize("version", ["3.14.0.dev20251024", "3.12.0rc1"])
def test_a_version_of_a_night_is_taken(version):
    assert check_versions(version) is None


def test_the_backend_of_this_process_is_one_that_trains():
    assert BACKEND in BACKENDS


# --- a step of one's own


def test_a_step_that_never_calls_the_optimizer_is_said():
    inputs = keras.Input((5,))
    model = compiled(Silent(inputs, layers.Dense(3)(inputs)), run_eagerly=BACKEND == "torch")
    callback = watch()
    fit(model, callback)
    (finding,) = [found for found in callback.findings if found.code == "GW902"]
    assert "never seen to call the optimizer" in finding.message
    method = "stateless_apply" if BACKEND == "jax" else "apply"
    assert f"optimizer.{method}" in finding.message
    assert len(callback.history) == 0
