"""What holds for every model: shapes, constants, dead nodes. Each pass leaves all results as they were, to the bit."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, defs, helper, numpy_helper

from potc.execute.aside import is_aside
from potc.execute.session import SessionError, run_once
from potc.graph.model import SMALL, Model, is_large
from potc.graph.order import reorder, sorted_positions
from potc.graph.snapshot import DTYPES, outer_reads
from potc.limits import limits

APART = 256 << 20  # bytes of weights that are read from files for one run, so that they don't all lie in memory
ROUNDS = 40  # runs of onnxruntime; real models need one or two
ONNX = ("", "ai.onnx")
# Bytes of an element, for the types that numpy has.
PLAIN: Mapping[int, int] = {
    kind: helper.tensor_dtype_to_np_dtype(kind).itemsize
    for kind in DTYPES
    if kind not in (TensorProto.STRING, TensorProto.BFLOAT16)
}


def infer_shapes(model: Model) -> Model:
    """Adds the types and shapes that onnx can infer. A model that it can't follow is returned as it is."""
    inferred = _inferred(_without_large_weights(model.proto))
    if inferred is None:
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.value_info[:]
    # An output that is declared without a type is inferred beside its declaration, and then believed neither here nor there.
    untyped = {o.name: o for o in proto.graph.output if not o.type.WhichOneof("value")}
    for value in inferred.graph.value_info:
        if value.name in untyped:
            untyped[value.name].type.CopyFrom(value.type)
        else:
            proto.graph.value_info.append(value)
    for mine, theirs in zip(proto.graph.output, inferred.graph.output, strict=True):
        if not mine.type.tensor_type.HasField("shape") and theirs.type.tensor_type.HasField("shape"):
            mine.CopyFrom(theirs)
    return model.with_proto(proto)


def _inferred(lean: onnx.ModelProto) -> onnx.ModelProto | None:
    """None where onnx can't follow: its functions for single operators raise on graphs that the checker lets pass."""
    for data_prop in (True, False):  # propagation of values is stricter than that of shapes
        try:
            return onnx.shape_inference.infer_shapes(lean, data_prop=data_prop)
        except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
            continue
    return None


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
        if math.prod(tensor.dims) <= SMALL:
            graph.initializer.append(tensor)
        elif tensor.name not in declared:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return lean


def fold_constants(model: Model) -> Model:
    """Computes every node whose inputs are all known, in as few runs of onnxruntime as possible, and stores the results.

    ``Shape`` and ``Size`` of a tensor of fixed shape are known without the tensor. Left alone: constants that are stored as
    integers behind a DequantizeLinear, since somebody quantized them on purpose; nodes with nested graphs, of other domains, or
    that their schema calls not deterministic; nodes whose size of result depends on values, or grows by
    more bytes than the limit ``folded-growth-bytes`` allows; results that are no plain tensors of numbers; and nodes that
    onnxruntime refuses.
    """
    waiting = _constant_nodes(model.proto)
    if not waiting:
        return model
    values, folded = _shape_answers(model.proto, waiting)
    _compute(model, [n for n in waiting if n.name not in folded], values, folded)
    if not folded:
        return model
    kept, read = _remaining(model.proto, folded)
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    made = {name for node in kept for name in node.output}
    proto.graph.initializer.extend(tensor for name, tensor in values.items() if name in read and name not in made)
    return model.with_proto(proto)


def _constant_nodes(proto: onnx.ModelProto) -> list[NodeProto]:
    """Nodes whose results are the same in every run, in order."""
    overridable = {i.name for i in proto.graph.input}
    known = {t.name for t in proto.graph.initializer if t.name not in overridable}
    shapes = _static_shapes(proto)
    version = max((o.version for o in proto.opset_import if o.domain in ONNX), default=0)
    repeatable: dict[str, bool] = {}
    chosen: list[NodeProto] = []
    for node in proto.graph.node:
        if node.domain not in ONNX or any(a.HasField("g") or a.graphs for a in node.attribute):
            continue
        if node.op_type == "DequantizeLinear":
            continue
        if all(name in known for name in node.input if name) or _asks_shape(node, shapes):
            if node.op_type not in repeatable:
                repeatable[node.op_type] = _is_repeatable(node.op_type, version)
            if repeatable[node.op_type]:
                chosen.append(node)
                known.update(name for name in node.output if name)
    return chosen


def _is_repeatable(operator: str, version: int) -> bool:
    """What the schema says. Two equal runs would prove nothing: onnxruntime seeds its generators alike."""
    if not defs.has(operator, version, ""):
        return False
    schema = defs.get_schema(operator, version, "")
    # onnx has this property, its type stubs don't.
    determinism = schema.node_determinism  # pyright: ignore[reportAttributeAccessIssue]
    return determinism != defs.OpSchema.NodeDeterminism.NonDeterministic


