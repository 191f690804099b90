"""Norms that neither overflow nor vanish, and one vector for all of them."""

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gradwatch.sampling import SAMPLE_ELEMENTS
from gradwatch.torch.reading import EXACT_ELEMENTS, Key, Reading, plain, strided_sample

KEY = Key(0, "norm")
SMALL, LARGE = (64, 64), (512, 513)

assert math.prod(SMALL) <= EXACT_ELEMENTS < math.prod(LARGE)


def read(*tensors):
    """The norms of the tensors, taken together."""
    reading = Reading()
    keys = [Key(0, "norm", part) for part in range(len(tensors))]
    reading.add_norms(keys, tensors)
    reading.send()
    figures = reading.figures()
    return [float(figures[key][0]) for key in keys]


def sharp(values):
    """The norm in float64, by NumPy."""
    wide = values.to(torch.complex128 if values.is_complex() else torch.float64)
    return float(np.linalg.norm(wide.numpy().ravel()))


@pytest.mark.parametrize("size", [1e-30, 1e-25, 1e-22, 1e-19, 1e-10, 1.0, 1e10, 1e18, 1e25, 1e30])
@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])
def test_values_of_any_size_have_a_norm(shape, size):
    values = torch.randn(shape) * size
    assert read(values) == pytest.approx([sharp(values)], rel=0.03)


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64],
    ids=lambda dtype: str(dtype).removeprefix("torch."),
)
@pytest.mark.parametrize("shape", [SMALL, LARGE, (), (1,)], ids=str)
def test_every_floating_type_has_a_norm(shape, dtype):
    values = torch.randn(shape).to(dtype)
    assert read(values) == pytest.approx([sharp(values)], rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bit_types_have_a_norm(dtype):
    values = torch.randn(SMALL).to(dtype)
    assert read(values) == pytest.approx([sharp(values.float())], rel=1e-5)


def test_half_precision_does_not_overflow():
    assert read(torch.full(LARGE, 6e4, dtype=torch.float16)) == pytest.approx(
        [6e4 * math.sqrt(math.prod(LARGE))], rel=1e-3
    )


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("size", [1.0, 1e25])
@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])
def test_one_value_that_is_not_finite_shows(shape, size, odd):
    values = torch.randn(shape) * size
    values[3, 5] = odd
    (norm,) = read(values)
    assert not math.isfinite(norm) or size > 1  # a sample stands in for an overflowed sum
    assert math.isnan(odd) == math.isnan(norm)


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])
def test_zeros_have_norm_zero(shape):
    assert read(torch.zeros(shape)) == [0.0]


def test_a_few_values_among_zeros_are_not_lost():
    values = torch.zeros(LARGE)
    values[7, 9] = 1e-15
    assert read(values) == pytest.approx([1e-15], rel=1e-3)


def test_an_empty_tensor_has_norm_zero():
    assert read(torch.empty(0, 4), torch.ones(4)) == [0.0, 2.0]


def test_norms_of_mixed_types_keep_their_order():
    tensors = [
        torch.randn(shape).to(dtype)
        for shape in (SMALL, LARGE, (3,))
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.complex64)
    ]
    assert read(*tensors) == pytest.approx([sharp(values) for values in tensors], rel=1e-4)


def test_a_norm_is_read_apart_from_autograd_and_without_change():
    values = torch.randn(4, requires_grad=True)
    before = values.detach().clone()
    read(values)
    assert torch.equal(values, before)
    assert values.grad is None
    assert not plain(values).requires_grad


def test_conjugate_views_are_read():
    values = torch.randn(4, dtype=torch.complex64).conj()
    assert read(values) == pytest.approx([sharp(values.resolve_conj())], rel=1e-6)


def test_a_reading_takes_over_another():
    one, other = Reading(), Reading()
    one.add(KEY, torch.tensor(1.0))
    other.add_norm(Key(1, "norm"), torch.full(LARGE, 1e-25))
    other.add(Key(2, "several"), torch.tensor([2.0, 3.0]))
    one.take(other)
    one.add(Key(3, "last"), torch.tensor(4.0))
    one.send()
    figures = {key: figure.tolist() for key, figure in one.figures().items()}
    assert figures == {
        KEY: [1.0],
        Key(1, "norm"): [pytest.approx(1e-25 * math.sqrt(math.prod(LARGE)))],
        Key(2, "several"): [2.0, 3.0],
        Key(3, "last"): [4.0],
    }


def test_an_empty_reading_is_ready_and_has_no_figures():
    reading = Reading()
    reading.send()
    assert reading.is_ready()
    assert reading.figures() == {}


class Copies(TorchDispatchMode):
    """Names of the operations."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def test_sending_joins_everything_once_and_reads_no_value():
    reading = Reading()
    with Copies() as copies:
        reading.add_norms([Key(row, "norm") for row in range(50)], [torch.ones(3)] * 50)
        reading.send()
    assert copies.names.count("cat") <= 2  # the tensors, and the figures
    assert copies.names.count("linalg_vector_norm") == 1
    assert "_local_scalar_dense" not in copies.names


@pytest.mark.parametrize(
    "shape",
    [(4096, 245), (1000, 1000), (448, 256, 3, 3), (64, 448, 3, 3), (70_000,), (5, 999_983)],
    ids=str,
)
def test_a_sample_sees_every_column_alike(shape):
    values = torch.arange(shape[-1], dtype=torch.float32).expand(shape).contiguous()
    sample = strided_sample(values)
    assert 0.7 * SAMPLE_ELEMENTS < sample.numel() <= SAMPLE_ELEMENTS
    seen = sample.unique().numel()
    assert seen >= 0.7 * min(shape[-1], SAMPLE_ELEMENTS)
    assert sample.mean().item() == pytest.approx(values.mean().item(), rel=0.05)


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values,
        lambda values: values.to(memory_format=torch.channels_last),
        lambda values: values.transpose(0, 1),
    ],
    ids=["contiguous", "channels last", "transposed"],
)
def test_a_sample_is_a_view_of_dense_memory(change):
    values = change(torch.randn(64, 64, 5, 5))
    sample = strided_sample(values)
    assert sample.untyped_storage().data_ptr() == values.untyped_storage().data_ptr()


def test_a_small_tensor_is_sampled_whole():
    values = torch.randn(64, 64)
    assert torch.equal(strided_sample(values), values.reshape(-1))
