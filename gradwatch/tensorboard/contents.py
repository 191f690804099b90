"""Contents: stored tensors, decoded and checked, by what they hold and by who wrote them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from gradwatch.finding import Finding
from gradwatch.report_words import printable
from gradwatch.tensorboard import schema
from gradwatch.tensorboard.checks import check_layers, check_types
from gradwatch.tensorboard.chunk import decode_chunk, decode_header
from gradwatch.tensorboard.packed import Chunk
from gradwatch.tensorboard.stored import Decoded, Point, Troubles, decoded

_PARTS = {"run": 1, "layers": 1, "statistics": 2, "finding": 1}
"""Content → byte strings of its tensor."""


@dataclass(frozen=True)
class Contents:
    """What a run's tensors hold, each kind in the order of wall time.

    Args:
        facts: Session → its facts.
        last_steps: Session → step of the event that stored its facts last.
        chunks: Chunks, oldest first.
        findings: Session → the findings that it stored, each with the step of its event.
    """

    facts: dict[str, schema.RunFacts]
    last_steps: dict[str, int]
    chunks: tuple[Chunk, ...]
    findings: dict[str, list[tuple[int, Finding]]]

    @classmethod
    def of(cls, points: Iterable[Point], troubles: Troubles) -> Contents:
        """The contents of stored tensors.

        Args:
            points: In any order.
            troubles: Is told what cannot be used.
        """
        of: dict[schema.Content, list[Point]] = defaultdict(list)
        for point in sorted(points, key=lambda point: point.wall_time):
            of[point.content].append(point)
        runs = _all(of["run"], _run, troubles)
        rows = {
            schema.digest(point.parts[0]): version
            for point, version in _all(of["layers"], _rows, troubles)
        }
        chunks = _all(of["statistics"], partial(_chunk, rows=rows), troubles)
        findings: dict[str, list[tuple[int, Finding]]] = {}
        for point, (session, finding) in _all(of["finding"], _finding, troubles):
            findings.setdefault(session, []).append((point.step, finding))
        return cls(
            facts={facts.session: facts for _, facts in runs},
            last_steps={facts.session: point.step for point, facts in runs},
            chunks=tuple(chunk for _, chunk in chunks),
            findings=findings,
        )

    def session_starts(self) -> dict[str, int]:
        """Session → its first step, oldest session first; those without samples are left out."""
        starts: dict[str, int] = {}
        for chunk in self.chunks:
            starts.setdefault(chunk.header.session, chunk.header.first_step)
        return starts

    def sessions(self) -> tuple[str, ...]:
        """All sessions: those with samples, oldest first, then those without."""
        return tuple(dict.fromkeys((*self.session_starts(), *self.findings, *self.facts)))

    def facts_of(self, session: str, troubles: Troubles) -> schema.RunFacts:
        """The facts of a session; stand-ins where they are lost."""
        if session in self.facts:
            return self.facts[session]
        troubles.tell(
            f"The facts of session {printable(session)} are lost: its framework is taken to be "
            "torch, and its end to be open."
        )
        return schema.RunFacts(session, framework="torch", version="unknown", started=0.0)

    def findings_of(self, session: str, *, before: int | None) -> tuple[Finding, ...]:
        """The findings of a session as they were stored last.

        Args:
            session: The session.
            before: Step from which on another session took over, None for none.
        """
        findings: dict[tuple[str, str], Finding] = {}
        for step, finding in self.findings.get(session, ()):
            if before is None or step < before:
                findings[finding.code, finding.cause] = finding
        return tuple(findings.values())


def _all(
    points: Iterable[Point], decode: Callable[[Point], Decoded], troubles: Troubles
) -> list[tuple[Point, Decoded]]:
    """Each point with what it holds, without those that hold something else."""
    found = ((point, decoded(partial(decode, point), point.source, troubles)) for point in points)
    return [(point, content) for point, content in found if content is not None]


def _run(point: Point) -> schema.RunFacts:
    facts = schema.decode_run(_parts(point)[0])
    check_types(facts)
    return facts


def _rows(point: Point) -> schema.Rows:
    rows = schema.decode_rows(_parts(point)[0])
    check_layers(rows.layers)
    check_types(rows)
    return rows


def _chunk(point: Point, rows: Mapping[str, schema.Rows]) -> Chunk:
    encoded, body = _parts(point)
    header = decode_header(encoded)
    if header.rows not in rows:
        raise ValueError(
            f"it is the chunk of step {header.first_step}, whose layers "
            f"({header.rows}) are not stored"
        )
    return decode_chunk(header, body, rows[header.rows])


def _finding(point: Point) -> tuple[str, Finding]:
    session, finding = schema.decode_finding(_parts(point)[0])
    check_types(finding)
    if not isinstance(session, str) or not finding.code.isprintable():
        raise ValueError(f"its session {session!r} or its code {finding.code!r} cannot be")
    return session, finding


def _parts(point: Point) -> tuple[bytes, ...]:
    expected = _PARTS[point.content]
    if len(point.parts) != expected:
        raise ValueError(f"it holds {len(point.parts)} byte strings, not {expected}")
    return point.parts
