"""The rules say of a stored run what they said live."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gradwatch
from gradwatch.finding import Finding
from gradwatch.history import Window
from gradwatch.replay import replay
from gradwatch.rule_settings import rules_with
from gradwatch.rules import ALL_RULES, Diagnosis, Rule
from gradwatch.tensorboard.chunk import Chunk, decode_chunk, decode_header, encode_chunk
from gradwatch.tensorboard.reader import Recording, Session, read
from gradwatch.tensorboard.schema import Rows, RunFacts
from gradwatch.watcher import Watcher

from .arbitrary import ABSURD, BOUNDED_RUN, EXTREME, history_from, runs
from .rules.real import cross_entropy, digits, mlp
from .test_screening import with_shared_layers


@dataclass(frozen=True)
class OwnRule(Rule):
    """A user's rule, which no other machine has."""

    code = "X001"
    name = "large-update"
    needs = "parameters"
    size = 1

    def check(self, window: Window) -> Iterable[Diagnosis]:
        updates = window.median(lambda entry: entry.update_ratio)
        rows = tuple(int(row) for row in np.flatnonzero(updates > 1e-6))
        if rows:
            evidence = {"update_ratio": float(updates.max())}
            yield Diagnosis("learning rate", rows, "warning", "{layers} moved", evidence)


@dataclass(frozen=True)
class Raises(OwnRule):
    """A user's rule that fails."""

    code = "X002"

    def check(self, window: Window) -> Iterable[Diagnosis]:
        raise ZeroDivisionError("by design")


