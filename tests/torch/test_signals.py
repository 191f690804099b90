"""Signals of nets that are no plain chain, against plain autograd."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 -- PyTorch's own name for it
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint

import gradwatch
from gradwatch import Snapshot


def observe(model: nn.Module, *inputs: Any, loss_of=None) -> Snapshot:
    """The snapshot of one step; gradients must be those of the same step unwatched."""
    loss_of = loss_of or (lambda *given: first_tensor(model(*given)).square().sum())
    state = torch.get_rng_state()
    loss_of(*inputs).backward()
    plain = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    torch.set_rng_state(state)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradwatch.watch(model, optimizer, every=1, verbose=0) as watch:
        loss = loss_of(*inputs)
        watch.observe_loss(loss)
        loss.backward()
        for name, parameter in model.named_parameters():
            gradient = plain[name]
            assert (parameter.grad is None) == (gradient is None)
            assert gradient is None or torch.equal(gradient, parameter.grad)
        optimizer.step()
    assert not watch.history.limits
    return watch.history[-1]


def first_tensor(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    return first_tensor(next(iter(output.values() if isinstance(output, dict) else output)))


def by_name(snapshot: Snapshot, statistic: str) -> dict[str, float]:
    values = getattr(snapshot, statistic)
    return {layer.name: float(value) for layer, value in zip(snapshot.layers, values, strict=True)}


def wiring(snapshot: Snapshot) -> dict[str, set[str]]:
    names = [layer.name for layer in snapshot.layers]
    return {layer.name: {names[row] for row in layer.inputs} for layer in snapshot.layers}


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        self.kept = x
        return self.head(x + self.branch(x))


def test_a_residual_branch_shows_its_own_share_of_the_gradient():
    torch.manual_seed(0)
    model, inputs = Residual(), torch.randn(7, 5)
    snapshot = observe(model, inputs)
    trunk = model.stem(inputs)
    output = model.head(trunk + model.branch(trunk))
    whole, from_head = torch.autograd.grad(output.square().sum(), (trunk, output))
    through_branch = (from_head @ model.head.weight @ model.branch.weight).detach()
    shares = by_name(snapshot, "input_grad_norm")
    assert shares["branch"] == pytest.approx(float(through_branch.norm()), rel=1e-4)
    assert by_name(snapshot, "output_grad_norm")["stem"] == pytest.approx(
        float(whole.norm()), rel=1e-4
    )
    assert wiring(snapshot) == {"stem": set(), "branch": {"stem"}, "head": {"stem", "branch"}}


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        hidden += x
        return F.relu_(self.second(self.act(hidden)))


def test_in_place_activations_and_additions_are_seen():
    torch.manual_seed(0)
    snapshot = observe(InPlace(), torch.randn(7, 5))
    assert [layer.activation for layer in snapshot.layers] == ["relu", "relu"]
    assert [layer.activation_module for layer in snapshot.layers] == ["act", None]
    assert (snapshot.mean_slope > 0).all() and (snapshot.mean_slope < 1).all()


class Outputs(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body, self.kind = nn.Linear(5, 5), kind
        self.inner = Inner(kind)

    def forward(self, x: Tensor) -> Any:
        return self.inner(torch.tanh(self.body(x)))


class Inner(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.weight, self.kind = nn.Parameter(torch.randn(5, 5)), kind

    def forward(self, x: Tensor) -> Any:
        y = x @ self.weight
        return {"tensor": y, "dict": {"a": y, "b": None}, "tuple": (y, 3), "list": [y]}[self.kind]


@pytest.mark.parametrize("kind", ["tensor", "dict", "tuple", "list"])
def test_outputs_of_every_kind_are_seen(kind):
    torch.manual_seed(0)
    snapshot = observe(Outputs(kind), torch.randn(7, 5))
    assert (snapshot.output_grad_norm > 0).all()
    assert wiring(snapshot)["inner"] == {"body"}


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layer(torch.tanh(self.layer(x)))))


def test_repeated_calls_combine_by_root_sum_square():
    torch.manual_seed(0)
    model, inputs = Shared(), torch.randn(7, 5)
    snapshot = observe(model, inputs)
    one = model.layer(inputs)
    two = model.layer(torch.tanh(one))
    gradients = torch.autograd.grad(model.head(torch.tanh(two)).square().sum(), (one, two))
    expected = float(torch.cat(gradients).norm())
    assert by_name(snapshot, "output_grad_norm")["layer"] == pytest.approx(expected, rel=1e-4)
    assert by_name(snapshot, "forward_calls")["layer"] == 2
    assert snapshot.layers[0].recurrent


class Fused(nn.Module):
    """A layer that applies its activation itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x @ self.weight)


