"""Finding a cut in the graph and the first non-finite value."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from gradwatch.fixes.wiring import find_first_nonfinite, reconnect

from .nets import Detach, Log, Subject, mlp


def with_module(subject: Subject, name: str, module: nn.Module) -> Subject:
    setattr(subject.model, name, module)
    return subject


def test_the_module_behind_the_cut_is_named(capsys):
    subject = with_module(mlp(["fc1", "fc2", "fc3"]), "act fc2", Detach())
    subject.run(reconnect(subject.layers[:2]))
    lines = capsys.readouterr().out.splitlines()
    cut_off = [line.removesuffix(": no gradient flows to its input") for line in lines[:-4]]
    assert cut_off == ["the model", "fc1", "fc3"]
    assert lines[-4:] == [
        f"{name}.{key}: trains True, gradient False"
        for name in ("fc1", "fc2")
        for key in ("weight", "bias")
    ]


def test_a_loss_that_is_cut_off_itself_is_no_error(capsys):
    subject = with_module(mlp(["fc1"]), "the head", Detach())
    subject.run(reconnect(subject.layers))
    assert "fc1.weight: trains True, gradient False\n" in capsys.readouterr().out


def test_a_frozen_layer_is_told_from_one_that_is_cut_off(capsys):
    subject = mlp(["fc1", "fc2"])
    subject.model.get_submodule("fc1").requires_grad_(requires_grad=False)
    subject.run(reconnect(subject.layers))
    assert "fc1.weight: trains False, gradient False\n" in capsys.readouterr().out


@pytest.mark.parametrize("fix", [reconnect, find_first_nonfinite])
def test_no_hook_stays_on_the_model(fix):
    subject = mlp(["fc1", "fc2"])
    subject.run(fix(subject.layers))
    hooks = [
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in subject.model.modules()
    ]
    assert hooks == [0] * len(hooks)


@pytest.mark.filterwarnings("ignore:Error detected in LogBackward0")
def test_the_module_that_makes_the_first_nan_is_printed_first(capsys):
    subject = with_module(mlp(["fc1", "fc2", "fc3"]), "act fc2", Log())
    with pytest.raises(RuntimeError, match="returned nan values"):
        subject.run(find_first_nonfinite(subject.layers))
    broken = [line for line in capsys.readouterr().out.splitlines() if "output" in line]
    assert broken[0] == "act fc2: its output is not finite"
    assert not torch.is_anomaly_enabled()
    assert not subject.model.get_submodule("act fc2")._forward_hooks


def test_a_parameter_that_is_not_finite_is_named(capsys):
    subject = mlp(["fc1", "fc2"])
    nn.init.constant_(subject.model.get_submodule("fc2").bias, float("inf"))
    safe = replace(subject, loss_fn=lambda model, batch: model[0](batch[0]).sum())
    safe.run(find_first_nonfinite(safe.layers))
    output = capsys.readouterr().out
    assert "fc2.weight is finite: True\nfc2.bias is finite: False\n" in output
