"""Which optimizers count, and what makes one step of several of them."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

import gradwatch
from gradwatch.errors import ArgumentError

from .training import BATCH, backward, gradient_norms, norm, perceptron, step


def watched(model, optimizer=None, **arguments):
    return gradwatch.watch(model, optimizer, verbose=0, **{"every": 1, **arguments})


def steps_of(watch):
    return [snapshot.step for snapshot in watch.history]


def codes(watch):
    return {finding.code for finding in watch.findings}


def halves(model):
    """An optimizer for the first layer, another for the rest."""
    return SGD(model[0].parameters(), lr=0.1), AdamW(model[1:].parameters())


@pytest.mark.parametrize("given", ["none", "list", "tuple"])
def test_two_optimizers_of_one_model_make_one_step(given):
    model = perceptron()
    first, second = halves(model)
    watch = watched(model, {"none": None, "list": [first, second], "tuple": (first, second)}[given])
    for _ in range(4):
        step(model, first, second)
    assert steps_of(watch) == [0, 1, 2, 3]
    assert watch.history[-1].grad_norm == pytest.approx(gradient_norms(model))
    assert (watch.history[-1].update_ratio > 0).all()


def test_the_first_step_is_complete_once_all_parameters_are_stepped():
    model = perceptron()
    first, second = halves(model)
    watch = watched(model)
    backward(model)
    first.step()
    assert steps_of(watch) == []
    second.step()
    assert steps_of(watch) == [0]


def test_of_two_optimizers_only_the_given_one_counts_and_the_other_is_named():
    model = perceptron()
    first, second = halves(model)
    watch = watched(model, second)
    for _ in range(3):
        step(model, first, second)
    watch.close()
    assert steps_of(watch) == [0, 1, 2]
    assert watch.history[-1].states.tolist() == [1, 0, 0]
    assert "SGD trains the model too, and its steps are not observed" in watch.history.limits[0]
    assert codes(watch) == {"GW902"}


def test_an_optimizer_that_takes_turns_joins_the_step_it_falls_into():
    """The second one steps every third time, as a discriminator or a critic does."""
    model = perceptron()
    first, second = halves(model)
    watch = watched(model)
    for turn in range(9):
        backward(model)
        first.step()
        if turn % 3 == 2:
            second.step()
    watch.close()
    assert steps_of(watch) == list(range(9))
    trained = [snapshot.states[1] == 0 for snapshot in watch.history]
    assert sum(trained) == 3


def test_an_optimizer_made_in_mid_run_is_found():
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = watched(model)
    for _ in range(3):
        step(model, optimizer)
    optimizer = AdamW(model.parameters())
    for _ in range(3):
        step(model, optimizer)
    watch.close()
    assert steps_of(watch) == [0, 1, 2, 3, 4, 5]


def test_an_optimizer_made_in_mid_run_in_place_of_a_given_one_is_named():
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = watched(model, optimizer)
    step(model, optimizer)
    step(model, AdamW(model.parameters()))
    watch.close()
    assert "AdamW trains the model too" in watch.history.limits[0]


def test_an_optimizer_of_another_model_is_ignored():
    model, other = perceptron(), perceptron()
    watch = watched(model)
    step(other, SGD(other.parameters(), lr=0.1))
    watch.close()
    assert steps_of(watch) == []
    assert codes(watch) == {"GW901"}


def test_an_optimizer_that_is_given_the_model_later_is_found():
    model, other = perceptron(), perceptron()
    optimizer = SGD(other.parameters(), lr=0.1)
    watch = watched(model)
    step(other, optimizer)
    optimizer.add_param_group({"params": list(model.parameters())})
    step(model, optimizer)
    assert steps_of(watch) == [0]


def test_optimizers_inside_backward_make_one_step():
    """One optimizer for each parameter, stepped as soon as its gradient is there."""
    model = perceptron()
    optimizers = {parameter: SGD([parameter], lr=0.1) for parameter in model.parameters()}
    gradients = {}

    def step_now(parameter):
        gradients[parameter] = parameter.grad.clone()
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step_now)
    watch = watched(model)
    for _ in range(3):
        backward(model)
    assert steps_of(watch) == [0, 1, 2]
    newest = watch.history[-1]
    expected = [norm([gradients[entry] for entry in model[row].parameters()]) for row in (0, 2, 4)]
    assert newest.grad_norm == pytest.approx(expected)
    assert (newest.update_ratio > 0).all()
    assert newest.has_signals
    assert (newest.output_grad_norm > 0).all()


class Wrapped(AdamW):
    """Calls the step of its parent, which is hooked as well."""

    def step(self, closure=None):
        loss = super().step(closure)
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.mul_(0.9)
        return loss


class Lookahead(torch.optim.Optimizer):
    """Steps another optimizer of the same parameters inside its own step."""

    def __init__(self, inner):
        super().__init__(inner.param_groups[0]["params"], {})
        self.inner = inner

    def step(self, closure=None):
        return self.inner.step(closure)


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: Wrapped(parameters, weight_decay=0.0),
        lambda parameters: Lookahead(AdamW(parameters, weight_decay=0.0)),
    ],
    ids=["inherits", "wraps"],
)
@pytest.mark.parametrize("given", [True, False])
def test_a_step_inside_a_step_is_no_step_of_its_own(make, given):
    model = perceptron()
    optimizer = make(list(model.parameters()))
    watch = watched(model, optimizer if given else None)
    for _ in range(3):
        before = [norm(list(model[row].parameters())) for row in (0, 2, 4)]
        weights = [entry.detach().clone() for entry in model.parameters()]
        step(model, optimizer)
    assert steps_of(watch) == [0, 1, 2]
    newest = watch.history[-1]
    assert newest.grad_norm == pytest.approx(gradient_norms(model))
    assert newest.weight_norm == pytest.approx(before)
    moved = [after - earlier for after, earlier in zip(model.parameters(), weights, strict=True)]
    updates = [norm(moved[2 * row : 2 * row + 2]) / before[row] for row in range(3)]
    assert newest.update_ratio == pytest.approx(updates, rel=1e-5)
    assert watch.history.limits == ()


class Announced:
    """Wraps an optimizer as Accelerate does: one by its type, but its steps call no hooks."""

    def __new__(cls, optimizer):
        kind = type("AcceleratedOptimizer", (torch.optim.Optimizer,), {"step": lambda self: None})
        wrapper = object.__new__(kind)
        wrapper.optimizer = optimizer
        return wrapper


def test_an_optimizer_without_hooks_is_unwrapped():
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = watched(model, Announced(optimizer))
    step(model, optimizer)
    assert steps_of(watch) == [0]


def test_a_step_that_raises_is_forgotten():
    class Fails(SGD):
        fails = True

        def step(self, closure=None):
            if self.fails:
                raise RuntimeError("out of memory")
            return super().step(closure)

    model = perceptron()
    optimizer = Fails(model.parameters(), lr=0.1)
    watch = watched(model, optimizer)
    with pytest.raises(RuntimeError, match="out of memory"):
        step(model, optimizer)
    optimizer.fails = False
    step(model, optimizer)
    step(model, optimizer)
    assert steps_of(watch) == [0, 1]
    assert watch.history[-1].grad_norm == pytest.approx(gradient_norms(model))
    assert watch.findings == ()


def test_learning_rate_schedules_are_no_steps():
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    watch = watched(model, optimizer)
    for _ in range(4):
        step(model, optimizer)
        schedule.step()
    assert steps_of(watch) == [0, 1, 2, 3]


def test_a_resumed_run_goes_on_counting():
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = watched(model, optimizer, every="auto", initial_step=5000)
    for _ in range(6):
        step(model, optimizer)
    assert steps_of(watch) == [5000, 5001, 5002, 5003, 5004]


class Adversaries:
    """A generator and a discriminator, trained in turns."""

    def __init__(self):
        torch.manual_seed(5)
        self.generator, self.discriminator = perceptron(), perceptron()
        self.generator_steps = SGD(self.generator.parameters(), lr=1e-4)
        self.discriminator_steps = SGD(self.discriminator.parameters(), lr=0.1)
        self.norms = []

    def train_discriminator(self):
        self.discriminator_steps.zero_grad()
        fake = self.generator(torch.randn(BATCH, 4))
        self.discriminator(torch.randn(BATCH, 4)).square().mean().backward()
        self.discriminator(fake.detach()).mean().backward()
        norms = gradient_norms(self.discriminator)
        self.discriminator_steps.step()
        return fake, norms

    def train_generator(self, fake):
        self.generator_steps.zero_grad()
        (1000 * self.discriminator(fake).mean()).backward()
        norms = gradient_norms(self.generator)
        self.generator_steps.step()
        return norms


@pytest.mark.parametrize("given", [True, False])
def test_the_step_of_the_other_net_is_not_counted(given):
    nets = Adversaries()
    generator = watched(nets.generator, nets.generator_steps if given else None)
    discriminator = watched(nets.discriminator, nets.discriminator_steps if given else None)
    for _ in range(3):
        fake, discriminator_norms = nets.train_discriminator()
        generator_norms = nets.train_generator(fake)
    assert steps_of(generator) == steps_of(discriminator) == [0, 1, 2]
    assert discriminator.history[-1].grad_norm == pytest.approx(discriminator_norms)
    assert generator.history[-1].grad_norm == pytest.approx(generator_norms)
    assert generator.history[-1].output_grad_norm[2] > discriminator.history[-1].output_grad_norm[0]
    assert generator.findings == discriminator.findings == ()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda model: [], "optimizer is an empty list"),
        (lambda model: SGD(perceptron().parameters(), lr=0.1), "holds none of the model's param"),
        (lambda model: model, "optimizer is a Sequential"),
        (lambda model: "adam", "optimizer is a str"),
        (lambda model: model.parameters(), "optimizer is a generator"),
        (lambda model: [SGD(model.parameters(), lr=0.1), 3], "optimizer is a int"),
        (
            lambda model: torch.optim.lr_scheduler.StepLR(SGD(model.parameters(), lr=0.1), 3),
            "optimizer is a StepLR",
        ),
    ],
    ids=["empty", "other model", "model", "string", "parameters", "mixed", "scheduler"],
)
def test_what_is_no_optimizer_of_the_model_is_refused_with_the_way_out(make, message):
    model = perceptron()
    with pytest.raises(ArgumentError, match=message) as refusal:
        watched(model, make(model))
    assert "None to have" in str(refusal.value)


def test_an_optimizer_of_a_part_of_the_model_is_enough():
    model = nn.ModuleDict({"backbone": perceptron(), "head": nn.Linear(4, 2)})
    optimizer = SGD(model["head"].parameters(), lr=0.1)
    watch = watched(model, optimizer)
    for _ in range(2):
        model["head"](model["backbone"](torch.randn(BATCH, 4))).sum().backward()
        optimizer.step()
    watch.close()
    assert steps_of(watch) == [0, 1]
