"""Signals of a probe are those of the training step, and probing leaves nothing behind."""

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from keras import layers, ops  # noqa: E402 -- needs Keras

from gradwatch.keras.limits import limits_of_probe  # noqa: E402 -- needs Keras
from gradwatch.keras.probe import state_of  # noqa: E402 -- needs Keras
from tests.keras.probed import (  # noqa: E402 -- needs Keras
    BACKEND,
    Probed,
    array,
    compiled,
    random,
    stack,
)

# Keras itself, and what it imports, calls NumPy in ways that NumPy 2.4 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

on_torch = pytest.mark.skipif(BACKEND != "torch", reason="of PyTorch alone")
compiles = pytest.mark.skipif(BACKEND == "torch", reason="the probe runs eagerly on PyTorch")


def norm(values):
    return pytest.approx(float(np.sqrt(np.sum(np.square(values)))), rel=1e-4)


def rms(values):
    return pytest.approx(float(np.sqrt(np.mean(np.square(values)))), rel=1e-4)


# --- against a backward pass by hand


def test_signals_of_dense_layers_are_those_of_a_backward_pass_by_hand():
    model = stack(
        (5,), layers.Dense(7, activation="tanh", name="first"), layers.Dense(3, name="last")
    )
    x, y = random(16, 5), random(16, 3, seed=1)
    probed = Probed(model, x, y)
    first, last = (array(layer.kernel) for layer in model.layers)
    z = x @ first
    a = np.tanh(z)
    out = a @ last
    d_out = 2 * (out - y) / y.size
    d_a = d_out @ last.T
    d_z = d_a * (1 - a**2)
    assert probed.loss == pytest.approx(np.mean((out - y) ** 2), rel=1e-5)
    assert probed.of("first", "output_grad_norm") == norm(d_z)
    assert probed.of("first", "output_grad_rms") == rms(d_z)
    assert probed.of("first", "input_grad_norm") == norm(d_z @ first.T)
    assert probed.of("first", "input_rms") == rms(x)
    assert probed.of("first", "output_rms") == rms(z)
    assert probed.of("first", "mean_slope") == pytest.approx(np.mean(1 - a**2), rel=1e-4)
    gain = np.log10(np.linalg.norm(d_z) / np.linalg.norm(d_a))
    assert probed.of("first", "activation_gain_log10") == pytest.approx(gain, abs=1e-4)
    assert probed.of("last", "output_grad_norm") == norm(d_out)
    assert probed.of("last", "input_grad_norm") == norm(d_a)
    assert probed.of("last", "output_rms") == rms(out)


def gradient(function, values):
    """dfunction/dvalues by the backend's own autograd."""
    if BACKEND == "jax":
        import jax

        return array(jax.grad(function)(ops.convert_to_tensor(values)))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        values = tf.constant(values)
        with tf.GradientTape() as tape:
            tape.watch(values)
            result = function(values)
        return array(tape.gradient(result, values))
    import torch

    values = torch.tensor(values, requires_grad=True)
    return array(torch.autograd.grad(function(values), values)[0])


def test_signals_between_layers_are_those_of_the_backends_autograd():
    inputs = keras.Input((6, 6, 2))
    conv = layers.Conv2D(4, 3, padding="same", name="conv")
    batch_norm = layers.BatchNormalization(name="norm")
    head = layers.Dense(3, name="head")
    features = ops.relu(batch_norm(conv(inputs)))
    model = compiled(keras.Model(inputs, head(layers.Flatten()(features))))
    x, y = random(8, 6, 6, 2), random(8, 3, seed=1)
    probed = Probed(model, x, y)

    def loss_of_normalised(normalised):
        outputs = head(ops.reshape(ops.relu(normalised), (8, -1)))
        return ops.mean(ops.square(ops.subtract(outputs, y)))

    def loss_of_convolved(convolved):
        with keras.StatelessScope():
            return loss_of_normalised(batch_norm(convolved, training=True))

    convolved = array(conv(x))
    with keras.StatelessScope():
        normalised = array(batch_norm(convolved, training=True))
    to_norm = gradient(loss_of_normalised, normalised)
    assert probed.of("norm", "output_grad_norm") == norm(to_norm)
    assert probed.of("norm", "dead_fraction") == np.mean((normalised <= 0).all((0, 1, 2)))
    to_conv = gradient(loss_of_convolved, convolved)
    assert probed.of("conv", "output_grad_norm") == norm(to_conv)
    assert probed.of("norm", "input_grad_norm") == norm(to_conv)


