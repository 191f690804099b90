"""GW204 unscaled-input."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from torch import nn

from gradwatch.layer import Layer
from gradwatch.rules.gw204_unscaled_input import UnscaledInput
from gradwatch.testing import chain, steady

from .contract import ScaleFree, WindowedRule, above, below, only, present
from .real import apply, digits, mlp, raw_digits, sgd, train

RULE = UnscaledInput()
LAYERS = chain(3, activation="relu")


def first(rms: float) -> dict:
    """The first of the three layers reads inputs of this size."""
    return {"input_rms": [rms, 1.0, 1.0]}


class TestUnscaledInput(ScaleFree, WindowedRule):
    rule = RULE
    layers = LAYERS
    sick = first(150.0)
    well = first(1.0)


@pytest.mark.parametrize(("rms", "side"), [(150.0, "large"), (1e-3, "small")])
def test_the_inputs_are_to_blame(rms, side):
    diagnosis = only(RULE, steady(LAYERS, **first(rms)))
    assert (diagnosis.cause, diagnosis.severity, diagnosis.rows) == ("inputs", "warning", (0,))
    assert diagnosis.explained == {0, 1, 2}
    assert f"too {side}" in diagnosis.message
    assert [fix.kind for fix in diagnosis.fixes] == ["inputs"]


@pytest.mark.parametrize(
    ("rms", "fires"),
    [
        (below(0.03), True),
        (0.03, False),
        (30.0, False),
        (above(30.0), True),
        (np.inf, True),
        (np.nan, False),
        (0.0, False),
    ],
)
def test_it_fires_outside_its_bounds(rms, fires):
    assert bool(present(RULE, steady(LAYERS, **first(rms)))) is fires


@pytest.mark.parametrize("rms", [1e-3, 150.0])
def test_what_hidden_layers_read_is_not_meant(rms):
    assert not present(RULE, steady(LAYERS, input_rms=[1.0, rms, rms]))


def test_the_worst_of_several_inputs_is_reported():
    layers = (
        Layer(name="pixels", kind="Linear", depth=0),
        Layer(name="facts", kind="Linear", depth=1),
        Layer(name="head", kind="Linear", depth=2, inputs=(0, 1)),
    )
    diagnosis = only(RULE, steady(layers, input_rms=[100.0, 1e-4, 1.0]))
    assert diagnosis.rows == (0, 1)
    assert diagnosis.evidence["input_rms"] == pytest.approx(1e-4)


def normalised(*readers: str) -> tuple[Layer, ...]:
    """A first layer and what reads it, by kind."""
    return (
        Layer(name="conv", kind="Conv2d", depth=0),
        *(
            Layer(
                name=f"{kind.lower()}{depth}",
                kind=kind,
                depth=depth,
                inputs=(0,),
                weighted="Norm" not in kind,
            )
            for depth, kind in enumerate(readers, start=1)
        ),
    )


@pytest.mark.parametrize(
    ("readers", "fires"),
    [
        (("BatchNorm2d",), False),
        (("BatchNorm2d", "GroupNorm"), False),
        (("BatchNorm2d", "Conv2d"), True),
        (("Conv2d",), True),
        ((), True),
    ],
)
def test_a_normalisation_right_after_the_first_layer_undoes_the_scale(readers, fires):
    assert bool(present(RULE, steady(normalised(*readers), input_rms=150.0))) is fires


def test_a_normalisation_of_the_inputs_themselves_is_enough():
    layers = (
        Layer(name="norm", kind="BatchNorm1d", depth=0, weighted=False),
        Layer(name="fc", kind="Linear", depth=1, inputs=(0,)),
    )
    assert not present(RULE, steady(layers, input_rms=[150.0, 1.0]))


def test_word_indices_have_no_size():
    layers = (
        Layer(name="embedding", kind="Embedding", depth=0),
        Layer(name="head", kind="Linear", depth=1, inputs=(0,)),
    )
    history = steady(layers, input_rms=[np.nan, 0.01], output_rms=[0.01, 1.0])
    assert not present(RULE, history)


@pytest.mark.parametrize(
    ("setting", "rms"), [({"smallest": 1e-4}, 1e-3), ({"largest": 200.0}, 150.0)], ids=str
)
def test_its_bounds_are_settings(setting, rms):
    history = steady(LAYERS, **first(rms))
    assert present(RULE, history)
    assert not present(replace(RULE, **setting), history)


class TestFixes:
    """On real nets."""

    def test_standardised_pixels(self):
        inputs, targets = raw_digits()
        model = mlp(2)
        run = train(model, sgd(model, 1e-4), samples=(inputs, targets))
        assert run.alarms == [("GW204", "inputs")]
        finding = run.finding("GW204")
        assert (finding.layers, finding.step) == (("0",), 16)

        names = apply(finding.fixes[0], inputs=inputs)
        cured = train(mlp(2), samples=(names["inputs"], targets))
        assert cured.alarms == []
        assert cured.losses[-1] < 0.5 * cured.losses[0]

    @pytest.mark.parametrize("factor", [1e-2, 1e-3])
    def test_standardised_tiny_inputs(self, factor):
        inputs, targets = digits()
        run = train(mlp(2), samples=(factor * inputs, targets))
        assert run.alarms == [("GW204", "inputs")]

        names = apply(run.finding("GW204").fixes[0], inputs=factor * inputs)
        cured = train(mlp(2), samples=(names["inputs"], targets))
        assert cured.alarms == []
        assert cured.losses[-1] < 0.5 * run.losses[-1]

    def test_a_normalisation_after_the_first_layer(self):
        inputs, targets = raw_digits()
        build = partial(mlp, 2)
        model = nn.Sequential(build()[0], nn.BatchNorm1d(32), *list(build())[1:])
        assert train(model, samples=(inputs, targets)).alarms == []
