"""`gradwatch.watch`: its arguments, and that no fault of its own reaches the training."""

import logging
import math
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules import module as module_hooks
from torch.optim import SGD, AdamW
from torch.optim import optimizer as optimizer_hooks

import gradwatch
from gradwatch.errors import ArgumentError
from gradwatch.rules import Rule
from gradwatch.torch.collector import Collector
from gradwatch.torch.parameters import ParameterReader
from gradwatch.torch.rows import Rows
from gradwatch.torch.session import Session
from gradwatch.torch.signals import Signals
from gradwatch.torch.taps import Taps
from gradwatch.watcher import Watcher

from .training import BATCH, OPTIMIZERS, Convolutional, perceptron, step, train


def hook_counts():
    dictionaries = [
        optimizer_hooks._global_optimizer_pre_hooks,
        optimizer_hooks._global_optimizer_post_hooks,
        *(hooks for name, hooks in vars(module_hooks).items() if name.startswith("_global_")),
    ]
    return [len(hooks) for hooks in dictionaries if hasattr(hooks, "__len__")]


def codes(watch):
    return [finding.code for finding in watch.findings]


# Arguments


@dataclass(frozen=True)
class Never(Rule):
    """Finds nothing."""

    code = "X001"
    name = "never"

    def check(self, window):
        return ()


REFUSED = {
    "no parameters": ({"model": nn.ReLU()}, "has no parameters"),
    "no module": ({"model": [nn.Linear(2, 2)]}, "model is a list, not a torch.nn.Module"),
    "other optimizer": (
        {"optimizer": SGD(nn.Linear(2, 2).parameters(), lr=0.1)},
        "holds none of the model's parameters",
    ),
    "no optimizer": ({"optimizer": 3}, "optimizer is a int"),
    "every 0": ({"every": 0}, 'every=0 is neither "auto" nor a whole number'),
    "every 1.5": ({"every": 1.5}, "every=1.5"),
    "every True": ({"every": True}, "every=True"),
    "budget 0": ({"budget": 0}, "budget=0 is not a share"),
    "budget 2": ({"budget": 2}, "pass None for no limit"),
    "budget x": ({"budget": "x"}, "budget='x'"),
    "unknown rule": ({"rules": ["GW999"]}, "the codes are GW101"),
    "rules as one string": ({"rules": "GW101"}, r"pass a list, \['GW101'\]"),
    "graph": ({"compiled": "graph"}, 'use "skip"'),
    "compiled": ({"compiled": True}, "compiled=True is none of skip"),
    "verbose": ({"verbose": "loud"}, "verbose='loud' is neither 0"),
    "verbose 3": ({"verbose": 3}, "verbose=3 is neither 0"),
    "name above": ({"name": "../x"}, "does not name a subdirectory of log_dir"),
    "name absolute": ({"name": "/x"}, "does not name a subdirectory of log_dir"),
    "name empty": ({"name": ""}, "does not name a subdirectory of log_dir"),
    "name no string": ({"name": 3}, "name=3 is not a string"),
    "log_dir no path": ({"log_dir": 3}, "log_dir=3 is no path"),
    "log_dir empty": ({"log_dir": ""}, "log_dir='' is no path"),
    "negative step": ({"initial_step": -1}, "initial_step=-1 is not a step"),
    "step no number": ({"initial_step": "3"}, "initial_step='3'"),
    "step True": ({"initial_step": True}, "initial_step=True"),
    "on_finding": ({"on_finding": "print"}, "on_finding='print' cannot be called"),
}


