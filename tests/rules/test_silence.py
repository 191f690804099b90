"""Healthy runs that look sick at first sight: no rule says anything, not even a notice."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gradwatch.layer import Layer
from gradwatch.rules import ALL_RULES
from gradwatch.snapshot import Snapshot, State
from gradwatch.testing import EARLY_STEPS, backward_signals, chain, snapshot
from gradwatch.watcher import Watcher

LONG = (*EARLY_STEPS, 24, 32, 48, 64, 96, 128, *range(150, 1000, 25))
RELU = chain(5, activation="relu")
HE = backward_signals(RELU, activation=-0.15, weights=0.15)
TRAPS: dict[str, Callable[[], Iterable[Snapshot]]] = {}


def trap(make: Callable[[], Iterable[Snapshot]]) -> Callable[[], Iterable[Snapshot]]:
    """Lists a run under the name of its function."""
    TRAPS[make.__name__] = make
    return make


def run(
    layers: Iterable[Layer] = RELU,
    at: Callable[[int], dict[str, Any]] = lambda step: {},
    **figures: Any,
) -> Iterable[Snapshot]:
    """A long run; `at` gives the figures of one step."""
    return [snapshot(tuple(layers), step, **{**figures, **at(step)}) for step in LONG]


@trap
def a_zero_initialised_head():
    """Every hidden gradient is zero at step 0, and all units of the head are alike."""
    body_waits = [State.ZERO_GRADIENT] * 4 + [State.TRAINED]
    first = {
        "states": body_waits,
        "grad_norm": [0, 0, 0, 0, 0.1],
        "output_grad_norm": [0, 0, 0, 0, 0.1],
        "input_grad_norm": 0.0,
        "unit_spread_ratio": [1, 1, 1, 1, 0],
    }
    return run(at=lambda step: {} if step else first, **HE)


@trap
def a_learning_rate_that_decays_to_zero():
    def update(step):
        return {"update_ratio": 1e-3 * 0.5 * (1 + np.cos(np.pi * step / LONG[-1]))}

    return run(at=update)


@trap
def a_warm_up_from_zero():
    return run(at=lambda step: {"update_ratio": 1e-3 * min(1.0, step / 60)})


@trap
def a_net_that_has_learned_everything():
    """Watched from then on: gradients and steps are tiny, because there is nothing to learn."""
    return run(
        loss=1e-4,
        grad_norm=1e-6,
        update_ratio=1e-6,
        output_grad_norm=1e-7,
        output_grad_rms=1e-9,
        input_grad_norm=1e-7,
    )


@trap
def low_rank_adapters_of_a_frozen_net():
    """B starts at zero, so A gets no gradient at step 0 and B's units are alike."""
    layers = []
    for block in range(3):
        first = len(layers)
        before = tuple(range(first - 3, first)) if block else ()
        base = {"kind": "Linear", "fan_in": 64, "fan_out": 64}
        layers += [
            Layer(name=f"{block}.base", depth=first, inputs=before, **base),
            Layer(name=f"{block}.a", depth=first + 1, inputs=before, **base),
            Layer(name=f"{block}.b", depth=first + 2, inputs=(first + 1,), **base),
        ]
    frozen, waiting, trained = State.FROZEN, State.ZERO_GRADIENT, State.TRAINED

    def at(step):
        return {
            "states": [frozen, trained if step else waiting, trained] * 3,
            "grad_norm": [np.nan, 0.1 if step else 0.0, 0.1] * 3,
            "update_ratio": [np.nan, 1e-3 if step else 0.0, 1e-3] * 3,
            "unit_spread_ratio": [np.nan, 1.0, 1.0 if step else 0.0] * 3,
            "output_grad_norm": [0.1, 1e-3 if step else 0.0, 0.1] * 3,
        }

    return run(layers, at)


def experts() -> tuple[Layer, ...]:
    return (
        *RELU[:1],
        *(Layer(name=f"expert{one}", kind="Linear", depth=one, inputs=(0,)) for one in (1, 2, 3)),
        Layer(name="head", kind="Linear", depth=4, inputs=(0, 1, 2, 3)),
    )


@trap
def an_expert_that_is_never_routed():
    idle = [State.TRAINED] * 3 + [State.IDLE, State.TRAINED]
    unseen = [1, 1, 1, np.nan, 1]
    return run(
        experts(),
        states=idle,
        forward_calls=[1, 1, 1, 0, 1],
        grad_norm=np.multiply(0.1, unseen),
        output_grad_norm=np.multiply(0.1, unseen),
        input_grad_norm=np.multiply(0.1, unseen),
        update_ratio=np.multiply(1e-3, unseen),
        output_rms=unseen,
        input_rms=unseen,
    )


@trap
def an_expert_that_is_routed_now_and_then():
    def at(step):
        runs = step % 3 == 0
        state = State.TRAINED if runs else State.IDLE
        return {
            "states": [State.TRAINED] * 3 + [state, State.TRAINED],
            "forward_calls": [1, 1, 1, float(runs), 1],
            "output_grad_norm": [0.1, 0.1, 0.1, 0.01 if runs else np.nan, 0.1],
        }

    return run(experts(), at)


