"""What a layer's outputs say: spread of direction, and what loss their gradient comes from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradwatch
from gradwatch.torch.outputs import direction_spread, logit_misfit_ratio, logits_of

SQUASHED_TWICE = 1 / 30


def spread_by_hand(output: torch.Tensor) -> float:
    vectors = output.double().numpy().reshape(len(output), -1)
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return float(1 - np.square(directions.mean(axis=0)).sum())


@pytest.mark.parametrize("shape", [(8, 4), (64, 10), (16, 3, 5, 5), (32, 7, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_spread_is_that_of_the_formula(shape, dtype):
    torch.manual_seed(0)
    output = (torch.randn(shape) + 0.5).to(dtype)
    assert float(direction_spread(output)) == pytest.approx(spread_by_hand(output), rel=1e-4)


def test_examples_of_one_direction_have_no_spread_whatever_their_lengths():
    output = torch.rand(32, 1) * torch.randn(1, 16) * 1e3
    assert float(direction_spread(output)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_the_scale_changes_nothing(factor):
    output = torch.randn(32, 16)
    scaled = direction_spread(output * factor)
    assert float(scaled) == pytest.approx(float(direction_spread(output)), rel=1e-5)


def test_outputs_that_are_all_zero_do_not_count_as_one_direction():
    assert float(direction_spread(torch.zeros(16, 8))) == 1.0


@pytest.mark.parametrize("shape", [(7, 16), (16,), (16, 3), (0, 16)], ids=str)
def test_too_few_examples_or_features_have_no_spread(shape):
    assert direction_spread(torch.randn(shape)) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_does_not_make_it_coarse(dtype):
    torch.manual_seed(0)
    output = torch.ones(64, 16) + 0.03 * torch.randn(64, 16)
    output[0] = 0.0
    expected = float(direction_spread(output))
    with torch.autocast("cpu", dtype=dtype):
        assert float(direction_spread(output)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", [224, 256])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_of_images_no_single_column_is_looked_at(size, layout):
    """Examples that agree but for one column of pixels, which padding makes common."""
    torch.manual_seed(0)
    output = torch.randn(8, 16, size, size)
    output[..., 0] = 1.0
    found = direction_spread(output.contiguous(memory_format=layout))
    assert float(found) == pytest.approx(1 - 1 / 8, abs=0.02)


def test_a_recurrent_layer_with_time_first_is_judged_by_example():
    torch.manual_seed(0)
    model = nn.LSTM(4, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = torch.randn(12, 1, 4).expand(12, 16, 4).contiguous()
    with gradwatch.watch(model, optimizer, every=1, verbose=0) as watch:
        model(inputs)[0].sum().backward()
        optimizer.step()
    assert watch.history[0].direction_spread[0] == pytest.approx(0.0, abs=1e-6)


def test_of_large_outputs_a_sample_is_looked_at():
    torch.manual_seed(0)
    output = torch.randn(512, 64, 24, 24) + 1.0
    assert float(direction_spread(output)) == pytest.approx(0.5, abs=0.02)


def ratio(loss_of, *, units: int = 10, scale: float = 1.0, dtype=torch.float32) -> float:
    """Misfit ratio of random logits under a loss of (logits, targets)."""
    torch.manual_seed(0)
    logits = (scale * torch.randn(64, units)).to(dtype).requires_grad_()
    targets = torch.randint(max(units, 2), (64,))
    loss_of(logits, targets).backward()
    return float(logit_misfit_ratio(logits.detach().float(), logits.grad.float()))


def one_hot(targets: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    units = logits.shape[1]
    return targets[:, None].float() if units == 1 else F.one_hot(targets, units).float()


TWICE = {
    "softmax": lambda z, t: F.cross_entropy(z.softmax(1), t),
    "softmax, summed": lambda z, t: 1e6 * F.cross_entropy(z.softmax(1), t, reduction="sum"),
    "softmax, class weights": lambda z, t: F.cross_entropy(
        z.softmax(1), t, weight=torch.linspace(0.1, 3.0, z.shape[1])
    ),
    "sigmoid": lambda z, t: F.binary_cross_entropy_with_logits(z.sigmoid(), one_hot(t, z)),
    "sigmoid, then softmax": lambda z, t: F.cross_entropy(z.sigmoid(), t),
}

ONCE = {
    "cross-entropy": F.cross_entropy,
    "class weights": lambda z, t: F.cross_entropy(z, t, weight=torch.linspace(0.1, 3, z.shape[1])),
    "label smoothing": lambda z, t: F.cross_entropy(z, t, label_smoothing=0.1),
    "focal": lambda z, t: (
        (1 - z.softmax(1).gather(1, t[:, None])) ** 2 * -z.log_softmax(1).gather(1, t[:, None])
    ).mean(),
    "squared error": lambda z, t: F.mse_loss(z.softmax(1), one_hot(t, z)),
    "binary": lambda z, t: F.binary_cross_entropy_with_logits(z, one_hot(t, z)),
    "squared error of sigmoid": lambda z, t: F.mse_loss(z.sigmoid(), one_hot(t, z)),
    "regression": lambda z, t: F.mse_loss(z, one_hot(t, z)),
    "margin": F.multi_margin_loss,
    "policy": lambda z, t: -(z.log_softmax(1).gather(1, t[:, None]) * torch.randn(64, 1)).mean(),
}


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("units", [2, 3, 10, 100])
@pytest.mark.parametrize("loss_of", TWICE.values(), ids=TWICE.keys())
def test_a_loss_that_squashes_twice_is_told_from_all_others(loss_of, units, scale):
    if loss_of is TWICE["softmax, class weights"] and units == 2:
        pytest.skip("two classes are told apart by size, which class weights change")
    assert ratio(loss_of, units=units, scale=scale) < SQUASHED_TWICE


@pytest.mark.parametrize("scale", [0.01, 1.0, 4.0])
@pytest.mark.parametrize("units", [2, 3, 10, 1000])
@pytest.mark.parametrize("loss_of", ONCE.values(), ids=ONCE.keys())
def test_other_losses_are_left_alone(loss_of, units, scale):
    found = ratio(loss_of, units=units, scale=scale)
    assert np.isnan(found) or found > 2 * SQUASHED_TWICE


@pytest.mark.parametrize(
    ("loss_of", "twice"), [(TWICE["sigmoid"], True), (ONCE["binary"], False)], ids=["twice", "once"]
)
def test_a_single_unit_is_told_too(loss_of, twice):
    assert (ratio(loss_of, units=1) < SQUASHED_TWICE) is twice


def test_equal_logits_tell_nothing():
    assert np.isnan(ratio(F.cross_entropy, scale=0.0))


def test_no_gradient_tells_nothing():
    assert np.isnan(float(logit_misfit_ratio(torch.randn(8, 4), torch.zeros(8, 4))))


def test_one_number_tells_nothing():
    assert np.isnan(float(logit_misfit_ratio(torch.randn(1, 1), torch.randn(1, 1))))


def test_units_may_be_on_any_axis_and_few_examples_are_copied():
    output = torch.randn(2, 5, 3, 3)
    rows = logits_of(output, 1)
    assert rows.shape == (18, 5)
    assert torch.equal(rows[1], output[0, :, 0, 1])
    assert logits_of(torch.randn(100, 40_000), 1).shape == (1, 40_000)
    assert logits_of(torch.randn(8, 5, 64, 64), 1).shape == (64, 5)
    assert logits_of(torch.randn(16, 33, 7), 2).shape == (64, 7)
    assert logits_of(torch.randn(5), 0) is None


def squashed_twice(model: nn.Module) -> gradwatch.Snapshot:
    """The newest sample of a language model of 20 tokens whose loss takes probabilities."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tokens = torch.randint(20, (16, 5))
    with gradwatch.watch(model, optimizer, every=1, verbose=0) as watch:
        for _ in range(2):
            optimizer.zero_grad()
            probabilities = model(tokens).softmax(-1)
            F.cross_entropy(probabilities.flatten(0, 1), tokens.flatten()).backward()
            optimizer.step()
        return watch.history[-1]


