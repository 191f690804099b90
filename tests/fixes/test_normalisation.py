"""Which normalisation goes behind which layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradwatch.fixes.normalisation import insert_normalisation
from gradwatch.layer import Layer

from .nets import run_torch


def normalised(module: nn.Module) -> tuple[nn.Module, str]:
    fix = insert_normalisation([Layer("net.layer", type(module).__name__)])
    model = nn.ModuleDict({"net": nn.ModuleDict({"layer": module})})
    run_torch(fix, model=model)
    return model["net"]["layer"], fix.snippets["torch"]


@pytest.mark.parametrize(
    ("module", "norm", "shape"),
    [
        (nn.Linear(6, 8), nn.LayerNorm, (4, 6)),
        (nn.Conv1d(3, 8, 3), nn.BatchNorm1d, (4, 3, 9)),
        (nn.Conv2d(3, 8, 3), nn.BatchNorm2d, (4, 3, 9, 9)),
        (nn.Conv3d(3, 8, 3), nn.BatchNorm3d, (4, 3, 9, 9, 9)),
        (nn.ConvTranspose2d(3, 8, 3), nn.BatchNorm2d, (4, 3, 9, 9)),
    ],
)
def test_the_output_of_a_layer_is_normalised_before_its_activation(module, norm, shape):
    wrapped, _ = normalised(module)
    assert [type(part) for part in wrapped] == [type(module), norm]
    assert wrapped(50 * torch.randn(shape)).std().item() == pytest.approx(1.0, abs=0.05)


def test_an_embedding_is_normalised_per_word():
    wrapped, _ = normalised(nn.Embedding(10, 32))
    words = wrapped(torch.arange(10))
    torch.testing.assert_close(words.mean(-1), torch.zeros(10), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "module", [nn.LSTM(4, 4), nn.MultiheadAttention(4, 2), nn.Bilinear(4, 4, 4)]
)
def test_a_layer_that_cannot_be_wrapped_stays_and_is_named_in_a_comment(module):
    wrapped, code = normalised(module)
    assert wrapped is module
    assert "# In __init__, for each of 'net.layer': self.norm = nn.LayerNorm" in code


def test_a_normalisation_is_not_normalised():
    norm = nn.LayerNorm(4)
    model = nn.ModuleDict({"norm": norm})
    run_torch(insert_normalisation([Layer("norm", "LayerNorm", weighted=False)]), model=model)
    assert model["norm"] is norm


def test_batch_norm_is_not_recommended_for_single_samples():
    fix = insert_normalisation([Layer("conv", "Conv2d")])
    assert "BatchNorm not if a batch holds few samples" in fix.avoid_when
    assert fix.lr_factor == 1
