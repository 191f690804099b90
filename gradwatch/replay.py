"""Replay: the rules on a stored run, as they ran on it live.

Each session of a run is judged on its own, since each had a watch of its own, with a warm-up of its
own; what a session left open ends where the next one begins, unless that one saw it again.

Kept as the watch stored it is what cannot be judged again: findings of a code that no rule here has
(a user's own rule), and GW902, which tells what happened to the watch itself, at whatever step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from gradwatch.finding import Finding
from gradwatch.history import History
from gradwatch.rules import ALL_RULES, Rule
from gradwatch.rules.gw902_observation_degraded import ObservationDegraded
from gradwatch.tensorboard.reader import Recording, Session, joined
from gradwatch.watcher import Watcher


@dataclass(frozen=True)
class Replay:
    """What the rules say of a stored run.

    Args:
        findings: Findings by the step at which they first opened, resolved ones included.
        history: The samples of the last session that has any.
        framework: "torch" or "keras": whose snippets are to be shown.
    """

    findings: tuple[Finding, ...]
    history: History
    framework: str


def replay(
    recording: Recording, rules: Sequence[Rule] = ALL_RULES, *, screening: bool = True
) -> Replay:
    """Judge a stored run anew; its samples are unpacked a chunk at a time.

    Args:
        recording: The run, at least one session of it.
        rules: Rules to run.
        screening: See `Watcher`.
    """
    history, framework = History(), recording.sessions[-1].framework
    parts: list[tuple[int | None, tuple[Finding, ...]]] = []
    for session in recording.parts:
        watcher = _watched(session, rules, screening=screening)
        parts.append((session.first_step, _with_stored(session, watcher, rules)))
        if len(watcher.history) or not len(history):
            history, framework = watcher.history, session.facts.framework
    return Replay(joined(parts), history, framework)


def _watched(session: Session, rules: Sequence[Rule], *, screening: bool) -> Watcher:
    watcher = Watcher(rules, screening=screening)
    for chunk in session.chunks:
        watcher.observe_all(chunk.samples())
    was_taken_over = session.first_step is not None and not session.chunks
    if session.facts.finished and not was_taken_over:
        watcher.finish(session.last_step)
    return watcher


def _with_stored(session: Session, watcher: Watcher, rules: Iterable[Rule]) -> tuple[Finding, ...]:
    """The findings of the watcher and those that only the watch itself could make."""
    known = {rule.code for rule in rules}
    judged = {(found.code, found.cause): found for found in watcher.findings}
    findings: dict[tuple[str, str], Finding] = {}
    for stored in session.findings:
        key = stored.code, stored.cause
        if stored.code not in known:
            findings[key] = stored
        elif stored.code == ObservationDegraded.code:
            findings[key] = _fuller(stored, judged.get(key))
        elif key in judged:
            findings[key] = judged[key]
    for key, found in judged.items():
        findings.setdefault(key, found)
    return tuple(findings.values())


def _fuller(stored: Finding, judged: Finding | None) -> Finding:
    """The one that names more limits: a watch that was killed may have stored the last too late."""
    if judged is None or judged.evidence["limits"] <= stored.evidence.get("limits", 0.0):
        return stored
    return replace(judged, step=min(judged.step, stored.step))
