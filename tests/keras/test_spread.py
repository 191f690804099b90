"""What a layer's outputs say of the network is the same in Keras as in PyTorch."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
keras = pytest.importorskip("keras")

from gradwatch.keras import spread as in_keras  # noqa: E402 -- needs Keras
from gradwatch.torch import outputs as in_torch  # noqa: E402 -- needs PyTorch

# Keras itself, and what it imports, calls NumPy in ways that NumPy 2.4 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SHAPES = [(8, 4), (16, 7), (80, 3, 5), (9, 6, 6, 4), (12, 5000), (64, 2048)]
TOO_SMALL = [(7, 40), (16, 3), (16,), (8, 1, 3)]
LOGITS = [(16, 4), (64, 2), (8, 1), (4, 3), (2, 2), (64, 300)]


def drawn(*shape, seed=0, scale=1.0):
    values = scale * np.random.default_rng(seed).normal(size=shape)
    return values.astype(np.float32)


def number(tensor):
    return float(keras.ops.convert_to_numpy(tensor))


def both(name, *arrays, **options):
    """The figure that each adapter makes of the same arrays."""
    of_keras = getattr(in_keras, name)(*map(keras.ops.convert_to_tensor, arrays), **options)
    of_torch = getattr(in_torch, name)(*map(torch.from_numpy, arrays), **options)
    return of_keras, of_torch


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("offset", [0.0, 1.0, 30.0])
def test_direction_spread(shape, offset):
    of_keras, of_torch = both("direction_spread", drawn(*shape) + np.float32(offset))
    assert 0 <= number(of_keras) <= 1
    assert number(of_keras) == pytest.approx(of_torch.item(), rel=1e-4, abs=1e-6)


def test_an_example_without_direction_counts_as_different():
    output = drawn(16, 6)
    output[::2] = 0
    of_keras, of_torch = both("direction_spread", output)
    assert number(of_keras) == pytest.approx(of_torch.item(), rel=1e-5)


@pytest.mark.parametrize("shape", TOO_SMALL)
def test_too_few_examples_or_features_have_no_spread(shape):
    assert both("direction_spread", drawn(*shape)) == (None, None)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((16, 4), 1),
        ((80, 4), 1),
        ((8, 20, 5), 2),
        ((8, 5, 20), 1),
        ((3, 40000), 1),
        ((4, 9, 9, 2), 3),
    ],
)
def test_logits_are_the_same_examples(shape, axis):
    of_keras, of_torch = both("logits_of", drawn(*shape), unit_axis=axis)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(of_keras), of_torch.numpy())


@pytest.mark.parametrize("shape", [(16,), (0, 4)])
def test_nothing_to_compare_gives_no_logits(shape):
    assert both("logits_of", drawn(*shape), unit_axis=len(shape) - 1) == (None, None)


@pytest.mark.parametrize("shape", LOGITS)
@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0])
def test_misfit_of_a_random_gradient(shape, scale):
    of_keras, of_torch = both(
        "logit_misfit_ratio", drawn(*shape), drawn(*shape, seed=1, scale=scale)
    )
    assert number(of_keras) == pytest.approx(of_torch.item(), rel=1e-4, nan_ok=True)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("units", [1, 2, 5])
def test_misfit_of_a_cross_entropy_that_took_probabilities_for_logits(units, scale):
    logits = torch.from_numpy(drawn(32, units)).requires_grad_()
    if units == 1:
        target = torch.from_numpy((drawn(32, 1, seed=2) > 0).astype(np.float32))
        probability = logits.sigmoid()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(probability, target)
    else:
        target = torch.arange(32) % units
        loss = torch.nn.functional.cross_entropy(logits.softmax(1), target)
    (gradient,) = torch.autograd.grad(scale * loss, logits)
    of_keras, of_torch = both("logit_misfit_ratio", logits.detach().numpy(), gradient.numpy())
    assert number(of_keras) < 1e-3
    assert of_torch.item() < 1e-3


@pytest.mark.parametrize("units", [1, 3])
def test_misfit_of_a_gradient_of_zero_cannot_be_told(units):
    of_keras, of_torch = both(
        "logit_misfit_ratio", drawn(16, units), np.zeros((16, units), np.float32)
    )
    assert np.isnan(number(of_keras))
    assert np.isnan(of_torch.item())


def test_misfit_of_too_few_numbers_cannot_be_told():
    of_keras, of_torch = both("logit_misfit_ratio", drawn(7, 1), drawn(7, 1, seed=1))
    assert of_keras is None
    assert np.isnan(of_torch.item())
