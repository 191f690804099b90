"""The probe on JAX: gradients with respect to zeros that are added to what is watched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
from jax import numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import get_opaque_trace_state

from gradwatch.keras.passes import Key, Pass
from gradwatch.keras.probe import Probe
from gradwatch.keras.rows import Rows

TAG = "gradwatch call "
CONVENTION = "flax"
"""The kind of state of a trace that two of one trace are equal in."""


class JaxTracer:
    """Watches by adding zeros; sources come from an earlier trace.

    Args:
        zeros: What is added to each watched tensor, in order; None to find out their shapes.
        sources: Answers to each question for sources, in order; None to ask the questions.
    """

    def __init__(
        self, zeros: Sequence[Any] | None = None, sources: Sequence[set[int]] | None = None
    ) -> None:
        self._zeros = zeros
        self._trace = get_opaque_trace_state(convention=CONVENTION)
        self._sources = sources
        self.shapes: list[tuple[tuple[int, ...], Any]] = []
        self.questions: list[list[Any]] = []

    def watch(self, tensor: Any) -> Any:
        """The tensor plus zeros, of which the gradient is taken."""
        number = len(self.shapes)
        self.shapes.append((tuple(tensor.shape), tensor.dtype))
        return tensor if self._zeros is None else tensor + self._zeros[number]

    def tag(self, tensor: Any, call: int) -> Any:
        """The tensor under a name that stays in the trace."""
        return checkpoint_name(tensor, f"{TAG}{call}")

    def sources(self, tensors: Sequence[Any]) -> set[int]:
        """The calls that lead to the tensors; none while the questions are collected."""
        self.questions.append(list(tensors))
        return set() if self._sources is None else self._sources[len(self.questions) - 1]

    def is_running(self) -> bool:
        """Whether the pass itself is traced now, and not a loop or a checkpoint inside it."""
        return bool(get_opaque_trace_state(convention=CONVENTION) == self._trace)

    def slope(self, function: Callable[[Any], Any], tensor: Any) -> Any:
        """Its pullback of ones."""
        outputs, pullback = jax.vjp(function, jax.lax.stop_gradient(tensor))
        (slopes,) = pullback(jnp.ones_like(outputs))
        return jax.lax.stop_gradient(slopes)


class JaxProbe(Probe):
    """See `Probe`; compiled at its second run, so that a short training does not wait for it."""

    def __init__(self, model: Any, rows: Rows, batch: tuple[Any, Any, Any]) -> None:
        super().__init__(model, rows, batch)
        self._shapes: list[tuple[tuple[int, ...], Any]] = []
        self._sources: list[set[int]] = []
        self._variables: list[Any] = []
        self._compiled: Any = None

    def run(self, state: Sequence[tuple[Any, Any]]) -> Any:
        """See `Probe.run`."""
        values = [value for _, value in state]
        if self._compiled is None:
            self._variables = [variable for variable, _ in state]
            self._discover(values)
            self._compiled = jax.jit(self._figures)
        return self._compiled(values, self._batch)

    def _discover(self, values: Sequence[Any]) -> None:
        """Which calls lead where, and the shapes of what is watched."""
        tracers: list[JaxTracer] = []

        def questions(values: Sequence[Any], batch: tuple[Any, Any, Any]) -> Any:
            tracers.append(tracer := JaxTracer())
            loss, _ = self._forward(Pass(self._rows, tracer), self._state(values), batch)
            return loss, tracer.questions

        traced = jax.make_jaxpr(questions)(values, self._batch)
        tracer = tracers[-1]
        self._shapes = tracer.shapes
        reached = iter(_tags_of_outputs(traced.jaxpr)[1:])
        self._sources = [
            set().union(*(next(reached) for _ in question)) for question in tracer.questions
        ]

    def _figures(self, values: Sequence[Any], batch: tuple[Any, Any, Any]) -> Any:
        state = self._state(values)
        passes: list[Pass] = []

        def loss_of(zeros: Sequence[Any]) -> tuple[Any, tuple[Any, list[Any], list[Any]]]:
            collected = Pass(self._rows, JaxTracer(zeros, self._sources))
            passes.append(collected)
            scaled, loss = self._forward(collected, state, batch)
            logits.update(dict.fromkeys(found := collected.logits()))
            return scaled, (loss, list(collected.figures.values()), list(found.values()))

        logits: dict[Key, Any] = {}
        zeros = [jnp.zeros(shape, dtype) for shape, dtype in self._shapes]
        gradients, (loss, forward, few) = jax.grad(loss_of, has_aux=True)(zeros)
        collected = passes[-1]
        figures = dict(zip(collected.figures, forward, strict=True))
        by_key = dict(zip(collected.watched, gradients, strict=True))
        figures |= collected.gradient_figures(by_key, dict(zip(logits, few, strict=True)))
        return self._vector(collected, figures, loss, state)

    def _state(self, values: Sequence[Any]) -> list[tuple[Any, Any]]:
        return list(zip(self._variables, values, strict=True))


def _tags_of_outputs(jaxpr: Any, inputs: Iterable[frozenset[int]] = ()) -> list[frozenset[int]]:
    """The nearest tags that lead to each output of a jaxpr.

    Args:
        jaxpr: The jaxpr.
        inputs: Tags that lead to each of its inputs, none by default.
    """
    reached: dict[Any, frozenset[int]] = dict(zip(jaxpr.invars, inputs, strict=False))
    for equation in jaxpr.eqns:
        given = [_tags(variable, reached) for variable in equation.invars]
        name = str(equation.params.get("name", ""))
        if equation.primitive.name == "name" and name.startswith(TAG):
            outputs = [frozenset({int(name.removeprefix(TAG))})]
        else:
            outputs = _through(equation, given)
        reached.update(zip(equation.outvars, outputs, strict=True))
    return [_tags(variable, reached) for variable in jaxpr.outvars]


def _through(equation: Any, given: list[frozenset[int]]) -> list[frozenset[int]]:
    """Tags of an equation's outputs: through its own jaxpr where it has one of the same inputs."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = equation.params.get(name)
        inner = getattr(inner, "jaxpr", inner)
        if inner is not None and len(getattr(inner, "invars", ())) == len(given):
            return _tags_of_outputs(inner, given)
    union: frozenset[int] = frozenset().union(*given)
    return [union] * len(equation.outvars)


def _tags(variable: Any, reached: Mapping[Any, frozenset[int]]) -> frozenset[int]:
    """Tags of a variable; a literal has none, and cannot be looked up."""
    return frozenset() if hasattr(variable, "val") else reached.get(variable, frozenset())
