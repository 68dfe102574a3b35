"""Sizes that a model computes while it runs, although its shapes tell them.

Exporters write the shape of a Reshape as a chain of nodes that asks a tensor for its sizes, as long as one of them, mostly the
number of samples, is a symbol. Each such node takes as long as a small kernel, and hides constants from rules.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from potc.graph.model import Model
from potc.graph.names import fresh, names_in
from potc.graph.prepare import drop_dead, infer_shapes

Shape = tuple[int | str, ...]  # a name for a size that is not known, "" where it has none
ROUNDS = 16  # a known shape can make further ones known
COPY, REST = 0, -1  # in the shape of a Reshape: the size of the input in the same place; what is left


def settle_sizes(model: Model) -> Model:
    """The same model with constants in place of sizes that are known, and of shapes of a Reshape that can be written as a constant.
    Shapes must have been inferred. Returned as it is where there is nothing to settle."""
    for _ in range(ROUNDS):
        proto = _settled(model.proto)
        if proto is None:
            break
        model = infer_shapes(drop_dead(model.with_proto(proto)))
    return model


def _settled(proto: onnx.ModelProto) -> onnx.ModelProto | None:
    """None where nothing changes."""
    graph = proto.graph
    fed = {i.name for i in graph.input}
    stored = {t.name: t for t in graph.initializer if t.name not in fed}
    shapes = _shapes(graph)
    makers = {name: node for node in graph.node for name in node.output if name}
    given = fed | {o.name for o in graph.output}
    taken: set[str] = set()
    constants: list[TensorProto] = []
    changed: dict[int, NodeProto | None] = {}
    for n, node in enumerate(graph.node):
        if node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type == "Reshape" and len(node.input) > 1 and node.input[1] not in stored:
            sizes = target(shapes.get(node.input[0]), None if node.output[0] in given else shapes.get(node.output[0]))
            if sizes is None:
                continue
            taken = taken or names_in(proto)
            name = fresh(f"{node.output[0]}/sizes", taken)
            constants.append(numpy_helper.from_array(np.array(sizes, np.int64), name))
            changed[n] = _reshape(node, name)
        elif node.op_type == "Gather" and node.output[0] not in given and node.input[1] in stored:
            answer = _dimension(makers.get(node.input[0]), shapes, stored[node.input[1]])
            if answer is not None:
                constants.append(numpy_helper.from_array(answer, node.output[0]))
                changed[n] = None
    if not changed:
        return None
    edited = onnx.ModelProto()
    edited.CopyFrom(proto)
    kept = [changed.get(n, node) for n, node in enumerate(graph.node)]
    del edited.graph.node[:]
    edited.graph.node.extend(node for node in kept if node is not None)
    edited.graph.initializer.extend(constants)
    return edited


def target(before: Shape | None, after: Shape | None) -> tuple[int, ...] | None:
    """What a Reshape must be told so that ``before`` becomes ``after``, whatever its symbols stand for; None where no constant says
    it, or a size is 0."""
    if after is None or 0 in after:
        return None
    unknown = [k for k, size in enumerate(after) if isinstance(size, str)]
    copied = set[int]()
    if len(unknown) > 1 and before is not None:
        copied = {k for k in unknown if k < len(before) and after[k] and after[k] == before[k]}
    if len(unknown) - len(copied) > 1:
        return None
    return tuple(size if isinstance(size, int) else COPY if k in copied else REST for k, size in enumerate(after))


def _shapes(graph: onnx.GraphProto) -> dict[str, Shape]:
    found: dict[str, Shape] = {}
    for value in (*graph.value_info, *graph.output, *graph.input):
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            found[value.name] = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param for d in kind.shape.dim)
    return found


def _reshape(node: NodeProto, sizes: str) -> NodeProto:
    """Of a shape without zeros that are meant as such: what ``allowzero`` says is no longer so."""
    made = NodeProto()
    made.CopyFrom(node)
    made.input[1] = sizes
    kept = [a for a in node.attribute if a.name != "allowzero"]
    del made.attribute[:]
    made.attribute.extend(kept)
    return made


def _dimension(maker: NodeProto | None, shapes: Mapping[str, Shape], index: TensorProto) -> np.ndarray | None:
    """The answer to a question for one dimension, in the shape of the index; None where it is not known."""
    if maker is None or maker.op_type != "Shape" or maker.domain not in ("", "ai.onnx"):
        return None
    shape = shapes.get(maker.input[0])
    places = numpy_helper.to_array(index)
    if shape is None or places.size != 1:
        return None
    begin, end = (next((a.i for a in maker.attribute if a.name == key), None) for key in ("start", "end"))
    asked, place = shape[begin:end], int(places.reshape(()))
    size = asked[place] if -len(asked) <= place < len(asked) else ""
    return np.full(places.shape, size, np.int64) if isinstance(size, int) else None
