"""Which calls count, and what odd ways of running a net do: nothing but what is promised."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import gradwatch
from gradwatch import Snapshot, State

from .observed import (
    activations,
    by_name,
    norm,
    observe,
    observe_step,
    reference,
    rms,
    sum_of_squares,
    wiring,
)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))


def assert_signals(snapshot: Snapshot, model: nn.Module, *inputs: Any, loss_of: Any = None) -> None:
    """Calls, sizes and signals are those of one plain forward and backward pass."""
    gradients = reference(model, *inputs, loss_of=loss_of)
    expected = {name: norm(*entries) for name, entries in gradients.items()}
    assert by_name(snapshot, "output_grad_norm") == pytest.approx(expected, rel=1e-4)
    calls = {name: len(entries) for name, entries in gradients.items()}
    assert by_name(snapshot, "forward_calls") == calls


def assert_one_pass(snapshot: Snapshot, model: nn.Sequential, inputs: Tensor) -> None:
    assert_signals(snapshot, model, inputs)
    assert snapshot.input_rms[0] == pytest.approx(rms(inputs), rel=1e-5)
    assert wiring(snapshot) == {"0": set(), "2": {"0"}, "4": {"2"}}
    assert activations(snapshot) == {"0": "tanh", "2": "relu", "4": None}
    slopes = 1 - torch.tanh(model[0](inputs)).detach() ** 2
    assert snapshot.mean_slope[0] == pytest.approx(float(slopes.mean()), rel=1e-4)


class Detaching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.idle = nn.Linear(5, 5), nn.Linear(5, 2), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.body(x)
        return self.head(x)


def test_a_layer_under_no_grad_in_training_ran_and_an_idle_one_did_not():
    snapshot = observe(Detaching(), torch.randn(7, 5))
    assert by_name(snapshot, "forward_calls") == {"body": 1, "head": 1, "idle": 0}
    assert np.isnan(by_name(snapshot, "output_grad_norm")["body"])
    states = dict(zip((layer.name for layer in snapshot.layers), snapshot.states, strict=True))
    assert states == {
        "body": State.NO_GRADIENT,
        "head": State.TRAINED,
        "idle": State.IDLE,
    }


def test_an_output_that_is_detached_ran_without_gradient():
    class Cut(Detaching):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x).detach())

    snapshot = observe(Cut(), torch.randn(7, 5))
    assert by_name(snapshot, "forward_calls") == {"body": 1, "head": 1, "idle": 0}
    assert np.isnan(by_name(snapshot, "output_grad_norm")["body"])
    assert wiring(snapshot) == {"body": set(), "head": set(), "idle": set()}


def test_an_encoder_called_apart_whose_output_is_detached_ran():
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Linear(5, 3), nn.Linear(3, 5)

    snapshot = observe(
        Halves(),
        torch.randn(7, 5),
        loss_of=lambda model, x: model.decoder(model.encoder(x).detach()).square().sum(),
    )
    assert by_name(snapshot, "forward_calls") == {"encoder": 1, "decoder": 1}
    assert snapshot.states.tolist() == [State.NO_GRADIENT, State.TRAINED]


OTHER_PASSES = {
    "without gradients": torch.no_grad,
    "in inference mode": torch.inference_mode,
    "with gradients": torch.enable_grad,
}


@pytest.mark.parametrize("mode", OTHER_PASSES.values(), ids=OTHER_PASSES.keys())
@pytest.mark.parametrize("place", ["before", "between", "after"])
@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("kept", [False, True], ids=["dropped", "kept"])
def test_an_evaluation_around_the_training_pass_does_not_count(mode, place, batches, kept):
    model, inputs = net(), torch.randn(7, 5)
    outputs: list[Any] = []

    def evaluate() -> None:
        with mode():
            for _ in range(batches):
                output = model(torch.full((3, 5), 1e6))
                outputs.append(output if kept else None)

    def step(model: nn.Module, watch: Any) -> Tensor:
        if place == "before":
            evaluate()
        loss = sum_of_squares(model, inputs)
        if place == "between":
            evaluate()
        loss.backward()
        if place == "after":
            evaluate()
        return loss

    assert_one_pass(observe_step(model, step), model, inputs)


def test_a_forward_pass_that_raises_does_not_count():
    model, inputs = net(), torch.randn(7, 5)

    class Refuses(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 7:
                raise RuntimeError("out of memory")
            return super().forward(x)

    model[3] = Refuses()

    def step(model: nn.Module, watch: Any) -> Tensor:
        with pytest.raises(RuntimeError, match="out of memory"):
            model(torch.randn(9, 5))
        loss = sum_of_squares(model, inputs)
        loss.backward()
        return loss

    assert_one_pass(observe_step(model, step), model, inputs)


def test_after_an_interrupted_pass_the_step_after_next_is_right():
    model, inputs = net(), torch.randn(7, 5)

    class Interrupted(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 7:
                raise KeyboardInterrupt
            return super().forward(x)

    model[3] = Interrupted()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradwatch.watch(model, optimizer, every=1, budget=None, verbose=0) as watch:
        with pytest.raises(KeyboardInterrupt):
            model(torch.randn(9, 5))
        for _ in range(2):
            optimizer.zero_grad()
            sum_of_squares(model, inputs).backward()
            optimizer.step()
    assert_one_pass(watch.history[-1], model, inputs)


def test_of_accumulated_gradients_the_last_micro_batch_is_seen():
    model, batches = net(), torch.randn(3, 7, 5)

    def step(model: nn.Module, watch: Any) -> Tensor:
        for batch in batches:
            loss = sum_of_squares(model, batch)
            loss.backward()
        return loss

    assert_one_pass(observe_step(model, step), model, batches[-1])


def test_micro_batches_with_one_backward_pass_count_together():
    model, batches = net(), torch.randn(3, 7, 5)

    def loss_of(model: nn.Module, *batches: Tensor) -> Tensor:
        return sum(sum_of_squares(model, batch) for batch in batches)

    snapshot = observe(model, *batches, loss_of=loss_of)
    assert_signals(snapshot, model, *batches, loss_of=loss_of)
    assert snapshot.input_rms[0] == pytest.approx(rms(batches), rel=1e-5)


def test_of_two_backward_passes_through_one_graph_the_last_is_seen():
    model, inputs = net(), torch.randn(7, 5)

    def step(model: nn.Module, watch: Any) -> Tensor:
        output = model(inputs)
        output.sum().backward(retain_graph=True)
        loss = output.square().sum()
        loss.backward()
        return loss

    assert_one_pass(observe_step(model, step), model, inputs)


def test_a_backward_pass_for_some_parameters_only():
    model, inputs = net(), torch.randn(7, 5)

    def step(model: nn.Module, watch: Any) -> Tensor:
        loss = sum_of_squares(model, inputs)
        loss.backward(inputs=list(model[4].parameters()))
        return loss

    snapshot = observe_step(model, step)
    assert by_name(snapshot, "forward_calls") == {"0": 1, "2": 1, "4": 1}
    gradients = reference(model, inputs)
    assert snapshot.output_grad_norm[2] == pytest.approx(norm(*gradients["4"]), rel=1e-5)


def penalised(model: nn.Module, inputs: Tensor) -> Tensor:
    inputs = inputs.clone().requires_grad_()
    output = model(inputs)
    (gradient,) = torch.autograd.grad(output.sum(), inputs, create_graph=True)
    return output.square().sum() + (gradient.norm(dim=1) - 1).square().sum()


def test_a_gradient_penalty_is_part_of_the_signal():
    model, inputs = net(), torch.randn(7, 5)
    assert_signals(observe(model, inputs, loss_of=penalised), model, inputs, loss_of=penalised)


def test_a_gradient_penalty_does_not_end_the_pass():
    def loss_of(model: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        return penalised(model, real) + model(fake).sum()

    model, real, fake = net(), torch.randn(7, 5), torch.randn(7, 5)
    snapshot = observe(model, real, fake, loss_of=loss_of)
    assert_signals(snapshot, model, real, fake, loss_of=loss_of)


def test_forces_are_gradients_that_the_net_takes_itself():
    class Force(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.energy = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1))

        def forward(self, x: Tensor) -> Tensor:
            x = x.clone().requires_grad_()
            energy = self.energy(x).sum()
            return torch.autograd.grad(energy, x, create_graph=True)[0]

    model, inputs = Force(), torch.randn(7, 3)
    snapshot = observe(model, inputs)
    assert (snapshot.forward_calls == 1).all()
    assert snapshot.output_grad_norm[0] > 0


class Checkpointed(nn.Module):
    """The activation comes before the layer in the checkpoint, and one comes after it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 2)
        self.drop = nn.Dropout(0.3)
        self.kind, self.runs = kind, 0

    def block(self, x: Tensor) -> Tensor:
        self.runs += 1
        return F.relu(self.drop(self.middle(torch.tanh(x))))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.kind == "none":
            x = self.block(x)
        else:
            x = checkpoint(self.block, x, use_reentrant=self.kind == "reentrant")
        return self.last(x)


