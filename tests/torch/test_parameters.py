"""Gradients are the optimizer's own, updates are measured, and every layer has a state."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim import LBFGS, SGD, Adam, AdamW, SparseAdam

import gradwatch
from gradwatch.snapshot import State

from .training import BATCH, backward, gradient_norms, norm, perceptron, step


def watched(model, optimizer=None, **arguments):
    return gradwatch.watch(model, optimizer, verbose=0, **{"every": 1, **arguments})


def states(watch):
    return [State(state) for state in watch.history[-1].states]


def names(watch):
    return [layer.name for layer in watch.history[-1].layers]


def scaled_backward(model, scaler, inputs, *, factor=1.0):
    scaler.scale(factor * model(inputs).square().mean()).backward()


# Gradients are the optimizer's


def test_gradient_and_weight_norms_are_those_of_autograd():
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = watched(model, optimizer)
    weights = [norm(list(model[row].parameters())) for row in (0, 2, 4)]
    loss = step(model, optimizer)
    watch.close()
    newest = watch.history[-1]
    assert newest.grad_norm == pytest.approx(gradient_norms(model), rel=1e-6)
    assert newest.weight_norm == pytest.approx(weights, rel=1e-6)
    assert newest.grad_rms == pytest.approx(np.asarray(gradient_norms(model)) / math.sqrt(20))
    assert np.isnan(newest.loss)
    assert loss > 0


def test_accumulated_gradients_are_read_once_a_step():
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = watched(model, optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        for _ in range(4):
            backward(model, scale=0.25)
        optimizer.step()
    assert [snapshot.step for snapshot in watch.history] == [0, 1, 2]
    assert watch.history[-1].grad_norm == pytest.approx(gradient_norms(model))
    assert (watch.history[-1].forward_calls == 1).all()


def test_clipped_gradients_are_reported_as_clipped():
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = watched(model, optimizer)
    backward(model, scale=1e4)
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    assert np.hypot.reduce(watch.history[-1].grad_norm) == pytest.approx(0.5, rel=1e-4)


def test_a_closure_is_read_after_it_ran():
    model = perceptron()
    optimizer = LBFGS(model.parameters(), lr=0.1, max_iter=3)
    watch = watched(model, optimizer)
    inputs = torch.randn(BATCH, 4)

    def closure():
        optimizer.zero_grad()
        loss = model(inputs).square().mean()
        watch.observe_loss(loss)
        loss.backward()
        return loss

    for _ in range(3):
        weights = [norm(list(model[row].parameters())) for row in (0, 2, 4)]
        first_loss = optimizer.step(closure)
    newest = watch.history[-1]
    assert len(watch.history) == 3
    assert newest.grad_norm == pytest.approx(gradient_norms(model))
    assert newest.weight_norm == pytest.approx(weights)
    assert (newest.update_ratio > 0).all()
    assert newest.forward_calls.tolist() == [1, 1, 1]
    assert (newest.output_grad_norm > 0).all()
    assert states(watch) == [State.TRAINED] * 3
    assert 0 < newest.loss <= first_loss.item()


@pytest.mark.parametrize("keyword", [True, False])
def test_a_closure_may_be_given_by_name(keyword):
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = watched(model, optimizer)

    def closure():
        optimizer.zero_grad()
        return backward(model)

    optimizer.step(closure=closure) if keyword else optimizer.step(closure)
    assert watch.history[-1].grad_norm == pytest.approx(gradient_norms(model))


@pytest.mark.parametrize("unscale", [True, False], ids=["unscale_", "unscaled in step"])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "not fused"])
def test_a_gradient_scaler_does_not_show(fused, unscale):
    model = perceptron()
    plain = copy.deepcopy(model)
    inputs = torch.randn(BATCH, 4)
    plain(inputs).square().mean().backward()
    optimizer = AdamW(model.parameters(), fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    watch = watched(model, optimizer)
    scaled_backward(model, scaler, inputs)
    if unscale:
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update(2.0)
    newest = watch.history[-1]
    assert newest.grad_norm == pytest.approx(gradient_norms(plain), rel=1e-5)
    assert not newest.skipped
    assert (newest.update_ratio > 0).all()


def test_the_scale_is_that_of_the_step_however_late_it_is_sent():
    """With two optimizers the step may end after the scaler has changed its scale."""
    model = perceptron()
    plain = copy.deepcopy(model)
    inputs = torch.randn(BATCH, 4)
    plain(inputs).square().mean().backward()
    optimizer = AdamW(model[0].parameters(), fused=True)
    rest = SGD(model[2:].parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    watch = watched(model)
    scaled_backward(model, scaler, inputs)
    scaler.step(optimizer)
    scaler.update(2.0)
    scaler._scale.fill_(3.0)
    rest.step()
    assert watch.history[-1].grad_norm[0] == pytest.approx(gradient_norms(plain)[0], rel=1e-5)


def test_an_overflow_that_a_fused_optimizer_skips_is_a_skipped_step():
    model = perceptron()
    optimizer = AdamW(model.parameters(), fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    watch = watched(model, optimizer)
    for overflow in (False, True, False):
        optimizer.zero_grad()
        scaled_backward(model, scaler, torch.randn(BATCH, 4), factor=1e36 if overflow else 1.0)
        scaler.step(optimizer)
        scaler.update()
    assert [snapshot.skipped for snapshot in watch.history] == [False, True, False]
    assert np.isinf(watch.history[1].grad_norm).all()
    assert (watch.history[1].update_ratio == 0).all()
    assert np.isfinite(watch.history[2].grad_norm).all()


def test_an_overflow_that_never_reaches_the_optimizer_is_no_step():
    model = perceptron()
    optimizer = AdamW(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    watch = watched(model, optimizer)
    for overflow in (True, True, False):
        optimizer.zero_grad()
        scaled_backward(model, scaler, torch.randn(BATCH, 4), factor=1e36 if overflow else 1.0)
        scaler.step(optimizer)
        scaler.update()
    (only,) = watch.history
    assert np.isfinite(only.grad_norm).all()
    assert np.isfinite(only.output_grad_norm).all()
    assert not only.skipped


def test_uncoalesced_sparse_gradients_are_summed():
    model = nn.Sequential(nn.Embedding(6, 3, sparse=True))
    optimizer = SparseAdam(model.parameters())
    watch = watched(model, optimizer)
    model(torch.tensor([[1, 1, 2]])).sum().backward()
    assert not model[0].weight.grad.is_coalesced()
    optimizer.step()
    newest = watch.history[-1]
    assert newest.grad_norm == pytest.approx([math.sqrt(3 * (4 + 1))])
    assert newest.update_ratio[0] > 0


def test_a_sparse_gradient_without_entries_is_zero():
    model = nn.Sequential(nn.Embedding(6, 3, sparse=True))
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = watched(model, optimizer)
    model(torch.empty(1, 0, dtype=torch.long)).sum().backward()
    optimizer.step()
    assert states(watch) == [State.ZERO_GRADIENT]


class Multiplies(nn.Module):
    """x times a matrix of any type."""

    def __init__(self, dtype):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, dtype=dtype))

    def forward(self, inputs):
        return inputs.to(self.weight.dtype) @ self.weight


@pytest.mark.parametrize("make", [SGD, AdamW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.complex64])
def test_other_number_types_are_read(dtype, make):
    model = Multiplies(dtype)
    optimizer = make(model.parameters(), lr=0.05, weight_decay=0.1)
    watch = watched(model, optimizer)
    before = model.weight.detach().clone()
    model(torch.randn(BATCH, 4)).abs().float().square().mean().backward()
    optimizer.step()
    newest = watch.history[-1]
    wide = torch.complex128 if dtype.is_complex else torch.float64
    assert newest.grad_norm[0] == pytest.approx(model.weight.grad.to(wide).norm().item())
    assert newest.weight_norm[0] == pytest.approx(before.to(wide).norm().item())
    moved = (model.weight.detach().to(wide) - before.to(wide)).norm().item()
    whole = newest.update_ratio[0] + newest.decay_ratio[0]
    assert moved / newest.weight_norm[0] <= whole * (1 + 1e-5)
    assert newest.update_ratio[0] > 0


def test_non_finite_values_are_infinite_never_unobserved():
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = watched(model, optimizer)
    backward(model)
    model[2].weight.grad[0, 0] = math.nan
    model[4].bias.grad[0] = -math.inf
    optimizer.step()
    newest = watch.history[-1]
    assert np.isfinite(newest.grad_norm[0])
    assert newest.grad_norm[1:].tolist() == [math.inf] * 2
    assert newest.update_ratio[1:].tolist() == [math.inf] * 2
    assert newest.nonfinite_count.tolist() == [0, 1, 1]
    backward(model)
    optimizer.step()
    newest = watch.history[-1]
    assert newest.weight_norm[1:].tolist() == [math.inf] * 2
    assert newest.update_ratio[1:].tolist() == [math.inf] * 2
    assert not np.isnan(newest.unit_spread_ratio).any()


def test_an_infinity_in_a_large_gradient_is_not_taken_for_an_overflow():
    model = nn.Linear(300, 300)
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = watched(model, optimizer)
    model.weight.grad = torch.randn(300, 300)
    model.weight.grad[7, 7] = math.inf
    model.bias.grad = torch.randn(300)
    optimizer.step()
    assert np.isinf(watch.history[-1].grad_norm[0])
    assert watch.history[-1].nonfinite_count[0] == 1


# Which parameters there are


def test_empty_and_integer_parameters_are_left_out():
    model = nn.ModuleDict({"layer": nn.Linear(4, 4), "odd": nn.Module()})
    model["odd"].empty = nn.Parameter(torch.empty(0, 4))
    model["odd"].packed = nn.Parameter(torch.zeros(9, dtype=torch.uint8), requires_grad=False)
    optimizer = SGD([entry for entry in model.parameters() if entry.requires_grad], lr=1e-3)
    watch = watched(model, optimizer)
    for _ in range(3):
        (model["layer"](torch.randn(BATCH, 4)).sum() + model["odd"].empty.sum()).backward()
        optimizer.step()
    assert len(watch.history) == 3
    assert names(watch) == ["layer", "odd"]
    assert states(watch) == [State.TRAINED, State.FROZEN]
    assert watch.findings == ()


def test_the_weights_of_frozen_layers_are_read_but_have_no_gradient():
    model = perceptron()
    model[0].requires_grad_(requires_grad=False)
    optimizer = SGD(model[2:].parameters(), lr=0.1)
    watch = watched(model, optimizer)
    step(model, optimizer)
    newest = watch.history[-1]
    assert states(watch) == [State.FROZEN, State.TRAINED, State.TRAINED]
    assert newest.weight_norm[0] == pytest.approx(norm(list(model[0].parameters())))
    assert np.isnan([newest.grad_norm[0], newest.update_ratio[0], newest.nonfinite_count[0]]).all()


def test_a_layer_may_be_unfrozen_in_mid_run():
    model = perceptron()
    model[0].requires_grad_(requires_grad=False)
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = watched(model, optimizer)
    step(model, optimizer)
    assert states(watch)[0] is State.FROZEN
    model[0].requires_grad_(requires_grad=True)
    step(model, optimizer)
    assert states(watch)[0] is State.TRAINED
    assert watch.history[-1].grad_norm == pytest.approx(gradient_norms(model))


@pytest.mark.parametrize("signals", [True, False])
def test_a_layer_may_be_added_in_mid_run(signals):
    model = nn.Sequential(nn.Linear(4, 4))
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = watched(model, optimizer, signals=signals)
    step(model, optimizer)
    added = nn.Linear(4, 4)
    model.append(added)
    optimizer.add_param_group({"params": added.parameters()})
    step(model, optimizer)
    assert names(watch) == ["0", "1"]
    assert states(watch) == [State.TRAINED, State.TRAINED]
    assert watch.history[-1].grad_norm == pytest.approx(gradient_norms(model))
    assert len(watch.history[0].layers) == 1


def test_a_parameter_may_be_added_to_a_known_module():
    model = nn.Sequential(nn.Linear(4, 4))
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = watched(model, optimizer)
    step(model, optimizer)
    model[0].gain = nn.Parameter(torch.ones(()))
    optimizer.add_param_group({"params": [model[0].gain]})
    (model[0].gain * model(torch.randn(BATCH, 4)).square().mean()).backward()
    optimizer.step()
    assert watch.history[-1].grad_norm == pytest.approx(gradient_norms(model))
    assert watch.history[-1].layers[0].parameter_count == 21


def test_a_lazy_layer_is_read_once_it_has_a_shape():
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2))
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = watched(model, optimizer)
    model(torch.randn(BATCH, 3)).square().mean().backward()
    optimizer.step()
    newest = watch.history[-1]
    assert newest.grad_norm == pytest.approx(gradient_norms(model))
    assert [(layer.kind, layer.fan_in) for layer in newest.layers] == [("Linear", 3), ("Linear", 4)]
    assert states(watch) == [State.TRAINED, State.TRAINED]


class LowRank(nn.Module):
    """LoRA: a frozen layer and a product that starts at zero."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(4, 4).requires_grad_(requires_grad=False)
        self.down = nn.Linear(4, 2, bias=False)
        self.up = nn.Linear(2, 4, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, inputs):
        return self.base(inputs) + self.up(self.down(inputs))