def test_an_activation_inside_a_layer_is_its_activation_not_its_weights():
    torch.manual_seed(0)
    model, inputs = nn.Sequential(Fused(), Fused()), torch.randn(7, 5)
    snapshot = observe(model, inputs)
    before = torch.sigmoid(inputs @ model[0].weight) @ model[1].weight
    (gradient,) = torch.autograd.grad(torch.sigmoid(before).square().sum(), before)
    assert snapshot.output_grad_norm[1] == pytest.approx(float(gradient.norm()), rel=1e-4)
    assert [layer.activation for layer in snapshot.layers] == ["sigmoid", "sigmoid"]


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.gate, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.body(x)) * torch.sigmoid(self.gate(x)))


def test_a_gate_is_no_activation():
    torch.manual_seed(0)
    snapshot = observe(Gated(), torch.randn(7, 5))
    assert [layer.activation for layer in snapshot.layers] == ["relu", None, None]


class Halves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(5, 3), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("this model is only called by its halves")


def test_halves_that_are_called_apart_are_one_net():
    torch.manual_seed(0)
    model = Halves()
    inputs = torch.randn(7, 5)
    snapshot = observe(
        model,
        inputs,
        loss_of=lambda x: model.decoder(torch.tanh(model.encoder(x))).square().sum(),
    )
    assert wiring(snapshot) == {"encoder": set(), "decoder": {"encoder"}}
    assert snapshot.layers[0].activation == "tanh"
    assert np.isfinite(snapshot.backward_depth)


def test_an_activation_in_the_loss_function_belongs_to_the_last_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    inputs, targets = torch.randn(7, 5), torch.rand(7, 2)
    snapshot = observe(
        model, inputs, loss_of=lambda x: F.mse_loss(torch.sigmoid(model(x)), targets)
    )
    assert [layer.activation for layer in snapshot.layers] == ["relu", "sigmoid"]


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool | None) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 2)
        self.reentrant, self.runs = reentrant, 0

    def block(self, x: Tensor) -> Tensor:
        self.runs += 1
        return torch.relu(self.middle(x))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        if self.reentrant is None:
            return self.last(self.block(x))
        return self.last(checkpoint(self.block, x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_changes_no_figure_and_recomputes_once(reentrant):
    torch.manual_seed(0)
    inputs = torch.randn(7, 5)
    plain = Checkpointed(reentrant=None)
    model = Checkpointed(reentrant=reentrant)
    model.load_state_dict(plain.state_dict())
    expected, snapshot = observe(plain, inputs), observe(model, inputs)
    for statistic in ("output_rms", "output_grad_norm", "input_grad_norm", "forward_calls"):
        np.testing.assert_allclose(
            getattr(snapshot, statistic), getattr(expected, statistic), rtol=1e-5
        )
    assert wiring(snapshot) == wiring(expected)
    assert model.runs == 4  # two steps, each run once and recomputed once


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.idle = nn.Linear(5, 5), nn.Linear(5, 2), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.body(x)
        return self.head(x)


def test_a_layer_under_no_grad_in_training_ran_and_an_idle_one_did_not():
    snapshot = observe(Detached(), torch.randn(7, 5))
    assert by_name(snapshot, "forward_calls") == {"body": 1, "head": 1, "idle": 0}
    assert np.isnan(by_name(snapshot, "output_grad_norm")["body"])


def test_an_evaluation_between_steps_is_not_counted():
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.watch(model, optimizer, every=1, verbose=0) as watch:
        model(torch.randn(7, 5)).sum().backward()
        with torch.no_grad():
            model(torch.full((7, 5), 1e6))
        optimizer.step()
    assert (watch.history[-1].forward_calls == 1).all()
    assert watch.history[-1].input_rms[0] < 10


def test_a_forward_that_raises_leaves_the_next_step_right():
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.watch(model, optimizer, every=1, verbose=0) as watch:
        with pytest.raises(RuntimeError):
            model(torch.randn(7, 4))
        model(torch.randn(7, 5)).sum().backward()
        optimizer.step()
        model(torch.randn(7, 5)).sum().backward()
        optimizer.step()
    assert (watch.history[-1].forward_calls == 1).all()
    assert wiring(watch.history[-1]) == {"0": set(), "1": {"0"}}


class ReadsSequence(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **facts: Any) -> None:
        super().__init__()
        self.recurrent = kind(3, 8, **facts)
        self.head = nn.Linear(8 * (2 if facts.get("bidirectional") else 1), 2)

    def forward(self, sequence: Tensor) -> Tensor:
        states, _ = self.recurrent(sequence)
        return self.head(states[:, -1] if self.recurrent.batch_first else states[-1])


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("facts", [{}, {"num_layers": 2}, {"batch_first": True}])
def test_decay_over_time_is_that_of_the_input_gradient(kind, facts):
    torch.manual_seed(0)
    model = ReadsSequence(kind, **facts)
    sequence = torch.randn(4, 20, 3) if facts.get("batch_first") else torch.randn(20, 4, 3)
    snapshot = observe(model, sequence)
    leaf = sequence.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf).square().sum(), leaf)
    rest = (0, 2) if facts.get("batch_first") else (1, 2)
    norms = gradient.double().square().sum(dim=rest).sqrt()
    decay = float(torch.log10(norms[0] / norms.max()))
    assert by_name(snapshot, "time_decay_log10")["recurrent"] == pytest.approx(decay, abs=1e-3)
    assert snapshot.layers[0].recurrent


class ReadsPacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.head = nn.GRU(3, 8), nn.Linear(8, 2)

    def forward(self, sequence: Tensor) -> Tensor:
        _, last = self.recurrent(pack_padded_sequence(sequence, [12, 9, 5]))
        return self.head(last[-1])


def test_packed_sequences_decay_over_time_too():
    torch.manual_seed(0)
    model, sequence = ReadsPacked(), torch.randn(12, 3, 3)
    snapshot = observe(model, sequence)
    leaf = sequence.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf).square().sum(), leaf)
    norms = gradient.square().sum(dim=(1, 2)).sqrt()
    decay = float(torch.log10(norms[0] / norms.max()))
    assert by_name(snapshot, "time_decay_log10")["recurrent"] == pytest.approx(decay, abs=1e-3)


class Unrolled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.again, self.head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, sequence: Tensor) -> Tensor:
        state = torch.zeros(sequence.shape[1], 8)
        for inputs in sequence:
            state = torch.tanh(self.into(inputs) + self.again(state))
        return self.head(state)


def test_a_hand_written_recurrence_decays_over_time():
    torch.manual_seed(0)
    model = Unrolled()
    nn.init.orthogonal_(model.again.weight, gain=0.3)
    snapshot = observe(model, torch.randn(20, 4, 3))
    assert by_name(snapshot, "time_decay_log10")["again"] < -8
    assert np.isnan(by_name(snapshot, "time_decay_log10")["head"])


class Vision(nn.Module):
    """A root that owns parameters beside its children, and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 9, 16))
        self.embed = nn.Linear(8, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x)], dim=1) + self.position
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.norm(x)[:, 0])


def test_a_root_with_parameters_of_its_own_does_not_hide_the_net():
    torch.manual_seed(0)
    snapshot = observe(Vision(), torch.randn(5, 8, 8))
    edges = wiring(snapshot)
    assert edges["attention"] == {"embed"}
    assert edges["norm"] == {"embed", "attention"}
    assert edges["head"] == {"norm"}
    assert np.isnan(by_name(snapshot, "output_grad_norm")["Vision"])
    assert by_name(snapshot, "forward_calls")["attention"] == 1
    assert np.isfinite(snapshot.backward_depth)


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(input=torch.relu(self.first(input=x)))


def test_calls_by_keyword_are_seen_but_for_their_input():
    snapshot = observe(ByKeyword(), torch.randn(7, 5))
    assert (snapshot.output_grad_norm > 0).all()
    assert np.isnan(snapshot.input_grad_norm).all()
    assert wiring(snapshot) == {"first": set(), "second": {"first"}}


def test_a_gradient_penalty_and_higher_derivatives_do_no_harm():
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 1))

    def penalised(inputs: Tensor) -> Tensor:
        inputs = inputs.clone().requires_grad_()
        output = model(inputs).sum()
        (gradient,) = torch.autograd.grad(output, inputs, create_graph=True)
        return output + gradient.square().sum()

    snapshot = observe(model, torch.randn(7, 5), loss_of=penalised)
    assert (snapshot.output_grad_norm > 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_precision_of_autocast_is_noted(dtype):
    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))

    def cast(inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype):
            return model(inputs).float().square().sum()

    snapshot = observe(model, torch.randn(7, 5), loss_of=cast)
    tiny = {torch.float16: 2.0**-24, torch.bfloat16: 2.0**-133}[dtype]
    np.testing.assert_allclose(snapshot.tiny_log10, np.log10(tiny), rtol=1e-4)


def test_norms_of_large_tensors_neither_underflow_nor_overflow():
    model = nn.Linear(400, 400, bias=False)
    for scale in (1e-30, 1e30):
        snapshot = observe(
            model,
            torch.full((1, 400), 1.0),
            loss_of=lambda x, scale=scale: (model(x) * scale).sum(),
        )
        assert snapshot.grad_norm[0] == pytest.approx(400 * scale, rel=0.02)
