"""What every rule has to do; a rule's test file subclasses these and adds what is its own."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any, ClassVar

import numpy as np
import pytest

from gradwatch.finding import Finding
from gradwatch.history import History
from gradwatch.layer import Layer
from gradwatch.rules import ALL_RULES, Diagnosis, Rule
from gradwatch.snapshot import STATISTICS, State
from gradwatch.testing import EARLY_STEPS, snapshot, steady
from gradwatch.watcher import Watcher

from .changes import renamed, reordered, said, scaled

LASTING = 6
"""Samples after which every window is of one kind again: two windows of five, one apart."""


def above(value: float) -> float:
    """The next larger number in float32, as statistics are stored."""
    return float(np.nextafter(np.float32(value), np.float32(np.inf)))


def below(value: float) -> float:
    """The next smaller number in float32."""
    return float(np.nextafter(np.float32(value), np.float32(-np.inf)))


def present(rule: Rule, history: History) -> tuple[Diagnosis, ...]:
    """What the rule says of the history; nothing where it does not apply."""
    verdict = rule.evaluate(history)
    return () if verdict is None else verdict.present


def only(rule: Rule, history: History) -> Diagnosis:
    """The one thing that the rule says of the history."""
    (diagnosis,) = present(rule, history)
    return diagnosis


def alarms(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    """(code, cause) of every finding above a notice, resolved ones included."""
    return [(finding.code, finding.cause) for finding in findings if finding.severity != "notice"]


class RuleContract:
    """A rule whose finding opens, closes and reopens, whatever the layers are called.

    Attributes:
        rule: The rule with its default thresholds.
        layers: The rows.
        sick: Arguments of `snapshot` with which it fires, and no other rule does.
        well: Arguments of `snapshot` with which none does.
        opens_at: Step at which the finding opens in a run that is sick from the start.
    """

    rule: ClassVar[Rule]
    layers: ClassVar[tuple[Layer, ...]]
    sick: ClassVar[dict[str, Any]]
    well: ClassVar[dict[str, Any]] = {}
    opens_at: ClassVar[int] = 16

    def run(self, watcher: Watcher, *phases: tuple[int, dict[str, Any]]) -> list[Finding]:
        """Shows a watcher phases of (samples, figures); this rule's finding after each sample."""
        steps = count(len(watcher.history))
        seen = []
        for samples, figures in phases:
            for _ in range(samples):
                watcher.observe(snapshot(self.layers, next(steps), **figures))
                seen.append(self.found(watcher))
        return seen

    def found(self, watcher: Watcher) -> Finding | None:
        """This rule's newest finding."""
        mine = [finding for finding in watcher.findings if finding.code == self.rule.code]
        return mine[-1] if mine else None

    def test_it_fires_and_no_other_rule_does(self):
        watcher = Watcher(ALL_RULES)
        for entry in steady(self.layers, **self.sick):
            watcher.observe(entry)
        assert [finding.code for finding in watcher.findings] == [self.rule.code]

    def test_it_is_silent_on_a_healthy_run(self):
        assert present(self.rule, steady(self.layers, **self.well)) == ()

    def test_it_opens_at_the_earliest_step_and_not_before(self):
        watcher = Watcher(ALL_RULES)
        opened = [
            step
            for step in EARLY_STEPS
            if watcher.observe(snapshot(self.layers, step, **self.sick)) is None
            and self.found(watcher) is not None
        ]
        assert opened[0] == self.opens_at
        assert self.found(watcher).step == self.opens_at

    def test_it_is_resolved_once_the_figures_are_healthy_and_reopens(self):
        watcher = Watcher(ALL_RULES)
        self.run(watcher, (9, self.sick))
        assert self.found(watcher).is_open
        self.run(watcher, (LASTING, self.well))
        resolved = self.found(watcher)
        assert not resolved.is_open
        self.run(watcher, (LASTING, self.sick))
        reopened = self.found(watcher)
        assert reopened.is_open
        assert reopened.step > resolved.resolved_step
        assert alarms(watcher.findings).count((self.rule.code, reopened.cause)) <= 1

    def test_its_layers_are_in_forward_order_whatever_the_order_of_rows(self):
        history = reordered(steady(self.layers, **self.sick), range(len(self.layers))[::-1])
        watcher = Watcher(ALL_RULES)
        for entry in history:
            watcher.observe(entry)
        depth = {layer.name: layer.depth for layer in history.layers}
        depths = [depth[name] for name in self.found(watcher).layers]
        assert depths == sorted(depths)

    def test_other_names_change_nothing_but_names(self):
        name = "a.{}".format
        history = steady(self.layers, **self.sick)
        before = said(self.rule, history)
        after = said(self.rule, renamed(history, name))
        assert {
            (entry.cause, entry.severity, frozenset(map(name, entry.layers))) for entry in before
        } == {(entry.cause, entry.severity, entry.layers) for entry in after}

    @pytest.mark.parametrize("seed", range(3))
    def test_another_order_of_rows_changes_nothing(self, seed):
        order = np.random.default_rng(seed).permutation(len(self.layers)).tolist()
        history = steady(self.layers, **self.sick)
        assert said(self.rule, reordered(history, order)) == said(self.rule, history)

    def test_the_message_names_the_layers_and_holds_no_placeholder(self):
        watcher = Watcher(ALL_RULES)
        for entry in steady(self.layers, **self.sick):
            watcher.observe(entry)
        message = self.found(watcher).message
        assert "{" not in message
        assert message.endswith(".")


