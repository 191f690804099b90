"""Which layers are rows, what they are called, and what is known of them before a pass."""

import pytest

from gradwatch.fixes.snippets.keras_code import LAYER_OF

keras = pytest.importorskip("keras")

from gradwatch.keras.activations import activation_name  # noqa: E402 -- needs Keras
from gradwatch.keras.rows import Rows, unit_axis  # noqa: E402 -- needs Keras

layers, ops = keras.layers, keras.ops

# Keras itself, and what it imports, calls NumPy in ways that NumPy 2.4 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

on_torch = pytest.mark.skipif(keras.backend.backend() != "torch", reason="wraps a torch module")
not_on_torch = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="torch lets no integers be trainable"
)


def names(rows):
    return [layer.name for layer in rows.layers()]


def kinds(rows):
    return [layer.kind for layer in rows.layers()]


def variables(row):
    return [variable.name for variable in row.variables]


def stack(shape, *parts, name=None):
    return keras.Sequential([keras.Input(shape), *parts], name=name)


def only(layer, shape):
    (row,) = Rows(stack(shape, layer))
    return row


def layer_of(model):
    namespace = {"model": model}
    exec(LAYER_OF, namespace)
    return namespace["layer_of"]


def size(layer):
    return sum(int(ops.size(variable)) for variable in layer.trainable_variables)


class Scaled(layers.Layer):
    """A layer with a weight of its own around a dense layer."""

    def __init__(self, **options):
        super().__init__(**options)
        self.inner = layers.Dense(4, name="inner")

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1], shape[-1]), name="scale")
        self.inner.build(shape)

    def call(self, inputs):
        return self.inner(ops.matmul(inputs, self.scale))


class Tied(layers.Layer):
    """A head with the weights of an embedding, and a bias of its own where it wants one."""

    def __init__(self, embedding, bias, **options):
        super().__init__(**options)
        self.table = embedding.embeddings
        if bias:
            self.bias = self.add_weight(shape=(self.table.shape[0],), name="bias")

    def call(self, inputs):
        return ops.matmul(inputs, ops.transpose(self.table))


class Blocks(keras.Model):
    """A subclassed model, two layers of which have the same name at different places."""

    def __init__(self):
        super().__init__(name="blocks")
        self.first, self.second = Scaled(name="first"), Scaled(name="second")
        self.same = [layers.Dense(2, name="same"), layers.Dense(2, name="same")]
        self.head = layers.Dense(1, name="head")

    def call(self, inputs):
        inputs = self.second(self.first(inputs))
        for layer in self.same:
            inputs = layer(inputs)
        return self.head(inputs)


def built(model, shape=(2, 4)):
    model(ops.ones(shape))
    return model


# --- which layers are rows


def test_every_layer_that_owns_variables_which_train_is_a_row():
    model = stack(
        (8, 8, 1),
        layers.Conv2D(2, 3, name="conv"),
        layers.BatchNormalization(name="norm"),
        layers.Dropout(0.5, seed=1),
        layers.Flatten(),
        layers.Dense(3, name="dense"),
    )
    model.compile(optimizer="sgd", loss="mse", metrics=["mae"])
    rows = Rows(model)
    assert names(rows) == ["conv", "norm", "dense"]
    assert kinds(rows) == ["Conv2D", "BatchNormalization", "Dense"]
    assert [layer.weighted for layer in rows.layers()] == [True, False, True]
    assert [layer.depth for layer in rows.layers()] == [0, 1, 2]
    assert variables(rows[1]) == ["gamma", "beta"]


def test_a_functional_models_rows_are_in_the_order_of_its_graph():
    late, early = layers.Dense(4, name="late"), layers.Dense(4, name="early")
    inputs = keras.Input((4,))
    assert names(Rows(keras.Model(inputs, late(early(inputs))))) == ["early", "late"]


def test_a_shared_layer_is_one_row():
    shared = layers.Dense(4, name="shared")
    inputs = keras.Input((4,))
    assert names(Rows(keras.Model(inputs, shared(shared(inputs))))) == ["shared"]


