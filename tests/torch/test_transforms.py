"""More than one backward pass, gradients of gradients, transforms and tracers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from gradwatch import State

from .observed import (
    assert_one_pass,
    assert_signals,
    by_name,
    chain,
    norm,
    observe,
    observe_step,
    reference,
    sum_of_squares,
)


def test_of_two_backward_passes_through_one_graph_the_last_is_seen():
    model, inputs = chain(), torch.randn(7, 5)

    def step(model: nn.Module, watch: Any) -> Tensor:
        output = model(inputs)
        output.sum().backward(retain_graph=True)
        loss = output.square().sum()
        loss.backward()
        return loss

    assert_one_pass(observe_step(model, step), model, inputs)


def test_a_backward_pass_for_some_parameters_only():
    model, inputs = chain(), torch.randn(7, 5)

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
    model, inputs = chain(), torch.randn(7, 5)
    assert_signals(observe(model, inputs, loss_of=penalised), model, inputs, loss_of=penalised)


def test_a_gradient_penalty_does_not_end_the_pass():
    def loss_of(model: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        return penalised(model, real) + model(fake).sum()

    model, real, fake = chain(), torch.randn(7, 5), torch.randn(7, 5)
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


def functional_loss(model: nn.Module, parameters: Any, x: Tensor) -> Tensor:
    return torch.func.functional_call(model, parameters, (x,)).square().sum()


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_transforms_of_torch_func_beside_the_training_pass_do_no_harm():
    model, inputs = chain(), torch.randn(7, 5)

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
    model, inputs = chain(), torch.randn(7, 5)

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
    model, inputs = chain(), torch.randn(7, 5)

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
    model, inputs = chain(), torch.randn(7, 5)
    plain, traced = trace(model, inputs), []

    def step(model: nn.Module, watch: Any) -> Tensor:
        traced.append(trace(model, inputs))
        loss = sum_of_squares(model, inputs)
        loss.backward()
        return loss

    assert_one_pass(observe_step(model, step), model, inputs)
    assert traced == [plain, plain]