def test_an_adapter_that_starts_at_zero_is_a_state_and_no_finding():
    model = LowRank()
    optimizer = AdamW((entry for entry in model.parameters() if entry.requires_grad), lr=1e-2)
    watch = watched(model, optimizer)
    for turn in range(20):
        step(model, optimizer)
        if turn == 0:
            assert states(watch) == [State.FROZEN, State.ZERO_GRADIENT, State.TRAINED]
    assert states(watch) == [State.FROZEN, State.TRAINED, State.TRAINED]
    assert watch.findings == ()


def test_a_tied_weight_belongs_to_its_first_owner():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = watched(model, optimizer)
    step(model, optimizer)
    first = norm([model[0].weight.grad, model[0].bias.grad])
    assert watch.history[-1].grad_norm == pytest.approx([first, norm([model[2].bias.grad])])
    assert [layer.parameter_count for layer in watch.history[-1].layers] == [20, 4]


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.orthogonal])
def test_a_parametrised_layer_is_one_row(wrap):
    model = nn.Sequential(wrap(nn.Linear(4, 4)), nn.Tanh(), nn.Linear(4, 4))
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = watched(model, optimizer)
    step(model, optimizer)
    newest = watch.history[-1]
    assert [(layer.name, layer.kind) for layer in newest.layers] == [
        ("0", "Linear"),
        ("2", "Linear"),
    ]
    gradients = [entry.grad for entry in model[0].parameters()]
    assert newest.grad_norm[0] == pytest.approx(norm(gradients))


