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
from gradwatch.snapshot import ROW_OF, STATISTICS, FloatArray, Snapshot, State

BOUNDED_RUN = settings(derandomize=True, database=None, deadline=None, max_examples=250)
"""The same examples on every run, and no directory left behind."""

KINDS = [
    *sorted(GATED),
    *("RNN", "Linear", "Conv2d", "Embedding", "MultiheadAttention", "LayerNorm"),
]
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
        samples: Number of samples.
        odd: Share of figures that are odd.
        late: Whether the rows appear one after the other.
    """

    seed: int
    layers: tuple[Layer, ...]
    samples: int
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
        least = int(acyclic and draw(st.integers(0, 3)) > 0)
        inputs = draw(st.sets(st.sampled_from(rows), min_size=least, max_size=3)) if rows else ()
        layers.append(
            Layer(
                name=f"layer{row}",
                kind=draw(st.sampled_from(KINDS)),
                depth=depths[row],
                weighted=draw(st.integers(0, 4)) > 0,
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
    """What arbitrary runs are made of; three in four are long enough for a lasting verdict."""
    return st.builds(
        Drawn,
        seed=st.integers(0, 2**32 - 1),
        layers=st.one_of(graphs(acyclic=True), graphs()),
        samples=st.sampled_from([0, 1, 5, 8, *range(9, 21)]),
        odd=st.sampled_from([0.0, 0.02, 0.4]),
        late=st.booleans() if late else st.just(value=False),
    )


def history_from(drawn: Drawn, odd: FloatArray = EXTREME) -> History:
    """The run itself: figures that wander about a level of their own.

    Args:
        drawn: What it is made of.
        odd: What the odd figures are.
    """
    generator = np.random.default_rng(drawn.seed)
    level = _level(generator, len(drawn.layers))
    states = generator.integers(0, len(State), (2, len(drawn.layers)))
    states[1] = states[1, 0]
    history = History()
    step = int(generator.integers(0, 100))
    for number in range(drawn.samples):
        rows = min(number + 1, len(drawn.layers)) if drawn.late else len(drawn.layers)
        figures = _wandering(generator, level, drawn.odd, odd)
        history.append(
            Snapshot.unpacked(
                figures[:, :rows],
                step=step,
                layers=_first(drawn.layers, rows),
                states=states[drawn.seed % 2, :rows].astype(np.int8),
                loss=_loss(generator, drawn),
                skipped=bool(generator.random() < 0.05),
            )
        )
        step += int(generator.integers(1, 20))
    return history


def _first(layers: tuple[Layer, ...], count: int) -> tuple[Layer, ...]:
    """The first rows, wired as far as they are there."""
    return tuple(
        replace(layer, inputs=tuple(row for row in layer.inputs if row < count))
        for layer in layers[:count]
    )


def _level(generator: np.random.Generator, rows: int) -> FloatArray:
    """log10 of what the sizes wander about; signed figures and shares as they are."""
    level = generator.uniform(-6.0, 3.0, (len(STATISTICS), rows))
    for name in SIGNED:
        level[ROW_OF[name]] = generator.uniform(-9.0, 5.0, rows)
    for name in SHARES:
        level[ROW_OF[name]] = generator.choice([0.0, 1.0, *generator.random(3)], rows)
    level[ROW_OF["update_ratio"]] = generator.uniform(-8.0, 0.0)
    level[ROW_OF["tiny_log10"]] = generator.choice([-7.2, -40.0, -44.9])
    level[ROW_OF["forward_calls"]] = generator.choice([0.0, 1.0], rows, p=[0.2, 0.8])
    level[ROW_OF["nonfinite_count"]] = 0.0
    return level


def _wandering(
    generator: np.random.Generator, level: FloatArray, share: float, odd: FloatArray
) -> FloatArray:
    as_it_is = [ROW_OF[name] for name in (*SIGNED, *SHARES, *WHOLE)]
    packed = 10.0 ** (level + generator.normal(0.0, 0.1, level.shape))
    packed[as_it_is] = level[as_it_is]
    strange = generator.random(packed.shape) < share
    packed[strange] = generator.choice(odd, int(strange.sum()))
    if odd is not ABSURD:
        counts = [ROW_OF[name] for name in WHOLE]
        packed[counts] = np.where(packed[counts] <= 1, packed[counts], np.nan)
    return packed.astype(np.float32)


def _loss(generator: np.random.Generator, drawn: Drawn) -> float:
    level = [1.0, 1.0, 1e-4, 0.0, -3.0, np.nan][drawn.seed % 6]
    return np.inf if generator.random() < drawn.odd / 4 else level * generator.uniform(0.7, 1.3)
