"""Report as JSON, for scripts: one document for all runs, with a versioned schema.

`SCHEMA_VERSION` is raised when a field goes or changes its meaning; new fields alone do not raise
it. A number that is not finite is one of the strings "NaN", "Infinity" and "-Infinity", which JSON
itself cannot express.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from gradwatch._version import __version__
from gradwatch.finding import SEVERITIES, Finding, Severity
from gradwatch.report import Report
from gradwatch.report_rows import worst_severity
from gradwatch.rules import Rule
from gradwatch.tensorboard.reader import Recording
from gradwatch.tensorboard.schema import encode_finding, encode_json

SCHEMA_VERSION = 1


def document(
    log_dir: str, runs: Sequence[dict[str, Any]], troubles: Iterable[str], rules: Iterable[Rule]
) -> str:
    """The whole document, ASCII and indented.

    Args:
        log_dir: What was searched.
        runs: `run_entry` of each run.
        troubles: What could not be read outside the runs, a sentence each.
        rules: The rules that ran.
    """
    severities: list[Severity] = [run["severity"] for run in runs if run["severity"] is not None]
    whole = {
        "schema": SCHEMA_VERSION,
        "version": __version__,
        "log_dir": log_dir,
        "severity": max(severities, key=SEVERITIES.index, default=None),
        "thresholds": {rule.code: rule.thresholds() for rule in rules},
        "unread": list(troubles),
        "runs": list(runs),
    }
    return json.dumps(json.loads(encode_json(whole)), indent=2)


def run_entry(directory: str, recording: Recording, report: Report) -> dict[str, Any]:
    """One run of the document.

    Args:
        directory: Where its event files are.
        recording: What they hold.
        report: What the rules say of it.
    """
    newest = recording.sessions[-1]
    history = report.history
    return {
        "directory": directory,
        "framework": report.framework,
        "version": newest.version,
        "sessions": len(recording.parts),
        "finished": newest.finished,
        "samples": sum(chunk.kept for part in recording.parts for chunk in part.chunks),
        "first_step": min(_steps(recording, 0), default=None),
        "last_step": max(_steps(recording, -1), default=None),
        "verdict": report.verdict,
        "judged": report.is_judged,
        "severity": report.severity,
        "findings": [_finding_entry(finding) for finding in report.findings],
        "layers": _layer_entries(report),
        "limits": list(history.limits),
        "unread": list(recording.troubles),
    }


def _steps(recording: Recording, index: int) -> list[int]:
    """The first (0) or last (-1) stored step of each chunk."""
    chunks = (chunk for part in recording.parts for chunk in part.chunks)
    return [int(chunk.steps[: chunk.kept][index]) for chunk in chunks]


def _finding_entry(finding: Finding) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads(encode_finding(finding, session=""))
    del entry["session"]
    return {**entry, "open": finding.is_open}


def _layer_entries(report: Report) -> list[dict[str, Any]]:
    worst = worst_severity(report.findings)
    return [{**asdict(layer), "severity": worst.get(layer.name)} for layer in report.history.layers]