def test_groups_of_parameters_have_settings_of_their_own():
    model = perceptron()
    optimizer = SGD(
        [
            {"params": model[0].parameters(), "lr": 0.0},
            {"params": model[2].parameters(), "lr": 0.1},
            {"params": model[4].parameters(), "lr": 0.2, "weight_decay": 0.5},
        ],
        lr=1.0,
    )
    watch = watched(model, optimizer)
    step(model, optimizer)
    newest = watch.history[-1]
    assert newest.update_ratio[0] == 0
    ratio = 0.1 * newest.grad_norm[1] / newest.weight_norm[1]
    assert newest.update_ratio[1] == pytest.approx(ratio, rel=1e-5)
    assert newest.decay_ratio[:2].tolist() == [0, 0]
    assert newest.decay_ratio[2] > 0


# States


class Branches(nn.Module):
    """Layers in every state."""

    def __init__(self):
        super().__init__()
        self.trained = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(requires_grad=False)
        self.idle = nn.Linear(4, 4)
        self.detached = nn.Linear(4, 4)
        self.zero = nn.Linear(4, 4)
        self.from_outside = nn.Linear(4, 4)

    def forward(self, inputs):
        hidden = self.trained(self.frozen(inputs))
        hidden = hidden + self.detached(inputs).detach() + 0 * self.zero(inputs)
        return nn.functional.linear(hidden, self.from_outside.weight)


