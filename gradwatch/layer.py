"""Layer: what is known of one row of every statistic."""

from __future__ import annotations

from dataclasses import dataclass

RELU_LIKE = frozenset(
    ("relu", "relu6", "leaky_relu", "prelu", "elu", "celu", "gelu", "silu", "mish", "hardswish")
)
"""Activations that pass about half of their inputs: the expected backward gain is 1/sqrt(2)."""

ONE_SIDED = RELU_LIKE - {"leaky_relu", "prelu"}
"""Activations whose slope is (nearly) 0 on one side only: a unit can be dead for a whole batch."""

BOUNDED = frozenset({"sigmoid", "tanh", "softsign", "hardtanh", "hardsigmoid"})
"""Activations whose slope is (nearly) 0 on both sides: they can saturate."""

GATED = frozenset({"LSTM", "GRU", "LSTMCell", "GRUCell"})
"""Kinds of recurrent layers whose gates may open late in training."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One module that owns parameters: a row of every array in a `Snapshot`.

    Rows are append-only: a row keeps its index for the whole run, however late other layers
    appear. Order in the network is in `depth`, wiring in `inputs`.

    Args:
        name: Qualified name without wrapper prefixes, for example `features.0`.
        kind: Class name of the module, for example `Conv2d`.
        depth: Position in forward order, counted from 0.
        weighted: Whether the layer mixes its inputs by a weight of two or more dimensions
            (linear, convolution, embedding, recurrent, attention); normalisation is not.
        fan_in: Inputs that one output unit sums over.
        fan_out: Outputs that one input unit feeds.
        parameter_count: Number of parameters that train; all of them where none does.
        activation: Lower-case name of the activation that follows, or None.
        activation_module: Qualified name of that activation's module, None for a function.
        inputs: Rows whose outputs reach this layer with no other row in between.
        recurrent: Whether the layer feeds itself, inside (LSTM) or by repeated calls.
    """

    name: str
    kind: str
    depth: int = 0
    weighted: bool = True
    fan_in: int = 1
    fan_out: int = 1
    parameter_count: int = 0
    activation: str | None = None
    activation_module: str | None = None
    inputs: tuple[int, ...] = ()
    recurrent: bool = False

    @property
    def is_relu_like(self) -> bool:
        """Whether the activation that follows passes about half of its inputs."""
        return self.activation in RELU_LIKE

    @property
    def keeps_width(self) -> bool:
        """Whether it gives as many features as it takes, so that a skip fits around it."""
        return self.weighted and not self.recurrent and self.fan_in == self.fan_out

    @property
    def is_gated(self) -> bool:
        """Whether this is a recurrent layer with gates."""
        return self.kind in GATED
