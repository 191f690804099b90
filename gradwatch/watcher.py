"""Watcher: snapshots in, findings out, the same live and offline."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from gradwatch.errors import ArgumentError
from gradwatch.finding import Finding, listed
from gradwatch.history import History
from gradwatch.rules import Diagnosis, Rule, Verdict, by_precedence
from gradwatch.snapshot import Snapshot

logger = logging.getLogger("gradwatch")


class Sink(Protocol):
    """Where snapshots and findings go. A sink that raises is dropped, with one warning."""

    def write_snapshot(self, snapshot: Snapshot) -> None:
        """Take the newest snapshot."""

    def write_findings(self, changed: Sequence[Finding], findings: Sequence[Finding]) -> None:
        """Take the findings that opened, changed or were resolved, and all of them."""

    def close(self) -> None:
        """Write what is pending and let go of every resource."""


@dataclass(frozen=True)
class _Identity:
    code: str
    cause: str


class Watcher:
    """Runs the rules after every snapshot and keeps the findings.

    A finding's identity is (code, cause). It opens when a rule's windows all support it, is updated
    in place, resolved when none of them does any more or when an earlier code of `PRECEDENCE`
    explains all its layers, and reopened if it comes back.

    Args:
        rules: Rules to run; they are put into the order of `PRECEDENCE`.
        sinks: Where snapshots and findings go.
        on_finding: Called with each finding that opens or reopens.
        report_only: Codes that may be reported, None for all. The others still run, since they
            explain symptoms away.

    Raises:
        ArgumentError: If `on_finding` cannot be called.
    """

    def __init__(
        self,
        rules: Iterable[Rule],
        *,
        sinks: Iterable[Sink] = (),
        on_finding: Callable[[Finding], None] | None = None,
        report_only: frozenset[str] | None = None,
    ) -> None:
        if on_finding is not None and not callable(on_finding):
            raise ArgumentError(
                f"on_finding={on_finding!r} cannot be called; pass a function that takes a Finding"
            )
        self.history = History()
        self._rules = by_precedence(rules)
        self._sinks = list(sinks)
        self._on_finding = on_finding
        self._report_only = report_only
        self._findings: dict[_Identity, Finding] = {}

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Findings by the step at which they first opened, resolved ones included."""
        return tuple(
            finding
            for identity, finding in self._findings.items()
            if self._report_only is None or identity.code in self._report_only
        )

    def degrade(self, limit: str) -> None:
        """Note what is not observed, and why; GW902 reports it at the next judgement."""
        if limit not in self.history.limits:
            self.history.limits += (limit,)

    def observe(self, snapshot: Snapshot) -> None:
        """Take a snapshot: history, rules, findings, sinks. Never raises."""
        snapshot = replace(snapshot, limits=self.history.limits)
        self.history.append(snapshot)
        self._to_sinks(lambda sink: sink.write_snapshot(snapshot))
        self._judge(snapshot.step)

    def fault(self, what: str, step: int) -> None:
        """Something in gradwatch failed: one warning, and GW902 at once."""
        self._fault(what)
        self._judge(step)

    def finish(self, step: int) -> None:
        """End of the run: judge what can only be judged now, then close the sinks."""
        self.history.finished = True
        limits = self.history.limits
        self._judge(step)
        self._to_sinks(lambda sink: sink.close())
        self._sinks.clear()
        if self.history.limits != limits:
            self._judge(step)

    def _judge(self, step: int) -> None:
        before = dict(self._findings)
        explained: set[int] = set()
        for rule in self._rules:
            explained |= self._run(rule, frozenset(explained), step)
        changed = [
            finding
            for identity, finding in self._findings.items()
            if before.get(identity) != finding
            and (self._report_only is None or identity.code in self._report_only)
        ]
        if not changed:
            return
        self._to_sinks(lambda sink: sink.write_findings(changed, self.findings))
        for finding in changed:
            earlier = before.get(_Identity(finding.code, finding.cause))
            if finding.is_open and (earlier is None or not earlier.is_open):
                self._notify(finding)

    def _run(self, rule: Rule, explained: frozenset[int], step: int) -> frozenset[int]:
        """Rows whose symptoms the rule explains; a rule that fails is off from then on."""
        try:
            verdict = rule.evaluate(self.history)
            return frozenset() if verdict is None else self._apply(rule, verdict, explained, step)
        except Exception as error:  # noqa: BLE001 -- promise 2: a rule's fault never breaks a run
            self._rules = tuple(other for other in self._rules if other is not rule)
            self._fault(f"rule {rule.code} raised {error!r} and is off for this run")
            return frozenset()

    def _apply(
        self, rule: Rule, verdict: Verdict, explained: frozenset[int], step: int
    ) -> frozenset[int]:
        present = [
            diagnosis
            for diagnosis in verdict.present
            if not diagnosis.rows or not set(diagnosis.rows) <= explained
        ]
        for diagnosis in present:
            self._open_or_update(rule, diagnosis, explained, step)
        kept = {diagnosis.cause for diagnosis in present}
        suppressed = {diagnosis.cause for diagnosis in verdict.present} - kept
        for identity, finding in self._findings.items():
            gone = finding.cause not in verdict.possible or finding.cause in suppressed
            if identity.code == rule.code and finding.is_open and gone:
                self._findings[identity] = replace(finding, resolved_step=step)
        return frozenset().union(
            *(diagnosis.explained for diagnosis in present if diagnosis.severity != "notice")
        )

    def _open_or_update(
        self, rule: Rule, diagnosis: Diagnosis, explained: frozenset[int], step: int
    ) -> None:
        identity = _Identity(rule.code, diagnosis.cause)
        earlier = self._findings.get(identity)
        layers = self.history.layers
        rows = sorted(set(diagnosis.rows) - explained, key=lambda row: layers[row].depth)
        names = tuple(layers[row].name for row in rows)
        self._findings[identity] = Finding(
            code=rule.code,
            name=rule.name,
            severity=diagnosis.severity,
            step=earlier.step if earlier is not None and earlier.is_open else step,
            layers=names,
            cause=diagnosis.cause,
            message=diagnosis.message.replace("{layers}", listed(names)),
            evidence={name: float(figure) for name, figure in diagnosis.evidence.items()},
            fixes=tuple(diagnosis.fixes),
        )

    def _notify(self, finding: Finding) -> None:
        if self._on_finding is None:
            return
        try:
            self._on_finding(finding)
        except Exception as error:  # noqa: BLE001 -- promise 2: the user's callable included
            self._on_finding = None
            self._fault(f"on_finding raised {error!r} and is not called any more")

    def _to_sinks(self, call: Callable[[Sink], None]) -> None:
        for sink in tuple(self._sinks):
            try:
                call(sink)
            except Exception as error:  # noqa: BLE001 -- promise 2: a full disk never breaks a run
                self._sinks.remove(sink)
                self._fault(f"{type(sink).__name__} raised {error!r} and is off for this run")

    def _fault(self, what: str) -> None:
        self.degrade(what)
        logger.warning("gradwatch: %s; training goes on.", what)
