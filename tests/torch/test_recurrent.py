"""Signals over time, against the input gradient by plain autograd."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from gradwatch.norms import decay_and_growth_log10
from gradwatch.torch.recurrent import packed_squares

from .observed import by_name, norm, observe, reference, rms, wiring

TIME, BATCH, SIZE = 12, 4, 3
KINDS = [nn.RNN, nn.GRU, nn.LSTM]
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two layers": {"num_layers": 2},
    "batch first": {"batch_first": True},
    "bidirectional": {"bidirectional": True},
    "dropout": {"num_layers": 2, "dropout": 0.3},
}


class Reader(nn.Module):
    """Reads a sequence; only its last state counts."""

    def __init__(self, kind: type[nn.RNNBase], **facts: Any) -> None:
        super().__init__()
        self.recurrent = kind(SIZE, 8, **facts)
        self.head = nn.Linear(8 * (2 if facts.get("bidirectional") else 1), 2)

    def forward(self, sequence: Tensor) -> Tensor:
        states, _ = self.recurrent(sequence)
        return self.head(states[:, -1] if self.recurrent.batch_first else states[-1])


def sequence_for(model: Reader) -> Tensor:
    batch_first = model.recurrent.batch_first
    return torch.randn((BATCH, TIME, SIZE) if batch_first else (TIME, BATCH, SIZE))


def over_time(gradient: Tensor, axis: int) -> list[float]:
    return [norm(step) for step in gradient.unbind(axis)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("facts", FORMS.values(), ids=FORMS.keys())
def test_decay_growth_and_input_gradient_are_those_of_the_sequence(kind, facts):
    model = Reader(kind, **facts)
    sequence, random = sequence_for(model), torch.get_rng_state()
    snapshot = observe(model, sequence)
    torch.set_rng_state(random)
    leaf = sequence.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf).square().sum(), leaf)
    norms = over_time(gradient, 1 if facts.get("batch_first") else 0)
    expected = {
        "time_decay_log10": math.log10(norms[0] / max(norms)),
        "time_growth_log10": math.log10(max(norms) / norms[-1]),
        "input_grad_norm": norm(gradient),
        "input_rms": rms(sequence),
        "forward_calls": 1,
    }
    found = {name: by_name(snapshot, name)["recurrent"] for name in expected}
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert snapshot.layers[0].recurrent
    assert not snapshot.layers[1].recurrent
    assert wiring(snapshot)["head"] == {"recurrent"}


@pytest.mark.parametrize("kind", KINDS)
def test_an_embedded_sequence_has_the_same_decay_and_backward_depth(kind):
    class Embedded(Reader):
        def __init__(self) -> None:
            super().__init__(kind)
            self.embed = nn.Embedding(9, SIZE)

        def forward(self, tokens: Tensor) -> Tensor:
            return super().forward(self.embed(tokens))

    model, tokens = Embedded(), torch.randint(0, 9, (TIME, BATCH))
    snapshot = observe(model, tokens)
    gradients = reference(model, tokens)
    norms = over_time(gradients["embed"][0], 0)
    assert by_name(snapshot, "time_decay_log10")["recurrent"] == pytest.approx(
        math.log10(norms[0] / max(norms)), abs=1e-4
    )
    depth = math.log10(norm(gradients["embed"][0]) / norm(gradients["head"][0]))
    assert snapshot.backward_depth == pytest.approx(depth, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_sequence_is_seen_by_time_step(kind):
    class Packed(Reader):
        def forward(self, sequence: Tensor) -> Tensor:
            packed = pack_padded_sequence(sequence, [12, 9, 5, 5])
            states, _ = pad_packed_sequence(self.recurrent(packed)[0])
            return self.head(states.sum(0))

    model, sequence = Packed(kind), torch.randn(TIME, BATCH, SIZE)
    snapshot = observe(model, sequence)
    leaf = sequence.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf).square().sum(), leaf)
    norms = over_time(gradient, 0)
    assert by_name(snapshot, "time_decay_log10")["recurrent"] == pytest.approx(
        math.log10(norms[0] / max(norms)), abs=1e-4
    )
    assert by_name(snapshot, "input_grad_norm")["recurrent"] == pytest.approx(
        norm(gradient), rel=1e-4
    )


def test_a_single_sequence_without_a_batch_is_seen_by_time_step():
    class Single(Reader):
        def forward(self, sequence: Tensor) -> Tensor:
            return self.head(self.recurrent(sequence)[0][-1])

    model, sequence = Single(nn.GRU, batch_first=True), torch.randn(TIME, SIZE)
    snapshot = observe(model, sequence)
    leaf = sequence.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf).square().sum(), leaf)
    norms = over_time(gradient, 0)
    assert by_name(snapshot, "time_decay_log10")["recurrent"] == pytest.approx(
        math.log10(norms[0] / max(norms)), abs=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_seen_too(dtype):
    model = Reader(nn.LSTM).to(dtype)
    snapshot = observe(model, torch.randn(TIME, BATCH, SIZE, dtype=dtype))
    assert by_name(snapshot, "time_decay_log10")["recurrent"] < 0


class Unrolled(nn.Module):
    """A recurrent net written by hand: a linear layer is called at every step."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.into, self.again, self.head = nn.Linear(SIZE, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        nn.init.orthogonal_(self.again.weight, gain=gain)

    def forward(self, sequence: Tensor) -> Tensor:
        state = torch.zeros(sequence.shape[1], 8)
        for inputs in sequence:
            state = torch.tanh(self.into(inputs) + self.again(state))
        return self.head(state)


