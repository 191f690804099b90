"""What goes wrong in or around a training ends neither the training nor the next one."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest

keras = pytest.importorskip("keras")

import gradwatch.keras  # noqa: E402 -- needs Keras
from gradwatch.errors import ArgumentError  # noqa: E402 -- after the check
from gradwatch.keras.attaching import attachment_of  # noqa: E402 -- needs Keras
from gradwatch.keras.probe import Probe  # noqa: E402 -- needs Keras
from tests.keras.training import (  # noqa: E402 -- needs Keras
    BACKEND,
    BATCH,
    STEPS,
    assert_same,
    compiled,
    fit,
    mlp,
    symmetric,
    tensors,
    variables,
    watch,
)

layers, optimizers = keras.layers, keras.optimizers

pytestmark = [
    # Keras itself, and what it imports, calls NumPy in ways that NumPy 2.4 deprecates.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


class BoomError(Exception):
    """What is raised on purpose."""


class Raising(keras.callbacks.Callback):
    """Raises after two steps."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            raise self.error


def breaking_data(error):
    x, y = tensors(5)
    yield x[:BATCH], y[:BATCH]
    yield x[BATCH : 2 * BATCH], y[BATCH : 2 * BATCH]
    raise error


def is_free(model):
    return attachment_of(model) is None and not {"apply", "stateless_apply"} & set(
        vars(model.optimizer)
    )


def steps_of(callback):
    return [snapshot.step for snapshot in callback.history]


# --- a training that is broken off


@pytest.mark.parametrize("error", [BoomError, KeyboardInterrupt])
def test_a_training_that_a_callback_broke_off_can_be_watched_again(error):
    model, callback = compiled(mlp()), watch()
    with pytest.raises(error):
        fit(model, callback, Raising(error()))
    fit(model, callback)
    assert is_free(model)
    assert steps_of(callback) == list(range(2 + STEPS))
    assert callback.history.limits == ()


@pytest.mark.parametrize("error", [BoomError, KeyboardInterrupt])
def test_a_training_that_a_callback_broke_off_leaves_the_next_as_it_would_be(error):
    def trained(*callbacks):
        keras.utils.set_random_seed(0)
        model = compiled(mlp())
        with pytest.raises(error):
            fit(model, *callbacks, Raising(error()))
        fit(model)
        return variables(model)

    assert_same(trained(watch()), trained())


def test_a_plain_training_after_one_that_was_broken_off_is_not_recorded():
    model, callback = compiled(mlp()), watch()
    with pytest.raises(BoomError):
        fit(model, callback, Raising(BoomError()))
    fit(model)
    assert is_free(model)
    assert steps_of(callback) == [0, 1]


@pytest.mark.skipif(BACKEND == "jax", reason="Keras' loop on JAX keeps the state of before")
def test_a_model_that_a_callback_compiles_anew_is_observed_from_the_next_epoch_on():
    class Compiling(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1 and self.model.optimizer.iterations < STEPS:
                compiled(self.model, keras.optimizers.SGD(0.01))
                self.model.make_train_function()

    model, callback = compiled(mlp()), watch()
    fit(model, callback, Compiling(), epochs=2)
    assert is_free(model)
    assert steps_of(callback)[:2] == [0, 1]
    assert len(steps_of(callback)) == 2 + STEPS
    assert callback.history.limits == ()


def test_another_callback_finds_and_lifts_what_was_left():
    model, first, second = compiled(mlp()), watch(), watch()
    with pytest.raises(BoomError):
        fit(model, first, Raising(BoomError()))
    left = attachment_of(model)
    assert left is not None
    fit(model, second)
    assert is_free(model)
    assert steps_of(second) == list(range(2, 2 + STEPS))
    assert steps_of(first) == [0, 1]


def test_a_model_that_is_compiled_anew_after_a_fault_is_free():
    model, first, second = compiled(mlp()), watch(), watch()
    with pytest.raises(BoomError):
        fit(model, first, Raising(BoomError()))
    compiled(model)
    fit(model, second)
    assert is_free(model)
    assert steps_of(second) == list(range(STEPS))
    assert second.history.limits == ()


class Explosive(layers.Layer):
    """Raises when it is run, once it is armed."""

    error: BaseException | None = None

    def call(self, x):
        if self.error is not None:
            raise self.error
        return x


@pytest.mark.parametrize("probed", [False, True], ids=["in the step", "in the probe"])
@pytest.mark.parametrize("error", [BoomError, KeyboardInterrupt])
def test_a_step_that_raises_leaves_the_model_free_at_once(error, probed):
    explosive = Explosive()
    model = keras.Sequential([keras.Input((5,)), layers.Dense(4), explosive, layers.Dense(3)])
    compiled(model, run_eagerly=True)
    callback = watch(update_freq=2 if probed else 4)

    class Arming(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                explosive.error = error()

    with pytest.raises(error):
        fit(model, callback, Arming())
    assert is_free(model)
    assert steps_of(callback) == [0]
    explosive.error = None
    fit(model, callback, epochs=2)
    assert is_free(model)
    assert len(callback.history) > 1


def test_steps_that_were_not_watched_are_counted():
    model, callback = compiled(mlp()), watch()
    fit(model, callback)
    fit(model)
    fit(model, callback)
    assert steps_of(callback) == [*range(STEPS), *range(2 * STEPS, 3 * STEPS)]


def test_a_tap_that_was_left_is_lifted_from_an_optimizer_that_is_compiled_again():
    model, first, second = compiled(mlp()), watch(), watch()
    with pytest.raises(BoomError):
        fit(model, first, Raising(BoomError()))
    compiled(model, model.optimizer)
    assert not is_free(model)
    fit(model, second)
    assert is_free(model)
    assert steps_of(second) == list(range(2, 2 + STEPS))


def test_what_the_user_has_put_on_an_optimizer_stays():
    method = "stateless_apply" if keras.backend.backend() == "jax" else "apply"
    model, calls = compiled(mlp()), []
    original = getattr(model.optimizer, method)

    def counted(*arguments):
        calls.append(len(arguments))
        return original(*arguments)

    vars(model.optimizer)[method] = counted
    callback = watch()
    fit(model, callback)
    assert calls
    assert steps_of(callback) == list(range(STEPS))
    assert vars(model.optimizer)[method] is counted


def test_data_that_raise_leave_the_model_free_for_the_next_training():
    model, callback = compiled(mlp()), watch()
    with pytest.raises(Exception, match="on purpose"):
        fit(model, callback, x=breaking_data(BoomError("on purpose")), steps_per_epoch=STEPS)
    fit(model)
    fit(model, watch())
    assert is_free(model)


@pytest.mark.parametrize("steps_before", [0, 1])
def test_what_the_data_raise_is_raised_as_ever(steps_before):
    """On the first batch too, which is drawn for the probe."""

    class Broken(keras.utils.PyDataset):
        def __len__(self):
            return STEPS

        def __getitem__(self, number):
            if number == steps_before:
                raise BoomError("on purpose")
            x, y = tensors(5)
            return x[:BATCH], y[:BATCH]

    model = keras.Sequential([keras.Input((5,)), layers.Dense(3)])
    compiled(model)
    with pytest.raises(Exception, match="on purpose"):
        fit(model, watch(), x=Broken())


# --- faults of our own


def test_an_activation_that_raises_in_the_probe_leaves_the_parameters_observed(monkeypatch):
    probing = []
    run = Probe._forward

    def noted(self, *arguments):
        probing.append(True)
        try:
            return run(self, *arguments)
        finally:
            probing.pop()

    monkeypatch.setattr(Probe, "_forward", noted)

    def fussy(x):
        if probing:
            raise BoomError("not in a probe")
        return keras.ops.tanh(x)

    def trained(*callbacks):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((5,))
        hidden = layers.Dense(4, activation=fussy)(inputs)
        model = compiled(keras.Model(inputs, layers.Dense(3)(hidden)))
        fit(model, *callbacks)
        return variables(model)

    callback = watch()
    assert_same(trained(callback), trained())
    assert steps_of(callback) == list(range(STEPS))
    assert not any(snapshot.has_signals for snapshot in callback.history)
    (finding,) = [found for found in callback.findings if found.code == "GW902"]
    assert "the probe failed at step 0" in finding.message
    assert "not in a probe" in finding.message
    assert "probe=(x, y)" in finding.message


def test_a_batch_that_does_not_fit_the_model_is_named():
    callback = watch(probe=(np.zeros((2, 7), "float32"), np.zeros(2, "int32")))
    model = compiled(mlp())
    fit(model, callback)
    assert steps_of(callback) == list(range(STEPS))
    assert "the probe failed" in callback.history.limits[0]
    assert is_free(model)


class Broken:
    """A sink on a disk that is full."""

    def __init__(self):
        self.calls = 0

    def write_snapshot(self, snapshot):
        self.calls += 1
        raise OSError(28, "No space left on device")

    def write_findings(self, changed, findings):
        raise OSError(28, "No space left on device")

    def close(self):
        raise OSError(28, "No space left on device")


def test_a_full_disk_ends_the_writing_and_not_the_training(monkeypatch):
    sink = Broken()
    monkeypatch.setattr("gradwatch.keras.callback.make_sinks", lambda *_, **__: iter([sink]))
    callback = watch()
    fit(compiled(mlp()), callback, epochs=2)
    assert sink.calls == 1
    assert steps_of(callback) == list(range(2 * STEPS))
    assert "No space left on device" in callback.history.limits[0]


def test_a_finding_that_the_users_function_cannot_take_is_said():
    def on_finding(finding):
        raise BoomError("cannot take it")

    callback = watch(on_finding=on_finding)
    fit(compiled(symmetric()), callback, epochs=8)
    assert len(callback.history) == 8 * STEPS
    assert any("cannot take it" in limit for limit in callback.history.limits)


@pytest.mark.parametrize(
    "where",
    [
        "gradwatch.keras.figures.StepFigures.before",
        "gradwatch.keras.figures.StepFigures.after",
        "gradwatch.keras.attachment.Attachment._begin",
        "gradwatch.keras.attachment.Attachment._end",
        "gradwatch.keras.callback.attach",
        "gradwatch.keras.session.Session.begin",
        "gradwatch.keras.observation.Observation.snapshot",
    ],
)
def test_a_fault_of_our_own_ends_the_watching_and_leaves_the_training(where, monkeypatch):
    plain = trained_by_itself()

    def failing(*_, **__):
        raise BoomError("on purpose")

    monkeypatch.setattr(where, failing)
    callback = watch()
    assert_same(trained_with(callback), plain)
    assert any("on purpose" in limit for limit in callback.history.limits)
    assert any(found.code == "GW902" for found in callback.findings)


def trained_with(*callbacks):
    keras.utils.set_random_seed(0)
    model = compiled(mlp())
    losses = fit(model, *callbacks, epochs=2).history["loss"]
    return losses, variables(model), is_free(model)


@cache
def trained_by_itself():
    return trained_with()


# --- wrong arguments

WRONG = [
    ({"update_freq": 0}, "update_freq=0", "from 1 on"),
    ({"update_freq": "often"}, "update_freq='often'", '"auto", "epoch", "batch"'),
    ({"update_freq": True}, "update_freq=True", "whole number"),
    ({"update_freq": 1.5}, "update_freq=1.5", "whole number"),
    ({"budget": 0}, "budget=0", "None for no limit"),
    ({"budget": 2.0}, "budget=2.0", "(0, 1]"),
    ({"verbose": 2}, "verbose=2", "0, for silence"),
    ({"log_dir": 3}, "log_dir=3", "pass TensorBoard's directory"),
    ({"log_dir": ""}, "log_dir=''", "or None"),
    ({"name": 3}, "name=3", "not a string"),
    ({"probe": 3}, "probe is a int", "(x, y)"),
    ({"probe": ()}, "probe is a tuple", "(x, y)"),
    ({"probe": (1, 2, 3, 4)}, "probe is a tuple", "(x, y, sample_weight)"),
    ({"probe": (np.zeros(3), np.zeros(4))}, "probe: its arrays hold [3, 4]", "pass one batch"),
    ({"rules": ["GW000"]}, "GW000", "GW101"),
    ({"on_finding": 3}, "on_finding=3", "pass a function"),
]


@pytest.mark.parametrize(
    ("arguments", "named", "way_out"), WRONG, ids=[f"{named}" for _, named, _ in WRONG]
)
def test_a_wrong_argument_is_named_with_its_value_and_a_way_out(arguments, named, way_out):
    with pytest.raises(ArgumentError, match=re.escape(named)) as raised:
        gradwatch.keras.GradWatch(**arguments)
    assert way_out in str(raised.value)


def test_the_value_of_every_argument_is_tried():
    tried = {name for arguments, _, _ in WRONG for name in arguments}
    assert tried == set(gradwatch.keras.GradWatch.__init__.__annotations__) - {"return"}
