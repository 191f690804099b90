"""What is saved during and after a training has no trace of the callback."""

from __future__ import annotations

import copy
import json
import pickle
import zipfile

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from tests.keras.training import (  # noqa: E402 -- needs Keras
    BACKEND,
    STEPS,
    array,
    assert_same,
    compiled,
    fit,
    mlp,
    tensors,
    variables,
    watch,
)

layers, optimizers = keras.layers, keras.optimizers

pytestmark = [
    # Keras itself, and what it imports, calls NumPy in ways that NumPy 2.4 deprecates.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def named():
    return compiled(mlp(), optimizers.Adam(0.01))


def contents(path):
    """Every array of an HDF5 file by its path in the file."""
    h5py = pytest.importorskip("h5py")
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, entry: (
                found.update({name: entry[()]}) if isinstance(entry, h5py.Dataset) else None
            )
        )
    return {name: np.asarray(found[name]) for name in sorted(found)}


def without_ids(branch):
    """A branch of a configuration without the addresses that Keras writes into it."""
    return {name: leaf for name, leaf in branch.items() if name != "shared_object_id"}


def of_archive(path, folder):
    """(the configuration, every array) of a .keras file."""
    folder.mkdir()
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    config = json.loads((folder / "config.json").read_text(), object_hook=without_ids)
    return config, contents(folder / "model.weights.h5")


def trained(callbacks):
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    model = named()
    fit(model, *callbacks, epochs=2)
    return model


@pytest.mark.parametrize(
    ("first", "often"), [(True, 3), (False, "epoch")], ids=["watched-first", "saved-first"]
)
def test_a_saved_model_is_the_same_as_without_the_callback(tmp_path, first, often):
    def saved(name, callbacks):
        path = tmp_path / f"{name}.keras"
        saving = keras.callbacks.ModelCheckpoint(str(path), save_freq=often)
        trained([*callbacks, saving] if first else [saving, *callbacks])
        return of_archive(path, tmp_path / name)

    callback = watch()
    (config, arrays), (plain_config, plain_arrays) = saved("a", [callback]), saved("b", [])
    assert config == plain_config
    assert any(name.startswith("optimizer/") for name in arrays)
    assert_same(arrays, plain_arrays)
    assert [snapshot.step for snapshot in callback.history] == list(range(2 * STEPS))
    assert callback.history.limits == ()


@pytest.mark.parametrize("first", [True, False], ids=["watched-first", "saved-first"])
def test_saved_weights_are_the_same_as_without_the_callback(tmp_path, first):
    def saved(name, callbacks):
        path = tmp_path / f"{name}.weights.h5"
        saving = keras.callbacks.ModelCheckpoint(str(path), save_freq=3, save_weights_only=True)
        trained([*callbacks, saving] if first else [saving, *callbacks])
        return contents(path)

    assert_same(saved("a", [watch()]), saved("b", []))


class InterruptedTrainingError(Exception):
    """What ends a training in these tests."""


class Interrupting(keras.callbacks.Callback):
    """Ends the first training in its second epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            raise InterruptedTrainingError


@pytest.mark.parametrize("first", [True, False], ids=["watched-first", "saved-first"])
def test_a_training_that_is_restored_goes_on_as_without_the_callback(tmp_path, first):
    def resumed(name, callbacks):
        keras.backend.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)

        def chosen():
            saving = keras.callbacks.BackupAndRestore(str(tmp_path / name))
            return [*callbacks(), saving] if first else [saving, *callbacks()]

        with pytest.raises(InterruptedTrainingError):
            fit(named(), *chosen(), Interrupting(), epochs=3)
        keras.utils.set_random_seed(1)
        model = named()
        fit(model, *chosen(), epochs=3)
        return variables(model)

    made = []

    def watching():
        made.append(watch())
        return [made[-1]]

    assert_same(resumed("a", watching), resumed("b", list))
    assert [snapshot.step for snapshot in made[1].history] == list(range(STEPS, 3 * STEPS))
    assert made[1].history.limits == ()


# --- after the training


def state(model):
    """What is saved: the weights and the optimizer's variables."""
    return [*model.get_weights(), *(array(one) for one in model.optimizer.variables)]


