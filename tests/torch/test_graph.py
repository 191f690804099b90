"""Wiring, order and backward depth of nets whose wiring is known by construction."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from .observed import by_name, norm, observe, reference, sum_of_squares, wiring
from .wired import CASES, Case, Loop, Siamese, Tied


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def test_wiring_signals_and_backward_depth_are_those_of_the_net(case):
    model, inputs = case.make(), case.batch()
    random = torch.get_rng_state()
    snapshot = observe(model, inputs, loss_of=case.loss_of)
    assert wiring(snapshot) == case.edges
    torch.set_rng_state(random)
    gradients = reference(model, inputs, loss_of=case.loss_of)
    found, calls = by_name(snapshot, "output_grad_norm"), by_name(snapshot, "forward_calls")
    gradients.pop(type(model).__name__, None)  # a root above other layers has no signals
    sizes = {name: norm(*gradients[name]) for name in case.edges if name in gradients}
    assert len(sizes) == np.isfinite(snapshot.output_grad_norm).sum()
    for name, size in sizes.items():
        assert found[name] == pytest.approx(size, rel=1e-4)
        assert calls[name] == len(gradients[name])
    depths = [math.log10(sizes[start] / sizes[end]) for start, end in case.ends]
    assert snapshot.backward_depth == pytest.approx(min(depths), abs=1e-4)


def test_layers_are_numbered_in_the_order_of_their_first_calls(case):
    model, inputs = case.make(), case.batch()
    order: list[str] = []
    root = type(model).__name__
    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            module.register_forward_pre_hook(lambda *_, name=name or root: order.append(name))
    (case.loss_of or sum_of_squares)(model, inputs)
    snapshot = observe(case.make(), inputs, loss_of=case.loss_of)
    depths = {layer.name: layer.depth for layer in snapshot.layers}
    assert sorted(depths, key=depths.__getitem__) == list(dict.fromkeys(order))


def test_a_tied_weight_belongs_to_the_layer_that_had_it_first():
    model = Tied()
    snapshot = observe(model, torch.randint(0, 11, (5, 4)))
    assert wiring(snapshot) == {"embedding": set(), "body": {"embedding"}}
    assert by_name(snapshot, "forward_calls") == {"embedding": 1, "body": 1}
    assert snapshot.layers[1].activation == "tanh"


def test_attention_gets_the_same_query_and_key_as_without_a_watch():
    same: list[bool] = []

    class Asking(nn.MultiheadAttention):
        def forward(self, query: Tensor, key: Tensor, value: Tensor, **facts: Any) -> Any:
            same.append(query is key and key is value)
            return super().forward(query, key, value, **facts)

    class Asked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(6, 8)
            self.attention = Asking(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            return self.attention(x, x, x)[0]

    snapshot = observe(Asked(), torch.randn(3, 5, 6))
    assert same == [True, True]
    assert [layer.name for layer in snapshot.layers] == ["embed", "attention"]


@pytest.mark.parametrize(("name", "recurrent"), [("stem", False), ("there", True), ("back", True)])
def test_layers_on_a_loop_feed_themselves(name, recurrent):
    snapshot = observe(Loop(), torch.randn(9, 6))
    assert {layer.name: layer.recurrent for layer in snapshot.layers}[name] is recurrent


def test_layers_of_a_siamese_net_do_not_feed_themselves():
    snapshot = observe(Siamese(), torch.randn(9, 6))
    assert not any(layer.recurrent for layer in snapshot.layers)


def test_a_long_chain_is_wired_in_one_piece():
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(400)))
    snapshot = observe(model, torch.randn(2, 3))
    assert [layer.inputs for layer in snapshot.layers] == [(), *((row,) for row in range(399))]
