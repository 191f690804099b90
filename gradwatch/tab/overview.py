"""Overview: what the page says of a run before any heatmap is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from gradwatch.history import History
from gradwatch.layer import Layer
from gradwatch.report import Report
from gradwatch.snapshot import Snapshot
from gradwatch.tab.cards import card
from gradwatch.tab.statistics import TabStatistic
from gradwatch.tab.stored_run import StoredRun
from gradwatch.tensorboard.reader import Recording, Session
from gradwatch.tensorboard.schema import number

MOST_SAMPLES = 256
"""Samples that a verdict looks at: as many as a `History` keeps while a run goes on."""


def overview(run: StoredRun) -> dict[str, Any]:
    """A run for JSON: facts, verdict, layers in forward order, statistics and findings.

    The findings are those that the watch stored; no rule runs here.
    """
    recording, matrix = run.recording, run.matrix
    report = stored_report(recording)
    newest = recording.sessions[-1] if recording.parts else None
    observed = matrix.observed
    return {
        "name": run.name,
        "token": run.token,
        "framework": report.framework,
        "version": "unknown" if newest is None else newest.version,
        "started": 0.0 if newest is None else number(recording.sessions[0].started),
        "finished": newest is not None and newest.finished,
        "sessions": len(recording.parts),
        "samples": len(matrix),
        "first_step": int(matrix.steps[0]) if len(matrix) else None,
        "last_step": int(matrix.steps[-1]) if len(matrix) else None,
        "verdict": report.verdict,
        "severity": report.severity,
        "judged": report.is_judged,
        "layers": [_layer_entry(layer) for layer in matrix.layers],
        "statistics": [_statistic_entry(statistic) for statistic in observed],
        "default_statistic": _default(observed),
        "findings": [
            card(finding, framework=report.framework)
            for finding in (*report.open_findings, *report.resolved_findings)
        ],
        "limits": _limits(recording),
        "troubles": list(run.troubles),
    }


def stored_report(recording: Recording) -> Report:
    """The report on a recording from the findings that are stored in it."""
    session = _last_observed(recording)
    framework = recording.sessions[-1].framework if recording.parts else "torch"
    history = History()
    if session is not None:
        framework = session.facts.framework
        history.finished = session.facts.finished
        for snapshot in _last_snapshots(session):
            history.append(snapshot)
    return Report(recording.findings, history, framework=framework)


def _last_observed(recording: Recording) -> Session | None:
    """The last session that has samples."""
    return next((part for part in reversed(recording.parts) if part.chunks), None)


def _last_snapshots(session: Session) -> Sequence[Snapshot]:
    """The last samples of a session, oldest first; only their chunks are unpacked."""
    newest_first = (
        snapshot
        for chunk in reversed(session.chunks)
        for snapshot in reversed(chunk.samples().snapshots())
    )
    return tuple(islice(newest_first, MOST_SAMPLES))[::-1]


def _limits(recording: Recording) -> list[str]:
    """What is not observed in the last session that has samples, a sentence each."""
    session = _last_observed(recording)
    chunks = () if session is None else session.chunks
    return list(dict.fromkeys(limit for chunk in chunks for limit in chunk.header.limits))


def _layer_entry(layer: Layer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "kind": layer.kind,
        "activation": layer.activation,
        "weighted": layer.weighted,
        "parameter_count": layer.parameter_count,
        "recurrent": layer.recurrent,
    }


def _statistic_entry(statistic: TabStatistic) -> dict[str, Any]:
    return {
        "name": statistic.name,
        "title": statistic.title,
        "unit": statistic.unit,
        "scale": statistic.scale,
        "needs": statistic.needs,
        "meaning": statistic.meaning,
    }


def _default(observed: Sequence[TabStatistic]) -> str:
    signals = any(statistic.name == "output_grad_norm" for statistic in observed)
    return "output_grad_norm" if signals else "grad_norm"
