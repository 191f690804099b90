"""Data parallelism on two devices gives the figures of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache

import keras
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="Keras has no data parallelism on PyTorch"
)


@cache
def trained(devices: str) -> dict:
    environment = {
        **os.environ,
        "KERAS_BACKEND": keras.backend.backend(),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={2 if devices == 'two' else 1}",
    }
    run = subprocess.run(
        [sys.executable, "-m", "tests.keras.distributed", devices],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["grad_norm", "weight_norm", "update_ratio", "loss"])
def test_what_the_training_does_is_seen_as_on_one_device(name):
    one, two = (trained(devices)["observed"][name] for devices in ("one", "two"))
    assert np.isfinite(one).all()
    np.testing.assert_allclose(two, one, rtol=1e-4)


def test_the_probe_sees_signals_of_the_same_flow():
    one, two = (
        np.asarray(trained(devices)["observed"]["output_grad_norm"]) for devices in ("one", "two")
    )
    flow = one[:, 0] / one[:, 1]
    np.testing.assert_allclose(two[:, 0] / two[:, 1], flow, rtol=0.5)  # of half of the batch


def test_nothing_is_missing():
    assert trained("two")["limits"] == []