@pytest.mark.parametrize("kind", ["none", "reentrant", "not reentrant"])
def test_checkpoints_are_seen_and_recomputed_once(kind):
    model, inputs = Checkpointed(kind), torch.randn(7, 5)
    random = torch.get_rng_state()
    snapshot = observe(model, inputs)
    assert model.runs == (1 if kind == "none" else 2)
    plain = Checkpointed("none")
    plain.load_state_dict(model.state_dict())
    torch.set_rng_state(random)
    assert_signals(snapshot, plain, inputs)
    assert wiring(snapshot) == {"first": set(), "middle": {"first"}, "last": {"middle"}}
    if kind != "reentrant":
        assert activations(snapshot) == {"first": "tanh", "middle": "relu", "last": None}


class FunctionalCheckpoint(nn.Module):
    """Only functions in the checkpoint, no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.runs = nn.Linear(5, 5), nn.Linear(5, 2), 0

    def between(self, x: Tensor) -> Tensor:
        self.runs += 1
        return torch.tanh(F.relu(x) * 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(checkpoint(self.between, self.first(x), use_reentrant=False))


def test_no_activation_in_a_checkpoint_is_recomputed_for_its_slope():
    model, inputs = FunctionalCheckpoint(), torch.randn(7, 5)
    snapshot = observe(model, inputs)
    assert model.runs == 2
    assert np.isnan(snapshot.mean_slope).all()
    assert snapshot.layers[0].activation == "relu"
    x = model.first(inputs)
    y = torch.tanh(F.relu(x) * 2)
    into, out_of = torch.autograd.grad(model.last(y).square().sum(), (x, y))
    # both activations, but not the factor between them
    gain = np.log10(norm(into) / norm(out_of)) - np.log10(2)
    assert snapshot.activation_gain_log10[0] == pytest.approx(gain, abs=1e-4)


def test_a_replay_of_a_checkpoint_leaves_the_layer_before_it_alone():
    """The layers are called one by one in the checkpoint, so each is a call from outside."""

    class Around(Checkpointed):
        def block(self, x: Tensor) -> Tensor:
            self.runs += 1
            return self.last(F.relu(self.middle(F.gelu(x))))

        def forward(self, x: Tensor) -> Tensor:
            with torch.utils.checkpoint.set_checkpoint_early_stop(False):
                return checkpoint(self.block, torch.tanh(self.first(x)), use_reentrant=False)

    model, inputs = Around("not reentrant"), torch.randn(7, 5)
    snapshot = observe(model, inputs)
    assert activations(snapshot) == {"first": "tanh", "middle": "relu", "last": None}
    assert by_name(snapshot, "forward_calls") == {"first": 1, "middle": 1, "last": 1}
    slope = 1 - torch.tanh(model.first(inputs)).detach() ** 2
    assert snapshot.mean_slope[0] == pytest.approx(float(slope.mean()), rel=1e-4)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_segments_of_a_deep_net(reentrant):
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                *(nn.Sequential(nn.Linear(5, 5), nn.Tanh()) for _ in range(8))
            )
            self.stem, self.head = nn.Linear(5, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(
                checkpoint_sequential(self.body, 4, self.stem(x), use_reentrant=reentrant)
            )

    class Plain(Deep):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(self.stem(x)))

    model, plain, inputs = Deep(), Plain(), torch.randn(7, 5)
    plain.load_state_dict(model.state_dict())
    snapshot = observe(model, inputs)
    assert_signals(snapshot, plain, inputs)
    gradients = reference(plain, inputs)
    depth = np.log10(norm(*gradients["stem"]) / norm(*gradients["head"]))
    assert snapshot.backward_depth == pytest.approx(depth, abs=1e-4)


def test_saved_tensors_that_are_moved_away_are_not_fetched_for_slopes():
    model, inputs, fetched = net(), torch.randn(7, 5), []

    def fetch(values: Tensor) -> Tensor:
        fetched.append(values)
        return values

    def step(model: nn.Module, watch: Any) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(lambda values: values, fetch):
            loss = sum_of_squares(model, inputs)
        assert not fetched
        loss.backward()
        fetched.clear()
        return loss

    snapshot = observe_step(model, step)
    assert_signals(snapshot, model, inputs)
    assert np.isnan(snapshot.mean_slope).all()
    assert activations(snapshot) == {"0": "tanh", "2": "relu", "4": None}


def test_offloading_to_the_host_changes_no_signal():
    def loss_of(model: nn.Module, x: Tensor) -> Tensor:
        with torch.autograd.graph.save_on_cpu():
            return sum_of_squares(model, x)

    model, inputs = net(), torch.randn(7, 5)
    assert_signals(observe(model, inputs, loss_of=loss_of), model, inputs)


def test_slopes_beside_a_checkpoint_can_be_read():
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(5, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.tanh(checkpoint(self.first, x, use_reentrant=False)))

    model, inputs = Beside(), torch.randn(7, 5)
    slope = 1 - torch.tanh(model.first(inputs)).detach() ** 2
    assert observe(model, inputs).mean_slope[0] == pytest.approx(float(slope.mean()), rel=1e-4)


def functional_loss(model: nn.Module, parameters: Any, x: Tensor) -> Tensor:
    return torch.func.functional_call(model, parameters, (x,)).square().sum()


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_transforms_of_torch_func_beside_the_training_pass_do_no_harm():
    model, inputs = net(), torch.randn(7, 5)

    def step(model: nn.Module, watch: Any) -> Tensor:
        parameters = dict(model.named_parameters())
        detached = {name: values.detach() for name, values in parameters.items()}
        torch.func.grad(lambda entry: functional_loss(model, entry, inputs))(detached)
        torch.func.vmap(model)(inputs)
        torch.func.jacrev(lambda x: model(x).sum())(inputs)
        torch.func.jvp(model, (inputs,), (inputs,))
        loss = sum_of_squares(model, inputs)
        loss.backward()
        return loss

    assert_one_pass(observe_step(model, step), model, inputs)


def test_a_gradient_by_torch_func_alone_is_counted_but_not_followed():
    model, inputs = net(), torch.randn(7, 5)

    def step(model: nn.Module, watch: Any) -> Tensor:
        parameters = {name: values.detach() for name, values in model.named_parameters()}
        gradients, loss = torch.func.grad_and_value(
            lambda entry: functional_loss(model, entry, inputs)
        )(parameters)
        for name, parameter in model.named_parameters():
            parameter.grad = gradients[name]
        return loss

    snapshot = observe_step(model, step)
    assert (snapshot.forward_calls == 1).all()
    assert (snapshot.states == State.TRAINED).all()
    assert np.isnan(snapshot.output_grad_norm).all()


def test_a_functional_call_with_other_parameters_is_seen():
    model, inputs = net(), torch.randn(7, 5)

    def loss_of(model: nn.Module, x: Tensor) -> Tensor:
        parameters = {name: values * 2 for name, values in model.named_parameters()}
        return functional_loss(model, parameters, x)

    assert_signals(observe(model, inputs, loss_of=loss_of), model, inputs, loss_of=loss_of)


def under_fake_tensors(model: nn.Module, inputs: Tensor) -> str:
    with FakeTensorMode(allow_non_fake_inputs=True):
        return str(model(torch.randn(7, 5)))


TRACERS: dict[str, Callable[[nn.Module, Tensor], str]] = {
    "jit": lambda model, x: torch.jit.trace(model, x).code,
    "fx": lambda model, x: torch.fx.symbolic_trace(model).code,
    "make_fx": lambda model, x: make_fx(model)(x).code,
    "export": lambda model, x: torch.export.export(model, (x,)).graph_module.code,
    "fake tensors": under_fake_tensors,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("trace", TRACERS.values(), ids=TRACERS.keys())
def test_a_model_that_is_traced_in_an_observed_step_has_no_trace_of_it(trace):
    model, inputs = net(), torch.randn(7, 5)
    plain, traced = trace(model, inputs), []

    def step(model: nn.Module, watch: Any) -> Tensor:
        traced.append(trace(model, inputs))
        loss = sum_of_squares(model, inputs)
        loss.backward()
        return loss

    assert_one_pass(observe_step(model, step), model, inputs)
    assert traced == [plain, plain]


class Routed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(5, 5) for _ in range(3))
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor, chosen: int) -> Tensor:
        return self.head(F.relu(self.experts[chosen](x)))


def test_an_expert_that_is_not_chosen_did_not_run():
    snapshot = observe(Routed(), torch.randn(7, 5), 1)
    calls = {"experts.0": 0, "experts.1": 1, "experts.2": 0, "head": 1}
    assert by_name(snapshot, "forward_calls") == calls
    assert [int(state) for state in snapshot.states[:3]] == [State.IDLE, State.TRAINED, State.IDLE]
    assert np.isfinite(snapshot.backward_depth)


def test_calls_in_other_threads_do_not_count():
    model, inputs = net(), torch.randn(7, 5)

    def step(model: nn.Module, watch: Any) -> Tensor:
        thread = threading.Thread(target=lambda: model(torch.randn(3, 5)))
        thread.start()
        thread.join()
        loss = sum_of_squares(model, inputs)
        loss.backward()
        return loss

    assert_one_pass(observe_step(model, step), model, inputs)


def test_each_of_two_nets_sees_its_own_step():
    """A generator and a critic: each watch sees the pass of its own optimizer's step."""
    generator, critic = nn.Linear(4, 5), net()
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.0) for model in (generator, critic)]
    facts: dict[str, Any] = {"every": 1, "budget": None, "verbose": 0}
    noise, real = torch.randn(7, 4), torch.randn(7, 5)
    with (
        gradwatch.watch(generator, optimizers[0], **facts) as made,
        gradwatch.watch(critic, optimizers[1], **facts) as judged,
    ):
        for _ in range(2):
            critic.zero_grad()
            critic_loss = critic(real).square().sum() + critic(generator(noise).detach()).sum()
            critic_loss.backward()
            optimizers[1].step()
            generator.zero_grad()
            critic(generator(noise)).sum().backward()
            optimizers[0].step()
    assert_signals(made.history[-1], generator, noise, loss_of=lambda g, z: critic(g(z)).sum())
    assert_signals(
        judged.history[-1],
        critic,
        real,
        generator(noise).detach(),
        loss_of=lambda model, a, b: model(a).square().sum() + model(b).sum(),
    )