def test_every_layer_has_its_state():
    model = Branches()
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = watched(model, optimizer)
    step(model, optimizer)
    assert dict(zip(names(watch), states(watch), strict=True)) == {
        "trained": State.TRAINED,
        "frozen": State.FROZEN,
        "idle": State.IDLE,
        "detached": State.NO_GRADIENT,
        "zero": State.ZERO_GRADIENT,
        "from_outside": State.TRAINED,
    }
    assert watch.history[-1].forward_calls.tolist() == [1, 1, 0, 1, 1, 0]


def test_without_signals_an_idle_layer_has_no_gradient():
    model = Branches()
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = watched(model, optimizer, signals=False)
    step(model, optimizer)
    assert dict(zip(names(watch), states(watch), strict=True))["idle"] is State.NO_GRADIENT
    assert np.isnan(watch.history[-1].forward_calls).all()


def test_an_idle_layer_whose_gradient_is_set_to_zero_stays_idle():
    model = Branches()
    optimizer = SGD(model.parameters(), lr=0.1)
    for parameter in model.idle.parameters():
        parameter.grad = torch.zeros_like(parameter)
    watch = watched(model, optimizer)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=False)
        backward(model)
        optimizer.step()
    assert dict(zip(names(watch), states(watch), strict=True))["idle"] is State.IDLE