@trap
def word_vectors_that_are_small():
    layers = (replace(RELU[0], kind="Embedding", activation=None), *RELU[1:])
    small = {"input_rms": [np.nan, 0.01, 1, 1, 1], "output_rms": [0.01, 1, 1, 1, 1]}
    return run(layers, unit_spread_ratio=[np.nan, 1, 1, 1, 1], **small)


@trap
def raw_pixels_before_a_normalisation():
    layers = (
        Layer(name="conv", kind="Conv2d", depth=0),
        Layer(name="norm", kind="BatchNorm2d", depth=1, weighted=False, inputs=(0,)),
        Layer(name="head", kind="Linear", depth=2, inputs=(1,)),
    )
    return run(layers, input_rms=[140.0, 90.0, 1.0], output_rms=[90.0, 1.0, 1.0])


@trap
def gates_that_are_shut():
    """A gate's activation is multiplied into another branch, so it is not judged."""
    layers = chain(5, activation="sigmoid")
    return run(layers, saturation_fraction=np.nan, activation_gain_log10=np.nan)


@trap
def a_gradient_scaler_that_looks_for_its_scale():
    def at(step):
        overflow = {"skipped": True, "nonfinite_count": 1.0, "grad_norm": np.inf}
        return overflow if step in {0, 1, 2, 16, 48} else {}

    return run(at=at, tiny_log10=-7.22, output_grad_rms=1e-3)


@trap
def half_of_the_units_are_silent():
    return run(dead_fraction=[0.5, 0.7, 0.79, 0.1, np.nan], **HE)


@trap
def hidden_units_that_have_learned_to_saturate():
    def at(step):
        late = step > 200
        return {
            "saturation_fraction": [0.7 if late else 0.2, 0.1, 0.1, 0.1, np.nan],
            "loss": 0.1 if late else 1.0,
        }

    return run(chain(5, activation="tanh"), at)


@trap
def one_wild_step():
    def at(step):
        wild = {"output_grad_norm": [1e-9, 0.1, 0.1, 0.1, 0.1], "dead_fraction": 1.0}
        return wild if step == 64 else {}

    return run(at=at, dead_fraction=0.1)


@trap
def two_signs_of_trouble_below_their_thresholds():
    return run(
        chain(5, activation="tanh"),
        **backward_signals(chain(5, activation="tanh"), activation=-0.8),
        saturation_fraction=[0.49] * 4 + [np.nan],
    )


@trap
def a_loss_of_exactly_zero():
    return run(loss=0.0, grad_norm=1e-6, update_ratio=1e-6)


@trap
def a_loss_below_zero():
    return run(at=lambda step: {"loss": -float(step)}, **HE)


@trap
def no_loss():
    return run(loss=np.nan, **HE)


@trap
def parameters_only():
    signals = dict.fromkeys(
        (
            "forward_calls", "input_rms", "output_rms", "output_grad_norm", "output_grad_rms",
            "input_grad_norm", "unit_spread_ratio", "tiny_log10",
        ),
        np.nan,
    )  # fmt: skip
    return run(**signals)


@trap
def a_single_layer():
    return run(chain(1))


@trap
def normalisation_layers_only():
    layers = [
        Layer(
            name=f"norm{row}",
            kind="LayerNorm",
            depth=row,
            weighted=False,
            inputs=(row - 1,) if row else (),
        )
        for row in range(3)
    ]
    return run(layers, unit_spread_ratio=np.nan, input_rms=[90.0, 1.0, 1.0])


@trap
def a_frozen_body():
    states = [State.FROZEN] * 4 + [State.TRAINED]
    known = [np.nan] * 4 + [1.0]
    return run(
        states=states,
        grad_norm=np.multiply(0.1, known),
        update_ratio=np.multiply(1e-3, known),
        unit_spread_ratio=known,
        output_grad_norm=np.multiply(0.1, known),
        input_grad_norm=np.nan,
    )


@trap
def an_alternating_pair_of_nets():
    """Every other sample trains the other half, as two optimizers do."""

    def at(step):
        first = LONG.index(step) % 2 == 0
        halves = [State.TRAINED, State.IDLE]
        states = [halves[not first]] * 2 + [halves[first]] * 3
        return {
            "states": states,
            "forward_calls": [float(state == State.TRAINED) for state in states],
        }

    return run(at=at)


@trap
def a_thousand_layers():
    layers = chain(1000, activation="relu")
    return list(run(layers, **backward_signals(layers, activation=-0.15, weights=0.15)))[:16]


@pytest.mark.parametrize("name", TRAPS)
def test_it_is_silent(name):
    watcher = Watcher(ALL_RULES)
    for entry in TRAPS[name]():
        watcher.observe(entry)
    watcher.finish(LONG[-1] + 1)
    assert watcher.findings == ()


@pytest.mark.parametrize("name", TRAPS)
def test_the_same_run_is_not_silent_once_it_is_sick(name):
    """The traps could be silent because they hold nothing that a rule reads."""
    watcher = Watcher(ALL_RULES)
    entries = list(TRAPS[name]())
    for entry in entries:
        spoilt = {"nonfinite_count": np.ones(len(entry.layers), np.float32), "skipped": False}
        watcher.observe(replace(entry, **spoilt))
    assert [finding.code for finding in watcher.findings] == ["GW302"]
