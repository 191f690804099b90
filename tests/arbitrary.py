"""Arbitrary histories: any wiring, any figures, rows that come late, in any state.

The structure is drawn by Hypothesis, the figures by a generator from a drawn seed: quicker, and two
figures are never equal by chance, so no verdict hangs on how the last bit was rounded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from gradwatch.history import History
from gradwatch.layer import BOUNDED, GATED, ONE_SIDED, Layer
from gradwatch.snapshot import STATISTICS, FloatArray, Snapshot, State

BOUNDED_RUN = settings(derandomize=True, database=None, deadline=None, max_examples=150)
"""The same examples on every run, and no directory left behind."""

KINDS = sorted(GATED) + ["RNN", "Linear", "Conv2d", "Embedding", "MultiheadAttention", "LayerNorm"]
ACTIVATIONS = [None, *sorted(ONE_SIDED | BOUNDED), "softmax"]
SIGNED = ("activation_gain_log10", "time_decay_log10", "time_growth_log10", "tiny_log10")
SHARES = ("saturation_fraction", "dead_fraction", "mean_slope", "unit_spread_ratio")
WHOLE = ("nonfinite_count", "forward_calls")

PLAIN = np.asarray([np.nan, np.inf, 0.0])
"""What an adapter stores now and then."""

EXTREME = np.asarray([*PLAIN, 1e-45, 3e38])
"""And the ends of what float32 can hold."""

ABSURD = np.asarray([*EXTREME, -np.inf, -1.0, -3e38])
"""And what no adapter stores: sizes below zero."""


@dataclass(frozen=True)
class Drawn:
    """What a run is made of.

    Args:
        seed: Of every figure.
        layers: Rows.
        steps: Sampled steps.
        odd: Share of figures that are odd.
        late: Whether the rows appear one after the other.
    """

    seed: int
    layers: tuple[Layer, ...]
    steps: tuple[int, ...]
    odd: float = 0.0
    late: bool = False


@st.composite
def graphs(draw: st.DrawFn, *, acyclic: bool = False, most: int = 7) -> tuple[Layer, ...]:
    """Layers with any wiring: cycles, layers that feed themselves, parts that are not connected.

    Args:
        draw: Hypothesis.
        acyclic: Whether every layer reads only layers of lesser depth.
        most: Most layers.
    """
    count = draw(st.integers(1, most))
    depths = draw(st.permutations(range(count)))
    layers = []
    for row in range(count):
        rows = [other for other in range(count) if not acyclic or depths[other] < depths[row]]
        inputs = draw(st.sets(st.sampled_from(rows), max_size=3)) if rows else set()
        layers.append(
            Layer(
                name=f"layer{row}",
                kind=draw(st.sampled_from(KINDS)),
                depth=depths[row],
                weighted=draw(st.booleans()) or draw(st.booleans()),
                fan_in=draw(st.integers(1, 512)),
                fan_out=draw(st.integers(1, 512)),
                parameter_count=draw(st.integers(0, 1000)),
                activation=draw(st.sampled_from(ACTIVATIONS)),
                inputs=tuple(sorted(inputs)),
                recurrent=draw(st.booleans()),
            )
        )
    return tuple(layers)


def runs(*, late: bool = True) -> st.SearchStrategy[Drawn]:
    """What arbitrary runs are made of."""
    return st.builds(
        Drawn,
        seed=st.integers(0, 2**32 - 1),
        layers=graphs(),
        steps=st.lists(st.integers(1, 60), max_size=12).map(lambda gaps: tuple(np.cumsum(gaps))),
        odd=st.sampled_from([0.0, 0.05, 0.5]),
        late=st.booleans() if late else st.just(value=False),
    )


def history_from(drawn: Drawn, odd: FloatArray = EXTREME) -> History:
    """The run itself.

    Args:
        drawn: What it is made of.
        odd: What the odd figures are.
    """
    generator = np.random.default_rng(drawn.seed)
    history = History()
    for number, step in enumerate(drawn.steps):
        rows = min(number + 1, len(drawn.layers)) if drawn.late else len(drawn.layers)
        history.append(_snapshot(generator, _first(drawn.layers, rows), int(step), drawn, odd))
    return history


def _first(layers: tuple[Layer, ...], count: int) -> tuple[Layer, ...]:
    """The first rows, wired as far as they are there."""
    return tuple(
        replace(layer, inputs=tuple(row for row in layer.inputs if row < count))
        for layer in layers[:count]
    )


def _snapshot(
    generator: np.random.Generator,
    layers: tuple[Layer, ...],
    step: int,
    drawn: Drawn,
    odd: FloatArray,
) -> Snapshot:
    return Snapshot.unpacked(
        _figures(generator, len(layers), drawn.odd, odd),
        step=step,
        layers=layers,
        states=generator.integers(0, len(State), len(layers)).astype(np.int8)
        if generator.random() < 0.5
        else np.full(len(layers), generator.integers(0, len(State)), np.int8),
        loss=float(generator.choice([1.0, 0.1, 2.5, 0.0, -3.0, np.nan, np.inf])),
        skipped=bool(generator.random() < 0.1),
    )


def _figures(
    generator: np.random.Generator, rows: int, share: float, odd: FloatArray
) -> FloatArray:
    packed = 10.0 ** generator.uniform(-6.0, 3.0, (len(STATISTICS), rows))
    for number, statistic in enumerate(STATISTICS):
        if statistic.name in SIGNED:
            packed[number] = generator.uniform(-9.0, 5.0, rows)
        elif statistic.name in SHARES:
            packed[number] = generator.uniform(0.0, 1.0, rows)
        elif statistic.name in WHOLE:
            packed[number] = generator.integers(0, 2, rows)
    strange = generator.random(packed.shape) < share
    packed[strange] = generator.choice(odd, int(strange.sum()))
    return packed.astype(np.float32)
