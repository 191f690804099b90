"""Every test of the Keras adapter: a state of its own, and nothing of a test before it."""

import pytest


@pytest.fixture(autouse=True)
def seeded():
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    keras = pytest.importorskip("keras")
    if keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(1)
