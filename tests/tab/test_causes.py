"""The page has words for every cause that a rule can name."""

import re

from gradwatch.rule_pages import named_causes
from gradwatch.rules import ALL_RULES
from gradwatch.tab.static_files import ROOT

KEY = re.compile(r'^  "(GW\d+/[a-z ]+)": \[', re.MULTILINE)


def test_every_cause_of_every_rule_has_its_words():
    written = set(KEY.findall((ROOT / "causes.js").read_text(encoding="utf-8")))
    named = {f"{rule.code}/{entry.cause}" for rule in ALL_RULES for entry in named_causes(rule)}
    assert written == named