class WindowedRule(RuleContract):
    """A rule that waits for two windows of five samples in a row.

    Attributes:
        single_bad_window: Samples, `x` for a sick one, of which just one window is sick: for
            medians three of five.
        two_bad_windows: The same with two windows in a row.
    """

    single_bad_window: ClassVar[str] = "x..xx"
    two_bad_windows: ClassVar[str] = "xxx"

    @pytest.mark.parametrize("samples", [0, 1, 5, 8])
    def test_too_few_samples_are_no_verdict(self, samples):
        history = steady(self.layers, steps=range(samples), **self.sick)
        assert self.rule.evaluate(history) is None

    def test_nothing_observed_is_nothing_found(self):
        nothing = {statistic.name: np.nan for statistic in STATISTICS}
        unseen = {**nothing, "states": State.IDLE, "loss": np.nan}
        assert present(self.rule, steady(self.layers, **unseen)) == ()

    @pytest.mark.parametrize(("pattern", "opens"), [("single", False), ("double", True)])
    def test_a_single_bad_window_does_not_open_it_and_two_do(self, pattern, opens):
        bad = self.single_bad_window if pattern == "single" else self.two_bad_windows
        phases = [(1, self.sick if sample == "x" else self.well) for sample in bad]
        watcher = Watcher(ALL_RULES)
        seen = self.run(watcher, (12, self.well), *phases, (9, self.well))
        assert any(seen) is opens

    def test_one_bad_sample_in_every_window_is_no_finding(self):
        watcher = Watcher(ALL_RULES)
        seen = self.run(watcher, *[(4, self.well), (1, self.sick)] * 6)
        assert set(seen) == {None}

    def test_skipped_steps_do_not_count(self):
        history = steady(self.layers, skipped=True, **self.sick)
        assert self.rule.evaluate(history) is None


class StrictlyWindowedRule(WindowedRule):
    """A rule to which a window is sick only if each of its samples is."""

    single_bad_window = "xxxxx"
    two_bad_windows = "xxxxxx"


class ScaleFree:
    """A rule that looks at ratios only, so that the scale of the loss means nothing to it.

    Attributes:
        loss_scales_too: Whether it holds gradients against the loss, which then has to grow with
            them.
    """

    loss_scales_too: ClassVar[bool] = False

    @pytest.mark.parametrize("exponent", [-40, -7, 9, 40])
    def test_the_scale_of_the_gradient_changes_nothing(self, exponent):
        history = steady(self.layers, **self.sick)
        steeper = scaled(history, 2.0**exponent, with_loss=self.loss_scales_too)
        assert said(self.rule, steeper) == said(self.rule, history)
        assert said(self.rule, history)

    @pytest.mark.parametrize("exponent", [-40, 40])
    def test_the_scale_of_a_healthy_gradient_changes_nothing(self, exponent):
        history = steady(self.layers, **self.well)
        steeper = scaled(history, 2.0**exponent, with_loss=self.loss_scales_too)
        assert not said(self.rule, steeper)
