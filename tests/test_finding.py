"""Findings and fixes: what a user reads."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from gradwatch.errors import ArgumentError
from gradwatch.finding import SEVERITIES, Finding, Fix, Severity, listed

FINDING = Finding(
    code="GW101",
    name="vanishing-gradient",
    severity="error",
    step=16,
    layers=("fc1", "fc2"),
    cause="activation",
    message="The signal shrinks.",
)


def test_a_fix_of_no_known_kind_is_refused_with_the_kinds_there_are():
    with pytest.raises(ArgumentError, match=r"'weight_decay' of fix 'Decay' .* normalisation"):
        Fix(kind="weight_decay", title="Decay", rationale="Large.", reference="Krogh 1992")


def test_a_finding_is_open_until_it_is_resolved():
    assert FINDING.is_open
    assert not dataclasses.replace(FINDING, resolved_step=32).is_open
    assert not dataclasses.replace(FINDING, resolved_step=0).is_open


def test_findings_with_the_same_figures_are_equal():
    assert dataclasses.replace(FINDING, evidence={"a": 1.0}) == dataclasses.replace(
        FINDING, evidence={"a": 1.0}
    )
    assert dataclasses.replace(FINDING, evidence={"a": 1.0}) != FINDING


@pytest.mark.parametrize(
    "entry",
    [FINDING, Fix(kind="inputs", title="Scale", rationale="Large.", reference="LeCun 1998")],
    ids=["finding", "fix"],
)
def test_they_cannot_be_changed_in_place(entry):
    name = dataclasses.fields(entry)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(entry, name, "other")


def test_severities_are_listed_mildest_first():
    assert SEVERITIES == ("notice", "warning", "error")
    assert get_args(Severity) == SEVERITIES


def test_a_fix_leaves_the_learning_rate_alone_unless_it_says_otherwise():
    assert Fix(kind="inputs", title="", rationale="", reference="").lr_factor == 1


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "no layer"),
        (1, "layer l0"),
        (2, "layers l0 and l1"),
        (3, "layers l0, l1 and l2"),
        (6, "layers l0, l1, l2, l3, l4 and l5"),
        (7, "7 layers (l0 to l6)"),
        (100, "100 layers (l0 to l99)"),
    ],
)
def test_layer_names_in_words(count, words):
    assert listed(tuple(f"l{number}" for number in range(count))) == words


@pytest.mark.parametrize(("most", "words"), [(2, "3 layers (a to c)"), (3, "layers a, b and c")])
def test_how_many_names_are_listed_can_be_set(most, words):
    assert listed(("a", "b", "c"), most=most) == words
