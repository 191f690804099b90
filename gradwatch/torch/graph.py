"""The autograd graph of a forward pass: which layer feeds which, whose an activation is."""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gradwatch.torch.activations import GATES, activation_of
from gradwatch.torch.internals import LEAF_NODE

_HIDES_A_GRAPH = "CheckpointFunctionBackward"
"""A reentrant checkpoint: the graph inside it comes into being in the backward pass."""

_RESHAPING = (
    *("View", "Unsqueeze", "Expand", "Reshape", "Permute", "Transpose", "Squeeze", "Alias"),
    *("Clone", "Slice", "Select", "Split", "Unbind", "Repeat", "ToCopy", "Rsub", "Neg", "Upsample"),
)
_ARITHMETIC = frozenset({"MulBackward0", "AddBackward0", "SubBackward0", "DivBackward0"})
_PRODUCTS = frozenset({"MulBackward0", "BmmBackward0"})
_MIXING = ("Addmm", "Addmv", "Addbmm", "Baddbmm", "Bmm", "Mm", "Mv", "Convolution", "Linear")


@dataclass(slots=True)
class Span:
    """The autograd nodes that one call of a module made: sequence numbers in [start, end).

    Args:
        row: Row of the module, -1 for an activation module.
        start: First sequence number.
        parent: Index of the enclosing span, -1 for none.
        module_name: Qualified name of the module.
        run: Number of the call from outside that it is part of.
        checkpointed: Whether what autograd saved in it was packed away at its start.
        opaque: Whether activations inside it are not looked at (recurrent, attention).
        end: One past the last sequence number, 0 while the module runs.
    """

    row: int
    start: int
    parent: int
    module_name: str
    run: int = 0
    checkpointed: bool = False
    opaque: bool = False
    end: int = 0


@dataclass(slots=True)
class Activation:
    """One activation node.

    Args:
        node: The autograd node.
        name: Name of the activation.
        span: Index of the span of the layer that it belongs to.
        position: Order of the activations of one call: 0 for the first behind the layer, 1 for the
            one behind that ...; below 0 inside the layer. Those side by side share a position.
        inside: Whether it lies inside the layer's own forward.
        buried: Whether the layer goes on to mix its values: it is not at the layer's output.
        module_name: Qualified name of the activation's module, None for a function.
        readable: Whether its saved tensors may be read, as far as the spans tell.
    """

    node: Any
    name: str
    span: int = -1
    position: int = 0
    inside: bool = False
    buried: bool = False
    module_name: str | None = None
    readable: bool = True


@dataclass(slots=True)
class Trace:
    """What one walk found.

    Args:
        activations: Those that belong to a layer, in forward order.
        edges: (span, span) pairs: the first feeds the second with no other layer in between.
    """

    activations: list[Activation] = field(default_factory=list)
    edges: set[tuple[int, int]] = field(default_factory=set)


@dataclass(slots=True)
class _Flow:
    """What reaches a node from the output side.

    Args:
        owner: Span that owns the node, or, of what is sent on, the node that sends it.
        spans: Spans that the node feeds, as bits.
        pending: Activations that no layer has claimed yet, each with the number of activations
            between it and the node.
        gates: Whether the node's result is multiplied into another branch.
        mixed: Whether the node's owner goes on to mix its values.
        inner: Activations between the node and its owner's output.
    """

    owner: int = -1
    spans: int = 0
    pending: tuple[tuple[Activation, int], ...] = ()
    gates: bool = False
    mixed: bool = False
    inner: int = 0

    def join(self, other: _Flow) -> None:
        """Add what reaches the node along another edge."""
        self.spans |= other.spans
        self.gates |= other.gates
        if other.owner == self.owner:
            self.mixed |= other.mixed
            self.inner = max(self.inner, other.inner)
        if not self.pending:
            self.pending = other.pending
        elif other.pending:
            known = {id(activation) for activation, _ in self.pending}
            self.pending += tuple(pair for pair in other.pending if id(pair[0]) not in known)


class _Frontier:
    """The nodes that were reached but not yet walked, newest first."""

    def __init__(self) -> None:
        self._flows: dict[int, tuple[Any, _Flow]] = {}
        self._newest: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._newest)

    def flow_to(self, sequence: int) -> _Flow | None:
        """What has reached the node so far, None if nothing has."""
        reached = self._flows.get(sequence)
        return None if reached is None else reached[1]

    def add(self, sequence: int, node: Any, flow: _Flow) -> None:
        """Reach a node."""
        self._flows[sequence] = node, flow
        heapq.heappush(self._newest, -sequence)

    def pop(self) -> tuple[int, Any, _Flow]:
        """The newest node, with its sequence number and what has reached it."""
        sequence = -heapq.heappop(self._newest)
        return sequence, *self._flows.pop(sequence)