def test_the_backward_signal_over_time_is_that_of_the_inputs():
    model = stack((12, 3), layers.SimpleRNN(5, name="rnn"), layers.Dense(2))
    x, y = random(8, 12, 3), random(8, 2, seed=1)
    probed = Probed(model, x, y)
    by_step = np.linalg.norm(
        gradient(lambda values: ops.mean(ops.square(ops.subtract(model(values), y))), x),
        axis=(0, 2),
    )
    decay = np.log10(by_step[0] / by_step.max())
    growth = np.log10(by_step.max() / by_step[-1])
    assert probed.of("rnn", "time_decay_log10") == pytest.approx(decay, abs=1e-3)
    assert probed.of("rnn", "time_growth_log10") == pytest.approx(growth, abs=1e-3)


def test_shares_of_flat_and_dead_values_are_those_of_the_slopes():
    kernel = np.zeros((2, 4), "float32")
    kernel[0] = [1, -1, 100, 0]
    dense = layers.Dense(4, activation="relu", name="relu")
    squashed = layers.Dense(4, activation="sigmoid", name="sigmoid")
    model = stack((2,), dense, squashed, layers.Dense(1))
    dense.set_weights([kernel, np.array([0, 0, 0, -1], "float32")])
    squashed.set_weights([np.diag([1.0, 1, 1, 1]).astype("float32"), np.zeros(4, "float32")])
    probed = Probed(model, np.abs(random(8, 2)) + 0.1, random(8, 1))
    assert probed.of("relu", "dead_fraction") == 0.5
    assert probed.of("relu", "mean_slope") == 0.5
    assert 0.2 <= probed.of("sigmoid", "saturation_fraction") <= 0.25


# --- the loss of the probe is that of the training


class Penalised(layers.Layer):
    """Adds a loss of its own."""

    def call(self, inputs):
        self.add_loss(0.1 * ops.mean(ops.square(inputs)))
        return inputs


@pytest.mark.parametrize("weighted", [False, True])
def test_sample_weights_regularisers_and_added_losses_count(weighted):
    model = stack(
        (4,),
        layers.Dense(5, kernel_regularizer="l2", name="regular"),
        Penalised(),
        layers.Dense(2),
    )
    x, y = random(16, 4), random(16, 2, seed=1)
    weight = np.linspace(0, 3, 16).astype("float32") if weighted else None
    probed = Probed(model, x, y, weight)
    assert probed.loss == pytest.approx(model.test_on_batch(x, y, weight), rel=1e-5)
    halved = Probed(model, x, y, None if weight is None else weight / 2)
    ratio = halved.of("regular", "output_grad_norm") / probed.of("regular", "output_grad_norm")
    assert (ratio < 0.9) is weighted


@pytest.mark.filterwarnings("ignore:.*received `from_logits=True`:UserWarning")
@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("own", [True, False])
def test_a_softmax_at_the_end_meets_the_loss_as_in_the_training(from_logits, own):
    """TensorFlow's loss finds the logits behind the softmax, whatever it was told."""
    head = [layers.Dense(3, activation="softmax", name="head")]
    if not own:
        head = [layers.Dense(3, name="head"), layers.Softmax()]
    model = compiled(
        keras.Sequential([keras.Input((4,)), *head]),
        keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits),
    )
    x, y = random(64, 4), np.arange(64) % 3
    probed = Probed(model, x, y)
    assert probed.loss == pytest.approx(model.test_on_batch(x, y), rel=1e-4)
    wrong = from_logits and BACKEND != "tensorflow"
    assert (probed.of("head", "logit_misfit_ratio") < 1 / 30) is wrong


def test_inputs_and_outputs_may_be_dictionaries():
    left, right = keras.Input((3,), name="left"), keras.Input((4,), name="right")
    both = layers.Concatenate()([layers.Dense(2, name="a")(left), layers.Dense(2, name="b")(right)])
    model = keras.Model(
        {"left": left, "right": right},
        {"one": layers.Dense(1, name="c")(both), "two": layers.Dense(2, name="d")(both)},
    )
    compiled(model, {"one": "mse", "two": "mae"}, loss_weights={"one": 1.0, "two": 10.0})
    x = {"left": random(16, 3), "right": random(16, 4)}
    y = {"one": random(16, 1, seed=1), "two": random(16, 2, seed=2)}
    probed = Probed(model, x, y)
    assert probed.inputs() == {"a": set(), "b": set(), "c": {"a", "b"}, "d": {"a", "b"}}
    assert probed.of("c", "output_grad_norm") > 0
    assert probed.of("d", "output_grad_norm") == pytest.approx(10 / np.sqrt(32), rel=1e-4)