def test_a_recurrent_layer_is_one_row_with_its_cell():
    lstm = layers.LSTM(5, name="lstm")
    rows = Rows(stack((7, 3), lstm))
    assert names(rows) == ["lstm"]
    assert variables(rows[0]) == ["kernel", "recurrent_kernel", "bias"]
    assert rows.layers()[0].parameter_count == 4 * (3 + 5 + 1) * 5
    assert rows.layers()[0].recurrent
    assert rows.layers()[0].activation is None
    assert not rows[0].composite
    assert rows.row_of(lstm) == 0
    assert rows.row_of(lstm.cell) is None


def test_a_stack_of_cells_is_one_row_with_the_first_cell_first():
    rnn = layers.RNN(layers.StackedRNNCells([layers.LSTMCell(2), layers.GRUCell(6)]))
    row = only(rnn, (5, 4))
    assert row.variables[0] is rnn.cell.cells[0].kernel
    assert len(row.variables) == 6


@pytest.mark.parametrize(
    "attention",
    [
        pytest.param(layers.MultiHeadAttention(2, 3, name="attention"), id="multi-head"),
        pytest.param(layers.GroupQueryAttention(3, 4, 2, name="attention"), id="group-query"),
    ],
)
def test_attention_is_one_row_with_its_projections(attention):
    inputs = keras.Input((5, 8))
    rows = Rows(keras.Model(inputs, attention(inputs, inputs)))
    assert names(rows) == ["attention"]
    assert len(rows[0].variables) == 8
    assert rows[0].variables[0] is attention._query_dense.kernel
    assert rows.row_of(attention._query_dense) is None
    assert rows.row_of_variable(attention._output_dense.bias) == 0
    assert rows.layers()[0].parameter_count == size(attention)


def test_a_bidirectional_layer_is_two_rows_and_the_forward_one_is_first():
    both = layers.Bidirectional(layers.GRU(3, name="gru"))
    rows = Rows(stack((5, 4), both))
    assert [row.layer for row in rows] == [both.forward_layer, both.backward_layer]
    assert [row.composite for row in rows] == [False, False]


@pytest.mark.parametrize("wrapper", [layers.TimeDistributed, layers.SpectralNormalization])
def test_a_wrapper_has_the_row_of_the_layer_inside(wrapper):
    dense = layers.Dense(3, name="dense")
    rows = Rows(stack((5, 4), wrapper(dense)))
    assert [row.layer for row in rows] == [dense]
    assert variables(rows[0]) == ["kernel", "bias"]
    assert names(rows) == ["dense"]


def test_a_layer_with_weights_of_its_own_and_below_it_is_composite():
    scaled = Scaled(name="scaled")
    rows = Rows(stack((4,), scaled))
    assert names(rows) == ["scaled", "inner"]
    assert [row.composite for row in rows] == [True, False]
    assert [variables(row) for row in rows] == [["scale"], ["kernel", "bias"]]


def test_a_model_with_weights_of_its_own_is_a_row():
    class Shifted(keras.Model):
        def __init__(self):
            super().__init__(name="shifted")
            self.shift = self.add_weight(shape=(4,), name="shift")

        def call(self, inputs):
            return inputs + self.shift

    model = built(Shifted())
    assert names(Rows(model)) == ["shifted"]
    assert layer_of(model)["shifted"] is model


@pytest.mark.parametrize(
    ("bias", "expected"), [(False, [["embeddings"]]), (True, [["embeddings"], ["bias"]])]
)
def test_a_tied_variable_belongs_to_its_first_owner(bias, expected):
    embedding = layers.Embedding(5, 4)
    inputs = keras.Input((3,), dtype="int32")
    hidden = embedding(inputs)
    rows = Rows(keras.Model(inputs, Tied(embedding, bias)(hidden)))
    assert [variables(row) for row in rows] == expected
    assert rows.row_of_variable(embedding.embeddings) == 0