class GraphWalk:
    """Walks the graph of one forward pass from outputs to inputs, newest node first.

    Sequence numbers grow with time, so their descending order is topological. Between walks it
    remembers numbers and never nodes, so it keeps no graph alive.

    Args:
        spans: The calls of the pass, in order of their start; the innermost one owns a node.
        first_sequence: Sequence number at which the pass began; older nodes are another pass's.
    """

    def __init__(self, spans: list[Span], first_sequence: int) -> None:
        self._spans = spans
        self._starts: list[int] = []
        self._first = first_sequence
        self._owner_of: dict[int, int] = {}
        """Sequence numbers of nodes that were walked → the span that owns them, -1 for none."""

    def walk(self, outputs: Iterable[Tensor]) -> Trace:
        """What leads to the outputs, but for activations that an earlier walk gave."""
        self._starts.extend(span.start for span in self._spans[len(self._starts) :])
        trace = Trace()
        frontier = _Frontier()
        for output in outputs:
            self._reach(output.grad_fn, _Flow(), frontier, trace)
        while frontier:
            sequence, node, flow = frontier.pop()
            onward = self._step(sequence, node, flow, trace)
            for source, _ in node.next_functions:
                self._reach(source, onward, frontier, trace)
        trace.activations.reverse()
        return trace

    def _reach(self, node: Any, onward: _Flow, frontier: _Frontier, trace: Trace) -> None:
        if node is None or type(node) is LEAF_NODE:
            return
        sequence = node._sequence_nr()
        if sequence < self._first:
            return
        flow = frontier.flow_to(sequence)
        if flow is None:
            known_owner = self._owner_of.get(sequence, -1)
            if known_owner >= 0:
                self._arrive(known_owner, onward.spans, onward.pending, trace)
                return
            flow = _Flow(self._owner(self._innermost(sequence)))
            frontier.add(sequence, node, flow)
        flow.join(onward)

    def _step(self, sequence: int, node: Any, flow: _Flow, trace: Trace) -> _Flow:
        """What goes on from a node to its sources."""
        owner, pending = flow.owner, flow.pending
        kind = type(node).__name__
        name = activation_of(node)
        is_activation = name is not None and self._is_activation(name, flow)
        if name is not None and is_activation:
            pending = tuple((other, between + 1) for other, between in pending if other.span < 0)
            if sequence not in self._owner_of:
                pending += ((self._activation(sequence, node, name, flow), 0),)
        self._owner_of[sequence] = owner
        if kind == _HIDES_A_GRAPH:
            return _Flow()
        gates = kind in _PRODUCTS and _joins_branches(node)
        gates = gates or (flow.gates and _passes_gate(node))
        if owner < 0:
            return _Flow(owner, flow.spans, pending, gates)
        self._arrive(owner, flow.spans, pending, trace)
        return _Flow(
            owner=owner,
            spans=1 << owner,
            gates=gates,
            mixed=flow.mixed or kind.startswith(_MIXING),
            inner=flow.inner + is_activation,
        )

    def _is_activation(self, name: str, flow: _Flow) -> bool:
        """Whether it is one, not a gate, nor a softmax that is not at the end of the network."""
        if flow.gates and name in GATES:
            return False
        if name == "softmax" and flow.spans:
            return False
        return flow.owner < 0 or not self._spans[flow.owner].opaque

    def _activation(self, sequence: int, node: Any, name: str, flow: _Flow) -> Activation:
        index = self._innermost(sequence)
        module = self._spans[index] if index >= 0 else None
        before = bisect.bisect_right(self._starts, sequence) - 1
        return Activation(
            node=node,
            name=name,
            position=-1 - flow.inner,
            inside=flow.owner >= 0,
            buried=flow.mixed,
            module_name=module.module_name if module is not None and module.row < 0 else None,
            readable=before < 0 or not self._spans[before].checkpointed,
        )

    def _arrive(
        self, owner: int, spans: int, pending: tuple[tuple[Activation, int], ...], trace: Trace
    ) -> None:
        """A layer is reached: what is pending belongs to it, and it feeds the spans."""
        for activation, between in pending:
            if activation.span < 0:
                activation.span = owner
                if not activation.inside:
                    activation.position = between
                trace.activations.append(activation)
        for consumer in _bits(spans & ~(1 << owner)):
            trace.edges.add((owner, consumer))

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


def _joins_branches(product: Any) -> bool:
    """Whether a product is one of two branches: no dropout mask, learned scale or square."""
    sources = [source for source, _ in product.next_functions]
    return (
        len(sources) == 2
        and sources[0] is not sources[1]
        and all(source is not None and type(source) is not LEAF_NODE for source in sources)
    )


def _passes_gate(node: Any) -> bool:
    """Whether the node reshapes, shifts or scales a gate, such as 1 - z."""
    name = type(node).__name__
    if name in _ARITHMETIC:
        return sum(source is not None for source, _ in node.next_functions) == 1
    return name.startswith(_RESHAPING)


def _bits(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest
