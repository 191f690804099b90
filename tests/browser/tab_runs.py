"""Runs that the tab is shown: two real trainings, and some of values that are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import torch
from torch import nn

import gradwatch
import gradwatch.keras
from gradwatch.snapshot import ROW_OF, Snapshot, State, empty_statistics
from gradwatch.tensorboard.sink import TensorBoardSink

from ..tensorboard.builders import (
    chain,
    finding,
    usual_snapshot,
    write_healthy_training,
    write_run,
    write_training,
)
from .driving import ACTS_IF_RUN

STEPS, BATCH, WIDTH, CLASSES = 200, 16, 16, 4

DEEP, DEEP_STEPS = 200, range(1_000_000, 1_000_000 + 41 * 1000, 1000)
"""Layers and steps of the run "deep": more layers than labels, and long numbers of steps."""

KNOWN_LOG10 = np.array(
    [
        [-5.7, -5.0, -4.0, np.inf],
        [-4.0, -3.3, -2.0, -1.0],
        [-2.0, np.nan, -1.5, -0.3],
        [np.nan, np.nan, np.nan, -np.inf],
    ]
)
"""log10 of the gradient norms of the run "known", shape (layers, samples).

NaN is not observed, +inf not finite, -inf exactly zero.
"""

KNOWN_STATES = np.full(KNOWN_LOG10.shape, State.TRAINED, dtype=np.int8)
KNOWN_STATES[3] = (State.FROZEN, State.IDLE, State.NO_GRADIENT, State.ZERO_GRADIENT)
"""States of the run "known", shape (layers, samples)."""


def write_all(log_dir: Path) -> None:
    """Every run that the tests of the tab look at."""
    train_torch(log_dir / "torch")
    train_keras(log_dir / "keras")
    write_training(log_dir / "sick")
    write_healthy_training(log_dir / "healthy")
    write_known(log_dir / "known")
    write_hostile(log_dir / "hostile")


def write_drawn(log_dir: Path) -> None:
    """Every run that the tests of the heatmaps look at."""
    write_known(log_dir / "known")
    write_training(log_dir / "sick")
    write_part(log_dir / "part")
    write_run(log_dir / "deep", [usual_snapshot(chain(DEEP), step) for step in DEEP_STEPS])


def write_part(log_dir: Path) -> None:
    """Five layers, of which four have the names of layers of the run "sick"."""
    layers = list(chain(5))
    layers[2] = replace(layers[2], name="extra")
    write_run(log_dir, [usual_snapshot(tuple(layers), step) for step in range(0, 100, 2)])


def train_torch(log_dir: Path) -> None:
    """200 steps of an eight-layer sigmoid network, whose first layers do not learn."""
    torch.manual_seed(0)
    hidden = [part for _ in range(7) for part in (nn.Linear(WIDTH, WIDTH), nn.Sigmoid())]
    model = nn.Sequential(*hidden, nn.Linear(WIDTH, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    labels = torch.arange(BATCH) % CLASSES
    inputs = torch.randn(BATCH, WIDTH) + labels[:, None]
    with gradwatch.watch(model, optimizer, log_dir=log_dir, budget=None, verbose=0) as watch:
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), labels)
            watch.observe_loss(loss)
            loss.backward()
            optimizer.step()


def train_keras(log_dir: Path) -> None:
    """200 steps of a two-layer ReLU network, which learns."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((WIDTH,)),
            keras.layers.Dense(WIDTH, activation="relu", kernel_initializer="he_normal", name="h"),
            keras.layers.Dense(CLASSES, name="logits"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.05), loss=loss)
    labels = np.arange(BATCH * 10) % CLASSES
    inputs = np.random.default_rng(0).normal(size=(len(labels), WIDTH)) + labels[:, None]
    watch = gradwatch.keras.GradWatch(log_dir, budget=None, verbose=0)
    epochs = STEPS * BATCH // len(labels)
    model.fit(inputs, labels, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[watch])


def write_known(log_dir: Path) -> None:
    """Four layers, four samples of parameters alone, each of a known colour."""
    layers = chain(len(KNOWN_LOG10), prefix="known")
    snapshots = []
    for sample, (levels, states) in enumerate(zip(KNOWN_LOG10.T, KNOWN_STATES.T, strict=True)):
        packed = empty_statistics(len(layers))
        packed[ROW_OF["grad_norm"]] = 10.0**levels
        snapshots.append(
            Snapshot.unpacked(
                packed, step=10 * sample, layers=layers, states=states, wall_time=1.7e9 + sample
            )
        )
    write_run(log_dir, snapshots)


def begin_live(log_dir: Path) -> TensorBoardSink:
    """A run with a finding that goes on: `go_on` writes what comes next."""
    sink = write_run(log_dir, _snapshots(range(0, 20, 2)), close=False)
    sink.write_findings([finding()], [finding()])
    return sink


def go_on(sink: TensorBoardSink) -> None:
    """Further steps of the live run; its finding grows, another comes."""
    for snapshot in _snapshots(range(20, 200, 2)):
        sink.write_snapshot(snapshot)
    grown = finding(message="It has become worse.")
    further = finding(
        code="GW202", name="saturated-activation", severity="warning", cause="weights"
    )
    sink.write_findings([grown, further], [grown, further])


def _snapshots(steps: range) -> list[Snapshot]:
    return [usual_snapshot(chain(4), step) for step in steps]


def write_hostile(log_dir: Path) -> None:
    """A layer, and a finding, whose text is HTML that acts if a page takes it for such."""
    layers = chain(3, prefix=ACTS_IF_RUN)
    sink = write_run(log_dir, [usual_snapshot(layers, step) for step in (0, 16)], close=False)
    hostile = finding(
        layers=(layers[0].name,), message=f"Layer {layers[0].name} \u202e does not learn."
    )
    sink.write_findings([hostile], [hostile])
    sink.close()