@on_torch
def test_a_torch_module_is_a_row_with_its_parameters():
    import torch

    module = torch.nn.Conv2d(4, 6, 3, groups=2)
    module.bias.requires_grad_(False)
    wrapped = layers.TorchModuleWrapper(module, output_shape=(None, 6, 6, 6))
    rows = Rows(stack((4, 8, 8), wrapped))
    layer = rows.layers()[0]
    assert (layer.kind, layer.weighted) == ("TorchModuleWrapper", True)
    assert (layer.fan_in, layer.fan_out, layer.parameter_count) == (2 * 9, 6 * 9, 6 * 2 * 9)
    assert len(rows[0].variables) == 2


def test_a_model_without_variables_has_no_rows():
    rows = Rows(stack((4,), layers.Dropout(0.5)))
    assert len(rows) == 0
    assert rows.layers() == ()


class Counting(layers.Layer):
    """A layer that has, next to its kernel, one more variable that Keras calls trainable."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 2), name="kernel")
        self.more = self.add_weight(shape=(2,), name="more", initializer="ones", **self.options)

    def call(self, inputs):
        return ops.matmul(inputs, self.kernel)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["kernel", "more"]),
        ({"overwrite_with_gradient": True}, ["kernel"]),
        pytest.param({"dtype": "int32"}, ["kernel"], marks=not_on_torch),
    ],
    ids=["plain", "scale of float8", "integers"],
)
def test_a_variable_that_takes_no_gradient_is_none_of_the_rows(options, expected):
    assert variables(only(Counting(**options), (4,))) == expected


# --- frozen layers, layers that come later


def test_a_frozen_layer_stays_a_row_with_all_that_it_has():
    model = stack((4,), layers.Dense(3, name="frozen"), layers.Dense(2, name="free"))
    model.get_layer("frozen").trainable = False
    rows = Rows(model)
    assert names(rows) == ["frozen", "free"]
    assert [layer.parameter_count for layer in rows.layers()] == [15, 8]


def test_a_layer_that_was_made_frozen_is_a_row():
    assert only(layers.Dense(3, trainable=False), (4,)).known.parameter_count == 15


def test_the_parameter_count_is_of_what_trains_now():
    model = stack((4,), layers.Dense(3))
    rows = Rows(model)
    rows[0].layer.bias.trainable = False
    assert rows.layers()[0].parameter_count == 12


def test_layers_that_are_not_built_come_later_and_rows_stay():
    model = Blocks()
    model.head.build((None, 2))
    rows = Rows(model)
    assert names(rows) == ["head"]
    built(model)
    rows.refresh()
    assert [row.layer for row in rows] == [
        model.head,
        model.first,
        model.first.inner,
        model.second,
        model.second.inner,
        *model.same,
    ]
    assert names(rows)[0] == "head"


def test_a_layer_that_is_added_later_gets_the_next_row():
    model = stack((4,), layers.Dense(4, name="first"))
    rows = Rows(model)
    model.add(layers.Dense(2, name="second"))
    rows.refresh()
    assert names(rows) == ["first", "second"]


def test_variables_are_read_again_and_the_kernel_stays_first():
    model = stack((4,), layers.Dense(3))
    rows = Rows(model)
    model.layers[0].enable_lora(2)
    rows.refresh()
    assert variables(rows[0]) == ["kernel", "lora_kernel_a", "lora_kernel_b", "bias"]
    assert rows.row_of_variable(model.layers[0].lora_kernel_b) == 0
    assert rows.layers()[0].parameter_count == 4 * 2 + 2 * 3 + 3
    assert (rows.layers()[0].fan_in, rows.layers()[0].fan_out) == (4, 3)


def test_the_layers_are_the_same_object_as_long_as_nothing_changes():
    rows = Rows(stack((4,), layers.Dense(3)))
    before = rows.layers()
    rows.refresh()
    rows[0].note(depth=0)
    assert rows.layers() is before
    rows[0].note(activation="relu")
    assert rows.layers() is not before
    assert rows.layers()[0].activation == "relu"


# --- names


def two_halves(*, inner_first):
    """A functional model in which three models each have a layer named `hidden`."""

    def half(name):
        inputs = keras.Input((4,))
        return keras.Model(inputs, layers.Dense(4, name="hidden")(inputs), name=name)

    inputs = keras.Input((4,))
    if inner_first:
        outputs = layers.Dense(4, name="hidden")(half("decoder")(half("encoder")(inputs)))
    else:
        outputs = half("decoder")(half("encoder")(layers.Dense(4, name="hidden")(inputs)))
    return keras.Model(inputs, outputs)


def around():
    """A functional model around a Sequential one; both have a layer named `first`."""
    inner = stack((4,), layers.Dense(4, name="deep"), layers.Dense(4, name="first"), name="inner")
    inputs = keras.Input((4,))
    x = layers.Dense(4, name="first")(inputs)
    return keras.Model(inputs, layers.Dense(2, name="head")(inner(x)), name="outer")


def parts_of_attention():
    """A layer with the name of a part of the attention layer after it."""
    inputs = keras.Input((5, 4))
    query = layers.Dense(4, name="query")(inputs)
    return keras.Model(inputs, layers.MultiHeadAttention(2, 3, name="attention")(query, query))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (around, ["first", "deep", "inner/first", "head"]),
        (parts_of_attention, ["query", "attention"]),
        (
            lambda: stack((4,), Scaled(name="a"), Scaled(name="b"), name="outer"),
            ["a", "outer/a/inner", "b", "outer/b/inner"],
        ),
        (lambda: stack((5, 4), layers.Bidirectional(layers.LSTM(3, name="lstm"))), None),
    ],
    ids=["nested", "attention", "composite", "bidirectional"],
)
def test_a_snippet_finds_every_layer_by_its_rows_name(make, expected):
    model = make()
    rows, found = Rows(model), layer_of(model)
    assert [found[name] for name in names(rows)] == [row.layer for row in rows]
    assert expected is None or names(rows) == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda: two_halves(inner_first=True),
        lambda: two_halves(inner_first=False),
        lambda: built(Blocks()),
    ],
    ids=["inner first", "outer first", "subclassed"],
)
def test_where_keras_gives_two_layers_one_path_names_differ_and_none_means_another_layer(make):
    model = make()
    rows, found = Rows(model), layer_of(model)
    assert len(set(names(rows))) == len(rows)
    assert all(found.get(row.known.name, row.layer) is row.layer for row in rows)
    assert any(row.known.name not in found for row in rows)


def test_a_layer_that_no_snippet_finds_is_named_by_where_it_is():
    assert names(Rows(two_halves(inner_first=True))) == [
        "encoder/hidden",
        "decoder/hidden",
        "hidden",
    ]


def test_of_layers_in_one_list_with_one_name_the_one_that_a_snippet_finds_has_it():
    model = built(Blocks())
    rows = Rows(model)
    assert [row.known.name for row in rows if row.layer in model.same] == ["same_1", "same"]
    assert layer_of(model)["same"] is model.same[1]


# --- fans, by hand


@pytest.mark.parametrize(
    ("layer", "shape", "weighted", "fan_in", "fan_out"),
    [
        (layers.Dense(3), (4,), True, 4, 3),
        (layers.Conv1D(6, 5), (9, 4), True, 5 * 4, 5 * 6),
        (layers.Conv2D(6, (3, 2)), (9, 9, 4), True, 3 * 2 * 4, 3 * 2 * 6),
        (layers.Conv2D(6, 3, groups=2), (9, 9, 4), True, 9 * 2, 9 * 6),
        (layers.Conv3D(2, 2), (5, 5, 5, 3), True, 8 * 3, 8 * 2),
        (layers.DepthwiseConv1D(3, depth_multiplier=2), (9, 4), True, 3, 3 * 2),
        (layers.DepthwiseConv2D(3), (9, 9, 4), True, 9, 9),
        (layers.SeparableConv1D(6, 3, depth_multiplier=2), (9, 4), True, 3 * 4, 3 * 6),
        (layers.SeparableConv2D(6, 3), (9, 9, 4), True, 9 * 4, 9 * 6),
        (layers.Conv1DTranspose(6, 5), (9, 4), True, 5 * 4, 5 * 6),
        (layers.Conv2DTranspose(6, 3), (9, 9, 4), True, 9 * 4, 9 * 6),
        (layers.SimpleRNN(5), (7, 3), True, 3, 5),
        (layers.LSTM(5), (7, 3), True, 3, 5),
        (layers.GRU(5), (7, 3), True, 3, 5),
        (layers.RNN(layers.LSTMCell(5)), (7, 3), True, 3, 5),
        (
            layers.RNN(layers.StackedRNNCells([layers.LSTMCell(2), layers.GRUCell(6)])),
            (7, 3),
            True,
            3,
            6,
        ),
        (layers.ConvLSTM1D(5, 3), (7, 9, 2), True, 3 * 2, 3 * 5),
        (layers.ConvLSTM2D(5, 3), (7, 9, 9, 2), True, 9 * 2, 9 * 5),
        (layers.EinsumDense("abc,cd->abd", (None, 6)), (5, 4), True, 4, 6),
        (layers.EinsumDense("...x,xyz->...yz", (2, 3)), (5, 4), True, 4, 2 * 3),
        (layers.EinsumDense("abcd,cde->abe", (None, 6)), (5, 3, 4), True, 3 * 4, 6),
        (layers.EinsumDense("abc,bcd->abd", (5, 6)), (5, 4), True, 4, 6),
        (layers.BatchNormalization(), (4,), False, 1, 4),
        (layers.LayerNormalization(axis=[1, 2]), (3, 4), False, 1, 12),
        (layers.GroupNormalization(2), (9, 9, 4), False, 1, 4),
        (layers.PReLU(), (3, 4), False, 1, 12),
    ],
    ids=lambda given: type(given).__name__ if isinstance(given, layers.Layer) else None,
)
def test_fans_are_those_of_one_output_and_of_one_input(layer, shape, weighted, fan_in, fan_out):
    known = only(layer, shape).known
    assert (known.weighted, known.fan_in, known.fan_out) == (weighted, fan_in, fan_out)


def test_an_embeddings_unit_sums_over_one_input():
    inputs = keras.Input((3,), dtype="int32")
    (row,) = Rows(keras.Model(inputs, layers.Embedding(50, 4)(inputs)))
    assert (row.known.weighted, row.known.fan_in, row.known.fan_out) == (True, 1, 4)


@pytest.mark.parametrize(
    ("attention", "fan_out"),
    [
        pytest.param(layers.MultiHeadAttention(2, 3, value_dim=7), 2 * 3, id="multi-head"),
        pytest.param(layers.GroupQueryAttention(3, 4, 2), 4 * 3, id="group-query"),
    ],
)
def test_attentions_fans_are_those_of_its_query(attention, fan_out):
    inputs = keras.Input((5, 8))
    (row,) = Rows(keras.Model(inputs, attention(inputs, inputs)))
    assert (row.known.weighted, row.known.fan_in, row.known.fan_out) == (True, 8, fan_out)


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (layers.GRU(2), "GRU"),
        (layers.RNN(layers.GRUCell(2)), "GRUCell"),
        (layers.RNN(layers.StackedRNNCells([layers.GRUCell(2)])), "StackedRNNCells"),
        (layers.ConvLSTM1D(2, 1), "ConvLSTM1D"),
    ],
    ids=["subclass", "cell", "cells", "convolution"],
)
def test_a_bare_rnn_is_of_the_kind_of_its_cell(layer, kind):
    shape = (5, 4, 3) if kind == "ConvLSTM1D" else (5, 4)
    assert only(layer, shape).known.kind == kind


# --- what a pass shows


def chain():
    return Rows(stack((4,), *(layers.Dense(4, name=name) for name in "abc")))


def test_depth_is_the_order_of_calls_and_then_of_definition():
    rows = chain()
    rows.learn(order=(2, 0), edges=(), activations={})
    assert [layer.depth for layer in rows.layers()] == [1, 2, 0]


def test_edges_add_inputs_and_a_row_that_feeds_itself_is_recurrent():
    rows = chain()
    rows.learn((0, 1, 2), {(0, 2), (1, 1)}, {})
    rows.learn((0, 1, 2), {(1, 2)}, {})
    assert [layer.inputs for layer in rows.layers()] == [(), (), (0, 1)]
    assert [layer.recurrent for layer in rows.layers()] == [False, True, False]


def test_the_last_row_ran_and_feeds_no_other():
    rows = chain()
    assert not any(rows.is_last(row) for row in range(3))
    rows.learn((0, 1), {(0, 1), (1, 1)}, {})
    assert [rows.is_last(row) for row in range(3)] == [False, True, False]


def test_activations_are_taken_with_the_name_of_their_layer():
    rows = chain()
    rows.learn((0, 1, 2), (), {0: ("relu", "act"), 1: ("tanh", None)})
    assert [(layer.activation, layer.activation_module) for layer in rows.layers()] == [
        ("relu", "act"),
        ("tanh", None),
        (None, None),
    ]


def test_a_layers_own_activation_is_known_before_any_pass():
    row = only(layers.Dense(3, activation="swish"), (4,))
    assert (row.known.activation, row.known.activation_module) == ("silu", None)


# --- activations


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (layers.Dense(1), None),
        (layers.Dropout(0.5), None),
        (layers.Dense(1, activation="hard_sigmoid"), "hardsigmoid"),
        (layers.Dense(1, activation=layers.LeakyReLU()), "leaky_relu"),
        (layers.Activation("linear"), None),
        (layers.Activation("hard_swish"), "hardswish"),
        (layers.Activation("hard_tanh"), "hardtanh"),
        (layers.Activation("relu6"), "relu6"),
        (layers.Activation("selu"), "selu"),
        (layers.ReLU(), "relu"),
        (layers.ReLU(max_value=6), "relu6"),
        (layers.ReLU(negative_slope=0.1), "leaky_relu"),
        (layers.LeakyReLU(), "leaky_relu"),
        (layers.PReLU(), "prelu"),
        (layers.ELU(), "elu"),
        (layers.Softmax(), "softmax"),
    ],
)
def test_a_layers_activation_has_the_fields_name(layer, name):
    assert activation_name(layer) == name


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (ops.relu, "relu"),
        (ops.relu6, "relu6"),
        (ops.leaky_relu, "leaky_relu"),
        (ops.silu, "silu"),
        (ops.gelu, "gelu"),
        (ops.tanh, "tanh"),
        (ops.sigmoid, "sigmoid"),
        (ops.hard_sigmoid, "hardsigmoid"),
        (ops.hard_silu, "hardswish"),
        (ops.hard_tanh, "hardtanh"),
        (ops.softmax, "softmax"),
        (ops.exp, None),
        (lambda x: keras.activations.relu(x, negative_slope=0.1), "leaky_relu"),
        (lambda x: keras.activations.relu(x, max_value=6), "relu6"),
    ],
)
def test_an_operations_activation_has_the_fields_name(function, name):
    inputs = keras.Input((4,))
    *_, operation = keras.Model(inputs, function(inputs)).operations
    assert activation_name(operation) == name


# --- units


@pytest.mark.parametrize(
    ("layer", "shape", "axis"),
    [
        (layers.Dense(3), (2, 5, 3), 2),
        (layers.Conv2D(3, 1), (2, 5, 5, 3), 3),
        (layers.Conv2D(3, 1, data_format="channels_first"), (2, 3, 5, 5), 1),
        (layers.Conv2D(3, 1, data_format="channels_first"), (2, 7, 3, 5, 5), 2),
        (layers.Conv2D(3, 1, data_format="channels_first"), (2, 75), 1),
        (layers.Conv2D(3, 1, data_format="channels_first"), (2, 5, 5, 3), 3),
        (layers.Conv2D(3, 1), (2, 3, 5, 5), 1),
        (layers.DepthwiseConv2D(1, data_format="channels_first"), (2, 3, 5, 5), 1),
        (layers.ConvLSTM2D(3, 1, data_format="channels_first"), (2, 3, 5, 5), 1),
        (layers.BatchNormalization(axis=1), (2, 3, 5, 5), 1),
        (layers.BatchNormalization(), (2, 5, 5, 3), 3),
        (layers.LayerNormalization(axis=[1, 2]), (2, 5, 3), 2),
        (layers.LSTM(3), (2, 7, 3), 2),
    ],
)
def test_the_unit_axis_is_where_the_channels_are(layer, shape, axis):
    assert unit_axis(layer, len(shape), shape) == axis