def test_logits_behind_a_softmax_that_has_saturated_reach_the_loss_as_in_the_training():
    model = compiled(
        keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="softmax", name="head")]),
        "sparse_categorical_crossentropy",
    )
    x, y = 1000 * random(16, 4), np.arange(16) % 3
    probed = Probed(model, x, y)
    assert probed.loss == pytest.approx(model.test_on_batch(x, y), rel=1e-4)


# --- nothing is left behind


def all_state(model):
    return [array(value).copy() for _, value in state_of(model)]


def a_model_with_states():
    model = stack(
        (6, 6, 1),
        layers.Conv2D(4, 3),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Dropout(0.5, seed=1),
        layers.Flatten(),
        layers.Dense(2),
    )
    model.compile(optimizer="adam", loss="mse", metrics=["mae"])
    x, y = random(16, 6, 6, 1), random(16, 2)
    model.train_on_batch(x, y)
    return model, x, y


def test_no_variable_statistic_seed_or_metric_changes():
    model, x, y = a_model_with_states()
    before = all_state(model)
    probed = Probed(model, x, y)
    probed.run()
    after = all_state(model)
    assert len(before) == len(after)
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_a_training_goes_on_as_without_the_probe():
    losses = []
    for is_probed in (False, True):
        keras.utils.set_random_seed(0)
        model, x, y = a_model_with_states()
        if is_probed:
            Probed(model, x, y).run()
        losses.append([float(model.train_on_batch(x, y)[0]) for _ in range(3)])
    assert losses[0] == losses[1]


@on_torch
def test_buffers_and_random_numbers_of_torch_modules_stay():
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Dropout())
    model = stack((4,), layers.TorchModuleWrapper(module), layers.Dense(1))
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    seed = torch.random.get_rng_state()
    Probed(model, random(16, 4), random(16, 1))
    assert torch.equal(seed, torch.random.get_rng_state())
    assert all(torch.equal(before[name], buffer) for name, buffer in module.named_buffers())


def test_patches_are_lifted_even_when_the_model_raises():
    class Failing(layers.Layer):
        def call(self, inputs, training=False):
            if training:
                raise RuntimeError("no training")
            return inputs

    dense = layers.Dense(2, activation="relu")
    model = stack((4,), dense, Failing())
    functions = (keras.src.backend.nn.relu, keras.src.backend.numpy.tanh, dense.activation)
    with pytest.raises(RuntimeError, match="no training"):
        Probed(model, random(8, 4), random(8, 2))
    assert "call" not in vars(dense)
    assert functions == (keras.src.backend.nn.relu, keras.src.backend.numpy.tanh, dense.activation)


# --- how the model is called


class Counted(layers.Layer):
    """Counts how often its code runs."""

    calls = 0

    def call(self, inputs):
        self.calls += 1
        return inputs


@compiles
def test_the_model_is_traced_for_the_first_run_only():
    counted = Counted()
    model = stack((4,), counted, layers.Dense(2, name="dense"))
    probed = Probed(model, random(16, 4), random(16, 2))
    traces, before = counted.calls, probed.of("dense", "output_rms")
    model.layers[-1].kernel.assign(2 * model.layers[-1].kernel)
    probed.run()
    probed.run()
    assert counted.calls == traces
    assert probed.of("dense", "output_rms") == pytest.approx(2 * before, rel=1e-5)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float32", -44.85), ("mixed_float16", -7.22), ("mixed_bfloat16", -40.0)],
)
def test_what_underflows_depends_on_the_type_of_the_outputs(dtype, expected):
    dense = layers.Dense(4, activation="relu", dtype=dtype, name="dense")
    model = stack((4,), dense, layers.Dense(2, dtype=dtype))
    probed = Probed(model, random(16, 4), random(16, 2))
    assert probed.of("dense", "tiny_log10") == pytest.approx(expected, abs=0.1)
    assert probed.of("dense", "output_grad_norm") > 0


def test_a_model_that_is_run_eagerly_has_its_wiring():
    inputs = keras.Input((4,))
    one, other = layers.Dense(3, name="one")(inputs), layers.Dense(3, name="other")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="end")(layers.Add()([one, other])))
    probed = Probed(compiled(model, run_eagerly=True), random(16, 4), random(16, 2))
    assert probed.inputs() == {"one": set(), "other": set(), "end": {"one", "other"}}


class Host(layers.Layer):
    """Reads values, so that it cannot be traced."""

    def call(self, inputs):
        return inputs * float(ops.max(ops.abs(array(inputs))))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the others' steps are never so")
