"""The rows of the table of layers: order, scale of the bars, folding."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.report_rows import Fold, Scale, folded, layer_rows, unfolded

from .report_builder import (
    LAYERS,
    SICK,
    deep_report,
    history,
    snapshot,
)


def test_layers_stand_in_forward_order():
    turned = tuple(replace(layer, depth=3 - layer.depth) for layer in LAYERS)
    rows = layer_rows(history(snapshot(turned)), ())
    assert [row.layer.name for row in rows] == ["head", "fc3", "fc2", "fc1"]


@given(st.lists(st.floats(-60, 30), min_size=1), st.floats(-60, 30), st.floats(-60, 30))
def test_a_higher_level_never_has_a_shorter_bar(levels, one, other):
    layer = layer_rows(history(SICK), ())[0]
    scale = Scale.of(replace(layer, backward_log10=level) for level in (*levels, one, other))
    low, high = sorted((one, other))
    assert 0 < scale.share(low) <= scale.share(high) <= 1


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([0.0, -1.0], Scale(-6.0, 0.0)),
        ([0.0, -5.2], Scale(-7.0, 0.0)),
        ([0.9, 0.0], Scale(-6.0, 0.0)),
        ([4.5, 0.0], Scale(-6.0, 5.0)),
        ([math.nan, -math.inf], Scale(-6.0, 0.0)),
    ],
)
def test_the_scale_stretches_only_for_unusual_levels(levels, expected):
    layer = layer_rows(history(SICK), ())[0]
    assert Scale.of(replace(layer, backward_log10=level) for level in levels) == expected


def test_forty_layers_are_all_shown():
    assert not any(isinstance(row, Fold) for row in deep_report(40).rows)


def test_more_than_forty_layers_are_folded_around_the_remarkable_ones():
    shown = [
        len(row.rows) if isinstance(row, Fold) else row.layer.name for row in deep_report(41).rows
    ]
    assert shown == [
        *("layer0", "layer1", "layer2", "layer3", 15),
        *("layer19", "layer20", "layer21", "layer22", "layer23", 13),
        *("layer37", "layer38", "layer39", "layer40"),
    ]


@given(st.lists(st.sampled_from([None, "notice", "warning", "error"]), max_size=120))
def test_folding_loses_no_layer_and_hides_no_change(severities):
    row = layer_rows(history(SICK), ())[0]
    rows = [replace(row, severity=severity) for severity in severities]
    shown = folded(rows)
    assert list(unfolded(shown)) == rows
    assert all(
        len({hidden.severity for hidden in fold.rows}) == 1
        for fold in shown
        if isinstance(fold, Fold)
    )
