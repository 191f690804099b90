"""Family: what a layer's kind means for code that reads or replaces its parameters."""

from __future__ import annotations

import re
from enum import Enum

from gradwatch.layer import Layer

_CONVOLUTION = re.compile(r"(Lazy)?Conv[123][dD]")
_TRANSPOSED = re.compile(r"(Lazy)?Conv(Transpose[123]d|[123]DTranspose)")
_RECURRENT = re.compile(r"(Simple)?(RNN|LSTM|GRU)(Cell)?")


class Family(Enum):
    """Layers that the same lines of code fit."""

    LINEAR = "linear"
    CONVOLUTION = "convolution"
    TRANSPOSED = "transposed convolution"
    LINEAR_TRANSPOSED = "linear with its weight stored inputs first"
    EMBEDDING = "embedding"
    RECURRENT = "recurrent"
    ATTENTION = "attention"
    GAIN = "gain"
    OTHER = "other"


def family_of(layer: Layer) -> Family:
    """Family of a layer, by its kind in PyTorch or Keras; a kind that is not known is OTHER."""
    kind = layer.kind
    if kind in {"Linear", "LazyLinear", "Dense"}:
        return Family.LINEAR
    if _CONVOLUTION.fullmatch(kind):
        return Family.CONVOLUTION
    if _TRANSPOSED.fullmatch(kind):
        return Family.TRANSPOSED
    if kind in {"Embedding", "EmbeddingBag"}:
        return Family.EMBEDDING
    if _RECURRENT.fullmatch(kind):
        return Family.RECURRENT
    if kind in {"MultiheadAttention", "MultiHeadAttention"}:
        return Family.ATTENTION
    return Family.OTHER if layer.weighted else Family.GAIN


def torch_family_of(layer: Layer) -> Family:
    """Family of a layer of a PyTorch model.

    `Conv1D`, a convolution in Keras, is a linear layer there: that of Hugging Face's GPT-2.
    """
    return Family.LINEAR_TRANSPOSED if layer.kind == "Conv1D" else family_of(layer)


def gates_of(layer: Layer) -> int:
    """Blocks that a recurrent layer's weights and biases are stacked of: LSTM 4, GRU 3, else 1."""
    return 4 if "LSTM" in layer.kind else 3 if "GRU" in layer.kind else 1


def spatial_dimensions(layer: Layer) -> int:
    """Spatial dimensions of a convolution, 0 for any other layer."""
    match = _CONVOLUTION.fullmatch(layer.kind) or _TRANSPOSED.fullmatch(layer.kind)
    return int(re.sub(r"\D", "", layer.kind)) if match else 0
