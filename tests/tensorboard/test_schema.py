"""What is stored as JSON comes back equal, and plain JSON parsers can read it."""

import json
import math
from dataclasses import fields, replace
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.errors import ArgumentError
from gradwatch.finding import Finding, Fix
from gradwatch.layer import Layer
from gradwatch.tensorboard import schema

from .builders import chain, finding

HOSTILE_NAMES = [
    "",
    "a/b c\n\x00\u202e",
    '"quoted" \\ `code` <script>',
    "слой.0",
    "\ud800 lone surrogate",
    "📈",
]


def refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def strict_json(stored: bytes) -> object:
    return json.loads(stored, parse_constant=refuse_constant)


layers = st.builds(
    Layer,
    name=st.text(st.characters()),
    kind=st.text(),
    depth=st.integers(0, 10**6),
    weighted=st.booleans(),
    fan_in=st.integers(1, 10**9),
    fan_out=st.integers(1, 10**9),
    parameter_count=st.integers(0, 10**12),
    activation=st.none() | st.text(),
    activation_module=st.none() | st.text(),
    inputs=st.lists(st.integers(0, 9)).map(tuple),
    recurrent=st.booleans(),
)


@given(st.lists(layers, max_size=3).map(tuple))
def test_layers_come_back_equal(rows):
    assert schema.decode_rows(schema.encode_rows(schema.Rows(rows))).layers == rows


def test_every_field_of_a_layer_is_stored():
    stored = strict_json(schema.encode_rows(schema.Rows(chain(1))))
    assert set(stored["layers"][0]) == {entry.name for entry in fields(Layer)}


def test_every_field_of_a_finding_is_stored():
    stored = strict_json(schema.encode_finding(finding(), session="s"))
    assert set(stored) == {entry.name for entry in fields(Finding)} | {"session"}


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_hostile_layer_name_comes_back_equal(name):
    layer = Layer(name=name, kind=name, activation_module=name)
    stored = schema.encode_rows(schema.Rows((layer,)))
    assert stored.isascii()
    assert schema.decode_rows(stored).layers == (layer,)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_finding_on_a_hostile_layer_comes_back_equal(name):
    seen = finding(layers=(name,), message=name)
    assert schema.decode_finding(schema.encode_finding(seen, session="s")) == ("s", seen)


@pytest.mark.parametrize("resolved_step", [None, 40])
def test_a_finding_comes_back_equal(resolved_step):
    seen = finding(resolved_step=resolved_step)
    assert schema.decode_finding(schema.encode_finding(seen, session="s1")) == ("s1", seen)


@pytest.mark.parametrize("figure", [math.inf, -math.inf, 1e-45, -0.0, 0.1, 5e-324])
def test_a_figure_comes_back_exactly(figure):
    stored = schema.encode_finding(finding(evidence={"x": figure}), session="s")
    strict_json(stored)
    _, read = schema.decode_finding(stored)
    assert math.copysign(1, read.evidence["x"]) == math.copysign(1, figure)
    assert read.evidence["x"] == figure


def test_a_figure_that_was_not_observed_comes_back_as_nan():
    stored = schema.encode_finding(finding(evidence={"x": math.nan}), session="s")
    strict_json(stored)
    assert math.isnan(schema.decode_finding(stored)[1].evidence["x"])


def test_figures_and_steps_of_numpy_types_can_be_stored():
    seen = finding(evidence=MappingProxyType({"x": np.float32(0.5)}), step=np.int64(3))
    _, read = schema.decode_finding(schema.encode_finding(seen, session="s"))
    assert (read.evidence, read.step) == ({"x": 0.5}, 3)


def test_every_field_of_a_fix_is_stored():
    stored = strict_json(schema.encode_finding(finding(), session="s"))
    assert set(stored["fixes"][0]) == {entry.name for entry in fields(Fix)}


@pytest.mark.parametrize(("lower", "factor"), [(True, 0.2), (False, 1.0)])
def test_a_fix_of_an_older_file_keeps_what_it_said_of_the_learning_rate(lower, factor):
    stored = strict_json(schema.encode_finding(finding(), session="s"))
    (fix, *_) = stored["fixes"]
    del fix["lr_factor"], fix["avoid_when"]
    fix["lower_learning_rate"] = lower
    _, read = schema.decode_finding(schema.encode_json(stored))
    assert (read.fixes[0].lr_factor, read.fixes[0].avoid_when) == (factor, "")


@pytest.mark.parametrize("finished", [False, True])
def test_run_facts_come_back_equal(finished):
    facts = schema.RunFacts("s", "torch", "1.0", started=1.7e9 + 1 / 3, finished=finished)
    assert schema.decode_run(schema.encode_run(facts)) == facts


def test_fields_of_a_newer_version_are_ignored():
    stored = json.loads(schema.encode_rows(schema.Rows(chain(2))))
    stored["layers"][0]["of_the_future"] = 1
    assert schema.decode_rows(json.dumps(stored).encode()).layers == chain(2)


def test_a_newer_schema_is_refused_with_the_way_out():
    newer = json.dumps({"schema": schema.SCHEMA_VERSION + 1, "content": "run"}).encode()
    with pytest.raises(ArgumentError, match=r"gradwatch/run/x .*pip install --upgrade gradwatch"):
        schema.parse_plugin_content(newer, tag="gradwatch/run/x")


def test_an_unknown_content_is_passed_over():
    stored = json.dumps({"schema": schema.SCHEMA_VERSION, "content": "of the future"}).encode()
    assert schema.parse_plugin_content(stored, tag="t") is None


def test_the_digest_names_the_contents():
    first, same, other = (schema.encode_rows(schema.Rows(chain(n))) for n in (2, 2, 3))
    assert schema.digest(first) == schema.digest(same) != schema.digest(other)


@pytest.mark.parametrize(
    ("changes", "tag"),
    [
        ({}, "gradwatch/findings/GW101/activation"),
        ({"cause": "learning rate"}, "gradwatch/findings/GW101/learning_rate"),
        ({"code": "ours/1\ud800"}, "gradwatch/findings/ours_1_/activation"),
    ],
)
def test_the_tag_of_a_finding_stays_with_its_identity(changes, tag):
    seen = finding(**changes)
    assert schema.finding_tag(seen) == tag
    assert schema.finding_tag(replace(seen, step=99, layers=(), evidence={})) == tag
