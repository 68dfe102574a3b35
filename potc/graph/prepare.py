"""What holds for every model: shapes, constants, dead nodes. Each pass leaves all results as they were, to the bit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from potc.execute.session import SessionError, open_session
from potc.graph.model import Model
from potc.graph.snapshot import outer_reads

LARGEST = 64 << 20  # bytes; a larger result stays computed, so that folding can't blow a model up


def infer_shapes(model: Model) -> Model:
    """Adds the types and shapes that onnx can infer. A model that it can't follow is returned as it is."""
    lean = _without_large_weights(model.proto)
    try:
        inferred = onnx.shape_inference.infer_shapes(lean, data_prop=True)
    except onnx.shape_inference.InferenceError:
        # Data propagation is stricter than the shapes themselves; a model that passed the checker may still fail in it.
        inferred = onnx.shape_inference.infer_shapes(lean)
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(inferred.graph.value_info)
    for mine, theirs in zip(proto.graph.output, inferred.graph.output, strict=True):
        if not mine.type.tensor_type.HasField("shape") and theirs.type.tensor_type.HasField("shape"):
            mine.CopyFrom(theirs)
    return model.with_proto(proto)


def _without_large_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which large initializers are inputs: inference needs their types, not their numbers."""
    lean = onnx.ModelProto()
    lean.ir_version = proto.ir_version
    lean.opset_import.extend(proto.opset_import)
    lean.functions.extend(proto.functions)
    graph = lean.graph
    graph.name = proto.graph.name
    graph.node.extend(proto.graph.node)
    graph.input.extend(proto.graph.input)
    graph.output.extend(proto.graph.output)
    graph.value_info.extend(proto.graph.value_info)
    declared = {i.name for i in proto.graph.input}
    for tensor in proto.graph.initializer:
        if np.prod(tensor.dims, dtype=np.int64) <= 1024:
            graph.initializer.append(tensor)
        elif tensor.name not in declared:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return lean


def fold_constants(model: Model) -> Model:
    """Computes every node whose inputs are all known, in one run of onnxruntime, and stores the results.

    Left alone: nodes with nested graphs or several graph types of result, nodes of other domains, random generators (no
    input at all, or no fixed result: they are recognised by computing twice), results above ``LARGEST`` bytes.
    """
    proto = model.proto
    overridable = {i.name for i in proto.graph.input}
    known = {t.name for t in proto.graph.initializer if t.name not in overridable}
    shapes = _static_shapes(proto)
    chosen: list[NodeProto] = []
    for node in proto.graph.node:
        if node.domain not in ("", "ai.onnx") or any(a.HasField("g") or a.graphs for a in node.attribute):
            continue
        ready = all(name in known for name in node.input if name)
        if ready or _is_shape_of(node, shapes):
            chosen.append(node)
            known.update(name for name in node.output if name)
    if not chosen:
        return model
    values = _compute(proto, chosen, shapes)
    return model.with_proto(_with_values(proto, chosen, values)) if values else model


def _static_shapes(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Tensors whose every dimension is a number."""
    shapes: dict[str, tuple[int, ...]] = {}
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in kind.shape.dim)
    return shapes


def _is_shape_of(node: NodeProto, shapes: dict[str, tuple[int, ...]]) -> bool:
    """A shape question about a computed tensor whose shape is fixed: its answer is known without the tensor."""
    return node.op_type == "Shape" and node.input[0] in shapes


def _compute(
    proto: onnx.ModelProto, chosen: list[NodeProto], shapes: dict[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Values of the chosen nodes' outputs; empty if onnxruntime can't run them."""
    made = {name for node in chosen for name in node.output if name}
    nodes: list[NodeProto] = []
    extra: list[TensorProto] = []
    stored = {t.name for t in proto.graph.initializer}
    for node in chosen:
        source = node.input[0] if node.input else ""
        if (
            source and source not in made and source not in stored
        ):  # a shape question: ask it of a stand-in without elements
            begin, end = (next((a.i for a in node.attribute if a.name == key), None) for key in ("start", "end"))
            answer = np.array(shapes[source][begin:end], np.int64)
            extra.append(numpy_helper.from_array(answer, node.output[0]))
        else:
            nodes.append(node)
    values = {t.name: numpy_helper.to_array(t) for t in extra}
    wanted = list(dict.fromkeys(name for node in nodes for name in node.output if name))
    if not wanted:
        return values
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(nodes, "constants", [], [helper.make_empty_tensor_value_info(n) for n in wanted])
    graph.initializer.extend(t for t in proto.graph.initializer if t.name in read)
    graph.initializer.extend(t for t in extra if t.name in read)
    part = helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    try:
        session = open_session(part.SerializeToString(), optimize=False, threads=1)
        first, second = session.run(wanted, {}), session.run(wanted, {})
    except SessionError:
        # Nothing is folded then: an unusual constant part is slower, never wrong.
        return values
    same = _fixed(nodes, dict(zip(wanted, first, strict=True)), dict(zip(wanted, second, strict=True)))
    return {**values, **same}


def _fixed(nodes: Iterable[NodeProto], first: dict[str, Any], second: dict[str, Any]) -> dict[str, np.ndarray]:
    """Results that are arrays, small enough, and the same in both runs, and whose inputs are."""
    fixed: dict[str, np.ndarray] = {}
    moving: set[str] = set()
    for node in nodes:
        for name in filter(None, node.output):
            a, b = first[name], second[name]
            steady = isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.dtype != object
            if not moving.isdisjoint(node.input) or not steady or a.tobytes() != b.tobytes() or a.nbytes > LARGEST:
                moving.add(name)
            else:
                fixed[name] = a
    return fixed


def _with_values(proto: onnx.ModelProto, chosen: list[NodeProto], values: dict[str, np.ndarray]) -> onnx.ModelProto:
    outputs = {o.name for o in proto.graph.output}
    gone = {node.name for node in chosen if all(n in values and n not in outputs for n in node.output if n)}
    folded = onnx.ModelProto()
    folded.CopyFrom(proto)
    kept = [n for n in proto.graph.node if n.name not in gone]
    del folded.graph.node[:]
    folded.graph.node.extend(kept)
    read = {name for node in kept for name in (*node.input, *outer_reads(node))}
    removed = [name for node in chosen if node.name in gone for name in node.output if name in read]
    folded.graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(values[n]) if values[n].ndim else values[n], n) for n in removed
    )
    return folded


def drop_dead(model: Model) -> Model:
    """Without nodes whose results nobody reads, and without initializers that nobody reads (inputs stay as they are)."""
    graph = model.proto.graph
    made = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    alive: set[int] = set()
    waiting = [made[o.name] for o in graph.output if o.name in made]
    read = {o.name for o in graph.output}
    while waiting:
        index = waiting.pop()
        if index in alive:
            continue
        alive.add(index)
        for name in (*graph.node[index].input, *outer_reads(graph.node[index])):
            read.add(name)
            if name in made and made[name] not in alive:
                waiting.append(made[name])
    inputs = {i.name for i in graph.input}
    unread = [t.name for t in graph.initializer if t.name not in read and t.name not in inputs]
    if len(alive) == len(graph.node) and not unread:
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    kept = [graph.node[i] for i in sorted(alive)]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    gone = set(unread)
    stored = [t for t in proto.graph.initializer if t.name not in gone]
    held = [TensorProto.FromString(t.SerializeToString()) for t in stored] if gone else []
    if gone:
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(held)
    names = {n for node in kept for n in node.output}
    values = [v for v in model.proto.graph.value_info if v.name in names]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(values)
    return model.with_proto(proto)