def test_a_model_that_can_only_be_run_eagerly_is_probed_so():
    class Eager(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.two = layers.Dense(3, name="one"), layers.Dense(2, name="two")
            self.host = Host()

        def call(self, inputs):
            return self.two(self.host(self.one(inputs)))

    model = Eager()
    model(random(1, 4))
    model.compile(optimizer="sgd", loss="mse", run_eagerly=True)
    probed = Probed(model, random(16, 4), random(16, 2))
    assert probed.inputs() == {"one": set(), "two": {"one"}}
    assert probed.of("one", "output_grad_norm") > 0


class ByKeyword(layers.Layer):
    """Takes its tensors by keyword only."""

    def build(self, features_shape, gate_shape):
        self.kernel = self.add_weight(shape=(features_shape[-1], 3))

    def call(self, *, features, gate):
        return ops.matmul(features, self.kernel) * gate


def test_tensors_may_be_given_by_keyword_only():
    inputs = keras.Input((4,))
    features = layers.Dense(5, name="features")(inputs)
    gate = layers.Dense(3, name="gate")(inputs)
    outputs = ByKeyword(name="keyword")(features=features, gate=gate)
    probed = Probed(compiled(keras.Model(inputs, outputs)), random(16, 4), random(16, 3))
    assert probed.inputs()["keyword"] == {"features", "gate"}
    assert probed.of("keyword", "input_grad_norm") > 0


class Loops(layers.Layer):
    """Runs a layer in the body of a loop."""

    def __init__(self, **options):
        super().__init__(**options)
        self.step = layers.Dense(3, activation="tanh", name="step")

    def build(self, shape):
        self.step.build((None, 3))

    def call(self, inputs):
        def body(state, token):
            state = keras.activations.relu(self.step(state) + token)
            return state, state

        tokens = ops.moveaxis(inputs, 1, 0)
        return ops.scan(body, ops.zeros_like(tokens[0]), tokens)[0]


def test_what_runs_in_the_body_of_a_loop_is_left_out_and_the_rest_is_seen():
    model = stack((5, 3), layers.Dense(3, name="before"), Loops(), layers.Dense(2, name="after"))
    probed = Probed(model, random(16, 5, 3), random(16, 2))
    assert probed.of("before", "output_grad_norm") > 0
    assert probed.of("after", "forward_calls") == 1
    if BACKEND != "torch":
        assert np.isnan(probed.of("step", "forward_calls"))
        (limit,) = limits_of_probe(probed.rows, probed.traced)
        assert "signals of step: " in limit


class Branches(layers.Layer):
    """Takes one of two activations."""

    def call(self, inputs):
        positive = ops.sum(inputs) > 0
        return ops.cond(positive, lambda: ops.relu(inputs), lambda: ops.tanh(inputs))


class Mapped(layers.Layer):
    """Looks each row of tokens up in the body of a loop, which is given no floating tensor."""

    def __init__(self, **options):
        super().__init__(**options)
        self.table = layers.Embedding(7, 3, name="table")

    def build(self, shape):
        self.table.build(None)

    def call(self, inputs):
        return ops.mean(ops.map(self.table, inputs), axis=1)


def test_activations_in_the_branches_of_a_condition_leave_the_rest_to_be_seen():
    model = stack((4,), layers.Dense(3, name="before"), Branches(), layers.Dense(2, name="after"))
    probed = Probed(model, random(16, 4), random(16, 2))
    assert probed.of("before", "output_grad_norm") > 0
    assert probed.of("after", "forward_calls") == 1


def test_a_loop_over_a_layer_of_whole_numbers_leaves_the_rest_to_be_seen():
    inputs = keras.Input((5,), dtype="int32")
    outputs = layers.Dense(2, name="after")(Mapped()(inputs))
    tokens = np.arange(80).reshape(16, 5).astype("int32") % 7
    probed = Probed(compiled(keras.Model(inputs, outputs)), tokens, random(16, 2))
    assert probed.of("after", "forward_calls") == 1
    assert probed.of("after", "output_grad_norm") > 0


def test_layers_whose_activations_are_made_again_in_the_backward_pass_are_harmless():
    if BACKEND == "tensorflow":
        pytest.skip("Keras 3.15 cannot train such a model on TensorFlow")
    with keras.RematScope(mode="full"):
        inside = layers.Dense(4, activation="relu", name="inside")
    model = stack((4,), layers.Dense(4, name="before"), inside, layers.Dense(2, name="after"))
    probed = Probed(model, random(16, 4), random(16, 2))
    assert probed.of("before", "output_grad_norm") > 0
    assert probed.of("after", "forward_calls") == 1