@pytest.mark.parametrize(("wrong", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_wrong_argument_is_refused_at_once_and_leaves_no_trace(wrong, message, tmp_path):
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    with gradwatch.watch(model, optimizer, every=1, verbose=0) as earlier:
        step(model, optimizer)
        hooks = hook_counts()
        arguments = {"model": model, "optimizer": optimizer, "log_dir": tmp_path / "new", **wrong}
        with pytest.raises(ArgumentError, match=message):
            gradwatch.watch(**arguments)
        assert hook_counts() == hooks
        step(model, optimizer)
        assert len(earlier.history) == 2
    if "log_dir" in message or "name" in wrong or "on_finding" in wrong:
        assert not list(tmp_path.rglob("*tfevents*"))


@pytest.mark.parametrize("place", ["a file", "below a file", "proc"])
def test_a_directory_that_cannot_be_made_is_refused_at_once(place, tmp_path):
    file = tmp_path / "file"
    file.touch()
    paths = {"a file": file, "below a file": file / "runs", "proc": Path("/proc/gradwatch")}
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    hooks = hook_counts()
    with pytest.raises(ArgumentError) as refusal:
        gradwatch.watch(model, optimizer, log_dir=paths[place], verbose=0)
    assert str(paths[place]) in str(refusal.value)
    assert hook_counts() == hooks


def test_a_refused_argument_writes_no_event_file(tmp_path):
    with pytest.raises(ArgumentError):
        gradwatch.watch(perceptron(), log_dir=tmp_path, on_finding=3, verbose=0)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    "arguments",
    [
        {"every": np.int64(2)},
        {"budget": None},
        {"budget": 1},
        {"name": "nested/name"},
        {"rules": []},
        {"rules": ["GW101", Never()]},
        {"verbose": False},
        {"verbose": True},
        {"initial_step": np.int64(7)},
        {"on_finding": print},
    ],
    ids=str,
)
def test_unusual_but_right_arguments_are_taken(arguments, tmp_path):
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    with gradwatch.watch(
        model, optimizer, log_dir=tmp_path, **{"verbose": 0, **arguments}
    ) as watch:
        step(model, optimizer)
    assert len(watch.history) == 1


def test_event_files_go_into_a_directory_of_their_own(tmp_path):
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    with gradwatch.watch(model, optimizer, log_dir=str(tmp_path), name="net", verbose=0):
        step(model, optimizer)
    assert list((tmp_path / "net").glob("*tfevents*"))


# Loss


@pytest.mark.parametrize(
    ("told", "stored"),
    [
        (2.5, 2.5),
        (torch.tensor(2.5), 2.5),
        (torch.tensor([2.0, 3.0]), 2.5),
        (torch.tensor(3), 3.0),
        (torch.tensor(2.5, dtype=torch.float64), 2.5),
        (np.float32(2.5), 2.5),
        (math.nan, math.inf),
        (-math.inf, math.inf),
        (torch.tensor(math.nan), math.inf),
    ],
    ids=str,
)
def test_a_loss_is_stored_whatever_its_type(told, stored):
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = gradwatch.watch(model, optimizer, every=1, verbose=0)
    watch.observe_loss(told)
    step(model, optimizer)
    step(model, optimizer)
    assert watch.history[0].loss == stored
    assert math.isnan(watch.history[1].loss)


def test_the_last_loss_before_the_step_counts():
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = gradwatch.watch(model, optimizer, every=2, verbose=0)
    for loss in range(6):
        watch.observe_loss(-1.0)
        watch.observe_loss(loss)
        step(model, optimizer)
    assert [snapshot.loss for snapshot in watch.history] == [0, 2, 4]


def test_with_two_optimizers_a_loss_belongs_to_its_own_step():
    model = perceptron()
    first, second = SGD(model[0].parameters(), lr=0.1), SGD(model[2].parameters(), lr=0.1)
    watch = gradwatch.watch(model, [first, second], every=1, verbose=0)
    for loss in range(4):
        watch.observe_loss(loss)
        step(model, first, second)
    watch.close()
    assert [snapshot.loss for snapshot in watch.history] == [0, 1, 2, 3]


def test_what_is_no_loss_is_reported_once_and_left_out(told):
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = gradwatch.watch(model, optimizer, every=1, verbose=0)
    for _ in range(3):
        watch.observe_loss({"loss": 1.0})
        step(model, optimizer)
    assert len(told()) == 1
    assert "observe_loss was given a dict" in told()[0]
    assert len(watch.history) == 3
    assert codes(watch) == ["GW902"]


# Faults


@pytest.fixture
def told(caplog):
    """The warnings that were logged so far."""
    caplog.set_level(logging.WARNING, logger="gradwatch")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "gradwatch"]


class FaultError(Exception):
    """A bug inside gradwatch."""


