"""Statistics of standardised inputs, by what reads them."""

from __future__ import annotations

import math

import pytest
import torch

from gradwatch.fixes.inputs import standardise_inputs
from gradwatch.layer import Layer

from .nets import run_torch


def standardised(inputs: torch.Tensor, kind: str, *, input_rms: float = 100.0) -> torch.Tensor:
    fix = standardise_inputs([Layer("first", kind)], input_rms=input_rms)
    return run_torch(fix, inputs=inputs)["inputs"]


@pytest.mark.parametrize(
    ("kind", "shape", "axes"),
    [
        ("Linear", (200, 5), (0,)),
        ("LSTM", (50, 7, 5), (0, 1)),
        ("Conv1d", (50, 5, 7), (0, 2)),
        ("Conv2d", (50, 5, 7, 7), (0, 2, 3)),
    ],
)
def test_every_feature_or_channel_is_standardised_by_itself(kind, shape, axes):
    inputs = 1000 * torch.rand(shape) + 500
    scaled = standardised(inputs, kind)
    assert scaled.shape == inputs.shape
    assert scaled.mean(axes).abs().max() < 1e-4
    assert scaled.std(axes).sub(1).abs().max() < 1e-4


def test_images_of_bytes_become_floats():
    pixels = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8)
    assert standardised(pixels, "Conv2d").dtype is torch.float32


def test_a_constant_feature_becomes_zero_and_not_nan():
    inputs = torch.randn(50, 3)
    inputs[:, 1] = 7.0
    assert not standardised(inputs, "Linear")[:, 1].any()


def test_the_measured_size_is_told():
    assert "rms is 147 " in standardise_inputs([], input_rms=147.2).rationale


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_broken_samples_are_dropped_where_the_inputs_are_not_finite(broken):
    inputs = torch.randn(50, 3)
    inputs[4, 1] = broken
    scaled = standardised(inputs, "Linear", input_rms=math.inf)
    assert scaled.shape == (49, 3)
    assert scaled.isfinite().all()
