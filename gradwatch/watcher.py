"""Watcher: snapshots in, findings out, the same live and offline."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from gradwatch import flow
from gradwatch.errors import ArgumentError
from gradwatch.finding import Finding, Fix, listed
from gradwatch.history import History
from gradwatch.rules import Diagnosis, Rule, Verdict, by_precedence
from gradwatch.samples import Samples
from gradwatch.screening import Screening
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
        screening: Whether rules that cannot change anything at a sample are left out there; the
            findings are the same without.

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
        screening: bool = True,
    ) -> None:
        if on_finding is not None and not callable(on_finding):
            raise ArgumentError(
                f"on_finding={on_finding!r} cannot be called; pass a function that takes a Finding"
            )
        self.history = History()
        self._rules = by_precedence(rules)
        self._off: set[int] = set()
        self._screening = Screening(self._rules) if screening else None
        self._sinks = list(sinks)
        self._on_finding = on_finding
        self._report_only = report_only
        self._findings: dict[_Identity, Finding] = {}
        self._fixes: dict[_Identity, Sequence[Fix]] = {}
        """Fixes that are still to be put into their finding: texts take longer than verdicts."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Findings by the step at which they first opened, resolved ones included."""
        self._put_fixes()
        return tuple(
            finding for identity, finding in self._findings.items() if self._is_reported(identity)
        )

    def degrade(self, limit: str) -> None:
        """Note what is not observed, and why; GW902 reports it at the next judgement."""
        if limit not in self.history.limits:
            self.history.limits += (limit,)

    def observe(self, snapshot: Snapshot) -> None:
        """Take a snapshot: history, rules, findings, sinks. Never raises."""
        self._observe(snapshot, self._due_at((snapshot,))[0])

    def observe_all(self, samples: Samples) -> None:
        """Take many snapshots, as `observe` would one after the other."""
        snapshots = samples.snapshots()
        for snapshot, due in zip(snapshots, self._due_at(samples), strict=True):
            self._observe(snapshot, due)

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

    def resume(self, sinks: Iterable[Sink]) -> None:
        """Go on after `finish`, with the same history and findings.

        Args:
            sinks: Take the place of those that were closed, and are told of what is open.
        """
        self._sinks = list(sinks)
        self.history.finished = False
        findings = self.findings
        opened = [finding for finding in findings if finding.is_open]
        if opened:
            self._to_sinks(lambda sink: sink.write_findings(opened, findings))

    def _observe(self, snapshot: Snapshot, due: Sequence[bool]) -> None:
        for limit in snapshot.limits:
            self.degrade(limit)
        if snapshot.limits != self.history.limits:
            snapshot = replace(snapshot, limits=self.history.limits)
        self.history.append(snapshot)
        self._to_sinks(lambda sink: sink.write_snapshot(snapshot))
        self._judge(snapshot.step, due)

    def _due_at(self, snapshots: Samples | Sequence[Snapshot]) -> list[list[bool]]:
        """For each sample and rule, whether the rule could open a finding there."""
        if self._screening is not None:
            try:
                samples = snapshots if isinstance(snapshots, Samples) else Samples.of(snapshots)
                rows: list[list[bool]] = self._screening.due(samples).tolist()
                return rows
            except Exception:  # noqa: BLE001 -- promise 2: nothing is lost, for every rule runs
                self._screening = None
        return [[True] * len(self._rules)] * len(snapshots)

    def _judge(self, step: int, due: Sequence[bool] | None = None) -> None:
        """Run the rules that are due, None for all, and those that have an open finding."""
        before = dict(self._findings)
        opened = {identity.code for identity, found in before.items() if found.is_open}
        explained: frozenset[int] = frozenset()
        for rule, is_due in zip(self._rules, due or [True] * len(self._rules), strict=True):
            if (is_due or rule.code in opened) and id(rule) not in self._off:
                explained |= self._run(rule, explained, step)
        changed = [
            identity
            for identity, finding in self._findings.items()
            if self._is_reported(identity) and not _is_same(before.get(identity), finding)
        ]
        if changed and (self._sinks or self._on_finding is not None):
            self._tell(changed, before)

    def _tell(self, changed: Sequence[_Identity], before: Mapping[_Identity, Finding]) -> None:
        findings = self.findings
        news = [self._findings[identity] for identity in changed]
        self._to_sinks(lambda sink: sink.write_findings(news, findings))
        for identity, finding in zip(changed, news, strict=True):
            earlier = before.get(identity)
            if finding.is_open and (earlier is None or not earlier.is_open):
                self._notify(finding)

    def _is_reported(self, identity: _Identity) -> bool:
        return self._report_only is None or identity.code in self._report_only

    def _put_fixes(self) -> None:
        for identity, fixes in tuple(self._fixes.items()):
            del self._fixes[identity]
            try:
                finished = replace(self._findings[identity], fixes=tuple(fixes))
            except Exception as error:  # noqa: BLE001 -- promise 2: a fix never breaks a run
                self._fault(f"a fix of rule {identity.code} raised {error!r} and is left out")
            else:
                self._findings[identity] = finished

    def _run(self, rule: Rule, explained: frozenset[int], step: int) -> frozenset[int]:
        """Rows whose symptoms the rule explains; a rule that fails is off from then on."""
        try:
            verdict = rule.evaluate(self.history)
            return frozenset() if verdict is None else self._apply(rule, verdict, explained, step)
        except Exception as error:  # noqa: BLE001 -- promise 2: a rule's fault never breaks a run
            self._off.add(id(rule))
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
        rows = set(diagnosis.rows) - explained
        names = tuple(layers[row].name for row in flow.forward_order(layers) if row in rows)
        if len(names) < len(rows):
            raise IndexError(f"it names rows {sorted(rows)} of {len(layers)}")
        self._findings[identity] = Finding(
            code=rule.code,
            name=rule.name,
            severity=diagnosis.severity,
            step=earlier.step if earlier is not None and earlier.is_open else step,
            layers=names,
            cause=diagnosis.cause,
            message=diagnosis.message.replace("{layers}", listed(names)),
            evidence={name: float(figure) for name, figure in diagnosis.evidence.items()},
        )
        self._fixes[identity] = diagnosis.fixes

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
        if what in self.history.limits:
            return
        self.degrade(what)
        logger.warning("gradwatch: %s; training goes on.", what)


def _is_same(earlier: Finding | None, finding: Finding) -> bool:
    """Whether nothing has changed; fixes follow from the rest, and may not be there yet."""
    if earlier is None or earlier is finding:
        return earlier is finding
    return replace(earlier, fixes=()) == replace(finding, fixes=())
