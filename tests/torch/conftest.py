"""Every test of the PyTorch adapter: one thread, and no watch that outlives it."""

import pytest
import torch

from gradwatch.torch.watching import _WATCHES


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def closed_watches():
    torch.manual_seed(0)
    yield
    for watch in list(_WATCHES.values()):
        watch.close()
    _WATCHES.clear()


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