def test_the_logits_of_tied_weights_are_read_too():
    """A language model's head has no parameters of its own, so no row: its owner's row has it."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(20, 8)
            self.hidden = nn.Linear(8, 8)
            self.head = nn.Linear(8, 20, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens):
            return self.head(self.hidden(self.embedding(tokens)))

    torch.manual_seed(0)
    newest = squashed_twice(Tied())
    assert [layer.name for layer in newest.layers] == ["embedding", "hidden"]
    assert newest.logit_misfit_ratio[0] < SQUASHED_TWICE


def test_of_several_calls_of_tied_weights_the_last_one_counts():
    """Tied weights may serve as a second embedding before they serve as the head."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(20, 20)
            self.second = nn.Linear(20, 20, bias=False)
            self.head = nn.Linear(20, 20, bias=False)
            self.second.weight = self.head.weight = self.embedding.weight

        def forward(self, tokens):
            return self.head(self.second(self.embedding(tokens)).tanh())

    torch.manual_seed(0)
    assert squashed_twice(Tied()).logit_misfit_ratio[0] < SQUASHED_TWICE


def test_a_watch_stores_both_figures_for_the_layers_that_have_them():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.Softmax(dim=1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, targets = torch.randn(32, 6), torch.randint(5, (32,))
    with gradwatch.watch(model, optimizer, every=1, verbose=0) as watch:
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            before = model[0](inputs).detach()
            optimizer.step()
        (hidden, last) = watch.history[-1].direction_spread
        assert hidden == pytest.approx(spread_by_hand(before), rel=1e-4)
        assert 0 < last < 1
        first, second = watch.history[0], watch.history[-1]
    assert np.isnan(first.logit_misfit_ratio).all(), "which layer is last is learned from a pass"
    assert np.isnan(second.logit_misfit_ratio[0])
    assert second.logit_misfit_ratio[1] < SQUASHED_TWICE
