"""Rules: one file a rule; `ALL_RULES` lists them, `PRECEDENCE` orders them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gradwatch.errors import ArgumentError
from gradwatch.rules.base import Deferred, Diagnosis, Rule, Verdict, threshold
from gradwatch.rules.gw101_vanishing_gradient import VanishingGradient
from gradwatch.rules.gw102_vanishing_through_time import VanishingThroughTime
from gradwatch.rules.gw103_half_precision_underflow import HalfPrecisionUnderflow
from gradwatch.rules.gw201_dead_units import DeadUnits
from gradwatch.rules.gw202_saturated_activation import SaturatedActivation
from gradwatch.rules.gw203_saturated_output import SaturatedOutput
from gradwatch.rules.gw204_unscaled_input import UnscaledInput
from gradwatch.rules.gw301_exploding_gradient import ExplodingGradient
from gradwatch.rules.gw302_non_finite_value import NonFiniteValue
from gradwatch.rules.gw303_oversized_update import OversizedUpdate
from gradwatch.rules.gw401_detached_parameter import DetachedParameter
from gradwatch.rules.gw402_symmetric_initialisation import SymmetricInitialisation
from gradwatch.rules.gw403_probabilities_as_logits import ProbabilitiesAsLogits
from gradwatch.rules.gw404_rank_collapse import RankCollapse
from gradwatch.rules.gw501_stalled_update import StalledUpdate
from gradwatch.rules.gw901_nothing_observed import NothingObserved
from gradwatch.rules.gw902_observation_degraded import ObservationDegraded

ALL_RULES: tuple[Rule, ...] = (
    VanishingGradient(),
    VanishingThroughTime(),
    HalfPrecisionUnderflow(),
    DeadUnits(),
    SaturatedActivation(),
    SaturatedOutput(),
    UnscaledInput(),
    ExplodingGradient(),
    NonFiniteValue(),
    OversizedUpdate(),
    DetachedParameter(),
    SymmetricInitialisation(),
    ProbabilitiesAsLogits(),
    RankCollapse(),
    StalledUpdate(),
    NothingObserved(),
    ObservationDegraded(),
)
"""Every rule with its default thresholds, by code."""

PRECEDENCE: tuple[str, ...] = (
    "GW103",
    "GW402",
    "GW404",
    "GW201",
    "GW301",
    "GW302",
    "GW303",
    "GW202",
    "GW401",
    "GW102",
    "GW101",
    "GW204",
    "GW403",
    "GW203",
    "GW501",
    "GW901",
    "GW902",
)
"""Codes in the order in which a finding explains away the symptoms of later ones."""


@dataclass(frozen=True)
class Selection:
    """Rules to run, and what of their findings to show.

    Args:
        rules: Every rule that runs.
        report_only: Codes that are shown, None for all.
    """

    rules: tuple[Rule, ...]
    report_only: frozenset[str] | None


def select(wanted: Sequence[str | Rule] | None) -> Selection:
    """All rules, with the user's in place of the built-in ones of the same code.

    Rules that are not wanted run all the same: they explain symptoms away.

    Args:
        wanted: Codes or `Rule` objects, None for all rules.

    Raises:
        ArgumentError: If a code is unknown or an entry is neither.
    """
    if wanted is None:
        return Selection(ALL_RULES, None)
    if isinstance(wanted, str):
        raise ArgumentError(f"rules={wanted!r} is one string; pass a list, [{wanted!r}]")
    running = {rule.code: rule for rule in ALL_RULES}
    known = ", ".join(running)
    shown = set()
    for entry in wanted:
        if isinstance(entry, Rule):
            running[entry.code] = entry
            shown.add(entry.code)
        elif entry in running:
            shown.add(entry)
        else:
            raise ArgumentError(f"rules: {entry!r} is no rule; the codes are {known}")
    return Selection(tuple(running.values()), frozenset(shown))


def by_precedence(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules in the order of `PRECEDENCE`; rules that are not in it (a user's own) come last."""
    order = {code: index for index, code in enumerate(PRECEDENCE)}
    return tuple(sorted(rules, key=lambda rule: order.get(rule.code, len(order))))


__all__ = [
    "ALL_RULES",
    "PRECEDENCE",
    "Deferred",
    "Diagnosis",
    "Rule",
    "Selection",
    "Verdict",
    "by_precedence",
    "select",
    "threshold",
]
