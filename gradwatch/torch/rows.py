"""Rows: which modules are layers, which parameters are theirs, and what is known of them."""

from __future__ import annotations

import math
import re
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn
from torch.nn import Parameter
from torch.nn.parameter import UninitializedParameter

from gradwatch.layer import Layer

_WRAPPER = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?:\.|$)")
_MODULE_WRAPPERS = frozenset({"DistributedDataParallel", "DataParallel"})
_WHOLE = (nn.MultiheadAttention, nn.RNNBase)
"""Modules that are one row together with everything below them."""


@dataclass
class Row:
    """One module that owns parameters.

    Args:
        module: The module, weakly: a watch must not keep a model alive.
        layer: What is known of it so far.
        composite: Whether other rows lie below it: then only its parameters are observed.
        parameter_names: Names of its parameters relative to the module, in a fixed order.
    """

    module: weakref.ref[nn.Module]
    layer: Layer
    composite: bool
    parameter_names: tuple[str, ...]
    inputs: set[int] = field(default_factory=set)

    def note(self, **known: Any) -> None:
        """Change what is known of the layer; the same object stays where nothing is new."""
        if any(getattr(self.layer, name) != known[name] for name in known):
            self.layer = replace(self.layer, **known)

    def every_parameter(self) -> Iterator[Parameter]:
        """All of its parameters as they are now."""
        module = self.module()
        if module is None:
            return
        for name in self.parameter_names:
            parameter = _parameter(module, name)
            if parameter is not None:
                yield parameter

    def parameters(self) -> Iterator[Parameter]:
        """The parameters that can be read now: no empty one, a lazy one once it has a shape."""
        return filter(_is_readable, self.every_parameter())


@dataclass(frozen=True)
class Wiring:
    """What one pass showed of how the rows hang together.

    Args:
        order: Rows in order of their first call.
        edges: (row, row) pairs: the first feeds the second with no other row in between; a pair of
            the same row twice means that it feeds itself.
        activations: Row → (name of the activation that follows, name of its module or None).
    """

    order: tuple[int, ...]
    edges: frozenset[tuple[int, int]]
    activations: Mapping[int, tuple[str, str | None]]


class Rows:
    """The rows of one model, append-only, found again whenever the module tree may have changed.

    Args:
        model: The model; only weak references to it and its modules are kept.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)
        self._known: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
        self._row_of: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
        self._tied_to: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
        self._rows: list[Row] = []
        self._layers: tuple[Layer, ...] = ()
        self._ran: set[int] = set()
        """Rows that ran in a pass that was learned from."""
        self._feeding: set[int] = set()
        """Rows that feed another one."""
        self.refresh()

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def __getitem__(self, row: int) -> Row:
        return self._rows[row]

    def knows(self, module: nn.Module) -> bool:
        """Whether the module is part of the model."""
        return module in self._known

    def name_of(self, module: nn.Module) -> str:
        """Qualified name without wrapper prefixes."""
        return self._known[module]

    def row_of(self, module: nn.Module) -> int | None:
        """The module's row, None if it owns no parameters."""
        return self._row_of.get(module)

    def tied_to(self, module: nn.Module) -> int | None:
        """The row that owns the module's parameters, None if the module has a row of its own."""
        return self._tied_to.get(module)

    def is_last(self, row: int) -> bool:
        """Whether it has run, and no other row reads what it gives."""
        return row in self._ran and row not in self._feeding

    def refresh(self) -> None:
        """Find modules and parameters that were added since, and append their rows."""
        model = self._model()
        if model is None:
            return
        prefix = "module." if type(model).__name__ in _MODULE_WRAPPERS else ""
        owned: dict[int, nn.Module] = {}
        inside: set[int] = set()
        for name, module in model.named_modules():
            if id(module) in inside:
                continue
            inside.update(id(below) for below in _inside(module))
            if module not in self._known:
                self._known[module] = strip_wrappers(name.removeprefix(prefix))
            self._update(module, owned)

    def _update(self, module: nn.Module, owned: dict[int, nn.Module]) -> None:
        """Give the module what it has of parameters that no module before it owns."""
        names = []
        owner = None
        for name, parameter in _own_parameters(module):
            if id(parameter) not in owned:
                owned[id(parameter)] = module
                names.append(name)
            elif parameter.ndim >= 2:
                owner = owned[id(parameter)]
        row = self._row_of.get(module)
        if owner is not None and not names and row is None:
            self._tied_to[module] = self._row_of[owner]
        if row is not None:
            self._rows[row].parameter_names = tuple(names)
        elif names:
            self._append(self._known[module], module, tuple(names))

    def layers(self) -> tuple[Layer, ...]:
        """What is known of every row now; the same object as long as nothing changed."""
        current = tuple(_up_to_date(row) for row in self._rows)
        if current != self._layers:
            self._layers = current
        return self._layers

    def learn(self, collected: Wiring) -> None:
        """Take order, wiring and activations from a pass."""
        seen = set(collected.order)
        self._ran |= seen
        unseen = [row for row in range(len(self._rows)) if row not in seen]
        for depth, row in enumerate((*collected.order, *unseen)):
            self._rows[row].note(depth=depth)
        for source, consumer in collected.edges:
            if source == consumer:
                self._rows[source].note(recurrent=True)
            else:
                self._rows[consumer].inputs.add(source)
                self._feeding.add(source)
        for row, (activation, module) in collected.activations.items():
            self._rows[row].note(activation=activation, activation_module=module)

    def _append(self, name: str, module: nn.Module, names: tuple[str, ...]) -> None:
        index = len(self._rows)
        layer = Layer(
            name=name or type(module).__name__,
            kind=_kind(module),
            depth=index,
            recurrent=isinstance(module, nn.RNNBase),
        )
        part = {id(below) for below in (module, *_inside(module))}
        composite = any(
            id(below) not in part and any(True for _ in below.parameters(recurse=False))
            for below in module.modules()
        )
        self._rows.append(Row(weakref.ref(module), layer, composite, names))
        self._row_of[module] = index


