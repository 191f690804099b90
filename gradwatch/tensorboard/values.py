"""Values: the `Summary.Value` protos of scalars, texts, the chart layout and gradwatch's tensors.

TensorBoard's helper for the chart layout imports TensorFlow; these are built from its protos.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gradwatch.tensorboard import schema
from gradwatch.tensorboard.events import required
from gradwatch.tensorboard.scalars import Chart, Scalar


class ValueBuilder:
    """Builds values; a curve's metadata goes with its first point, which is all TensorBoard keeps.

    Raises:
        MissingExtraError: If TensorBoard is not installed.
    """

    def __init__(self) -> None:
        self._summary = required("tensorboard.compat.proto.summary_pb2")
        self._tensor = required("tensorboard.compat.proto.tensor_pb2")
        self._shape = required("tensorboard.compat.proto.tensor_shape_pb2")
        self._types = required("tensorboard.compat.proto.types_pb2")
        self._layout = required("tensorboard.plugins.custom_scalar.layout_pb2")
        self._described: set[str] = set()

    def scalar(self, scalar: Scalar, value: float) -> Any:
        """A point of a curve."""
        tensor = self._tensor.TensorProto(dtype=self._types.DT_FLOAT, float_val=[value])
        result = self._summary.Summary.Value(tag=scalar.tag, tensor=tensor)
        if scalar.tag not in self._described:
            self._described.add(scalar.tag)
            result.metadata.CopyFrom(self._scalar_metadata(scalar))
        return result

    def text(self, tag: str, markdown: str) -> Any:
        """A Markdown text; lone surrogates are written as escapes."""
        octets = markdown.encode("utf-8", errors="backslashreplace")
        return self._summary.Summary.Value(
            tag=tag,
            tensor=self._strings([octets], shape=()),
            metadata=self._metadata("text", self._summary.DATA_CLASS_TENSOR),
        )

    def layout(self, category: str, charts: Iterable[Chart]) -> Any:
        """The layout of the Custom Scalars dashboard: one category, one tag a curve."""
        layout = self._layout.Layout()
        added = layout.category.add(title=category)
        for chart in charts:
            patterns = [f"^{tag}$" for tag in chart.tags]
            content = self._layout.MultilineChartContent(tag=patterns)
            added.chart.add(title=chart.title, multiline=content)
        return self._summary.Summary.Value(
            tag="custom_scalars__config__",
            tensor=self._strings([layout.SerializeToString()], shape=()),
            metadata=self._metadata("custom_scalars", self._summary.DATA_CLASS_TENSOR),
        )

    def stored(self, tag: str, content: schema.Content, parts: Sequence[bytes]) -> Any:
        """One of gradwatch's own tensors, a vector of byte strings."""
        return self._summary.Summary.Value(
            tag=tag,
            tensor=self._strings(parts, shape=(len(parts),)),
            metadata=self._metadata(
                schema.PLUGIN_NAME,
                self._summary.DATA_CLASS_TENSOR,
                content=schema.plugin_content(content),
            ),
        )

    def _strings(self, octets: Sequence[bytes], *, shape: tuple[int, ...]) -> Any:
        dim = self._shape.TensorShapeProto.Dim
        return self._tensor.TensorProto(
            dtype=self._types.DT_STRING,
            string_val=octets,
            tensor_shape=self._shape.TensorShapeProto(dim=[dim(size=size) for size in shape]),
        )

    def _scalar_metadata(self, scalar: Scalar) -> Any:
        return self._metadata(
            "scalars",
            self._summary.DATA_CLASS_SCALAR,
            title=scalar.title,
            description=scalar.description,
        )

    def _metadata(
        self,
        plugin: str,
        data_class: int,
        *,
        title: str = "",
        description: str = "",
        content: bytes = b"",
    ) -> Any:
        plugin_data = self._summary.SummaryMetadata.PluginData(plugin_name=plugin, content=content)
        return self._summary.SummaryMetadata(
            plugin_data=plugin_data,
            data_class=data_class,
            display_name=title,
            summary_description=description,
        )