FAULTS = {
    "planning": (Session, "_begin_step", 3),
    "closing a step": (Session, "_close_step", 2),
    "before a step": (ParameterReader, "before_step", 2),
    "after a step": (ParameterReader, "after_step", 2),
    "sending": (Collector, "send", 2),
    "snapshots": (Collector, "snapshots", 2),
    "judging": (Watcher, "observe", 2),
    "rows": (Rows, "refresh", 4),
    "layers": (Rows, "layers", 2),
    "arming": (Signals, "arm", 2),
    "before a forward": (Signals, "_enter", 3),
    "after a forward": (Signals, "_leave", 3),
    "a gradient": (Taps, "take_norm", 5),
    "the walk": (Signals, "_walk", 2),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_bug_inside_gradwatch_ends_in_one_warning_and_training_goes_on(fault, monkeypatch, told):
    owner, name, calls = fault
    bare = train(Convolutional, OPTIMIZERS["sgd"], steps=8, watched=False)
    hooks = hook_counts()
    original, count = getattr(owner, name), 0

    def fails(*args, **kwargs):
        nonlocal count
        count += 1
        if count >= calls:
            raise FaultError(name)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, fails)
    watched = train(Convolutional, OPTIMIZERS["sgd"], steps=8, watched=True, every=1)
    watched.assert_same(bare)
    assert count >= calls
    (warning,) = told()
    assert f"FaultError('{name}')" in warning
    assert codes(watched.watch).count("GW902") == 1
    assert hook_counts() == hooks


def test_a_bug_on_the_way_out_of_a_bug_reaches_no_training(monkeypatch, told):
    def fails(*args, **kwargs):
        raise FaultError

    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    with monkeypatch.context() as patch:
        watch = gradwatch.watch(model, optimizer, every=1, verbose=0)
        patch.setattr(ParameterReader, "before_step", fails)
        patch.setattr(Collector, "stop", fails)
        for _ in range(3):
            step(model, optimizer)
    assert len(told()) == 1
    assert codes(watch) == ["GW902"]


def test_a_fault_before_the_first_step_is_reported_too(monkeypatch, told):
    def fails(self):
        raise FaultError

    monkeypatch.setattr(Signals, "arm", fails)
    model = perceptron()
    watch = gradwatch.watch(model, verbose=0)
    assert len(told()) == 1
    assert codes(watch) == ["GW902"]


@dataclass(frozen=True)
class Raises(Rule):
    """Fails."""

    code = "X002"
    name = "raises"
    needs = "parameters"
    size = 1
    warm_up = 0

    def check(self, window):
        raise FaultError("rule")


def test_a_rule_that_raises_does_not_touch_training(told):
    bare = train(Convolutional, OPTIMIZERS["sgd"], steps=6, watched=False)
    watched = train(
        Convolutional, OPTIMIZERS["sgd"], steps=6, watched=True, every=1, rules=[Raises()]
    )
    watched.assert_same(bare)
    assert len(told()) == 1
    assert len(watched.watch.history) == 6


def test_on_finding_that_raises_does_not_touch_training(told):
    def fails(finding):
        raise FaultError("on_finding")

    bare = train(Convolutional, OPTIMIZERS["sgd"], steps=6, watched=False)
    watched = train(
        Convolutional,
        OPTIMIZERS["sgd"],
        steps=6,
        watched=True,
        every=1,
        signals=False,
        on_finding=fails,
    )
    watched.assert_same(bare)
    assert len(told()) == 1
    assert len(watched.watch.history) == 6
    assert codes(watched.watch) == ["GW902"]


