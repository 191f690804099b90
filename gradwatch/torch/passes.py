"""Pass: what the hooks noted of one forward and backward pass."""

from __future__ import annotations

import itertools
import weakref
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradwatch.torch.graph import Activation, GraphWalk, Span, Trace
from gradwatch.torch.internals import sequence_number
from gradwatch.torch.reading import Key, Reading
from gradwatch.torch.rows import Wiring

ABANDONED_RUNS = 64
"""So many calls whose graphs died without a backward pass are an evaluation: a pass starts anew."""

_OPAQUE = (Tensor, nn.Module, type)
"""Objects whose attributes are not looked at."""


class Run:
    """One call from outside. The gradient hooks hold it, so it lives as long as its graph.

    Args:
        number: Its number in the pass.
    """

    __slots__ = ("__weakref__", "number")

    def __init__(self, number: int) -> None:
        self.number = number


class Pass:
    """What one forward and backward pass gave: figures, calls, and the graph between them.

    A pass can consist of several runs: a module that is called twice, an encoder and a decoder that
    are called one after the other.
    """

    def __init__(self) -> None:
        self.reading = Reading()
        self.sizes: dict[Key, int] = {}
        """Elements of the tensors whose norms were taken."""
        self.same_as: dict[Key, Key] = {}
        """Figures that were not taken, since they are those of another key."""
        self.first_part: dict[int, int] = {}
        """Part of each output of a call → that of the first."""
        self.spans: list[Span] = []
        self.calls: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        """Row → run → calls."""
        self.detached_calls: dict[int, int] = defaultdict(int)
        self.recomputed: set[int] = set()
        self.reached: set[int] = set()
        """Runs that a backward pass has reached."""
        self.output_dtypes: dict[int, torch.dtype] = {}
        self.batch_sizes: dict[int, list[int]] = {}
        """Part of a packed sequence → its batch sizes."""
        self.activations: dict[int, Activation] = {}
        """Part → activation."""
        self.edges: set[tuple[int, int]] = set()
        self.order: dict[int, None] = {}
        """Rows in order of their first call."""
        self.backward_seen = False
        self.closed = False
        self._leaf_hooks: dict[int, Any] = {}
        self._run_of_part: list[int] = []
        self._runs: list[weakref.ref[Run] | None] = []
        self._walk = GraphWalk(self.spans, sequence_number())

    def begin_run(self) -> Run:
        """A new run."""
        run = Run(len(self._runs))
        self._runs.append(None)
        return run

    def hold(self, run: Run) -> None:
        """Note that hooks hold the run from now on."""
        if self._runs[run.number] is None:
            self._runs[run.number] = weakref.ref(run)

    def is_given_up(self) -> bool:
        """Whether the graphs of many of its runs have died with no backward pass."""
        held = (run for run in self._runs if run is not None)
        oldest = next(held, None)
        if oldest is None or oldest() is not None:
            return False
        return 1 + sum(run() is None for run in held) >= ABANDONED_RUNS

    def next_part(self, run: int) -> int:
        """A number for the part of a key: unique in a pass, rising with the order of the calls."""
        self._run_of_part.append(run)
        return len(self._run_of_part) - 1

    def counted_parts(self, row: int, parts: Iterable[int]) -> list[int]:
        """Those that count: not a run that backward did not reach, if it reached another one."""
        counted = self._counted_runs(row)
        return [part for part in parts if self._run_of_part[part] in counted]

    def call_count(self, row: int) -> int:
        """Calls of the row that count; without any, those without gradient inside the pass."""
        calls = self.calls.get(row, {})
        counted = sum(calls[run] for run in self._counted_runs(row))
        return counted or self.detached_calls.get(row, 0)

    def activations_by_row(self) -> dict[int, dict[int, Activation]]:
        """Row → part → activation."""
        by_row: dict[int, dict[int, Activation]] = defaultdict(dict)
        for part, activation in self.activations.items():
            by_row[self.spans[activation.span].row][part] = activation
        return by_row

    def walk(self, output: Any) -> Trace:
        """What leads to the tensors in the output; the edges are noted."""
        outputs = [tensor for tensor in floating_tensors(output) if tensor.grad_fn is not None]
        trace = self._walk.walk(outputs)
        self.edges |= trace.edges
        return trace

    def keep_leaf_hook(self, leaf: Tensor, handle: Any) -> None:
        """Keep the hook of a leaf until the pass is closed, in place of an earlier one."""
        earlier = self._leaf_hooks.get(id(leaf))
        if earlier is not None:
            earlier.remove()
        self._leaf_hooks[id(leaf)] = handle

    def close(self) -> None:
        """No figure is taken any more; hooks on leaf tensors are removed."""
        self.closed = True
        for handle in self._leaf_hooks.values():
            handle.remove()
        self._leaf_hooks.clear()

    def wiring(self) -> Wiring:
        """Order, edges and activations by row.

        An edge back to an earlier layer means that all layers on the loop feed themselves. A
        reentrant checkpoint hides its layers from the graph around it: they are joined to their
        neighbours in the order of execution.
        """
        place = {row: place for place, row in enumerate(self.order)}
        pairs = {(self.spans[source].row, self.spans[end].row) for source, end in self.edges}
        edges = {(source, end) for source, end in pairs if place[source] < place[end]}
        fed = {end for _, end in edges}
        for source, end in itertools.pairwise(self.order):
            hidden = source in self.recomputed or end in self.recomputed
            if hidden and (
                (source in self.recomputed) != (end in self.recomputed) or end not in fed
            ):
                edges.add((source, end))
        edges |= {(row, row) for row in self._recurrent_rows()}
        return Wiring(tuple(self.order), frozenset(edges), self._following_activations())

    def _counted_runs(self, row: int) -> set[int]:
        runs = self.calls.get(row, {}).keys()
        return self.reached & runs or set(runs)

    def _following_activations(self) -> dict[int, tuple[str, str | None]]:
        first: dict[int, Activation] = {}
        for activation in self.activations.values():
            row = self.spans[activation.span].row
            if not activation.buried and (
                row not in first or activation.position <= first[row].position
            ):
                first[row] = activation
        return {row: (entry.name, entry.module_name) for row, entry in first.items()}

    def _recurrent_rows(self) -> set[int]:
        """Rows of which one call feeds another, directly or through other rows."""
        sources: dict[int, list[int]] = defaultdict(list)
        for source, end in sorted(self.edges):
            sources[end].append(source)
        upstream: dict[int, int] = {}
        """Span → the rows that it and the spans before it belong to, as bits."""
        recurrent = set()
        for index, span in enumerate(self.spans):
            if span.row < 0:
                continue
            rows = 0
            for source in sources[index]:
                rows |= upstream.get(source, 0)
            if rows >> span.row & 1:
                recurrent.add(span.row)
            upstream[index] = rows | 1 << span.row
        return recurrent