# Updates


@pytest.mark.parametrize("make", [SGD, Adam, torch.optim.RMSprop], ids=lambda make: make.__name__)
def test_updates_of_small_layers_are_exact(make):
    model = perceptron()
    optimizer = make(model.parameters(), lr=0.01)
    watch = watched(model, optimizer)
    step(model, optimizer)
    before = [entry.detach().clone() for entry in model.parameters()]
    step(model, optimizer)
    moved = [after - earlier for after, earlier in zip(model.parameters(), before, strict=True)]
    expected = [
        norm(moved[row : row + 2]) / max(norm(before[row : row + 2]), 0.1 * math.sqrt(4))
        for row in (0, 2, 4)
    ]
    assert watch.history[-1].update_ratio == pytest.approx(expected, rel=1e-6)
    assert (watch.history[-1].decay_ratio == 0).all()


def large(kind):
    """A layer of about a million weights, in several layouts."""
    if kind == "convolution":
        return nn.Conv2d(256, 448, 3), (2, 256, 6, 6)
    if kind == "channels last":
        return nn.Conv2d(256, 448, 3).to(memory_format=torch.channels_last), (2, 256, 6, 6)
    if kind == "odd width":
        return nn.Linear(245, 4096), (8, 245)
    return nn.Linear(1024, 1024), (8, 1024)


@pytest.mark.parametrize("make", [SGD, Adam], ids=["sgd", "adam"])
@pytest.mark.parametrize("kind", ["square", "odd width", "convolution", "channels last"])
def test_updates_of_large_layers_are_within_two_per_cent(kind, make):
    """Half of the columns, or of the kernel's places, get a gradient a hundred times as large."""
    model, shape = large(kind)
    optimizer = make(model.parameters(), lr=1e-3, weight_decay=1e-3)
    watch = watched(model, optimizer)
    before = [entry.detach().clone() for entry in model.parameters()]
    inputs = torch.randn(shape)
    inputs[:, ::2] *= 100
    model(inputs).square().mean().backward()
    optimizer.step()
    moved = [after - earlier for after, earlier in zip(model.parameters(), before, strict=True)]
    ratio = norm(moved) / norm(before)
    assert watch.history[-1].update_ratio[0] == pytest.approx(ratio, rel=0.02)
    assert watch.history[-1].grad_norm == pytest.approx(gradient_norms(model), rel=1e-4)
    assert watch.history[-1].weight_norm[0] == pytest.approx(norm(before), rel=1e-4)


