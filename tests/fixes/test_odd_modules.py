"""Modules that hold their weight in another way, or are the whole model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from gradwatch.fixes.initialisation import (
    identity_initialisation,
    matching_initialisation,
    zero_bias,
)
from gradwatch.fixes.inputs import standardise_inputs
from gradwatch.fixes.normalisation import insert_normalisation
from gradwatch.fixes.recurrent import gated_cell, orthogonal_recurrent
from gradwatch.fixes.residual import residual_path
from gradwatch.fixes.wiring import find_first_nonfinite, reconnect
from gradwatch.layer import Layer
from gradwatch.torch.rows import Rows

from .effects import std_is
from .nets import run_torch, squared_error


class Conv1D(nn.Module):
    """The linear layer of GPT-2 in Hugging Face's library, whose weight is (inputs, outputs)."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(inputs, outputs))
        self.bias = nn.Parameter(torch.ones(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The inputs times the weight, plus the bias."""
        return x @ self.weight + self.bias


def layers_of(model: nn.Module) -> tuple[Layer, ...]:
    """The layers as gradwatch knows them before the first step."""
    return Rows(model).layers()


def follows(layer: Layer, activation: str | None) -> Layer:
    return Layer(
        layer.name, layer.kind, fan_in=layer.fan_in, fan_out=layer.fan_out, activation=activation
    )


@pytest.mark.parametrize("module", [nn.Linear(64, 128), nn.Conv2d(16, 64, 3)], ids=["fc", "conv"])
def test_a_weight_under_weight_norm_gets_the_variance_that_it_needs(module):
    model = nn.Sequential(parametrizations.weight_norm(module))
    with torch.no_grad():
        module.weight = torch.full_like(module.weight, 7.0)
    (layer,) = layers_of(model)
    run_torch(matching_initialisation([follows(layer, "relu")]), model=model)
    fan_in = module.weight[0].numel()
    assert module.weight.std().item() == std_is(math.sqrt(2 / fan_in))
    assert not module.bias.any()


def test_a_transposed_convolution_under_weight_norm_is_initialised_too():
    module = parametrizations.weight_norm(nn.ConvTranspose2d(32, 16, 3))
    with torch.no_grad():
        module.weight = torch.full_like(module.weight, 7.0)
    model = nn.Sequential(module)
    (layer,) = layers_of(model)
    run_torch(matching_initialisation([follows(layer, "relu")]), model=model)
    assert module.weight.std().item() == std_is(math.sqrt(2 / (32 * 9)))


def test_a_weight_under_spectral_norm_is_drawn_anew_and_keeps_its_norm():
    module = parametrizations.spectral_norm(nn.Linear(64, 64), n_power_iterations=20)
    with torch.no_grad():
        module.weight = torch.ones(64, 64)
    model = nn.Sequential(module)
    (layer,) = layers_of(model)
    run_torch(matching_initialisation([follows(layer, "relu")]), model=model)
    singular = torch.linalg.svdvals(module(torch.eye(64)) - module.bias)
    assert singular[0].item() == pytest.approx(1.0, abs=0.1)
    assert singular[32] > 0.1


@pytest.mark.parametrize(
    ("fix", "expected"), [(orthogonal_recurrent, "orthogonal"), (identity_initialisation, "eye")]
)
def test_a_matrix_under_weight_norm_becomes_what_the_fix_says(fix, expected):
    module = parametrizations.weight_norm(nn.Linear(16, 16))
    model = nn.Sequential(module)
    run_torch(fix([Layer("0", "Linear", fan_in=16, fan_out=16)]), model=model)
    weight = module.weight
    shown = weight if expected == "eye" else weight @ weight.T
    torch.testing.assert_close(shown, torch.eye(16), rtol=0, atol=1e-5)


def test_a_plain_weight_stays_the_parameter_that_the_optimizer_holds():
    model = nn.Sequential(nn.Linear(8, 8))
    parameter = model[0].weight
    run_torch(matching_initialisation(layers_of(model)), model=model)
    assert model[0].weight is parameter


def test_a_linear_layer_with_inputs_first_gets_the_variance_of_its_inputs():
    model = nn.Sequential(Conv1D(outputs=256, inputs=64))
    layer = Layer("0", "Conv1D", fan_in=64, fan_out=256, activation="gelu")
    run_torch(matching_initialisation([layer]), model=model)
    assert model[0].weight.std().item() == std_is(math.sqrt(2 / 64))
    assert not model[0].bias.any()


def test_a_linear_layer_with_inputs_first_is_normalised_over_its_features():
    model = nn.Sequential(Conv1D(outputs=6, inputs=4))
    run_torch(insert_normalisation([Layer("0", "Conv1D")]), model=model)
    assert isinstance(model[0][1], nn.LayerNorm)
    assert model(torch.randn(5, 7, 4)).shape == (5, 7, 6)


def test_inputs_of_a_linear_layer_with_inputs_first_have_their_features_last():
    inputs = torch.randn(50, 7, 5) * torch.tensor([1.0, 10.0, 100.0, 1e3, 1e4])
    fix = standardise_inputs([Layer("0", "Conv1D")], input_rms=100.0)
    scaled = run_torch(fix, inputs=inputs)["inputs"]
    assert scaled.std((0, 1)).sub(1).abs().max() < 1e-4


@pytest.mark.parametrize("make", [lambda: nn.Linear(8, 8), lambda: nn.LSTM(8, 8)])
@pytest.mark.parametrize("fix", [matching_initialisation, zero_bias, orthogonal_recurrent])
def test_a_model_that_is_one_layer_is_initialised(make, fix):
    model = make()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 7.0)
    run_torch(fix(layers_of(model)), model=model)
    assert not all(parameter.eq(7.0).all() for parameter in model.parameters())


def test_a_model_that_is_one_layer_is_normalised_by_a_new_model():
    model = nn.Linear(8, 8)
    after = run_torch(insert_normalisation(layers_of(model)), model=model)["model"]
    assert [type(module) for module in after] == [nn.Linear, nn.LayerNorm]


def test_a_model_that_is_a_plain_recurrent_layer_becomes_a_gru():
    model = nn.RNN(8, 8, batch_first=True)
    after = run_torch(gated_cell(layers_of(model)), model=model)["model"]
    assert isinstance(after, nn.GRU)


@pytest.mark.parametrize("fix", [reconnect, find_first_nonfinite])
def test_the_parameters_of_a_model_that_is_one_layer_are_listed(fix, capsys):
    model, batch = nn.Linear(8, 8), (torch.randn(4, 8), torch.randn(4, 8))
    run_torch(fix(layers_of(model)), model=model, batch=batch, loss_fn=squared_error)
    assert ".weight" in capsys.readouterr().out


@pytest.mark.parametrize("fix", [matching_initialisation, insert_normalisation, zero_bias])
def test_a_layer_that_is_named_like_its_class_is_not_taken_for_the_model(fix):
    model = nn.ModuleDict({"Linear": nn.Linear(8, 8)})
    before = nn.utils.parameters_to_vector(model.parameters()).clone()
    after = run_torch(fix(layers_of(model)), model=model)["model"]
    assert after is model
    changed = nn.utils.parameters_to_vector(model.parameters())
    assert changed.shape != before.shape or not changed.equal(before)


def test_a_model_that_is_one_layer_gets_no_skip_around_itself():
    model = nn.Linear(8, 8)
    after = run_torch(residual_path(layers_of(model)), model=model)["model"]
    assert after is model


def test_a_layer_that_changes_the_width_does_not_become_the_identity():
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4), nn.Conv2d(3, 3, 3, padding=1))
    before = model[0].weight.clone()
    fix = identity_initialisation(layers_of(model))
    run_torch(fix, model=model)
    assert model[0].weight.equal(before)
    assert "# Not square, and left alone: '0'." in fix.snippets["torch"]
    assert model[1].weight.equal(torch.eye(4))
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(model[2](x), x)


@pytest.mark.parametrize(
    ("activation", "std"), [("relu", "0.18"), ("tanh", "0.17"), ("sigmoid", "0.41"), (None, "0.12")]
)
@pytest.mark.parametrize(("framework", "kind"), [("torch", "Linear"), ("keras", "Dense")])
def test_the_fan_in_and_the_deviation_are_in_the_code(activation, std, framework, kind):
    layer = Layer("fc", kind, fan_in=64, fan_out=128, activation=activation)
    code = matching_initialisation([layer]).snippets[framework]
    assert f"# 'fc': fan-in 64, so standard deviation {std}." in code