@pytest.mark.parametrize(("gain", "steps"), [(0.3, 20), (1.5, 20), (1.0, 8)])
def test_decay_of_a_recurrence_by_hand_is_that_of_its_calls(gain, steps):
    model, sequence = Unrolled(gain), torch.randn(steps, BATCH, SIZE)
    snapshot = observe(model, sequence)
    norms = [norm(gradient) for gradient in reference(model, sequence)["again"]]
    assert len(norms) == steps
    decay, growth = (
        by_name(snapshot, name)["again"] for name in ("time_decay_log10", "time_growth_log10")
    )
    assert decay == pytest.approx(math.log10(norms[0] / max(norms)), abs=1e-4)
    assert growth == pytest.approx(math.log10(max(norms) / norms[-1]), abs=1e-4)
    assert by_name(snapshot, "output_grad_norm")["again"] == pytest.approx(
        float(np.linalg.norm(norms)), rel=1e-4
    )
    assert by_name(snapshot, "forward_calls")["again"] == steps
    assert [layer.recurrent for layer in snapshot.layers] == [False, True, False]
    assert wiring(snapshot) == {"into": set(), "again": {"into"}, "head": {"into", "again"}}


def test_fewer_than_eight_calls_have_no_decay():
    snapshot = observe(Unrolled(0.3), torch.randn(7, BATCH, SIZE))
    assert np.isnan(snapshot.time_decay_log10).all()


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
@pytest.mark.parametrize("from_outside", [False, True], ids=["in a net", "called from outside"])
def test_cells_decay_over_their_calls(kind, from_outside):
    class Cells(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = kind(SIZE, 8), nn.Linear(8, 2)

        def forward(self, sequence: Tensor) -> Tensor:
            return unrolled(self, sequence)

    def unrolled(model: Any, sequence: Tensor) -> Tensor:
        state = None
        for inputs in sequence:
            state = model.cell(inputs, state)
        return model.head(state[0] if isinstance(state, tuple) else state)

    def loss_of(model: Any, sequence: Tensor) -> Tensor:
        run = unrolled if from_outside else nn.Module.__call__
        return run(model, sequence).square().sum()

    model, sequence = Cells(), torch.randn(15, BATCH, SIZE)
    snapshot = observe(model, sequence, loss_of=loss_of)
    assert snapshot.layers[0].recurrent
    assert by_name(snapshot, "forward_calls")["cell"] == 15
    assert wiring(snapshot)["head"] == {"cell"}
    states: list[tuple[Tensor, ...]] = []
    model.cell.register_forward_hook(
        lambda _module, _inputs, output: states.append(
            output if isinstance(output, tuple) else (output,)
        )
    )
    loss = loss_of(model, sequence)
    tensors = [tensor for state in states for tensor in state]
    gradients = iter(torch.autograd.grad(loss, tensors, allow_unused=True))
    norms = []
    for state in states:
        parts = [next(gradients) for _ in state]
        norms.append(norm(*(part for part in parts if part is not None)))
    assert by_name(snapshot, "output_grad_norm")["cell"] == pytest.approx(
        float(np.linalg.norm(norms)), rel=1e-4
    )
    assert by_name(snapshot, "time_decay_log10")["cell"] == pytest.approx(
        math.log10(norms[0] / max(norms)), abs=1e-4
    )


def test_the_longest_of_several_sequences_counts():
    class Twice(Reader):
        def forward(self, sequence: Tensor) -> Tensor:
            return super().forward(sequence) + super().forward(sequence[:3])

    model, sequence = Twice(nn.RNN), torch.randn(TIME, BATCH, SIZE)
    snapshot = observe(model, sequence)
    leaf = sequence.clone().requires_grad_()
    long = Reader.forward(model, leaf)
    (gradient,) = torch.autograd.grad(long, leaf, grad_outputs=2 * model(sequence).detach())
    norms = over_time(gradient, 0)
    assert by_name(snapshot, "time_decay_log10")["recurrent"] == pytest.approx(
        math.log10(norms[0] / max(norms)), abs=1e-4
    )


def test_rows_of_a_packed_sequence_are_summed_by_time_step():
    squares = np.arange(1.0, 7.0)
    np.testing.assert_array_equal(packed_squares(squares, [3, 2, 1]), [6.0, 9.0, 6.0])


@pytest.mark.parametrize(
    ("norms", "expected"),
    [
        ([1.0, 10.0, 0.1], (-1.0, 2.0)),
        ([0.0, 1.0], (-45.0, 0.0)),
        ([1.0, 10.0, 0.0], (-1.0, 0.0)),
        ([0.0, 0.0], (math.nan, math.nan)),
        ([1.0, math.inf], (math.nan, math.nan)),
        ([math.nan, 1.0], (math.nan, math.nan)),
    ],
)
def test_decay_and_growth_of_given_norms(norms, expected):
    assert decay_and_growth_log10(np.array(norms)) == pytest.approx(expected, nan_ok=True)