def _static_shapes(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Tensors whose every dimension is a number."""
    shapes: dict[str, tuple[int, ...]] = {}
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in kind.shape.dim)
    return shapes


def _asks_shape(node: NodeProto, shapes: dict[str, tuple[int, ...]]) -> bool:
    """A question about the shape of a tensor whose shape is fixed: its answer is known without the tensor."""
    return node.op_type in ("Shape", "Size") and node.input[0] in shapes


def _shape_answers(proto: onnx.ModelProto, waiting: list[NodeProto]) -> tuple[dict[str, TensorProto], set[str]]:
    """Answers by tensor, and the names of the nodes that they replace."""
    shapes = _static_shapes(proto)
    outputs = {o.name for o in proto.graph.output}
    values: dict[str, TensorProto] = {}
    answered: set[str] = set()
    for node in waiting:
        if _asks_shape(node, shapes) and node.output[0] not in outputs:
            shape = shapes[node.input[0]]
            begin, end = (next((a.i for a in node.attribute if a.name == key), None) for key in ("start", "end"))
            answer = math.prod(shape) if node.op_type == "Size" else shape[begin:end]
            values[node.output[0]] = numpy_helper.from_array(np.array(answer, np.int64), node.output[0])
            answered.add(node.name)
    return values, answered


def _compute(model: Model, waiting: list[NodeProto], values: dict[str, TensorProto], folded: set[str]) -> None:
    """Adds to ``values`` what others read of the waiting nodes' results, and to ``folded`` the names of the nodes.

    A round runs all nodes whose size of result is known. Sizes that depend on values are known in the next round. Where
    onnxruntime refuses a run, half of it is tried, down to the node that is at fault. Where weights are set aside, results are too,
    as they are made.
    """
    proto = model.proto
    overridable = {i.name for i in proto.graph.input}
    stored = {t.name: t for t in proto.graph.initializer if t.name not in overridable}
    outputs = {o.name for o in proto.graph.output}
    done: set[str] = set()
    most, budget = len(waiting), limits().folded_total_bytes
    for _ in range(ROUNDS):
        waiting = [n for n in waiting if n.name not in done]
        chosen, grown = _affordable(proto, waiting, {**stored, **values}, budget)
        chosen = chosen[:most]
        if not chosen:
            return
        gone = {n.name for n in chosen if outputs.isdisjoint(n.output)}
        _, read = _remaining(proto, folded | gone)
        wanted = [name for node in chosen for name in node.output if name in read and name not in values]
        try:
            results = run_once(_part(proto, chosen, {**stored, **values}, wanted).SerializeToString(), wanted)
        except SessionError:
            # A node that does not run stays as it is: slower, never wrong; the user's own run tells what is the matter.
            if len(chosen) == 1:
                done.add(chosen[0].name)
            most = max(len(chosen) // 2, 1)
            continue
        for name, array in zip(wanted, results, strict=True):
            tensor = numpy_helper.from_array(array, name)
            if model.aside is not None and is_large(tensor):
                tensor = model.aside.scratch.taken(tensor)
            values[name] = tensor
        folded |= gone
        done.update(n.name for n in chosen)
        most, budget = len(waiting), budget - grown


def _remaining(proto: onnx.ModelProto, folded: set[str]) -> tuple[list[NodeProto], set[str]]:
    """The nodes that stay, and the names of all tensors that they or the caller read."""
    kept = [node for node in proto.graph.node if node.name not in folded]
    read = {name for node in kept for name in (*node.input, *outer_reads(node))}
    return kept, read | {o.name for o in proto.graph.output}


def _affordable(
    proto: onnx.ModelProto, waiting: list[NodeProto], tensors: Mapping[str, TensorProto], budget: int
) -> tuple[list[NodeProto], int]:
    """The waiting nodes that can run now, and by how many bytes their results may outgrow what they are made from."""
    inferred = _inferred(_part(proto, waiting, tensors, [], weights=False))
    if inferred is None:
        return [], 0
    sizes: dict[str, int] = {"": 0}
    for value in inferred.graph.value_info:
        kind = value.type.tensor_type
        shaped = kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim)
        if shaped and kind.elem_type in PLAIN:
            sizes[value.name] = math.prod(d.dim_value for d in kind.shape.dim) * PLAIN[kind.elem_type]
    known = {name: _bytes(tensor) for name, tensor in tensors.items()}
    known[""] = 0
    chosen: list[NodeProto] = []
    total = apart = 0
    for node in waiting:
        apart += sum(_bytes(tensors[n]) for n in node.input if n in tensors and is_aside(tensors[n]))
        if apart > APART and chosen:  # the rest in another round: what is set aside may be more than memory holds
            break
        if all(name in known for name in node.input) and all(name in sizes for name in node.output):
            growth = sum(sizes[name] for name in node.output) - sum(known[name] for name in node.input)
            if growth <= limits().folded_growth_bytes and total + growth <= budget:
                chosen.append(node)
                total += max(growth, 0)
                known.update((name, sizes[name]) for name in node.output)
    return chosen, total


def _bytes(tensor: TensorProto) -> int:
    return math.prod(tensor.dims) * PLAIN.get(tensor.data_type, 1)


def _part(
    proto: onnx.ModelProto,
    nodes: list[NodeProto],
    tensors: Mapping[str, TensorProto],
    wanted: list[str],
    *,
    weights: bool = True,
) -> onnx.ModelProto:
    """A model of these nodes alone. Without ``weights``, large tensors are inputs: sizes need their types only."""
    part = onnx.ModelProto(ir_version=proto.ir_version)
    part.opset_import.extend(proto.opset_import)
    part.graph.name = "constants"
    part.graph.node.extend(nodes)
    part.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in wanted)
    for name in dict.fromkeys(name for node in nodes for name in node.input if name in tensors):
        tensor = tensors[name]
        if weights or math.prod(tensor.dims) <= SMALL:
            part.graph.initializer.append(tensor)
        else:
            part.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    return part


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
    for index in reversed([i for i, t in enumerate(proto.graph.initializer) if t.name in gone]):
        del proto.graph.initializer[index]
    names = {n for node in kept for n in node.output}
    values = [v for v in model.proto.graph.value_info if v.name in names]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(values)
    return model.with_proto(proto)


def sort_nodes(model: Model) -> Model:
    """Every node behind those it reads from; otherwise the order stays. The same model if it is sorted already.

    Raises ValueError for a cycle.
    """
    order = sorted_positions(model.proto.graph)
    if order == list(range(len(order))):
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    reorder(proto.graph, order)
    return model.with_proto(proto)
