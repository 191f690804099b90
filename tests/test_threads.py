"""How many threads the tests run on."""

import os

import torch


def test_torch_was_loaded_after_its_threads_were_limited():
    assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"])
