"""Which modules are rows, what they are called, and that rows stay put."""

import gc

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from gradwatch.torch.rows import Rows, Wiring, strip_wrappers

from .training import perceptron


def names(rows):
    return [layer.name for layer in rows.layers()]


def kinds(rows):
    return [layer.kind for layer in rows.layers()]


def test_every_module_with_parameters_of_its_own_is_a_row():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Linear(4, 2))
    rows = Rows(model)
    assert names(rows) == ["0", "1", "3"]
    assert kinds(rows) == ["Conv2d", "BatchNorm2d", "Linear"]
    assert [layer.weighted for layer in rows.layers()] == [True, False, True]


def test_attention_and_recurrent_modules_are_one_row_with_all_that_is_below_them():
    model = nn.ModuleDict(
        {"attention": nn.MultiheadAttention(4, 2), "lstm": nn.LSTM(3, 5, num_layers=2)}
    )
    rows = Rows(model)
    assert names(rows) == ["attention", "lstm"]
    assert [layer.parameter_count for layer in rows.layers()] == [
        sum(entry.numel() for entry in module.parameters()) for module in model.values()
    ]
    assert rows.layers()[1].recurrent
    assert (rows.layers()[1].fan_in, rows.layers()[1].fan_out) == (3, 5)


def test_a_parametrised_module_is_one_row_and_those_below_it_are_others():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4))
            self.layer = nn.Linear(4, 4)

    block = Block()
    parametrizations.weight_norm(block, "weight")
    model = nn.ModuleDict({"block": block})
    rows = Rows(model)
    assert names(rows) == ["block", "block.layer"]
    assert [layer.parameter_count for layer in rows.layers()] == [4 + 16, 20]
    assert [row.composite for row in rows] == [True, False]


def test_old_weight_norm_is_one_row():
    with pytest.warns(FutureWarning):
        layer = nn.utils.weight_norm(nn.Linear(4, 4))
    model = nn.Sequential(layer)
    rows = Rows(model)
    assert [(layer.name, layer.parameter_count) for layer in rows.layers()] == [("0", 24)]


def test_a_layer_that_is_parametrised_later_keeps_its_row():
    model = perceptron()
    rows = Rows(model)
    parametrizations.weight_norm(model[0])
    rows.refresh()
    assert names(rows) == ["0", "2", "4"]
    assert {id(entry) for entry in rows[0].parameters()} == set(map(id, model[0].parameters()))
    nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    assert {id(entry) for entry in rows[0].parameters()} <= set(map(id, model[0].parameters()))
    rows.refresh()
    assert {id(entry) for entry in rows[0].parameters()} == set(map(id, model[0].parameters()))


def test_rows_that_come_later_are_appended():
    model = nn.ModuleDict({"last": nn.Linear(2, 2)})
    rows = Rows(model)
    before = rows.layers()
    model["first"] = nn.Linear(2, 2)
    rows.refresh()
    assert names(rows) == ["last", "first"]
    assert rows.layers()[0] is before[0]


def test_a_layer_that_is_removed_keeps_its_row():
    model = perceptron()
    rows = Rows(model)
    removed = model[2]
    model[2] = nn.Identity()
    rows.refresh()
    assert names(rows) == ["0", "2", "4"]
    assert len(list(rows[1].parameters())) == 2
    del removed
    gc.collect()
    assert list(rows[1].parameters()) == []
    assert rows.layers()[1].parameter_count == 20


def test_a_module_in_two_places_is_one_row():
    shared = nn.Linear(4, 4)
    rows = Rows(nn.Sequential(shared, nn.ReLU(), shared))
    assert names(rows) == ["0"]


def test_parameters_in_lists_and_on_the_model_itself_are_rows():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.zeros(3))
            self.scales = nn.ParameterList([torch.ones(2), torch.ones(2)])
            self.layer = nn.Linear(2, 2)

    model = Model()
    rows = Rows(model)
    assert names(rows) == ["Model", "scales", "layer"]
    assert [layer.parameter_count for layer in rows.layers()] == [3, 4, 6]
    assert [row.composite for row in rows] == [True, False, False]


