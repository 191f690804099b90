"""The autograd graph of a forward pass: which layer feeds which, whose an activation is."""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gradwatch.layer import BOUNDED
from gradwatch.torch.activations import activation_of
from gradwatch.torch.internals import LEAF_NODE

_HIDES_A_GRAPH = "CheckpointFunctionBackward"
"""A reentrant checkpoint: the graph inside it comes into being in the backward pass."""

_RESHAPING = ("View", "Unsqueeze", "Expand", "Reshape", "Permute", "Transpose", "Squeeze")


@dataclass
class Span:
    """The autograd nodes that one call of a module made: sequence numbers in [start, end).

    Args:
        row: Row of the module, -1 for an activation module.
        start: First sequence number.
        parent: Index of the enclosing span, -1 for none.
        module_name: Qualified name of the module.
        checkpointed: Whether its saved tensors must not be read (they would be recomputed).
        opaque: Whether activations inside it are not looked at (recurrent, attention).
        end: One past the last sequence number, 0 while the module runs.
    """

    row: int
    start: int
    parent: int
    module_name: str
    checkpointed: bool = False
    opaque: bool = False
    end: int = 0


@dataclass
class Activation:
    """One activation node.

    Args:
        node: The autograd node.
        name: Name of the activation.
        span: Index of the span of the layer that it belongs to.
        position: 0 for the first activation after the layer, 1 for the one after it ...
        inside: Whether it lies inside the layer's own forward.
        module_name: Qualified name of the activation's module, None for a function.
        readable: Whether its saved tensors may be read.
    """

    node: Any
    name: str
    span: int = -1
    position: int = 0
    inside: bool = False
    module_name: str | None = None
    readable: bool = True


@dataclass
class Trace:
    """What one walk found.

    Args:
        activations: Those that belong to a layer, in forward order.
        edges: (span, span) pairs: the first feeds the second with no other layer in between.
    """

    activations: list[Activation] = field(default_factory=list)
    edges: set[tuple[int, int]] = field(default_factory=set)


@dataclass
class _Flow:
    """What reaches a node from the output side.

    Args:
        spans: Spans that the node feeds, as bits.
        pending: Activations that no layer has claimed yet, the one farthest from the node first.
        gates: Whether the node's result is multiplied into another branch.
    """

    spans: int = 0
    pending: tuple[Activation, ...] = ()
    gates: bool = False

    def join(self, other: _Flow) -> None:
        """Add what reaches the node along another edge."""
        self.spans |= other.spans
        self.gates |= other.gates
        self.pending += tuple(
            activation
            for activation in other.pending
            if not any(activation is known for known in self.pending)
        )


class GraphWalk:
    """Walks the graph of one forward pass from outputs to inputs, newest node first.

    Sequence numbers grow with time, so their descending order is topological.

    Args:
        spans: The calls of the pass, in order of their start; the innermost one owns a node.
        first_sequence: Sequence number at which the pass began; older nodes are another pass's.
    """

    def __init__(self, spans: list[Span], first_sequence: int) -> None:
        self._spans = spans
        self._starts: list[int] = []
        self._first = first_sequence
        self._order = itertools.count()
        self._owner_of: dict[Any, int] = {}
        """Nodes that were walked → index of the span that owns them, -1 for none."""

    def walk(self, outputs: Iterable[Tensor]) -> Trace:
        """What leads to the outputs, but for activations that an earlier walk gave."""
        self._starts = [span.start for span in self._spans]
        trace = Trace()
        flows: dict[Any, _Flow] = {}
        queue: list[tuple[int, int, Any]] = []
        for output in outputs:
            self._push(output.grad_fn, _Flow(), flows, queue, trace)
        while queue:
            _, _, node = heapq.heappop(queue)
            onward = self._step(node, flows.pop(node), trace)
            for source, _ in node.next_functions:
                self._push(source, onward, flows, queue, trace)
        trace.activations.reverse()
        return trace

    def _push(
        self,
        node: Any,
        onward: _Flow,
        flows: dict[Any, _Flow],
        queue: list[tuple[int, int, Any]],
        trace: Trace,
    ) -> None:
        if node is None or type(node) is LEAF_NODE:
            return
        known_owner = self._owner_of.get(node, -1)
        if known_owner >= 0:
            self._arrive(onward, known_owner, trace)
            return
        flow = flows.get(node)
        if flow is None:
            sequence = node._sequence_nr()
            if sequence < self._first:
                return
            flow = flows[node] = _Flow()
            heapq.heappush(queue, (-sequence, next(self._order), node))
        flow.join(onward)

    def _step(self, node: Any, flow: _Flow, trace: Trace) -> _Flow:
        """What goes on from a node to its sources."""
        index = self._innermost(node._sequence_nr())
        span = self._spans[index] if index >= 0 else None
        owner = self._owner(index)
        name = activation_of(node)
        pending = flow.pending
        gates = _is_product(node) or (flow.gates and _only_reshapes(node))
        is_gate = flow.gates and name in BOUNDED
        is_new = node not in self._owner_of
        self._owner_of[node] = owner
        if name is not None and is_new and not is_gate and not self._is_opaque(owner):
            pending = (*pending, self._activation(node, name, span, owner))
        if type(node).__name__ == _HIDES_A_GRAPH:
            return _Flow()
        if owner < 0:
            return _Flow(flow.spans, pending, gates)
        self._arrive(_Flow(flow.spans, pending), owner, trace)
        return _Flow(1 << owner, (), gates)

    def _is_opaque(self, owner: int) -> bool:
        return owner >= 0 and self._spans[owner].opaque

    def _activation(self, node: Any, name: str, span: Span | None, owner: int) -> Activation:
        is_module = span is not None and span.row < 0
        before = bisect.bisect_right(self._starts, node._sequence_nr()) - 1
        readable = before < 0 or not self._spans[before].checkpointed
        return Activation(
            node=node,
            name=name,
            inside=owner >= 0,
            module_name=span.module_name if span is not None and is_module else None,
            readable=readable,
        )

    def _arrive(self, flow: _Flow, owner: int, trace: Trace) -> None:
        """What reaches a layer: spans that it feeds, and activations that are its own."""
        for consumer in _bits(flow.spans & ~(1 << owner)):
            trace.edges.add((owner, consumer))
        for position, activation in enumerate(reversed(flow.pending)):
            if activation.span < 0:
                activation.span = owner
                activation.position = position
                trace.activations.append(activation)

    def _innermost(self, sequence: int) -> int:
        """Index of the innermost span that holds the sequence number, -1 for none."""
        index = bisect.bisect_right(self._starts, sequence) - 1
        while index >= 0 and self._spans[index].end <= sequence:
            index = self._spans[index].parent
        return index

    def _owner(self, index: int) -> int:
        """Index of the span, or of the nearest one around it, that is a layer; -1 for none."""
        while index >= 0 and self._spans[index].row < 0:
            index = self._spans[index].parent
        return index


def _is_product(node: Any) -> bool:
    """Whether the node multiplies two branches: not a dropout mask, nor a learned scale."""
    if type(node).__name__ != "MulBackward0":
        return False
    sources = [source for source, _ in node.next_functions]
    return len(sources) == 2 and all(
        source is not None and type(source) is not LEAF_NODE for source in sources
    )


def _only_reshapes(node: Any) -> bool:
    return type(node).__name__.startswith(_RESHAPING)


def _bits(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest
