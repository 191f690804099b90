"""One callback through everything that `fit` does and is surrounded by."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from gradwatch.keras.attaching import AfterFirstStep, attachment_of  # noqa: E402 -- needs Keras
from tests.keras.training import (  # noqa: E402 -- needs Keras
    BACKEND,
    BATCH,
    STEPS,
    assert_same,
    compiled,
    cross_entropy,
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


def steps_of(callback):
    return [snapshot.step for snapshot in callback.history]


def each(callback):
    """Fail unless there is a snapshot with signals of every step, and nothing went wrong."""
    assert callback.history.limits == ()
    assert all(snapshot.has_signals for snapshot in callback.history)
    assert all(np.isfinite(snapshot.loss) for snapshot in callback.history)
    return steps_of(callback)


def is_free(model):
    return attachment_of(model) is None and not {"apply", "stateless_apply"} & set(
        vars(model.optimizer)
    )


# --- fit again, and what lies between


def test_a_second_fit_goes_on_where_the_first_has_ended():
    model, callback = compiled(mlp()), watch()
    fit(model, callback)
    assert is_free(model)
    fit(model, callback)
    assert each(callback) == list(range(2 * STEPS))
    assert is_free(model)


def test_a_second_callback_begins_with_the_optimizers_step():
    model, first, second = compiled(mlp()), watch(), watch()
    fit(model, first)
    fit(model, second)
    assert each(second) == list(range(STEPS, 2 * STEPS))


def test_the_same_callback_watches_a_model_that_is_compiled_anew():
    model, callback = compiled(mlp()), watch()
    fit(model, callback)
    compiled(model, optimizers.Adam(0.01))
    fit(model, callback)
    assert each(callback) == list(range(2 * STEPS))
    assert is_free(model)


def test_compiling_between_changes_nothing_of_the_training():
    def twice(*callbacks):
        keras.utils.set_random_seed(0)
        model = compiled(mlp())
        fit(model, *callbacks)
        compiled(model, optimizers.Adam(0.01))
        fit(model, *callbacks)
        return variables(model)

    assert_same(twice(watch()), twice())


def test_another_model_gets_a_history_of_its_own():
    callback = watch()
    fit(compiled(mlp()), callback)
    fit(compiled(mlp(width=6)), callback)
    assert each(callback) == list(range(STEPS))
    assert callback.history.layers[0].parameter_count == 5 * 6 + 6


def test_evaluation_and_prediction_between_and_within_change_nothing():
    def trained(*callbacks):
        keras.utils.set_random_seed(0)
        model = compiled(mlp(), metrics=["accuracy"])
        x, y = tensors(5)
        fit(model, *callbacks, validation_data=(x, y))
        between = model.evaluate(x, y, verbose=0), model.predict(x, verbose=0)
        history = fit(model, *callbacks, validation_split=0.25, epochs=2).history
        return list(between), history, variables(model)

    callback = watch()
    assert_same(trained(callback), trained())
    assert each(callback) == list(range(STEPS + 2 * 3))


def test_a_model_that_evaluates_in_a_callback_is_undisturbed():
    class Evaluating(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            x, y = tensors(5)
            self.model.evaluate(x, y, verbose=0)
            self.model.predict(x, verbose=0)

    def trained(*callbacks):
        keras.utils.set_random_seed(0)
        model = compiled(mlp())
        fit(model, *callbacks, epochs=2)
        return variables(model)

    callback = watch()
    assert_same(trained(callback, Evaluating()), trained(Evaluating()))
    assert_same(trained(Evaluating(), watch()), trained(Evaluating()))
    assert each(callback) == list(range(2 * STEPS))


def findings(callback):
    return {(found.code, found.cause, found.layers) for found in callback.findings}


def test_many_fits_of_one_epoch_get_the_verdict_of_one_fit_of_many():
    together, apart = watch(update_freq="auto"), watch(update_freq="auto")
    fit(compiled(symmetric()), together, epochs=8)
    keras.utils.set_random_seed(0)
    model = compiled(symmetric())
    for _ in range(8):
        fit(model, apart)
    assert findings(apart) == findings(together)
    assert findings(together)
    assert apart.history.limits == together.history.limits == ()
    seen = {snapshot.step: snapshot.grad_norm for snapshot in together.history}
    both = [snapshot for snapshot in apart.history if snapshot.step in seen]
    assert len(both) >= 8
    np.testing.assert_allclose(
        [snapshot.grad_norm for snapshot in both],
        [seen[snapshot.step] for snapshot in both],
        rtol=1e-6,
    )


def test_epochs_may_begin_late():
    model, callback = compiled(mlp()), watch(update_freq="epoch")
    fit(model, callback, initial_epoch=3, epochs=5)
    assert steps_of(callback) == [0, STEPS]


@pytest.mark.parametrize(
    ("update_freq", "expected"),
    [("batch", list(range(12))), ("epoch", [0, 4, 8]), (3, [0, 3, 6, 9])],
)
def test_an_interval_is_kept_exactly(update_freq, expected):
    callback = watch(update_freq=update_freq)
    fit(compiled(mlp()), callback, epochs=3)
    assert each(callback) == expected


@pytest.mark.skipif(BACKEND == "torch", reason="Keras refuses it on PyTorch")
@pytest.mark.parametrize(
    ("update_freq", "expected"),
    [("batch", [2, 3, 6, 7]), ("epoch", [2, 6]), (4, [2, 6])],
)
def test_an_execution_of_several_steps_has_the_number_of_its_last(update_freq, expected):
    """Of four steps an epoch, three run in one execution and one in the next."""
    callback = watch(update_freq=update_freq)
    fit(compiled(mlp(), steps_per_execution=3), callback, epochs=2)
    assert steps_of(callback) == expected
    assert callback.history.limits == ()


def test_a_loss_is_that_of_the_step_and_not_of_the_epoch_so_far():
    losses = []

    class Noting(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            losses.append((batch + 1) * float(logs["loss"]))

    callback = watch()
    fit(compiled(mlp()), callback, Noting())
    expected = np.diff([0.0, *losses])
    np.testing.assert_allclose(
        [snapshot.loss for snapshot in callback.history], expected, rtol=1e-4
    )


# --- several callbacks


def test_two_callbacks_see_the_same():
    first, second = watch(), watch()
    model = compiled(symmetric())
    fit(model, first, second, epochs=3)
    assert each(first) == each(second) == list(range(3 * STEPS))
    assert findings(first) == findings(second) != set()
    assert is_free(model)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_callbacks_with_intervals_of_their_own_do_not_disturb_each_other(order):
    pair = [watch(), watch(update_freq=3)]
    fit(compiled(mlp()), *(pair[number] for number in order), epochs=2)
    assert each(pair[0]) == list(range(8))
    assert each(pair[1]) == [0, 3, 6]


def test_a_callback_that_stops_watching_leaves_the_other_one_watching():
    class Stopping(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                first._session.finish()

    first, second = watch(), watch()
    model = compiled(mlp())
    fit(model, first, Stopping(), second, epochs=2)
    assert each(first) == list(range(STEPS))
    assert each(second) == list(range(2 * STEPS))
    assert is_free(model)


def test_two_callbacks_change_the_training_as_little_as_one():
    def trained(*callbacks):
        keras.utils.set_random_seed(0)
        model = compiled(mlp())
        fit(model, *callbacks, epochs=2)
        return variables(model)

    assert_same(trained(watch(), watch(update_freq=3)), trained())


# --- what a further training need not do again


def traces(layer):
    """Appends to a list at every call of the layer, traced or not."""
    made, plain = [], layer.call
    layer.call = lambda *args, **kwargs: (made.append(1), plain(*args, **kwargs))[1]
    return made


@pytest.mark.skipif(BACKEND == "torch", reason="Keras traces nothing on PyTorch")
@pytest.mark.parametrize("count", [1, 2])
def test_a_further_fit_traces_nothing(count):
    model, callbacks = compiled(mlp()), [watch() for _ in range(count)]
    made = traces(model.layers[0])
    for _ in range(2):
        fit(model, *callbacks)
    before = len(made)
    fit(model, *callbacks)
    assert len(made) == before > 0
    assert all(each(callback) == list(range(3 * STEPS)) for callback in callbacks)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras traces nothing on PyTorch")
def test_a_plain_fit_afterwards_traces_what_it_would_have():
    """It finds the step that it had before, as it does without the callback between."""
    model = compiled(mlp())
    made = traces(model.layers[0])
    fit(model)
    plain = model.train_function
    fit(model, watch())
    before = len(made)
    assert model.train_function is plain
    fit(model)
    assert len(made) == before


def test_a_training_step_that_was_made_anew_is_observed_anew():
    class Doubled(keras.Sequential):
        factor = 1.0

        def compute_loss(self, *args, **kwargs):
            return self.factor * super().compute_loss(*args, **kwargs)

    model, callback = (
        compiled(Doubled([keras.Input((5,)), layers.Dense(3)]), optimizers.SGD(0.0)),
        watch(),
    )
    fit(model, callback)
    model.factor = 2.0
    model.make_train_function(force=True)
    fit(model, callback)
    before, after = callback.history[0], callback.history[STEPS]
    assert after.grad_norm == pytest.approx(2 * before.grad_norm, rel=1e-5)


# --- where the data comes from


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return STEPS

    def __getitem__(self, number):
        x, y = tensors(5)
        part = slice(number * BATCH, (number + 1) * BATCH)
        return x[part], y[part]


def as_generator():
    batches = Batches()
    return {"x": (batches[number % STEPS] for number in itertools.count())}


def as_dataset():
    tf = pytest.importorskip("tensorflow")
    return {"x": tf.data.Dataset.from_tensor_slices(tensors(5)).batch(BATCH)}


def as_loader():
    torch = pytest.importorskip("torch")
    tensors_of = torch.utils.data.TensorDataset(*map(torch.from_numpy, tensors(5)))
    return {"x": torch.utils.data.DataLoader(tensors_of, batch_size=BATCH)}


@pytest.mark.parametrize(
    "data",
    [as_generator, as_dataset, as_loader, lambda: {"x": Batches()}],
    ids=["generator", "tf.data", "DataLoader", "PyDataset"],
)
def test_data_may_come_in_any_form(data):
    def trained(*callbacks):
        keras.utils.set_random_seed(0)
        model = compiled(mlp())
        history = fit(model, *callbacks, epochs=2, steps_per_epoch=STEPS, **data()).history
        return history, variables(model)

    callback = watch()
    assert_same(trained(callback), trained())
    assert each(callback) == list(range(2 * STEPS))


def test_the_first_batch_is_not_lost_to_the_probe():
    """A generator is read once: what the probe has seen is trained on as well."""
    taken = []

    def batches():
        for number in range(STEPS):
            taken.append(number)
            yield Batches()[number]

    model, callback = compiled(mlp()), watch()
    fit(model, callback, x=batches(), steps_per_epoch=STEPS)
    assert int(model.optimizer.iterations.value) == STEPS
    assert each(callback) == list(range(STEPS))


def test_the_last_batch_may_be_smaller():
    def trained(*callbacks):
        keras.utils.set_random_seed(0)
        model = compiled(mlp())
        x, y = tensors(5)
        history = fit(model, *callbacks, x=x[:19], y=y[:19], epochs=2).history
        return history, variables(model)

    callback = watch()
    assert_same(trained(callback), trained())
    assert each(callback) == list(range(6))


# Keras warns that it would have liked more.
@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.filterwarnings(r"ignore:[\s\S]*end of sequence:UserWarning")
def test_data_may_end_early():
    def trained(*callbacks):
        keras.utils.set_random_seed(0)
        model = compiled(mlp())
        data = (Batches()[number] for number in range(3))
        history = fit(model, *callbacks, x=data, steps_per_epoch=10).history
        return history, variables(model)

    callback = watch()
    assert_same(trained(callback), trained())
    assert each(callback) == list(range(3))


def test_training_may_stop_early():
    model, callback = compiled(mlp(), optimizers.SGD(0.0)), watch()
    stopping = keras.callbacks.EarlyStopping("loss", patience=1, restore_best_weights=True)
    fit(model, stopping, callback, epochs=9)
    assert each(callback) == list(range(2 * STEPS))
    assert is_free(model)


def test_training_may_stop_within_an_epoch():
    class Stopping(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    model, callback = compiled(mlp()), watch()
    fit(model, callback, Stopping(), epochs=3)
    assert each(callback) == [0, 1]
    assert is_free(model)


def test_a_batch_for_the_probe_may_be_given():
    x, y = tensors(5)
    callback = watch(probe=(x[:4], y[:4]))
    fit(compiled(mlp()), callback)
    assert each(callback) == list(range(STEPS))


def test_inputs_may_have_names():
    one, other = keras.Input((5,), name="one"), keras.Input((2,), name="other")
    model = keras.Model(
        {"one": one, "other": other}, layers.Dense(3)(layers.Concatenate()([one, other]))
    )
    x, y = tensors(5)
    callback = watch()
    fit(compiled(model), callback, x={"one": x, "other": x[:, :2]}, y=y)
    assert each(callback) == list(range(STEPS))


def test_examples_may_have_weights():
    x, y = tensors(5)

    def trained(*callbacks):
        keras.utils.set_random_seed(0)
        model = compiled(mlp())
        weights = np.linspace(0, 1, len(x), dtype="float32")
        fit(model, *callbacks, x=x, y=y, sample_weight=weights)
        return variables(model)

    callback = watch()
    assert_same(trained(callback), trained())
    assert each(callback) == list(range(STEPS))


# --- models that are not built yet


class Late(keras.Model):
    """Makes its variables in its first call."""

    def __init__(self):
        super().__init__()
        self.first, self.last = layers.Dense(4, name="first"), layers.Dense(3, name="last")

    def call(self, x):
        return self.last(self.first(x))


@pytest.mark.parametrize(
    "make",
    [lambda: keras.Sequential([layers.Dense(4), layers.Dense(3)]), Late],
    ids=["Sequential", "subclassed"],
)
def test_a_model_may_be_built_by_its_first_step(make):
    def trained(*callbacks):
        keras.utils.set_random_seed(0)
        model = compiled(make())
        x, y = tensors(5)
        fit(model, *callbacks, x=x, y=y, epochs=2)
        return variables(model)

    callback = watch()
    assert_same(trained(callback), trained())
    assert len(callback.history.layers) == 2
    first = 1 if BACKEND == "tensorflow" else 0  # the others build it before
    assert each(callback) == list(range(first, 2 * STEPS))


def test_layers_may_be_frozen_between():
    model, callback = compiled(mlp()), watch()
    fit(model, callback)
    model.get_layer("first").trainable = False
    compiled(model)
    fit(model, callback)
    assert each(callback) == list(range(2 * STEPS))
    assert np.isnan(callback.history[-1].grad_norm[0]) or callback.history[-1].grad_norm[0] == 0
    assert callback.history[-1].grad_norm[1] > 0


def test_a_model_without_anything_to_train_is_trained_on():
    model = mlp()
    model.trainable = False
    callback = watch()
    if BACKEND == "jax":
        fit(compiled(model), callback)
    else:
        with pytest.warns(UserWarning, match="trainable weights"):
            fit(compiled(model), callback)
    assert len(callback.history) == 0
    assert not isinstance(vars(model)["train_function"], AfterFirstStep)


def test_a_loss_of_its_own_and_several_outputs_are_observed():
    inputs = keras.Input((5,))
    hidden = layers.Dense(4, activation="relu")(inputs)
    model = keras.Model(
        inputs, [layers.Dense(3, name="a")(hidden), layers.Dense(1, name="b")(hidden)]
    )
    model.compile("sgd", loss=[cross_entropy(), "mse"], loss_weights=[1.0, 0.5])
    x, y = tensors(5)
    callback = watch()
    fit(model, callback, x=x, y=[y, x[:, :1]])
    assert each(callback) == list(range(STEPS))
