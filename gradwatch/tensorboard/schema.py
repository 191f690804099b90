"""Schema of what gradwatch stores in event files, the same for every framework.

Four contents, all tensors of the plugin `gradwatch`, of class `DATA_CLASS_TENSOR`:

| content | tag | tensor |
|---|---|---|
| run | `gradwatch/run/<session>` | JSON of `RunFacts`, written at the start and at the end |
| layers | `gradwatch/layers/<digest>` | JSON of `Rows`, once a version |
| statistics | `gradwatch/stats/<first step>` | a chunk of snapshots, see `chunk.py` |
| finding | `gradwatch/findings/<code>/<cause>` | JSON of a finding, again when it changes |

A session is one writer: the first run, or one that resumed it. JSON is ASCII; a number that is not
finite is one of the strings "NaN", "Infinity" and "-Infinity", which JSON itself cannot express.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from gradwatch.errors import ArgumentError
from gradwatch.finding import Finding, Fix
from gradwatch.layer import Layer
from gradwatch.snapshot import STATISTICS

PLUGIN_NAME = "gradwatch"

SCHEMA_VERSION = 2
"""Raised when an older reader would misread a newer file; new JSON fields alone do not.

Schema 1 had other chunks, see `chunk.py`; they are still read.
"""

LOWERED_IN_0_1 = 0.2
"""Learning rate factor that a fix's `lower_learning_rate: true` stood for ("try lr/5")."""

Content = Literal["run", "layers", "statistics", "finding"]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of one session.

    Args:
        session: Random token of the writer.
        framework: "torch" or "keras".
        version: Version of gradwatch that wrote it.
        started: Seconds since the epoch.
        finished: Whether the watch was closed, so that what it never saw never was.
    """

    session: str
    framework: str
    version: str
    started: float
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Rows:
    """One version of the rows: what the axes of a chunk's statistics mean.

    Args:
        layers: The layers, in order of appearance.
        statistics: Names of the statistics, in the order in which they are packed.
    """

    layers: tuple[Layer, ...]
    statistics: tuple[str, ...] = tuple(statistic.name for statistic in STATISTICS)


def run_tag(session: str) -> str:
    """Tag of a session's facts."""
    return f"{PLUGIN_NAME}/run/{session}"


def layers_tag(digest: str) -> str:
    """Tag of one version of the rows."""
    return f"{PLUGIN_NAME}/layers/{digest}"


def chunk_tag(first_step: int) -> str:
    """Tag of the chunk that begins at a step: TensorBoard samples per tag, so each has its own."""
    return f"{PLUGIN_NAME}/stats/{first_step}"


def finding_tag(finding: Finding) -> str:
    """Tag of a finding, the same for all its updates."""
    parts = (re.sub(r"[^A-Za-z0-9.-]", "_", part) for part in (finding.code, finding.cause))
    return "/".join((PLUGIN_NAME, "findings", *parts))


def plugin_content(content: Content) -> bytes:
    """The `plugin_data.content` of a tag, by which a reader tells the contents apart."""
    return encode_json({"schema": SCHEMA_VERSION, "content": content})


def parse_plugin_content(stored: bytes, *, tag: str) -> Content | None:
    """The content that a tag holds, None for one that this version does not know.

    Args:
        stored: The tag's `plugin_data.content`.
        tag: For the message.

    Raises:
        ArgumentError: If a newer schema wrote it.
    """
    parsed = json.loads(stored)
    refuse_newer(parsed["schema"], tag)
    content: Content | None = parsed["content"] if parsed["content"] in get_args(Content) else None
    return content


def refuse_newer(version: int, subject: str) -> None:
    """Nothing, if this version can read a schema.

    Args:
        version: Of the schema.
        subject: What was written with it, for the message.

    Raises:
        ArgumentError: If the schema is a newer one.
    """
    if version > SCHEMA_VERSION:
        raise ArgumentError(
            f"{subject} was written with schema {version}, and this gradwatch reads up to "
            f"schema {SCHEMA_VERSION}: run `pip install --upgrade gradwatch`"
        )


def encode_run(facts: RunFacts) -> bytes:
    """JSON of a session's facts."""
    return encode_json(asdict(facts))


def decode_run(stored: bytes) -> RunFacts:
    """The facts whose `encode_run` is `stored`."""
    return RunFacts(**_known(RunFacts, json.loads(stored)))


def encode_rows(rows: Rows) -> bytes:
    """JSON of one version of the rows."""
    layers = [asdict(layer) for layer in rows.layers]
    return encode_json({"statistics": rows.statistics, "layers": layers})


def decode_rows(stored: bytes) -> Rows:
    """The rows whose `encode_rows` is `stored`."""
    parsed = json.loads(stored)
    layers = (
        Layer(**{**_known(Layer, layer), "inputs": tuple(layer["inputs"])})
        for layer in parsed["layers"]
    )
    return Rows(tuple(layers), tuple(parsed["statistics"]))


def digest(encoded_rows: bytes) -> str:
    """Name of a version of the rows, from its contents: a resumed run finds the same one."""
    return hashlib.sha256(encoded_rows).hexdigest()[:12]


def encode_finding(finding: Finding, *, session: str) -> bytes:
    """JSON of a finding and of the session that saw it."""
    stored = {
        "session": session,
        "code": finding.code,
        "name": finding.name,
        "severity": finding.severity,
        "step": int(finding.step),
        "resolved_step": None if finding.resolved_step is None else int(finding.resolved_step),
        "layers": finding.layers,
        "cause": finding.cause,
        "message": finding.message,
        "evidence": {name: number(figure) for name, figure in finding.evidence.items()},
        "fixes": [_fix_as_json(fix) for fix in finding.fixes],
    }
    return encode_json(stored)


def decode_finding(stored: bytes) -> tuple[str, Finding]:
    """The session and the finding whose `encode_finding` is `stored`."""
    parsed = json.loads(stored)
    known = {
        **_known(Finding, parsed),
        "layers": tuple(parsed["layers"]),
        "evidence": {name: float(figure) for name, figure in parsed["evidence"].items()},
        "fixes": tuple(map(_fix_of_json, parsed["fixes"])),
    }
    return parsed["session"], Finding(**known)


def encode_json(value: object) -> bytes:
    """ASCII JSON; lone surrogates, which a hostile layer name may hold, come as escapes."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")


def _fix_as_json(fix: Fix) -> dict[str, Any]:
    return {
        "kind": fix.kind,
        "title": fix.title,
        "rationale": fix.rationale,
        "reference": fix.reference,
        "snippets": dict(fix.snippets),
        "lr_factor": number(fix.lr_factor),
        "avoid_when": fix.avoid_when,
    }


def _fix_of_json(stored: dict[str, Any]) -> Fix:
    """A fix; files of gradwatch 0.1 say with a bool that the rate should fall."""
    old_factor = LOWERED_IN_0_1 if stored.get("lower_learning_rate") else 1.0
    known = _known(Fix, stored)
    return Fix(**{**known, "lr_factor": float(known.get("lr_factor", old_factor))})


def number(figure: float) -> float | str:
    """A number for JSON; one that is not finite is "NaN", "Infinity" or "-Infinity"."""
    figure = float(figure)
    if math.isnan(figure):
        return "NaN"
    if math.isinf(figure):
        return "Infinity" if figure > 0 else "-Infinity"
    return figure


def _known(kind: type[Any], stored: dict[str, Any]) -> dict[str, Any]:
    """The entries that this version has a field for, so that newer files stay readable."""
    names = {entry.name for entry in fields(kind)}
    return {name: entry for name, entry in stored.items() if name in names}
