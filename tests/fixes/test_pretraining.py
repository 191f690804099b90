"""Stacked autoencoders on layers that can and cannot be trained so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradwatch.fixes.pretraining import stacked_autoencoders
from gradwatch.layer import Layer

from .nets import mlp


def reconstruction_error(subject, namespace) -> float:
    """Error of the last layer's autoencoder, over the error of always guessing the mean."""
    layer = subject.model.get_submodule(subject.layers[-1].name)
    x = namespace["input_of"](layer, subject.batch[0])
    rebuilt = namespace["decoder"](torch.sigmoid(layer(x)))
    return (nn.functional.mse_loss(rebuilt, x) / x.var(dim=0).mean()).item()


def test_a_layer_learns_to_encode_its_input():
    subject = mlp(["fc1"])
    namespace = subject.namespace() | {"batches": [subject.batch] * 200}
    exec(stacked_autoencoders(subject.layers).snippets["torch"], namespace)
    assert reconstruction_error(subject, namespace) < 0.1


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Tanh, nn.ReLU, None])
def test_the_layers_own_activation_is_in_the_code(activation):
    subject = mlp(["fc1"], activation)
    code = stacked_autoencoders(subject.layers).snippets["torch"]
    expected = "nn.Identity()" if activation is None else f"torch.{activation.__name__.lower()}"
    assert f"('fc1',), {expected})" in code


def test_layers_with_different_activations_stay_in_order():
    subject = mlp(["fc1", "fc2", "fc3"])
    layers = [
        Layer("fc1", "Linear", activation="sigmoid"),
        Layer("fc2", "Linear", activation="tanh"),
        Layer("fc3", "Linear", activation="sigmoid"),
    ]
    namespace = subject.run(stacked_autoencoders(layers))
    assert list(namespace["activation_of"].values()) == [torch.sigmoid, torch.tanh, torch.sigmoid]
    assert list(namespace["activation_of"]) == ["fc1", "fc2", "fc3"]


def test_a_layer_that_is_not_linear_is_left_out_by_name():
    layers = [Layer("conv", "Conv2d"), Layer("fc", "Linear")]
    code = stacked_autoencoders(layers).snippets["torch"]
    assert "# Not linear, and left out: 'conv'." in code
    assert "('fc',)" in code


def test_no_hook_stays_on_the_model():
    subject = mlp(["fc1", "fc2"])
    subject.run(stacked_autoencoders(subject.layers))
    assert [len(module._forward_pre_hooks) for module in subject.model] == [0] * 5