def strip_wrappers(name: str) -> str:
    """A qualified name without the parts that compile, FSDP and checkpointing add."""
    return _WRAPPER.sub("", name).rstrip(".")


def _inside(module: nn.Module) -> Iterator[nn.Module]:
    """The modules below it that are part of its row."""
    if isinstance(module, _WHOLE):
        yield from (below for below in module.modules() if below is not module)
    elif (parametrizations := _parametrizations(module)) is not None:
        yield from parametrizations.modules()


def _own_parameters(module: nn.Module) -> Iterator[tuple[str, Parameter]]:
    """Names relative to the module, and parameters, of all that is part of its row."""
    if isinstance(module, _WHOLE):
        yield from module.named_parameters()
        return
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield name, parameter
    if (parametrizations := _parametrizations(module)) is not None:
        yield from parametrizations.named_parameters(prefix="parametrizations")


def _parametrizations(module: nn.Module) -> nn.Module | None:
    found = getattr(module, "parametrizations", None)
    return found if isinstance(found, nn.Module) else None


def _parameter(module: nn.Module, name: str) -> Parameter | None:
    owner_name, _, attribute = name.rpartition(".")
    try:
        owner = module.get_submodule(owner_name) if owner_name else module
    except AttributeError:
        return None
    return owner._parameters[attribute] if attribute in owner._parameters else None  # noqa: SIM401 -- a scripted one has no get


def _is_readable(parameter: Parameter) -> bool:
    """Whether it has numbers: no lazy, empty, quantised or offloaded parameter."""
    if isinstance(parameter, UninitializedParameter) or parameter.is_meta:
        return False
    is_real = parameter.is_floating_point() or parameter.is_complex()
    return is_real and parameter.numel() > 0


def _kind(module: nn.Module) -> str:
    """Class name of the module; that of the original where it is parametrised."""
    kind = type(module)
    if _parametrizations(module) is not None and kind.__name__.startswith("Parametrized"):
        kind = kind.__mro__[1]
    return kind.__name__


def _up_to_date(row: Row) -> Layer:
    module = row.module()
    parameters = list(row.parameters())
    if module is None or not parameters:
        return row.layer
    count = sum(entry.numel() for entry in parameters if entry.requires_grad)
    count = count or sum(entry.numel() for entry in parameters)
    if len(row.inputs) != len(row.layer.inputs):
        row.note(inputs=tuple(sorted(row.inputs)))
    kind = _kind(module)  # a lazy module changes its class
    if count != row.layer.parameter_count or kind != row.layer.kind:
        weighted, fan_in, fan_out = _fans(module, parameters)
        row.note(
            kind=kind, parameter_count=count, weighted=weighted, fan_in=fan_in, fan_out=fan_out
        )
    return row.layer


def _holds_inputs_first(module: nn.Module, weight: Parameter) -> bool:
    """Whether it is GPT-2's linear layer in Transformers, with a weight of (inputs, outputs)."""
    return type(module).__name__ == "Conv1D" and weight.ndim == 2


def _fans(module: nn.Module, parameters: list[Parameter]) -> tuple[bool, int, int]:
    """Whether the module mixes its inputs, its fan-in and its fan-out."""
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return True, 1, module.embedding_dim
    if isinstance(module, nn.RNNBase):
        return True, module.input_size, module.hidden_size
    if not matrices or isinstance(module, nn.LayerNorm):
        return False, 1, max(parameter.numel() for parameter in parameters)
    # A parametrised weight has parts of several shapes; the gain of a weight norm comes first.
    parametrised = _parametrizations(module) is not None
    weight = max(matrices, key=lambda entry: entry.numel()) if parametrised else matrices[0]
    receptive = math.prod(weight.shape[2:])
    fan_in, fan_out = weight.shape[1] * receptive, weight.shape[0] * receptive
    if getattr(module, "transposed", False) or _holds_inputs_first(module, weight):
        fan_in, fan_out = fan_out, fan_in
    return True, fan_in, fan_out
