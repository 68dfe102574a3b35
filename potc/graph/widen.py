"""bfloat16 -> float32: every value of the one is a value of the other, and onnxruntime's processor kernels compute with the latter.

Only what a file says of its inputs and outputs stays: they are cast where the model is delivered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper

from potc.execute.aside import array_of
from potc.graph.model import Model
from potc.graph.names import all_graphs, fresh, names_in
from potc.graph.prepare import infer_shapes
from potc.graph.read import LIMIT, read_model

NARROW, WIDE = TensorProto.BFLOAT16, TensorProto.FLOAT
# Attributes that hold an element type, in all operators that ONNX has.
ELEMENT_TYPES = frozenset(
    {"to", "dtype", "output_dtype", "stash_type", "precision", "softmax_precision", "qk_matmul_precision"}
)


def read_runnable(path: str, whole: int = LIMIT) -> Model:
    """``read_model``, widened: what onnxruntime can run and numpy can feed. Raises Rejected."""
    return widened(read_model(path, whole))


def widened(model: Model) -> Model:
    """Without bfloat16: weights are the same numbers, results are computed without rounding to 8 bits on the way. The same model
    if it has none. ``bfloat16`` of the result names the inputs and outputs that had it."""
    if not _has_any(model.proto):
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model.proto)
    _drop_casts(made, infer_shapes(model).proto)
    for graph in all_graphs(made.graph):
        _widen(graph)
    borders = (*model.proto.graph.input, *model.proto.graph.output)
    stored = {t.name for t in model.proto.graph.initializer}
    narrow = {v.name for v in borders if v.type.tensor_type.elem_type == NARROW and v.name not in stored}
    return replace(model, proto=made, bfloat16=frozenset(narrow))


def cast_borders(proto: onnx.ModelProto, names: Collection[str], kind: int) -> onnx.ModelProto:
    """Inputs and outputs of these names, where they are tensors of floats, have the element type ``kind``, and are cast."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    graph, taken = made.graph, names_in(made)
    inputs = [v for v in graph.input if v.name in names and v.type.tensor_type.elem_type in (NARROW, WIDE)]
    fed = {v.name for v in graph.input}
    outputs = [v for v in graph.output if v.name in names and v.name not in fed]
    for value in (*inputs, *(v for v in outputs if v.type.tensor_type.elem_type in (NARROW, WIDE))):
        name, old = value.name, value.type.tensor_type.elem_type
        inner = fresh(f"{name}/{'float32' if old == WIDE else 'bfloat16'}", taken)
        _rename(graph, name, inner)
        label = fresh(f"{name}/cast", taken)
        if name in fed:
            graph.node.insert(0, helper.make_node("Cast", [name], [inner], name=label, to=old))
        else:
            graph.node.append(helper.make_node("Cast", [inner], [name], name=label, to=kind))
        value.type.tensor_type.elem_type = kind
    same = {v.name: v for v in inputs}
    for value in graph.output:  # an input that is returned as it is
        if value.name in same:
            value.type.CopyFrom(same[value.name].type)
    return made


def _rename(graph: GraphProto, old: str, new: str) -> None:
    for inside in all_graphs(graph):
        for node in inside.node:
            node.input[:] = [new if n == old else n for n in node.input]
            node.output[:] = [new if n == old else n for n in node.output]
    for named in (*graph.initializer, *graph.value_info):
        named.name = new if named.name == old else named.name


def _has_any(proto: onnx.ModelProto) -> bool:
    for graph in all_graphs(proto.graph):
        if any(t.data_type == NARROW for t in _tensors(graph)) or any(map(_is_narrow, _types(graph))):
            return True
        if any(a.i == NARROW and a.name in ELEMENT_TYPES for node in graph.node for a in node.attribute):
            return True
    return False


def _widen(graph: GraphProto) -> None:
    for tensor in _tensors(graph):
        if tensor.data_type == NARROW:
            values = array_of(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for kind in _types(graph):
        if _is_narrow(kind):
            kind.tensor_type.elem_type = WIDE
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ELEMENT_TYPES and attribute.type == AttributeProto.INT and attribute.i == NARROW:
                attribute.i = WIDE


def _drop_casts(made: onnx.ModelProto, typed: onnx.ModelProto) -> None:
    """Casts between the two types change nothing any more; rewrites remove the copies that are left."""
    for graph, known in zip(all_graphs(made.graph), all_graphs(typed.graph), strict=True):
        types = {v.name: v.type.tensor_type.elem_type for v in (*known.input, *known.output, *known.value_info)}
        types |= {t.name: t.data_type for t in known.initializer}
        for node in graph.node:
            target = next((a.i for a in node.attribute if a.name == "to"), None)
            if node.op_type == "Cast" and target in (NARROW, WIDE) and types.get(node.input[0]) in (NARROW, WIDE):
                node.op_type = "Identity"
                del node.attribute[:]


def _tensors(graph: GraphProto) -> Iterable[TensorProto]:
    """Stored tensors of a graph itself."""
    yield from graph.initializer
    yield from (sparse.values for sparse in graph.sparse_initializer)
    for node in graph.node:
        yield from _held(node)


def _held(node: NodeProto) -> Iterable[TensorProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR:
            yield attribute.t
        elif attribute.type == AttributeProto.SPARSE_TENSOR:
            yield attribute.sparse_tensor.values
        yield from attribute.tensors


def _types(graph: GraphProto) -> Iterable[TypeProto]:
    """What a graph declares, down to the elements of sequences and optionals."""
    waiting = [v.type for v in (*graph.input, *graph.output, *graph.value_info)]
    waiting += [a.tp for node in graph.node for a in node.attribute if a.type == AttributeProto.TYPE_PROTO]
    while waiting:
        kind = waiting.pop()
        word = kind.WhichOneof("value")
        if word == "tensor_type":
            yield kind
        elif word in ("sequence_type", "optional_type"):
            waiting.append(getattr(kind, word).elem_type)


def _is_narrow(kind: TypeProto) -> bool:
    return kind.tensor_type.elem_type == NARROW
