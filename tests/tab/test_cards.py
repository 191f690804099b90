"""A card has all of a finding that the page shows, and the snippets of the run's framework."""

from dataclasses import replace

import pytest

from gradwatch.finding import Fix
from gradwatch.tab.cards import card
from tests.tensorboard.builders import finding


def test_a_card_has_the_finding():
    found = card(finding(), framework="torch")
    assert found["key"] == "GW101/activation"
    assert (found["code"], found["name"]) == ("GW101", "vanishing-gradient")
    assert (found["severity"], found["cause"]) == ("error", "activation")
    assert (found["step"], found["resolved_step"], found["open"]) == (16, None, True)
    assert found["layers"] == ["fc1", "fc2", "fc3"]
    assert found["message"] == finding().message


def test_a_resolved_finding_is_not_open():
    found = card(finding(resolved_step=80), framework="torch")
    assert (found["resolved_step"], found["open"]) == (80, False)


def test_a_threshold_stands_beside_its_figure():
    assert card(finding(), framework="torch")["evidence"] == [
        {
            "name": "backward depth",
            "value": -7.0,
            "text": "-7",
            "threshold": -3.5,
            "threshold_text": "-3.5",
        },
        {
            "name": "activation share",
            "value": 0.9,
            "text": "0.9",
            "threshold": None,
            "threshold_text": None,
        },
    ]


@pytest.mark.parametrize(
    ("value", "expected", "text"),
    [
        (float("nan"), "NaN", "not observed"),
        (float("inf"), "Infinity", "not finite"),
        (float("-inf"), "-Infinity", "-inf"),
    ],
)
def test_evidence_that_is_not_finite_is_told_in_words(value, expected, text):
    evidence = {"ratio": value, "ratio_threshold": value}
    (found,) = card(replace(finding(), evidence=evidence), framework="torch")["evidence"]
    assert (found["value"], found["text"]) == (expected, text)
    assert (found["threshold"], found["threshold_text"]) == (expected, text)


@pytest.mark.parametrize(
    ("framework", "beginning"), [("torch", "model.act1"), ("keras", "keras.layers"), ("jax", None)]
)
def test_the_snippet_is_that_of_the_framework(framework, beginning):
    snippet = card(finding(), framework=framework)["fixes"][0]["snippet"]
    assert snippet is None if beginning is None else snippet.startswith(beginning)


def test_a_fix_has_everything_else():
    fix = Fix("loss", "title", "why", "paper", {}, lr_factor=0.5, avoid_when="it helps")
    (found,) = card(finding(fixes=(fix,)), framework="torch")["fixes"]
    assert found == {
        "kind": "loss",
        "title": "title",
        "rationale": "why",
        "reference": "paper",
        "snippet": None,
        "lr_factor": 0.5,
        "avoid_when": "it helps",
    }
