"""One thread, for the nets are tiny and test processes share the machine; no mode is left on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _no_anomaly_mode_left_on() -> Iterator[None]:
    """The Keras snippet for a NaN turns PyTorch's anomaly mode on for good."""
    yield
    torch.autograd.set_detect_anomaly(False)
