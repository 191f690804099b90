"""A rule's page reaches the browser whole, in blocks of plain text."""

import re

import pytest

from gradwatch.rule_pages import docstring
from gradwatch.rules import ALL_RULES
from gradwatch.tab.query import RequestError
from gradwatch.tab.rule_text import rule_text

RULES = pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.code)


def blocks(rule):
    return [block for section in rule_text(rule.code)["sections"] for block in section["blocks"]]


@RULES
def test_every_section_of_the_page_is_there(rule):
    found = rule_text(rule.code)
    assert (found["code"], found["name"]) == (rule.code, rule.name)
    measured = ["When it speaks", "Thresholds"] if rule.thresholds() else ["When it speaks"]
    titles = [section["title"] for section in found["sections"]]
    assert titles == re.findall(r"^## (.+)$", docstring(rule), re.MULTILINE) + measured
    assert all(section["blocks"] for section in found["sections"])


@RULES
def test_no_markup_is_left(rule):
    found = rule_text(rule.code)
    for text in (found["summary"], *(block["text"] for block in blocks(rule))):
        assert text
        assert text == " ".join(text.split())
        assert not re.search(r"\$|`|\\[a-z]|^- |^#", text)


@RULES
def test_every_item_and_formula_is_a_block_of_its_own(rule):
    page, found = docstring(rule), blocks(rule)
    kinds = [block["kind"] for block in found]
    assert set(kinds) <= {"text", "item", "formula"}
    items = len(re.findall(r"^- ", page, re.MULTILINE))
    assert kinds.count("item") == items + len(rule.thresholds())
    assert kinds.count("formula") == page.count("$$") // 2


def test_a_formula_is_plain_text():
    formulas = [block["text"] for block in blocks(ALL_RULES[0]) if block["kind"] == "formula"]
    assert formulas == ["B = log10 (‖Δ_in‖ / ‖Δ_out‖)"]


def test_thresholds_have_value_unit_meaning_and_source():
    thresholds = rule_text("GW101")["sections"][-1]
    assert thresholds["title"] == "Thresholds"
    assert re.fullmatch(r"depth -3\.5 log10: .+ \(.+\)\.", thresholds["blocks"][0]["text"])


@pytest.mark.parametrize("wanted", ["gw101", " GW101 ", "vanishing-gradient"])
def test_a_rule_is_found_by_code_and_by_name(wanted):
    assert rule_text(wanted)["code"] == "GW101"


def test_an_unknown_rule_is_told_with_the_nearest():
    with pytest.raises(RequestError, match=r"no page on rule 'GW111'.*the nearest are GW1") as told:
        rule_text("GW111")
    assert told.value.status == 404