def test_a_full_disk_does_not_touch_training(tmp_path):
    """A real one: the process may write no more than 20 kB into a file."""
    script = textwrap.dedent(
        f"""
        import logging, resource, signal, sys
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        warnings = []
        handler = logging.Handler()
        handler.emit = lambda record: warnings.append(record.getMessage())
        logging.getLogger("gradwatch").addHandler(handler)
        import torch, gradwatch
        model = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(20)))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        watch = gradwatch.watch(model, optimizer, every=1, verbose=0, log_dir={str(tmp_path)!r})
        with watch:
            for _ in range(60):
                model(torch.randn(3, 4)).square().mean().backward()
                optimizer.step()
        assert len(watch.history) == 60, len(watch.history)
        assert len(warnings) == 1, warnings
        assert "TensorBoardSink raised OSError" in warnings[0], warnings
        assert "GW902" in [finding.code for finding in watch.findings]
        """
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_nan_everywhere_is_a_finding_and_no_fault(told):
    model = perceptron()
    nn.init.constant_(model[0].weight, math.nan)
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = gradwatch.watch(model, optimizer, every=1, verbose=0)
    for _ in range(10):
        watch.observe_loss(step(model, optimizer))
    watch.close()
    assert told() == []
    assert codes(watch) == ["GW302"]
    assert len(watch.history) == 10


class Odd(nn.Module):
    """Returns whatever it is told to."""

    def __init__(self, wrap):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.wrap = wrap

    def forward(self, inputs):
        return self.wrap(self.layer(inputs))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda output: {"logits": output, "extra": None},
        lambda output: [(output, "text"), {1: 2}],
        lambda output: (output, output),
        lambda output: output.tolist(),
        lambda output: None,
        lambda output: output.to_sparse(),
        lambda output: output.to(torch.complex64),
        lambda output: (thing for thing in [output]),
    ],
    ids=["dict", "nested", "twice", "list", "none", "sparse", "complex", "generator"],
)
def test_odd_outputs_are_no_fault(wrap, told):
    model = Odd(wrap)
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = gradwatch.watch(model, optimizer, every=1, verbose=0)
    for _ in range(3):
        model(torch.randn(BATCH, 4))
        model.layer(torch.randn(BATCH, 4)).sum().backward()
        optimizer.step()
    watch.close()
    assert told() == []
    assert len(watch.history) == 3


