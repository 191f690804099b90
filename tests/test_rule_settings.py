"""Thresholds from the command line, and what is said of those that cannot be."""

from __future__ import annotations

from dataclasses import fields

import pytest

from gradwatch.errors import ArgumentError
from gradwatch.rule_settings import codes_of, known_rule, rules_with
from gradwatch.rules import ALL_RULES


def thresholds(rules) -> dict[str, dict[str, float]]:
    return {rule.code: rule.thresholds() for rule in rules}


def test_without_a_setting_the_rules_are_the_usual_ones():
    assert rules_with([]) == ALL_RULES


@pytest.mark.parametrize(
    ("setting", "number"),
    [
        ("GW101.depth=-4", -4.0),
        ("gw101.depth=-4", -4.0),
        ("vanishing-gradient.depth=-4", -4.0),
        (" GW101.depth = -4.5e-1 ", -0.45),
    ],
)
def test_a_setting_replaces_one_threshold_and_no_other(setting, number):
    expected = thresholds(ALL_RULES)
    expected["GW101"]["depth"] = number
    assert thresholds(rules_with([setting])) == expected


def test_settings_add_up_and_the_last_of_two_holds():
    rules = rules_with(["GW101.depth=-4", "GW201.dead=0.5", "GW101.depth=-5"])
    assert thresholds(rules)["GW101"]["depth"] == -5.0
    assert thresholds(rules)["GW201"]["dead"] == 0.5


@pytest.mark.parametrize(
    "rule", [rule for rule in ALL_RULES if fields(rule)], ids=lambda rule: rule.code
)
def test_every_threshold_of_every_rule_can_be_set(rule):
    settings = [f"{rule.code}.{entry.name}=0.125" for entry in fields(rule)]
    assert set(thresholds(rules_with(settings))[rule.code].values()) == {0.125}


@pytest.mark.parametrize("setting", ["", "GW101", "GW101.depth", "GW101=4", "depth=-4", "=", "."])
def test_what_is_no_setting_says_how_one_looks(setting):
    with pytest.raises(ArgumentError, match=r"CODE\.THRESHOLD=NUMBER, for example GW101\.depth=-4"):
        rules_with([setting])


def test_an_unknown_rule_names_the_nearest():
    with pytest.raises(ArgumentError, match=r"no rule 'GW1O1'; the nearest are GW101 vanishing"):
        rules_with(["GW1O1.depth=-4"])


def test_an_unknown_threshold_names_the_nearest_and_all_with_default_and_unit():
    with pytest.raises(ArgumentError) as raised:
        rules_with(["GW101.depht=-4"])
    message = str(raised.value)
    assert "no threshold 'depht'; did you mean depth?" in message
    assert "depth (default -3.5 log10), " in message
    assert "culprit_share (default 0.333)" in message
    assert all(name in message for name in known_rule("GW101").thresholds())


def test_a_threshold_like_no_other_names_all():
    with pytest.raises(ArgumentError, match=r"'zzz'\. It has decay \(default -3 log10\), patience"):
        rules_with(["GW102.zzz=1"])


def test_a_rule_without_thresholds_says_so():
    with pytest.raises(ArgumentError, match="GW901 nothing-observed has no thresholds to set"):
        rules_with(["GW901.depth=1"])


@pytest.mark.parametrize("number", ["", "deep", "nan", "inf", "-inf", "1e999", "1,5", "0x10"])
def test_what_is_no_finite_number_says_so(number):
    with pytest.raises(ArgumentError, match="is not a finite number"):
        rules_with([f"GW101.depth={number}"])


@pytest.mark.parametrize(
    ("wanted", "codes"),
    [
        ("GW101", {"GW101"}),
        ("gw101, dead-units", {"GW101", "GW201"}),
        ("GW101,GW101", {"GW101"}),
    ],
)
def test_a_list_of_rules_is_read_by_code_or_name(wanted, codes):
    assert codes_of(wanted) == codes


@pytest.mark.parametrize("wanted", ["", "GW101,", "GW999", "GW101;GW201"])
def test_a_list_with_an_unknown_rule_says_so(wanted):
    with pytest.raises(ArgumentError, match="there is no rule"):
        codes_of(wanted)


def test_a_known_rule_has_its_default_thresholds():
    assert known_rule("GW101") in ALL_RULES