DECAYING = {
    "sgd": lambda parameters: SGD(parameters, lr=0.1, weight_decay=5e-3),
    "momentum": lambda parameters: SGD(parameters, lr=0.1, weight_decay=5e-3, momentum=0.9),
    "nesterov": lambda parameters: SGD(
        parameters, lr=0.1, weight_decay=5e-3, momentum=0.9, nesterov=True
    ),
    "strong": lambda parameters: SGD(parameters, lr=0.1, weight_decay=0.02, momentum=0.9),
    "adamw": lambda parameters: AdamW(parameters, lr=1e-3, weight_decay=1e-2),
    "slow adamw": lambda parameters: AdamW(parameters, lr=1e-5, weight_decay=1e-2),
}
decaying = pytest.mark.parametrize("make", DECAYING.values(), ids=DECAYING.keys())


class Dying(nn.Module):
    """A layer whose gradient is zero, or vanishes, beside one that learns."""

    def __init__(self, width, gain):
        super().__init__()
        self.dead = nn.Linear(width, width)
        self.live = nn.Linear(width, width)
        self.gain = gain

    def forward(self, inputs):
        return self.live(inputs) + self.gain * self.dead(inputs)


@decaying
@pytest.mark.parametrize("width", [8, 300], ids=["small", "large"])
@pytest.mark.parametrize("gain", [0.0, 1e-20])
def test_a_layer_that_only_decays_has_no_update(make, width, gain):
    torch.manual_seed(0)
    model = Dying(width, gain)
    optimizer = make(model.parameters())
    watch = watched(model, optimizer, signals=False)
    for _ in range(40):
        before = [entry.detach().clone() for entry in model.dead.parameters()]
        step(model, optimizer, width=width)
        newest = watch.history[-1]
        assert newest.update_ratio[0] == pytest.approx(0, abs=1e-12)
    moved = [after - old for after, old in zip(model.dead.parameters(), before, strict=True)]
    assert newest.decay_ratio[0] == pytest.approx(norm(moved) / norm(before), rel=0.03, abs=3e-8)
    assert newest.update_ratio[1] > 0


@decaying
def test_the_decay_of_a_live_layer_hardly_changes_its_update(make):
    torch.manual_seed(0)
    model = Dying(8, gain=1.0)
    optimizer = make(model.parameters())
    twin = copy.deepcopy(model)
    undecayed = make(twin.parameters())
    for group in undecayed.param_groups:
        group["weight_decay"] = 0.0
    watch, other = watched(model, optimizer), watched(twin, undecayed)
    for _ in range(10):
        inputs = torch.randn(BATCH, 8)
        for net, stepper in ((model, optimizer), (twin, undecayed)):
            stepper.zero_grad()
            net(inputs).square().mean().backward()
            stepper.step()
    assert watch.history[-1].update_ratio == pytest.approx(other.history[-1].update_ratio, rel=0.1)


def test_decay_that_adam_couples_into_its_gradient_counts_as_update():
    model = Dying(8, gain=0.0)
    optimizer = Adam(model.parameters(), lr=1e-3, weight_decay=0.1)
    watch = watched(model, optimizer)
    step(model, optimizer, width=8)
    assert watch.history[-1].update_ratio[0] > 20 * watch.history[-1].decay_ratio[0] > 0


def test_a_learning_rate_in_a_tensor_is_understood():
    model = Dying(8, gain=0.0)
    optimizer = AdamW(model.parameters(), lr=torch.tensor(1e-2), weight_decay=0.1)
    watch = watched(model, optimizer)
    step(model, optimizer, width=8)
    assert watch.history[-1].update_ratio[0] == pytest.approx(0, abs=1e-12)
    assert watch.history[-1].decay_ratio[0] == pytest.approx(1e-3, rel=1e-2)


def test_a_layer_that_starts_at_zero_is_held_against_a_floor():
    model = nn.Linear(4, 16, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = watched(model, optimizer)
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    assert watch.history[-1].update_ratio[0] == pytest.approx(0.1 * 8 / (0.1 * math.sqrt(16)))


@pytest.mark.parametrize(("weights", "spread"), [("constant", 0.0), ("random", 1.0)])
def test_units_that_are_all_the_same_have_no_spread(weights, spread):
    model = nn.Linear(64, 32)
    if weights == "constant":
        nn.init.constant_(model.weight, 0.3)
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = watched(model, optimizer)
    step(model, optimizer, width=64)
    assert watch.history[-1].unit_spread_ratio[0] == pytest.approx(spread, abs=0.05)
