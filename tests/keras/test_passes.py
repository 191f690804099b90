"""A pass shows how the layers hang together, and which activation follows each of them."""

import threading

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from keras import layers, ops  # noqa: E402 -- needs Keras

from gradwatch.keras.patches import functions_replaced  # noqa: E402 -- needs Keras
from tests.keras.probed import BACKEND, Probed, compiled, random, stack  # noqa: E402 -- as above

# Keras itself, and what it imports, calls NumPy in ways that NumPy 2.4 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def dense(name, units=4, **options):
    return layers.Dense(units, name=name, **options)


def functional(inputs, outputs):
    return compiled(keras.Model(inputs, outputs))


class Written(keras.Model):
    """A subclassed model whose call is a function of its layers.

    Args:
        parts: Name → layer.
        run: From the model and its inputs to the outputs.
    """

    def __init__(self, run, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = run

    def call(self, inputs):
        return self.run(self, inputs)


def written(run, **parts):
    model = Written(run, **parts)
    model(random(2, 4))
    return compiled(model)


# --- wiring


def test_a_sequential_model_is_a_chain():
    probed = Probed(
        stack((4,), dense("a"), layers.Dropout(0.1), dense("b"), dense("c")),
        random(16, 4),
        random(16, 4),
    )
    assert probed.inputs() == {"a": set(), "b": {"a"}, "c": {"b"}}
    assert probed.order() == ["a", "b", "c"]


def test_a_skip_joins_a_layer_to_both_ways():
    inputs = keras.Input((4,))
    a = dense("a")(inputs)
    c = dense("c")(layers.Add()([a, dense("b")(a)]))
    probed = Probed(functional(inputs, c), random(16, 4), random(16, 4))
    assert probed.inputs() == {"a": set(), "b": {"a"}, "c": {"a", "b"}}


def test_several_inputs_and_outputs_are_told_apart():
    one, two = keras.Input((3,)), keras.Input((4,))
    a, b = dense("a")(one), dense("b")(two)
    c = dense("c")(layers.Concatenate()([a, b]))
    model = keras.Model([one, two], [dense("d")(c), dense("e")(b)])
    compiled(model, ["mse", "mse"])
    probed = Probed(model, [random(16, 3), random(16, 4)], [random(16, 4), random(16, 4)])
    expected = {"a": set(), "b": set(), "c": {"a", "b"}, "d": {"c"}, "e": {"b"}}
    assert probed.inputs() == expected
    assert not any(layer.recurrent for layer in probed.layers)


def test_a_written_model_is_wired_by_what_it_does():
    model = written(
        lambda model, x: model.last(ops.concatenate([model.one(x), model.two(x * 2)], -1)),
        last=dense("last"),
        two=dense("two"),
        one=dense("one"),
    )
    probed = Probed(model, random(16, 4), random(16, 4))
    assert probed.inputs() == {"one": set(), "two": set(), "last": {"one", "two"}}
    assert probed.order() == ["one", "two", "last"]


def test_models_in_a_model_are_seen_through():
    body = keras.Sequential([keras.Input((4,)), dense("a"), dense("b")], name="body")
    inputs = keras.Input((4,))
    outputs = dense("after")(body(dense("before")(inputs)))
    probed = Probed(functional(inputs, outputs), random(16, 4), random(16, 4))
    assert probed.inputs() == {"before": set(), "a": {"before"}, "b": {"a"}, "after": {"b"}}


def test_a_layer_that_is_shared_by_two_branches_is_called_twice_and_not_recurrent():
    one, two = keras.Input((3,)), keras.Input((3,))
    shared = dense("shared")
    last = dense("last")(layers.Add()([shared(one), shared(two)]))
    model = functional([one, two], last)
    probed = Probed(model, [random(16, 3), random(16, 3, seed=1)], random(16, 4))
    assert probed.inputs() == {"shared": set(), "last": {"shared"}}
    assert probed.of("shared", "forward_calls") == 2
    assert not probed.layers[0].recurrent


def test_a_layer_that_feeds_itself_is_recurrent_and_its_decay_is_over_its_calls():
    def run(model, x):
        for _ in range(10):
            x = model.cell(x)
        return model.head(x)

    small = keras.initializers.Identity(0.5)
    model = written(run, cell=dense("cell", kernel_initializer=small), head=dense("head"))
    probed = Probed(model, random(16, 4), random(16, 4))
    assert [layer.recurrent for layer in probed.layers] == [True, False]
    assert probed.of("cell", "forward_calls") == 10
    assert probed.of("cell", "time_decay_log10") == pytest.approx(9 * np.log10(0.5), abs=1e-3)


def test_a_layer_that_the_loss_does_not_depend_on_has_no_signal():
    model = written(
        lambda model, x: model.used(x) + 0 * ops.stop_gradient(model.beside(x)),
        used=dense("used"),
        beside=dense("beside"),
    )
    probed = Probed(model, random(16, 4), random(16, 4))
    assert probed.of("used", "output_grad_norm") > 0
    assert not probed.of("beside", "output_grad_norm") > 0


# --- activations


@pytest.mark.parametrize(
    ("activation", "name", "module"),
    [
        (layers.Activation("tanh", name="act"), "tanh", "act"),
        (layers.ReLU(name="act"), "relu", "act"),
        (layers.ReLU(max_value=6, name="act"), "relu6", "act"),
        (layers.LeakyReLU(name="act"), "leaky_relu", "act"),
        (layers.ELU(name="act"), "elu", "act"),
        (layers.Activation(keras.activations.mish, name="act"), "mish", "act"),
        (ops.relu, "relu", None),
        (ops.sigmoid, "sigmoid", None),
        (ops.silu, "silu", None),
        (keras.activations.gelu, "gelu", None),
        (lambda x: keras.activations.relu(x, max_value=6.0), "relu6", None),
    ],
    ids=lambda entry: entry if isinstance(entry, str) else "",
)
def test_the_activation_behind_a_layer_is_named(activation, name, module):
    inputs = keras.Input((4,))
    outputs = dense("last")(activation(dense("first")(inputs)))
    probed = Probed(functional(inputs, outputs), random(16, 4), random(16, 4))
    found, owner = probed.activation("first")
    assert found == name
    assert module is None or owner == module
    assert 0 < probed.of("first", "mean_slope") < 1.1
    assert np.isfinite(probed.of("first", "activation_gain_log10"))


def test_a_prelu_has_weights_and_so_is_a_row_of_its_own():
    model = stack((4,), dense("first"), layers.PReLU(name="prelu"), dense("last"))
    probed = Probed(model, random(16, 4), random(16, 4))
    assert probed.inputs() == {"first": set(), "prelu": {"first"}, "last": {"prelu"}}
    assert [probed.activation(name)[0] for name in ("first", "prelu")] == [None, "prelu"]
    assert probed.of("prelu", "output_grad_norm") > 0


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("relu", ops.relu),
        ("relu", keras.activations.relu),
        ("leaky_relu", lambda x: keras.activations.relu(x, negative_slope=0.3)),
        ("relu6", keras.activations.relu6),
        ("tanh", ops.tanh),
        ("tanh", keras.activations.tanh),
        ("sigmoid", keras.activations.sigmoid),
        ("mish", keras.activations.mish),
        ("hardswish", ops.hard_silu),
        ("softplus", ops.softplus),
    ],
)
def test_functions_that_a_written_model_calls_are_activations(name, function):
    model = written(
        lambda model, x: model.last(function(model.first(x))),
        first=dense("first"),
        last=dense("last"),
    )
    probed = Probed(model, random(16, 4), random(16, 4))
    assert probed.activation("first") == (name, None)
    assert probed.activation("last") == (None, None)
    assert 0 < probed.of("first", "mean_slope") < 1.1


