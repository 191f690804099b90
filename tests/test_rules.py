"""The catalogue of rules, and what holds for every rule on any history."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import logging
import re
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradwatch.rules
from gradwatch.errors import ArgumentError
from gradwatch.finding import SEVERITIES, Cause, FixKind
from gradwatch.history import Window
from gradwatch.rules import (
    ALL_RULES,
    PRECEDENCE,
    Diagnosis,
    Rule,
    by_precedence,
    select,
    threshold,
)
from gradwatch.testing import chain, snapshot, steady
from gradwatch.watcher import Watcher

from .arbitrary import ABSURD, BOUNDED_RUN, PLAIN, history_from, runs
from .rules.changes import renamed, reordered, said, scaled

CODES = [rule.code for rule in ALL_RULES]
CURES = {
    "add", "avoid", "clip", "fix", "increase", "insert", "lower", "missing", "normalise", "raise",
    "reduce", "replace", "should", "use",
}  # fmt: skip
"""Words of a name that would say what to do instead of what is wrong."""

WITH_LOSS = {"GW203"}
"""Rules that hold gradients against the loss."""

ABSOLUTE = {"GW103", "GW501"}
"""Rules that hold gradients against a floating type's smallest value, or against the weights."""

each_rule = pytest.mark.parametrize("rule", ALL_RULES, ids=CODES)
each_threshold = pytest.mark.parametrize(
    ("rule", "entry"),
    [
        pytest.param(rule, entry, id=f"{rule.code}.{entry.name}")
        for rule in ALL_RULES
        for entry in dataclasses.fields(rule)
    ],
)


def page(rule: Rule) -> str:
    return inspect.cleandoc(sys.modules[type(rule).__module__].__doc__)


class TestCatalogue:
    """One file a rule, all of them listed, each with its page."""

    def test_codes_are_unique_and_sorted(self):
        assert sorted(set(CODES)) == CODES

    def test_names_are_unique(self):
        assert len({rule.name for rule in ALL_RULES}) == len(ALL_RULES)

    def test_precedence_holds_every_code_once(self):
        assert sorted(PRECEDENCE) == CODES

    def test_every_rule_file_is_listed(self):
        files = Path(gradwatch.rules.__file__).parent.glob("gw*.py")
        assert sorted(path.stem for path in files) == sorted(
            type(rule).__module__.rpartition(".")[2] for rule in ALL_RULES
        )

    @each_rule
    def test_the_file_is_named_after_code_and_name(self, rule):
        stem = type(rule).__module__.rpartition(".")[2]
        assert stem == f"{rule.code.lower()}_{rule.name.replace('-', '_')}"

    @each_rule
    def test_the_code_is_of_the_usual_form(self, rule):
        assert re.fullmatch(r"GW[1-9]\d\d", rule.code)

    @each_rule
    def test_the_name_states_the_problem(self, rule):
        assert re.fullmatch(r"[a-z]+(-[a-z]+)+", rule.name)
        assert not CURES & set(rule.name.split("-"))

    @each_rule
    def test_the_page_begins_with_a_sentence(self, rule):
        first = page(rule).partition("\n")[0]
        assert first[0].isupper()
        assert first.endswith(".")

    @each_rule
    def test_it_is_a_frozen_dataclass_that_needs_a_known_kind_of_sample(self, rule):
        assert hash(rule) == hash(dataclasses.replace(rule))
        with pytest.raises(dataclasses.FrozenInstanceError):
            rule.size = 3
        assert rule.needs in {"parameters", "signals"}


class TestThresholds:
    """Each is a setting with a unit and a source."""

    @each_threshold
    def test_it_has_a_unit_and_a_source(self, rule, entry):
        assert entry.metadata["unit"]
        assert len(entry.metadata["source"]) > 5

    @each_threshold
    def test_its_default_is_a_finite_number(self, rule, entry):
        assert np.isfinite(entry.default)

    @each_threshold
    def test_replace_sets_it_and_nothing_else(self, rule, entry):
        changed = dataclasses.replace(rule, **{entry.name: 0.125})
        assert changed.thresholds() == {**rule.thresholds(), entry.name: 0.125}
        assert rule.thresholds()[entry.name] == entry.default

    @each_threshold
    def test_the_page_speaks_of_every_threshold_that_decides_whether_it_fires(self, rule, entry):
        """By its value, as a number: a page that is out of date is worse than none."""
        source = Path(inspect.getfile(type(rule))).read_text(encoding="utf-8")
        uses = [
            node
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Attribute) and node.attr == entry.name
        ]
        assert uses, f"no line of {rule.code} reads self.{entry.name}"