def floating_tensors(structure: Any) -> list[Tensor]:
    """The dense floating or complex tensors in an output, each once.

    It looks into nested tuples, lists, mappings and dataclasses, and at the attributes of any other
    object, such as a distribution.
    """
    found: dict[int, Tensor] = {}
    _collect(structure, found, depth=2)
    return list(found.values())


def is_observable(argument: Any) -> bool:
    """Whether norms can be taken of it: a dense tensor of a floating or complex type."""
    return (
        isinstance(argument, Tensor)
        and (argument.is_floating_point() or argument.is_complex())
        and argument.layout is torch.strided
        and not argument.is_meta
        and argument.itemsize > 1
        and not argument.is_nested
    )


def _collect(structure: Any, found: dict[int, Tensor], *, depth: int) -> None:
    """Add the tensors in the structure; `depth` says how many objects deep attributes count."""
    members: Iterable[Any] = ()
    if is_observable(structure):
        found[id(structure)] = structure
    elif isinstance(structure, Mapping):
        members = structure.values()
    elif isinstance(structure, tuple | list):
        members = structure
    elif is_dataclass(structure) and not isinstance(structure, type):
        members = [getattr(structure, entry.name, None) for entry in fields(structure)]
    elif depth and hasattr(structure, "__dict__") and not isinstance(structure, _OPAQUE):
        members = list(vars(structure).values())
        depth -= 1
    for member in members:
        _collect(member, found, depth=depth)