def test_a_model_is_saved_and_loaded_after_the_training(tmp_path):
    model = trained([watch()])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same(state(loaded), state(model))
    fit(loaded, watch())


@pytest.mark.parametrize(
    "copied",
    [lambda model: pickle.loads(pickle.dumps(model)), copy.deepcopy],
    ids=["pickle", "deepcopy"],
)
def test_a_model_is_copied_after_the_training(copied):
    model = trained([watch()])
    twin = copied(model)
    assert_same(state(twin), state(model))
    callback = watch()
    fit(twin, callback)
    assert len(callback.history) == STEPS


def test_a_model_is_cloned_after_the_training():
    model = trained([watch()])
    assert keras.models.clone_model(model).count_params() == model.count_params()


def test_a_model_is_saved_within_the_training(tmp_path):
    class Saving(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                self.model.save(tmp_path / "model.keras")
                self.config = keras.saving.serialize_keras_object(self.model.optimizer)

    saving = Saving()
    trained([watch(), saving])
    keras.saving.load_model(tmp_path / "model.keras")
    assert saving.config["class_name"] == "Adam"


def structure(tree):
    """The tree with the shape of each array in its place."""
    if isinstance(tree, dict):
        return {name: structure(branch) for name, branch in tree.items()}
    return tuple(array(tree).shape)


def test_the_tree_of_state_is_the_same_within_and_after_the_training():
    def trees(callbacks):
        seen = []

        class Looking(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                seen.append(structure(self.model.get_state_tree()))

        model = trained([*callbacks, Looking()])
        return [*seen, structure(model.get_state_tree())]

    watched, plain = trees([watch()]), trees([])
    assert watched == plain
    assert "optimizer_variables" in plain[-1]


@pytest.mark.skipif(BACKEND != "jax", reason="the others keep the state in the variables")
def test_the_state_that_callbacks_see_is_as_long_as_the_optimizers():
    lengths = []

    class Looking(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            lengths.append(len(self.model._jax_state["optimizer_variables"]))

    model = trained([watch(), Looking()])
    assert set(lengths) == {len(model.optimizer.variables)}


def attributes(model):
    """Every attribute of the model, its layers, optimizer, loss and metrics, by identity."""
    owners = [*model._flatten_layers(), model.optimizer, *model.metrics]
    return [{name: id(value) for name, value in vars(owner).items()} for owner in owners]


class Fragile(layers.Layer):
    """A layer that breaks off the training when it is told to."""

    broken = False

    def call(self, x):
        if self.broken:
            raise InterruptedTrainingError
        return x


class Breaking(keras.callbacks.Callback):
    """Breaks a layer after two steps."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def on_train_batch_end(self, batch, logs=None):
        self.layer.broken = batch == 1


CHANGED_BY_FIT = {"history", "stop_training", "training", "_jax_state"}


@pytest.mark.parametrize("interrupted", [False, True])
def test_no_attribute_is_left(interrupted):
    """Beside those that `fit` changes by itself: it is run once before, to have them there."""
    fragile = Fragile()
    model = keras.Sequential([keras.Input((5,)), layers.Dense(4), fragile, layers.Dense(3)])
    compiled(model, run_eagerly=True)
    vars(fragile)["broken"] = False  # an attribute that equals the class's is not set
    fit(model)
    before = attributes(model)
    if interrupted:
        with pytest.raises(InterruptedTrainingError):
            fit(model, watch(update_freq=4), Breaking(fragile))
        fragile.broken = False
    else:
        fit(model, watch())
    for one, other in zip(before, attributes(model), strict=True):
        assert one.keys() == other.keys()
        changed = {name for name in one if one[name] != other[name]}
        assert changed <= CHANGED_BY_FIT


def test_the_inputs_may_be_predicted_within_the_training():
    class Predicting(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.outputs = self.model.predict(tensors(5)[0], verbose=0)

    predicting = Predicting()
    callback = watch()
    trained([callback, predicting])
    assert predicting.outputs.shape == (32, 3)
    assert [snapshot.step for snapshot in callback.history] == list(range(2 * STEPS))