def test_an_activation_belongs_to_the_normalisation_or_the_branch_right_before_it():
    inputs = keras.Input((4,))
    x = layers.BatchNormalization(name="norm")(dense("a")(inputs))
    x = layers.ReLU(name="first")(x)
    x = layers.Activation("tanh", name="second")(layers.Add()([x, dense("b")(x)]))
    probed = Probed(functional(inputs, dense("c")(x)), random(16, 4), random(16, 4))
    assert probed.activation("a") == (None, None)
    assert probed.activation("norm") == ("relu", "first")
    assert probed.activation("b") == ("tanh", "second")


class Cell(layers.Layer):
    """A layer with weights and a function of its own at its output, or between two matrices.

    Args:
        at_output: Which of the two.
    """

    def __init__(self, at_output, **options):
        super().__init__(**options)
        self.at_output = at_output

    def build(self, shape):
        self.first = self.add_weight(shape=(shape[-1], 4))
        self.second = self.add_weight(shape=(4, 4))

    def call(self, inputs):
        if self.at_output:
            return ops.tanh(ops.matmul(ops.matmul(inputs, self.first), self.second))
        return ops.matmul(ops.tanh(ops.matmul(inputs, self.first)), self.second)


def test_a_function_at_the_output_of_a_layer_is_its_activation():
    probed = Probed(stack((4,), Cell(True, name="cell")), random(16, 4), random(16, 4))
    assert probed.activation("cell") == ("tanh", None)
    assert probed.of("cell", "output_grad_norm") > 0
    assert np.isfinite(probed.of("cell", "activation_gain_log10"))