class Ours(Rule):
    """A user's own rule."""

    code = "X1"
    name = "our-problem"

    def check(self, window):
        return ()


class TestSelection:
    """The user's choice of rules."""

    def test_rules_run_in_the_order_of_precedence_and_a_users_own_last(self):
        ordered = by_precedence([Ours(), *ALL_RULES])
        assert [rule.code for rule in ordered] == [*PRECEDENCE, "X1"]

    def test_no_choice_is_every_rule(self):
        selection = select(None)
        assert selection.rules == ALL_RULES
        assert selection.report_only is None

    def test_what_is_not_wanted_runs_all_the_same(self):
        selection = select(["GW101"])
        assert [rule.code for rule in selection.rules] == CODES
        assert selection.report_only == {"GW101"}

    def test_a_rule_object_takes_the_place_of_the_built_in_one(self):
        mine = dataclasses.replace(ALL_RULES[0], depth=-2.0)
        selection = select([mine, "GW301"])
        assert mine in selection.rules
        assert ALL_RULES[0] not in selection.rules
        assert selection.report_only == {"GW101", "GW301"}

    def test_a_users_own_rule_runs_too(self):
        selection = select([Ours()])
        assert {rule.code for rule in selection.rules} == {*CODES, "X1"}
        assert selection.report_only == {"X1"}

    def test_an_empty_choice_reports_nothing(self):
        assert select([]).report_only == frozenset()

    @pytest.mark.parametrize(
        ("wanted", "message"),
        [
            (["GW999"], "'GW999' is no rule; the codes are GW101"),
            (["vanishing-gradient"], "'vanishing-gradient' is no rule"),
            ([7], "7 is no rule"),
            ("GW101", r"pass a list, \['GW101'\]"),
        ],
    )
    def test_what_is_no_rule_is_refused_with_the_way_out(self, wanted, message):
        with pytest.raises(ArgumentError, match=message):
            select(wanted)


@dataclasses.dataclass(frozen=True)
class LargeGradient(Rule):
    """A rule of the simplest kind: the layers whose median gradient is large."""

    code: ClassVar[str] = "X2"
    name: ClassVar[str] = "large-gradient"
    needs = "parameters"
    size = 1

    large: float = threshold(1.0, unit="dL/dW", source="made up for this test")

    def check(self, window: Window) -> Iterable[Diagnosis]:
        rows = tuple(int(row) for row in np.flatnonzero(window.typical.grad_norm > self.large))
        if rows:
            yield Diagnosis(
                cause="weights", rows=rows, severity="warning", message="{layers}.", evidence={}
            )


class TestEvaluation:
    """What the base class makes of the windows."""

    def verdict(self, *gradients):
        history = steady(
            chain(3),
            steps=range(3 + len(gradients)),
            at=lambda step: {"grad_norm": gradients[step - 3]} if step >= 3 else {},
        )
        return LargeGradient().evaluate(history)

    def test_too_few_windows_are_no_verdict(self):
        assert self.verdict([9, 9, 9]) is None

    def test_what_both_windows_support_is_present(self):
        verdict = self.verdict([9, 9, 0], [9, 0, 0])
        assert [diagnosis.rows for diagnosis in verdict.present] == [(0,)]
        assert verdict.possible == {"weights"}

    @pytest.mark.parametrize(
        ("older", "newest"),
        [([9, 0, 0], [0, 0, 0]), ([0, 0, 0], [9, 0, 0]), ([9, 0, 0], [0, 9, 0])],
        ids=["going", "coming", "elsewhere"],
    )
    def test_what_only_one_window_supports_is_possible(self, older, newest):
        verdict = self.verdict(older, newest)
        assert verdict.present == ()
        assert verdict.possible == {"weights"}

    def test_what_no_window_supports_is_not_possible(self):
        assert self.verdict([0, 0, 0], [0, 0, 0]).possible == frozenset()