def test_an_interrupt_inside_gradwatch_passes_through(monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = gradwatch.watch(model, optimizer, every=1, verbose=0)
    with monkeypatch.context() as patch:
        patch.setattr(ParameterReader, "after_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            step(model, optimizer)
    for _ in range(3):
        step(model, optimizer)
    watch.close()
    assert [snapshot.step for snapshot in watch.history][-1] == 2
    assert watch.findings == ()


def test_an_exception_in_the_users_forward_is_the_users(told):
    class Fails(nn.Module):
        fails = False

        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, inputs):
            hidden = self.first(inputs)
            if self.fails:
                raise ValueError("the user's own")
            return self.second(hidden)

    model = Fails()
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = gradwatch.watch(model, optimizer, every=1, verbose=0)
    step(model, optimizer)
    model.fails = True
    with pytest.raises(ValueError, match="the user's own"):
        step(model, optimizer)
    model.fails = False
    step(model, optimizer)
    assert told() == []
    assert watch.history[-1].step == 1
    assert (watch.history[-1].output_grad_norm > 0).all()


# Closing


def test_closing_from_on_finding_is_safe_beside_another_watch():
    """PyTorch iterates over the hooks just then, and must not see them go."""
    model, other = perceptron(), perceptron()
    optimizers = SGD(model.parameters(), lr=0.1), SGD(other.parameters(), lr=0.1)
    hooks = hook_counts()
    first = gradwatch.watch(
        model, every=1, signals=False, verbose=0, on_finding=lambda finding: first.close()
    )
    second = gradwatch.watch(other, every=1, verbose=0)
    for _ in range(3):
        step(model, optimizers[0])
        step(other, optimizers[1])
    second.close()
    assert len(first.history) == 1
    assert len(second.history) == 3
    assert hook_counts() == hooks


def test_a_fault_is_safe_beside_another_watch(monkeypatch, told):
    model, other = perceptron(), perceptron()
    optimizers = SGD(model.parameters(), lr=0.1), SGD(other.parameters(), lr=0.1)
    hooks = hook_counts()
    gradwatch.watch(model, every=1, verbose=0)
    second = gradwatch.watch(other, every=1, verbose=0)

    def fails(*args, **kwargs):
        raise FaultError

    with monkeypatch.context() as patch:
        patch.setattr(ParameterReader, "after_step", fails)
        step(model, optimizers[0])
    step(model, optimizers[0])
    for _ in range(3):
        step(other, optimizers[1])
    assert len(told()) == 1
    assert len(second.history) == 3
    second.close()
    assert hook_counts() == hooks


def test_a_fault_in_the_last_step_leaves_no_trace_after_close(monkeypatch, told):
    def fails(*args, **kwargs):
        raise FaultError

    hooks = hook_counts()
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = gradwatch.watch(model, every=1, verbose=0)
    monkeypatch.setattr(ParameterReader, "after_step", fails)
    step(model, optimizer)
    assert len(told()) == 1
    watch.close()
    assert hook_counts() == hooks


def test_the_last_step_is_judged_at_close():
    """With an optimizer that may yet come, a step is open until then."""
    model = perceptron()
    optimizer = SGD(model[0].parameters(), lr=0.1)
    watch = gradwatch.watch(model, optimizer, every=1, verbose=0)
    step(model, optimizer)
    assert len(watch.history) == 0
    watch.close()
    assert len(watch.history) == 1
    assert watch.report().overhead.steps == 1


def test_a_fault_at_close_is_reported(monkeypatch, told):
    def fails(self):
        raise FaultError

    model = perceptron()
    watch = gradwatch.watch(model, verbose=0)
    step(model, SGD(model.parameters(), lr=0.1))
    monkeypatch.setattr(Collector, "wait", fails)
    watch.close()
    assert len(told()) == 1
    assert "GW902" in codes(watch)


def test_closing_from_on_finding_counts_the_step_once():
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = gradwatch.watch(
        model, every=1, signals=False, verbose=0, on_finding=lambda finding: watch.close()
    )
    for _ in range(3):
        step(model, optimizer)
    assert watch.report().overhead.steps == 1


def test_a_run_that_ends_without_close_is_judged_at_exit(tmp_path):
    script = textwrap.dedent(
        f"""
        import torch, gradwatch
        model = torch.nn.Linear(4, 4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        gradwatch.watch(model, optimizer, log_dir={str(tmp_path)!r})
        for _ in range(8):
            model(torch.randn(3, 4)).square().mean().backward()
            optimizer.step()
        """
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stderr.count("gradwatch") == 1
    assert list(tmp_path.rglob("*tfevents*"))


def test_after_close_nothing_is_observed_any_more():
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    watch = gradwatch.watch(model, optimizer, every=1, verbose=0)
    step(model, optimizer)
    watch.close()
    watch.observe_loss(torch.tensor(1.0))
    step(model, optimizer)
    watch.close()
    assert len(watch.history) == 1


def test_the_context_manager_closes_where_training_raises():
    model = perceptron()
    hooks = hook_counts()
    with pytest.raises(RuntimeError, match="user"), gradwatch.watch(model, verbose=0):
        raise RuntimeError("user")
    assert hook_counts() == hooks


def test_the_report_says_what_it_cost():
    model = perceptron()
    optimizer = AdamW(model.parameters())
    watch = gradwatch.watch(model, optimizer, verbose=0, budget=None)
    for _ in range(140):
        step(model, optimizer)
    overhead = watch.report().overhead
    assert overhead.steps == 140
    assert overhead.parameter_samples == len(watch.history) == 16
    assert overhead.signal_samples == 15
    assert 0 < overhead.seconds
    assert 0 < overhead.share < 1
    assert 0 < overhead.step_seconds < 0.1


def test_a_gradient_that_turns_zero_makes_the_next_steps_samples():
    model = perceptron(activation=nn.ReLU)
    optimizer = SGD(model.parameters(), lr=0.0)
    watch = gradwatch.watch(model, optimizer, verbose=0, budget=None)
    for turn in range(40):
        if turn == 17:
            nn.init.constant_(model[2].bias, -1e6)
        step(model, optimizer)
    observed = [snapshot.step for snapshot in watch.history]
    assert observed == [0, 1, 2, 3, 4, 6, 8, 12, 16, *range(24, 33)]


def test_a_loss_that_jumps_makes_the_next_steps_samples():
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.0)
    watch = gradwatch.watch(model, optimizer, verbose=0, budget=None)
    for turn in range(40):
        watch.observe_loss(1.0 if turn < 24 else 3.1)
        step(model, optimizer)
    observed = [snapshot.step for snapshot in watch.history]
    assert observed == [0, 1, 2, 3, 4, 6, 8, 12, 16, *range(24, 33)]
