"""Scalars: about ten curves a run for TensorBoard's own dashboards, computed from snapshots."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gradwatch.snapshot import FloatArray, Needs, Snapshot


@dataclass(frozen=True, slots=True)
class Scalar:
    """One curve.

    Args:
        tag: Tag, metric first.
        title: What the card is called.
        description: What it says, in Markdown.
    """

    tag: str
    title: str
    description: str


@dataclass(frozen=True, slots=True)
class SnapshotScalar(Scalar):
    """One curve that follows from a snapshot alone.

    Args:
        needs: Samples that can have a value: "signals" for those with signals only.
        value: Snapshot → value; not finite where there is nothing to draw.
    """

    needs: Needs
    value: Callable[[Snapshot], float]


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves that Custom Scalars draws together.

    Args:
        title: Title of the chart.
        tags: Tags of the curves.
    """

    title: str
    tags: tuple[str, ...]


def finite_scalars(snapshot: Snapshot) -> list[tuple[Scalar, float]]:
    """The scalars that a snapshot has a finite value for, in the order of `SNAPSHOT_SCALARS`."""
    every = snapshot.has_signals
    fitting = [scalar for scalar in SNAPSHOT_SCALARS if every or scalar.needs == "parameters"]
    with np.errstate(all="ignore"):
        # A loss of 1e300 is finite, but a point of a curve is a float32.
        valued = [(scalar, float(np.float32(scalar.value(snapshot)))) for scalar in fitting]
    return [(scalar, value) for scalar, value in valued if math.isfinite(value)]


def _largest(values: FloatArray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else math.nan


def _smallest(values: FloatArray) -> float:
    return -_largest(-values)


def _median(values: FloatArray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else math.nan


def _nonfinite_layers(snapshot: Snapshot) -> float:
    counts = snapshot.nonfinite_count
    return math.nan if np.isnan(counts).all() else float((counts > 0).sum())


SNAPSHOT_SCALARS: tuple[SnapshotScalar, ...] = (
    SnapshotScalar(
        "gradwatch/backward_depth_log10",
        "Backward depth B (log10)",
        "How far the backward signal has shrunk from the outputs to the inputs, at its worst. "
        "-6 means that a millionth arrives.",
        "signals",
        lambda snapshot: snapshot.backward_depth,
    ),
    SnapshotScalar(
        "gradwatch/backward_growth_log10",
        "Backward growth (log10)",
        "How far the backward signal has grown from the outputs to the inputs, at its worst.",
        "signals",
        lambda snapshot: snapshot.backward_growth,
    ),
    SnapshotScalar(
        "gradwatch/forward_drift_log10",
        "Forward drift (log10)",
        "How far the largest layer output exceeds what enters the network.",
        "signals",
        lambda snapshot: snapshot.forward_drift,
    ),
    SnapshotScalar(
        "gradwatch/update_ratio_log10/max",
        "Update ratio, largest layer (log10)",
        "The largest step of a layer against its weights.",
        "parameters",
        lambda snapshot: _largest(np.log10(snapshot.update_ratio)),
    ),
    SnapshotScalar(
        "gradwatch/update_ratio_log10/median",
        "Update ratio, median layer (log10)",
        "The median step of a layer against its weights; layers that did not move are left out.",
        "parameters",
        lambda snapshot: _median(np.log10(snapshot.update_ratio)),
    ),
    SnapshotScalar(
        "gradwatch/elasticity_log10/max",
        "Elasticity, largest layer (log10)",
        "Relative change of the loss per relative change of a layer; needs the loss.",
        "parameters",
        lambda snapshot: _largest(np.log10(snapshot.elasticity)),
    ),
    SnapshotScalar(
        "gradwatch/dead_fraction/max",
        "Dead units, worst layer (share)",
        "Share of units whose activation lets nothing through for the whole batch.",
        "signals",
        lambda snapshot: _largest(snapshot.dead_fraction),
    ),
    SnapshotScalar(
        "gradwatch/saturation_fraction/max",
        "Saturated values, worst layer (share)",
        "Share of values where a bounded activation is flat.",
        "signals",
        lambda snapshot: _largest(snapshot.saturation_fraction),
    ),
    SnapshotScalar(
        "gradwatch/time_decay_log10/min",
        "Decay through time, worst layer (log10)",
        "Backward signal of a recurrent layer at its first time step against its largest.",
        "signals",
        lambda snapshot: _smallest(snapshot.time_decay_log10),
    ),
    SnapshotScalar(
        "gradwatch/nonfinite_layers",
        "Layers with NaN or infinity",
        "Layers of which a gradient or a parameter holds a NaN or an infinity.",
        "parameters",
        _nonfinite_layers,
    ),
    SnapshotScalar(
        "gradwatch/loss",
        "Loss at the observed steps",
        "The loss that gradwatch was shown.",
        "parameters",
        lambda snapshot: snapshot.loss,
    ),
)
"""Every curve that follows from a snapshot alone."""

OPEN_FINDINGS = Scalar(
    "gradwatch/open_findings",
    "Open findings",
    "Problems that were still there at this step.",
)

CHARTS: tuple[Chart, ...] = (
    Chart(
        "Signal, backward and forward (log10)",
        (
            "gradwatch/backward_depth_log10",
            "gradwatch/backward_growth_log10",
            "gradwatch/forward_drift_log10",
        ),
    ),
    Chart(
        "Update ratio (log10)",
        ("gradwatch/update_ratio_log10/max", "gradwatch/update_ratio_log10/median"),
    ),
    Chart(
        "Dead or saturated, worst layer (share)",
        ("gradwatch/dead_fraction/max", "gradwatch/saturation_fraction/max"),
    ),
)
"""Layout of the Custom Scalars dashboard."""