def test_a_function_in_the_middle_of_a_layer_is_no_activation():
    probed = Probed(stack((4,), Cell(False, name="cell")), random(16, 4), random(16, 4))
    assert probed.activation("cell") == (None, None)
    assert probed.of("cell", "output_grad_norm") > 0
    assert np.isnan(probed.of("cell", "mean_slope"))
    assert np.isnan(probed.of("cell", "activation_gain_log10"))


@pytest.mark.parametrize(
    "softmax", [layers.Softmax(), ops.softmax, keras.activations.softmax], ids=["layer", "op", "fn"]
)
def test_a_softmax_that_weighs_values_is_no_activation_and_one_at_the_end_is(softmax):
    def run(model, x):
        tokens = ops.reshape(model.first(x), (-1, 2, 4))
        weights = softmax(ops.matmul(tokens, ops.transpose(tokens, (0, 2, 1))))
        return softmax(model.last(ops.sum(ops.matmul(weights, tokens), 1)))

    parts = {"softmax": softmax} if isinstance(softmax, layers.Layer) else {}
    model = written(run, first=dense("first", 8), last=dense("last"), **parts)
    probed = Probed(model, random(16, 4), random(16, 4))
    assert probed.activation("first") == (None, None)
    assert np.isnan(probed.of("first", "saturation_fraction"))
    assert probed.activation("last")[0] == "softmax"
    assert probed.of("last", "output_grad_norm") > 0


@pytest.mark.parametrize(
    "layer",
    [layers.SimpleRNN(3), layers.LSTM(3), layers.GRU(3)],
    ids=["simple", "lstm", "gru"],
)
def test_activations_inside_recurrent_layers_are_left_alone(layer):
    model = stack((5, 4), layer, dense("last"))
    probed = Probed(model, random(16, 5, 4), random(16, 4))
    assert probed.activation(layer.name) == (None, None)
    assert np.isnan(probed.of(layer.name, "mean_slope"))
    assert np.isfinite(probed.of(layer.name, "time_decay_log10"))
    assert probed.of(layer.name, "output_grad_norm") > 0


def test_the_softmax_inside_attention_is_left_alone():
    inputs = keras.Input((5, 4))
    attended = layers.MultiHeadAttention(2, 3, name="attention")(inputs, inputs)
    outputs = dense("last")(layers.GlobalAveragePooling1D()(attended))
    probed = Probed(functional(inputs, outputs), random(16, 5, 4), random(16, 4))
    assert [layer.name for layer in probed.layers] == ["attention", "last"]
    assert probed.activation("attention") == (None, None)
    assert np.isnan(probed.of("attention", "mean_slope"))
    assert probed.of("attention", "forward_calls") == 1


def test_functions_of_the_loss_are_no_activations():
    model = written(lambda model, x: model.only(x), only=dense("only"))
    model.compile(optimizer="sgd", loss=lambda y, out: ops.mean(ops.square(ops.sigmoid(out) - y)))
    probed = Probed(model, random(16, 4), random(16, 4))
    assert probed.activation("only") == (None, None)


def test_functions_are_only_patched_for_their_own_thread_and_only_for_a_while():
    heard = []

    def report(name, original, *args, **kwargs):
        heard.append(name)
        return original(*args, **kwargs)

    values = ops.ones((2,))
    with functions_replaced(report):
        ops.relu(values)
        other = threading.Thread(target=ops.sigmoid, args=(values,))
        other.start()
        other.join()
        keras.activations.tanh(values)
    ops.softplus(values)
    assert heard == ["relu", "tanh"]


@pytest.mark.skipif(BACKEND != "torch", reason="a layer of the PyTorch backend")
def test_a_torch_module_has_signals():
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
    model = stack((4,), dense("before"), layers.TorchModuleWrapper(module, name="torch"))
    probed = Probed(model, random(16, 4), random(16, 3))
    assert probed.inputs() == {"before": set(), "torch": {"before"}}
    assert probed.of("torch", "output_grad_norm") > 0
    assert 0 < probed.of("torch", "unit_spread_ratio") < 2