class TestOnAnyHistory:
    """Properties; figures may be anything that a network can come up with."""

    @BOUNDED_RUN
    @given(runs(), st.booleans())
    def test_no_rule_raises_or_warns(self, drawn, finished):
        history = history_from(drawn)
        history.finished = finished
        for rule in ALL_RULES:
            rule.evaluate(history)

    @BOUNDED_RUN
    @given(runs())
    def test_no_rule_raises_even_on_figures_that_no_network_has(self, drawn):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            history = history_from(drawn, ABSURD)
            for rule in ALL_RULES:
                rule.evaluate(history)

    @BOUNDED_RUN
    @given(runs())
    def test_every_diagnosis_can_be_shown_and_acted_on(self, drawn):
        history = history_from(drawn)
        diagnoses = [
            diagnosis
            for rule in ALL_RULES
            if (verdict := rule.evaluate(history)) is not None
            for diagnosis in verdict.present
        ]
        for diagnosis in diagnoses:
            assert diagnosis.cause in get_args(Cause)
            assert diagnosis.severity in SEVERITIES
            assert set(diagnosis.rows) <= diagnosis.explained <= set(range(len(history.layers)))
            assert len(set(diagnosis.rows)) == len(diagnosis.rows)
            assert all(isinstance(float(figure), float) for figure in diagnosis.evidence.values())
            assert diagnosis.fixes or diagnosis.severity == "notice"
            assert all(fix.kind in get_args(FixKind) for fix in diagnosis.fixes)
            assert all(ast.parse(fix.snippets["torch"]) for fix in diagnosis.fixes)

    @BOUNDED_RUN
    @given(runs())
    def test_a_rule_names_a_cause_once(self, drawn):
        history = history_from(drawn)
        for rule in ALL_RULES:
            verdict = rule.evaluate(history)
            causes = [] if verdict is None else [entry.cause for entry in verdict.present]
            assert len(set(causes)) == len(causes)
            assert verdict is None or set(causes) <= verdict.possible

    @BOUNDED_RUN
    @given(runs(), st.sampled_from([-20, -3, 3, 20]))
    def test_the_scale_of_the_loss_changes_no_verdict(self, drawn, exponent):
        history = history_from(drawn, PLAIN)
        for rule in ALL_RULES:
            if rule.code not in ABSOLUTE:
                steeper = scaled(history, 2.0**exponent, with_loss=rule.code in WITH_LOSS)
                assert said(rule, steeper) == said(rule, history), rule.code

    @BOUNDED_RUN
    @given(runs())
    def test_other_names_change_nothing_but_names(self, drawn):
        history = history_from(drawn)
        other = renamed(history, "model.{}".format)
        for rule in ALL_RULES:
            before, after = said(rule, history), said(rule, other)
            assert (before is None) == (after is None)
            assert after == (
                before
                and {
                    dataclasses.replace(
                        entry,
                        layers=frozenset(map("model.{}".format, entry.layers)),
                        explained=frozenset(map("model.{}".format, entry.explained)),
                    )
                    for entry in before
                }
            )

    @BOUNDED_RUN
    @given(runs(late=False), st.randoms(use_true_random=False))
    def test_another_order_of_rows_changes_nothing(self, drawn, random):
        history = history_from(drawn)
        order = list(range(len(drawn.layers)))
        random.shuffle(order)
        for rule in ALL_RULES:
            assert said(rule, reordered(history, order)) == said(rule, history), rule.code

    @BOUNDED_RUN
    @given(runs())
    def test_a_watcher_turns_no_rule_off(self, drawn):
        watcher = Watcher(ALL_RULES)
        logging.disable(logging.CRITICAL)
        try:
            for entry in history_from(drawn):
                watcher.observe(entry)
            watcher.finish(10_000)
        finally:
            logging.disable(logging.NOTSET)
        assert watcher.history.limits == ()
        names = {layer.name for layer in watcher.history.layers}
        assert all(set(finding.layers) <= names for finding in watcher.findings)
        assert all("{" not in finding.message for finding in watcher.findings)


def test_a_rule_that_fires_can_be_silenced_by_its_thresholds_alone():
    history = steady(chain(3), grad_norm=3.0)
    assert LargeGradient().evaluate(history).present
    assert not LargeGradient(large=5.0).evaluate(history).present
    assert snapshot(chain(3)).grad_norm.max() < LargeGradient().large
