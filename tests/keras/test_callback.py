"""The callback as a user meets it: its arguments, its lines, its report and its event files."""

from __future__ import annotations

import re
from itertools import pairwise

import keras
import numpy as np
import pytest
from keras import layers

import gradwatch
import gradwatch.keras
from gradwatch.errors import ArgumentError
from gradwatch.schedule import EARLY_STEPS
from gradwatch.tensorboard.reader import read

BATCH = 16
STEPS = 10
"""Steps of an epoch."""


def net(activation: str = "relu", depth: int = 2) -> keras.Model:
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(16, activation=activation) for _ in range(depth)]
    model = keras.Sequential([keras.Input((8,)), *hidden, layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05), loss)
    return model


def batches(count: int = STEPS) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(count * BATCH, 8)).astype("float32")
    return x, (x[:, 0] > 0).astype("int64") + (x[:, 1] > 0)


def fit(callback: gradwatch.keras.GradWatch, model: keras.Model | None = None, **options):
    x, y = batches(options.pop("steps", STEPS))
    model = model or net()
    options = {"batch_size": BATCH, "verbose": 0, **options}
    model.fit(x, y, callbacks=[callback], **options)
    return callback


def steps_of(callback: gradwatch.keras.GradWatch, *, signals: bool = False) -> list[int]:
    return [entry.step for entry in callback.history if entry.has_signals or not signals]


@pytest.mark.parametrize(
    ("update_freq", "expected"),
    [("batch", list(range(20))), (7, [0, 7, 14]), ("epoch", [0, 10])],
)
def test_an_interval_is_kept_exactly(update_freq, expected):
    callback = fit(gradwatch.keras.GradWatch(update_freq=update_freq, verbose=0), epochs=2)
    assert steps_of(callback) == steps_of(callback, signals=True) == expected


def test_a_long_training_is_probed_more_rarely_than_its_parameters_are_read():
    callback = fit(gradwatch.keras.GradWatch(verbose=0), epochs=14)
    early = [step for step in steps_of(callback) if step <= 128]
    assert early == sorted(EARLY_STEPS)
    probed = [step for step in steps_of(callback, signals=True) if step <= 128]
    assert probed == [4, 16, 24, 32, 48, 64, 96, 128]


def test_a_short_training_is_probed_at_every_early_step():
    callback = fit(gradwatch.keras.GradWatch(verbose=0), epochs=3)
    assert steps_of(callback, signals=True) == sorted(step for step in EARLY_STEPS if step < 30)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"update_freq": "sometimes"}, "update_freq='sometimes'"),
        ({"update_freq": 0}, "update_freq=0"),
        ({"update_freq": True}, "update_freq=True"),
        ({"budget": 2}, "budget=2"),
        ({"probe": np.zeros((4, 8))}, "probe is a ndarray"),
        ({"probe": (np.zeros((4, 8)), np.zeros(3))}, r"probe: .*\[3, 4\]"),
        ({"rules": ["GW999"]}, "GW999"),
        ({"verbose": 3}, "verbose=3"),
        ({"on_finding": "print"}, "on_finding='print'"),
        ({"log_dir": 3}, "log_dir=3"),
    ],
)
def test_a_wrong_argument_is_named_at_once(arguments, named):
    with pytest.raises(ArgumentError, match=named):
        gradwatch.keras.GradWatch(**arguments)


def test_findings_reach_the_callable_the_report_and_the_last_line(capsys):
    found = []
    callback = gradwatch.keras.GradWatch(on_finding=found.append)
    fit(callback, net("sigmoid", depth=8), epochs=9)
    assert [finding.code for finding in found] == ["GW101"]
    assert callback.findings[0].code == "GW101"
    assert 'kernel_initializer="he_normal"' in str(callback.report())
    assert "callback.report()" in capsys.readouterr().err


def test_lines_are_written_between_epochs_and_never_inside_a_progress_bar(capsys):
    x, y = batches()
    written = []

    class Listener(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            written.append(("batch", capsys.readouterr().err))

        def on_epoch_begin(self, epoch, logs=None):
            written.append(("epoch", capsys.readouterr().err))

    callback = gradwatch.keras.GradWatch()
    net("sigmoid", depth=8).fit(
        x, y, batch_size=BATCH, epochs=9, verbose=0, callbacks=[callback, Listener()]
    )
    assert not any("gradwatch" in text for where, text in written if where == "batch")
    assert any("GW101" in text for where, text in written if where == "epoch")
    assert re.search("gradwatch .*GW101", capsys.readouterr().err)


def test_a_second_fit_ends_with_the_verdict_on_both(capsys):
    callback, model = gradwatch.keras.GradWatch(), net("sigmoid", depth=8)
    fit(callback, model, epochs=9)
    capsys.readouterr()
    fit(callback, model, epochs=1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "GW101" in lines[0]


def test_silence_is_kept(capsys):
    fit(gradwatch.keras.GradWatch(verbose=0), net("sigmoid", depth=8), epochs=9)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("epochs", [(3,), (1, 1, 1)], ids=["one fit", "three fits"])
def test_event_files_hold_what_was_observed(tmp_path, epochs):
    callback = gradwatch.keras.GradWatch(tmp_path, verbose=0, update_freq=2)
    model = net()
    for count in epochs:
        fit(callback, model, epochs=count)
    stored = read(tmp_path / "gradwatch").snapshots
    assert [entry.step for entry in stored] == steps_of(callback) == list(range(0, 30, 2))
    np.testing.assert_array_equal(stored[-1].grad_norm, callback.history[-1].grad_norm)
    assert stored[0].layers[0].kind == "Dense"


def test_the_loss_is_that_of_the_training_step():
    x, y = batches(6)
    model, plain = net(), net()
    callback = gradwatch.keras.GradWatch(update_freq="batch", verbose=0)
    options = {"batch_size": BATCH, "verbose": 0, "shuffle": False}
    model.fit(x, y, callbacks=[callback], **options)
    losses = [
        float(plain.fit(x[start:end], y[start:end], **options).history["loss"][0])
        for start, end in pairwise(range(0, len(x) + 1, BATCH))
    ]
    np.testing.assert_allclose([entry.loss for entry in callback.history], losses, rtol=1e-4)


def test_another_model_gets_a_history_of_its_own():
    callback = gradwatch.keras.GradWatch(update_freq=5, verbose=0)
    fit(callback, net(), epochs=2)
    fit(callback, net(depth=3), epochs=1)
    assert steps_of(callback) == [0, 5]
    assert len(callback.history.layers) == 4


def test_the_package_finds_the_adapter_by_itself():
    assert gradwatch.keras.GradWatch is vars(gradwatch)["keras"].GradWatch
