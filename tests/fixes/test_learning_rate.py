"""Learning rates, and factors that make no sense."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gradwatch.errors import ArgumentError
from gradwatch.fixes.learning_rate import lower_learning_rate, raise_learning_rate

from .nets import run_torch


@pytest.mark.parametrize("factor", [0.0, 1.0, 10.0, -0.1, math.nan])
def test_lowering_takes_a_factor_between_zero_and_one(factor):
    with pytest.raises(ArgumentError, match=f"factor is {factor}"):
        lower_learning_rate([], factor=factor)


@pytest.mark.parametrize("factor", [1.0, 0.1, -2.0, math.inf, math.nan])
def test_raising_takes_a_finite_factor_above_one(factor):
    with pytest.raises(ArgumentError, match=f"factor is {factor}"):
        raise_learning_rate([], factor=factor)


@pytest.mark.parametrize("factor", [2.0, 1000.0, 1e6])
def test_the_factor_is_in_the_title(factor):
    assert f"by {factor:g}" in raise_learning_rate([], factor=factor).title


def test_every_parameter_group_keeps_its_relation_to_the_others():
    body, head = nn.Linear(2, 2), nn.Linear(2, 2)
    groups = [{"params": body.parameters(), "lr": 0.5}, {"params": head.parameters(), "lr": 2.0}]
    optimizer = torch.optim.SGD(groups)
    run_torch(lower_learning_rate([], factor=0.2), optimizer=optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.4])


def test_a_raised_rate_is_said_not_to_cure_a_vanishing_gradient():
    assert "the gradient vanishes" in raise_learning_rate([], factor=2.0).avoid_when