@pytest.mark.parametrize(
    ("name", "stripped"),
    [
        ("_orig_mod.layer", "layer"),
        ("block._checkpoint_wrapped_module.layer", "block.layer"),
        ("_fsdp_wrapped_module._orig_mod.a.b", "a.b"),
        ("layer._orig_mod", "layer"),
        ("module.layer", "module.layer"),
        ("my_orig_mod_layer", "my_orig_mod_layer"),
    ],
)
def test_names_are_free_of_wrappers(name, stripped):
    assert strip_wrappers(name) == stripped


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, lambda model: torch.compile(model, backend="eager")],
    ids=["DataParallel", "compile"],
)
def test_a_wrapped_model_has_the_names_of_the_model(wrap):
    model = perceptron()
    assert names(Rows(wrap(model))) == names(Rows(model)) == ["0", "2", "4"]


def test_a_child_called_module_keeps_its_name():
    assert names(Rows(nn.ModuleDict({"module": nn.Linear(2, 2)}))) == ["module"]


@pytest.mark.parametrize(
    ("module", "fans"),
    [
        (nn.Linear(3, 5), (3, 5)),
        (nn.Conv2d(4, 6, (3, 2)), (24, 36)),
        (nn.Conv2d(4, 6, 3, groups=2), (18, 54)),
        (nn.ConvTranspose1d(4, 6, 5), (20, 30)),
        (nn.Embedding(100, 7), (1, 7)),
        (nn.LSTM(3, 5), (3, 5)),
        (nn.LayerNorm((3, 4)), (1, 12)),
        (nn.BatchNorm1d(6), (1, 6)),
    ],
    ids=lambda entry: type(entry).__name__ if isinstance(entry, nn.Module) else str(entry),
)
def test_fans_of_each_kind(module, fans):
    model = nn.Sequential(module)
    (layer,) = Rows(model).layers()
    assert (layer.fan_in, layer.fan_out) == fans


@pytest.mark.parametrize(
    "parametrise",
    [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal],
    ids=lambda entry: entry.__name__,
)
def test_the_fans_of_a_parametrised_layer_are_those_of_its_weight(parametrise):
    model = nn.Sequential(parametrise(nn.Linear(7, 5)))
    (layer,) = Rows(model).layers()
    assert (layer.kind, layer.fan_in, layer.fan_out) == ("Linear", 7, 5)


def test_a_linear_layer_that_holds_its_inputs_first_is_no_convolution():
    """As that of GPT-2 in Transformers."""

    class Conv1D(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(inputs, outputs))
            self.bias = nn.Parameter(torch.zeros(outputs))

    model = nn.Sequential(Conv1D(7, 5))
    (layer,) = Rows(model).layers()
    assert (layer.fan_in, layer.fan_out) == (7, 5)


def test_a_lazy_layer_has_no_parameters_before_its_first_call():
    model = nn.Sequential(nn.LazyConv2d(4, 3))
    rows = Rows(model)
    assert list(rows[0].parameters()) == []
    assert len(list(rows[0].every_parameter())) == 2
    model(torch.randn(1, 2, 5, 5))
    (layer,) = rows.layers()
    assert (layer.kind, layer.fan_in, layer.parameter_count) == ("Conv2d", 18, 76)


def test_only_what_trains_is_counted_where_something_does():
    model = nn.Linear(3, 5)
    rows = Rows(model)
    assert rows.layers()[0].parameter_count == 20
    model.bias.requires_grad_(requires_grad=False)
    assert rows.layers()[0].parameter_count == 15
    model.weight.requires_grad_(requires_grad=False)
    assert rows.layers()[0].parameter_count == 20


def test_layers_are_the_same_object_while_nothing_changes():
    model = perceptron()
    rows = Rows(model)
    before = rows.layers()
    wiring = Wiring((2, 1, 0), frozenset({(2, 1), (1, 1)}), {0: ("relu", "1")})
    rows.refresh()
    assert rows.layers() is before
    rows.learn(wiring)
    learnt = rows.layers()
    assert [layer.depth for layer in learnt] == [2, 1, 0]
    assert [layer.inputs for layer in learnt] == [(), (2,), ()]
    assert [layer.recurrent for layer in learnt] == [False, True, False]
    assert (learnt[0].activation, learnt[0].activation_module) == ("relu", "1")
    rows.learn(wiring)
    assert rows.layers() is learnt


def test_rows_that_did_not_run_come_after_those_that_did():
    model = perceptron()
    rows = Rows(model)
    rows.learn(Wiring((2,), frozenset(), {}))
    assert [layer.depth for layer in rows.layers()] == [1, 2, 0]


def test_rows_do_not_keep_the_model_alive():
    model = perceptron()
    rows = Rows(model)
    del model
    gc.collect()
    rows.refresh()
    assert [list(row.parameters()) for row in rows] == [[], [], []]
    assert names(rows) == ["0", "2", "4"]