class Detached(nn.Module):
    """The first layer's output is cut off from the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rest = nn.Linear(64, 32), mlp(1)
        self.rest[0] = nn.Linear(32, 32)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.rest(self.first(inputs).detach())


def train(
    model: nn.Module,
    log_dir: Path,
    *,
    steps: int = 60,
    lr: float = 0.05,
    at: dict[int, Callable[[nn.Module], None]] | None = None,
    losses: dict[int, object] | None = None,
    first_step: int = 0,
    close: bool = True,
    **arguments: object,
) -> tuple[Finding, ...]:
    """The findings of a watched training on the digits.

    Args:
        model: What trains.
        log_dir: Where it is stored.
        steps: Optimizer steps.
        lr: Learning rate.
        at: Step → what happens to the model before it.
        losses: Step → what the watch is given in place of its loss.
        first_step: Number of the first step.
        close: Whether the watch is closed; if not, it goes on for good.
        **arguments: Of the watch.
    """
    torch.set_num_threads(1)
    inputs, labels = digits()
    batch = inputs[:256], labels[:256]
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    arguments = {"budget": None, "verbose": 0, "initial_step": first_step, **arguments}
    watch = gradwatch.watch(model, optimizer, log_dir=log_dir, **arguments)
    for step in range(first_step, first_step + steps):
        (at or {}).get(step, lambda _: None)(model)
        optimizer.zero_grad()
        loss = cross_entropy(model, batch)
        watch.observe_loss((losses or {}).get(step, loss))
        loss.backward()
        optimizer.step()
    if close:
        watch.close()
    return watch.findings


def tiny(weight: torch.Tensor) -> None:
    nn.init.normal_(weight, std=1e-3)


def initialised_anew(model: nn.Module) -> None:
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)


def with_a_nan(model: nn.Module) -> None:
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")


def with_negative_biases(model: nn.Module) -> nn.Module:
    for layer in list(model)[:-1]:
        if isinstance(layer, nn.Linear):
            nn.init.constant_(layer.bias, -8.0)
    return model


def frozen(model: nn.Module) -> nn.Module:
    model[0].requires_grad_(False)
    return model


RUNS: dict[str, tuple[Callable[[], nn.Module], dict[str, object], set[str]]] = {
    "healthy": (lambda: mlp(3), {}, set()),
    "vanishing": (lambda: mlp(8, nn.Sigmoid), {}, {"GW101"}),
    "tiny weights": (lambda: mlp(6, nn.Tanh, init=tiny), {}, {"GW101"}),
    "cured in mid-run": (
        lambda: mlp(6, nn.Tanh, init=tiny),
        {"at": {40: initialised_anew}, "every": 1, "steps": 90},
        {"GW101"},
    ),
    "exploding": (
        lambda: mlp(8, init=lambda weight: nn.init.normal_(weight, std=2.0)),
        {"lr": 1e-9},
        {"GW301"},
    ),
    "nan": (lambda: mlp(3), {"at": {30: with_a_nan}, "every": 1}, {"GW302"}),
    "nan between samples": (lambda: mlp(3), {"at": {37: with_a_nan}}, {"GW302"}),
    "dead": (lambda: with_negative_biases(mlp(4)), {}, {"GW201"}),
    "detached": (Detached, {}, {"GW401"}),
    "symmetric": (lambda: mlp(3, init=nn.init.ones_), {"lr": 1e-4}, {"GW402"}),
    "stalled": (lambda: mlp(3), {"lr": 1e-8}, {"GW501"}),
    "frozen layer": (lambda: frozen(mlp(3)), {}, set()),
    "parameters only": (lambda: mlp(8, nn.Sigmoid), {"signals": False}, {"GW902"}),
    "of one step": (lambda: mlp(3), {"steps": 1}, set()),
    "of no step": (lambda: mlp(3), {"steps": 0}, {"GW901"}),
    "of no step, resumed": (lambda: mlp(3), {"steps": 0, "first_step": 500}, {"GW901"}),
}


@pytest.mark.parametrize(("build", "how", "codes"), RUNS.values(), ids=RUNS.keys())
def test_a_stored_run_gives_the_live_findings_to_the_letter(tmp_path, build, how, codes):
    live = train(build(), tmp_path, **how)
    assert codes <= {found.code for found in live}
    replayed = replay(read(tmp_path / "gradwatch"))
    assert repr(replayed.findings) == repr(live)
    assert replayed.history.finished


def test_a_finding_that_was_resolved_keeps_both_its_steps(tmp_path):
    build, how, _ = RUNS["cured in mid-run"]
    (live,) = train(build(), tmp_path, **how)
    (replayed,) = replay(read(tmp_path / "gradwatch")).findings
    assert live.resolved_step > 40
    assert (replayed.step, replayed.resolved_step) == (live.step, live.resolved_step)


def test_another_threshold_gives_another_verdict(tmp_path):
    train(mlp(8, nn.Sigmoid), tmp_path)
    recording = read(tmp_path / "gradwatch")
    assert [found.code for found in replay(recording).findings] == ["GW101"]
    assert replay(recording, rules_with(["GW101.depth=-30"])).findings == ()


def test_the_framework_and_the_history_are_those_of_the_run(tmp_path):
    train(mlp(3), tmp_path)
    replayed = replay(read(tmp_path / "gradwatch"))
    assert replayed.framework == "torch"
    assert replayed.history[-1].step == 48
    assert [layer.name for layer in replayed.history.layers] == ["0", "2", "4", "6"]


class TestOpenEnds:
    """Runs that nobody closed."""

    def test_a_run_that_goes_on_is_judged_up_to_what_is_stored(self, tmp_path):
        model = mlp(8, nn.Sigmoid)  # a model that is let go of closes its watch
        train(model, tmp_path, steps=140, close=False)
        recording = read(tmp_path / "gradwatch")
        replayed = replay(recording)
        watcher = Watcher(ALL_RULES)
        for entry in recording.snapshots:
            watcher.observe(entry)
        assert not replayed.history.finished
        assert len(replayed.history) == 1 + 2 + 4 + 8  # chunks that were full
        assert replayed.findings == watcher.findings
        assert [found.code for found in replayed.findings] == ["GW101"]

    def test_a_run_that_has_seen_nothing_so_far_is_no_finding(self, tmp_path):
        model = mlp(3)
        train(model, tmp_path, steps=0, close=False)
        assert replay(read(tmp_path / "gradwatch")).findings == ()


class TestResumed:
    """Runs of several sessions, each with a watch of its own."""

    def test_what_one_session_left_open_ends_where_the_next_begins(self, tmp_path):
        (live,) = train(mlp(8, nn.Sigmoid), tmp_path, steps=60)
        assert train(mlp(3), tmp_path, first_step=50) == ()
        recording = read(tmp_path / "gradwatch")
        (replayed,) = replay(recording).findings
        assert (replayed.code, replayed.step, replayed.resolved_step) == ("GW101", live.step, 50)
        assert replay(recording).history.first_step == 50

    def test_what_the_next_session_saw_again_is_that_sessions(self, tmp_path):
        train(mlp(8, nn.Sigmoid), tmp_path)
        (live,) = train(mlp(8, nn.Sigmoid, seed=1), tmp_path, first_step=50)
        assert repr(replay(read(tmp_path / "gradwatch")).findings) == repr((live,))
        assert live.step > 50

    def test_the_warm_up_is_that_of_each_session(self, tmp_path):
        train(mlp(3), tmp_path, steps=60)
        train(mlp(8, nn.Sigmoid), tmp_path, first_step=60, steps=9)
        assert replay(read(tmp_path / "gradwatch")).findings == ()

    def test_a_session_that_was_started_anew_forgets_the_one_before(self, tmp_path):
        train(mlp(8, nn.Sigmoid), tmp_path)
        train(mlp(3), tmp_path)
        replayed = replay(read(tmp_path / "gradwatch"))
        assert replayed.findings == read(tmp_path / "gradwatch").findings == ()

    def test_a_session_without_a_step_leaves_the_one_before_as_it_was(self, tmp_path):
        (live,) = train(mlp(8, nn.Sigmoid), tmp_path)
        (nothing,) = train(mlp(3), tmp_path, first_step=60, steps=0)
        replayed = replay(read(tmp_path / "gradwatch"))
        assert repr(replayed.findings) == repr((live, nothing))
        assert replayed.history[-1].step == 48


class TestTheWatchItself:
    """What cannot be judged again."""

    def test_a_rule_of_the_users_own_is_kept_as_it_was_stored(self, tmp_path):
        live = train(mlp(8, nn.Sigmoid), tmp_path, rules=[OwnRule(), *(r.code for r in ALL_RULES)])
        assert {found.code for found in live} == {"GW101", "X001"}
        assert repr(replay(read(tmp_path / "gradwatch")).findings) == repr(live)

    def test_faults_between_samples_are_kept_with_their_step(self, tmp_path):
        (live,) = train(mlp(3), tmp_path, losses={37: "much"})
        assert (live.code, live.step) == ("GW902", 37)
        assert repr(replay(read(tmp_path / "gradwatch")).findings) == repr((live,))

    def test_a_fault_after_the_last_sample_is_kept(self, tmp_path):
        (live,) = train(mlp(3), tmp_path, losses={59: "much"})
        assert live.step == 59
        assert repr(replay(read(tmp_path / "gradwatch")).findings) == repr((live,))

    def test_a_callable_that_failed_is_told_of(self, tmp_path):
        def fails(finding: Finding) -> None:
            raise RuntimeError("by design")

        live = train(mlp(8, nn.Sigmoid), tmp_path, on_finding=fails)
        assert [found.code for found in live] == ["GW101", "GW902"]
        assert repr(replay(read(tmp_path / "gradwatch")).findings) == repr(live)

    def test_a_rule_that_failed_live_is_told_of(self, tmp_path):
        live = train(mlp(3), tmp_path, rules=[Raises(), "GW902"])
        replayed = replay(read(tmp_path / "gradwatch"))
        assert repr(replayed.findings) == repr(live)
        assert "rule X002 raised" in replayed.findings[0].message

    def test_limits_that_the_watch_had_no_time_to_store_are_told_of(self, tmp_path):
        train(mlp(3), tmp_path, signals=False)
        recording = read(tmp_path / "gradwatch")
        (part,) = recording.parts
        (stored,) = part.findings
        fewer = replace(stored, evidence={"limits": 0.0}, message="Nothing yet.")
        cut = Recording((replace(part, findings=(fewer,)),))
        assert replay(cut).findings == (stored,)
        assert replay(Recording((replace(part, findings=()),))).findings == (stored,)


def chunks_of(snapshots) -> tuple[Chunk, ...]:
    """Chunks of 1, 2, 4 ... snapshots of the same layers, as the sink makes them."""
    chunks, pending, size = [], [], 1
    for entry in [*snapshots, None]:
        if pending and (
            entry is None or entry.layers is not pending[0].layers or len(pending) == size
        ):
            header, body = encode_chunk(pending, session="s", rows="r")
            rows = Rows(pending[0].layers)
            chunks.append(decode_chunk(decode_header(header), body, rows))
            pending, size = [], 2 * size
        pending.append(entry)
    return tuple(chunks)


@settings(parent=BOUNDED_RUN, max_examples=100)
@given(runs(), st.sampled_from([EXTREME, ABSURD]), st.booleans())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_any_run_gives_the_live_findings_with_and_without_screening(drawn, odd, screening):
    snapshots = with_shared_layers(history_from(drawn, odd))
    live = Watcher(ALL_RULES, screening=False)
    for entry in snapshots:
        live.observe(entry)
    live.finish(1_000)
    session = Session(
        facts=RunFacts("s", "torch", "0", 0.0, finished=True),
        chunks=chunks_of(snapshots),
        findings=(),
        first_step=snapshots[0].step if snapshots else None,
        last_step=1_000,
    )
    replayed = replay(Recording((session,)), screening=screening)
    assert repr(replayed.findings) == repr(live.findings)
