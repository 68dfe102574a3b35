"""The same graph with smaller tensors: one size after the other is cut down, wherever it occurs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from potc.graph.names import all_graphs

SHAPES = 16  # elements; what lists sizes, as the target of a reshape does, is not longer


def sizes(proto: onnx.ModelProto, samples: Mapping[str, np.ndarray]) -> list[int]:
    """Sizes of axes of stored tensors, inputs and samples ([samples, ...] each) above 1, the largest first."""
    found = {d for graph in all_graphs(proto.graph) for t in stored(graph) for d in t.dims}
    found |= {d.dim_value for i in proto.graph.input for d in i.type.tensor_type.shape.dim}
    found |= {d for array in samples.values() for d in array.shape[1:]}
    return sorted((d for d in found if d > 1), reverse=True)


def smaller(size: int) -> Iterator[int]:
    """What to try instead, the smallest first."""
    yield from dict.fromkeys(n for n in (1, 2, 3, 4, size // 8, size // 4, size // 2, size - 1) if 0 < n < size)


def resized(proto: onnx.ModelProto, old: int, new: int, lists: bool) -> onnx.ModelProto:
    """Every axis of size ``old`` of stored tensors and inputs has size ``new``: the first ones stay. What is known of other
    shapes goes, to be inferred again. ``lists``: numbers in short lists of integers change as well, since they are sizes."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    for graph in all_graphs(made.graph):
        del graph.value_info[:]
        for tensor in stored(graph):
            _resize(tensor, old, new, lists)
        for attribute in (a for node in graph.node if not node.input for a in node.attribute):
            if lists and len(attribute.ints) <= SHAPES:
                attribute.ints[:] = [new if n == old else n for n in attribute.ints]
        for output in graph.output:
            for dim in output.type.tensor_type.shape.dim:
                dim.Clear()
    for value in (v for graph in all_graphs(made.graph) for v in graph.input):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value == old:
                dim.dim_value = new
    return made


def stored(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The tensors that a graph holds itself: initializers, and those in nodes that read nothing."""
    yield from graph.initializer
    yield from (a.t for node in graph.node if not node.input for a in node.attribute if a.HasField("t"))


def _resize(tensor: onnx.TensorProto, old: int, new: int, lists: bool) -> None:
    listed = lists and tensor.data_type == onnx.TensorProto.INT64 and len(tensor.dims) == 1 and tensor.dims[0] <= SHAPES
    if old not in tensor.dims and not listed:
        return
    values = numpy_helper.to_array(tensor)
    if listed:
        values = np.where(values == old, new, values)
    tensor.CopyFrom(numpy_helper.from_array(sliced(values, old, new, 0), tensor.name))


def sliced(values: np.ndarray, old: int, new: int, first: int) -> np.ndarray:
    """The first ``new`` of each axis of size ``old``, from axis ``first`` on."""
    part = tuple(slice(new) if axis >= first and n == old else slice(None) for axis, n in enumerate(values.shape))
    return np.ascontiguousarray(values[part])
