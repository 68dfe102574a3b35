"""Smaller models out of a model: some of its nodes, a node stepped over, a branch instead of a choice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx
from onnx import GraphProto, NodeProto, TypeProto, helper

from potc.graph.model import Model
from potc.graph.names import all_graphs, nested_graphs, rename
from potc.graph.prepare import infer_shapes
from potc.graph.snapshot import outer_reads

Types = Mapping[str, TypeProto]


def types_of(proto: onnx.ModelProto) -> dict[str, TypeProto]:
    """What is known of the tensors of the main graph."""
    graph = infer_shapes(Model("", proto, ())).proto.graph
    known = {v.name: v.type for v in (*graph.value_info, *graph.output, *graph.input)}
    return {name: kind for name, kind in known.items() if kind.WhichOneof("value")}


def cut(proto: onnx.ModelProto, kept: Sequence[int], types: Types) -> onnx.ModelProto | None:
    """The nodes at these places alone. What others made becomes an input, what nobody reads any more an output.

    None where the type of such an input is not known, or nothing is left.
    """
    graph = proto.graph
    nodes = [graph.node[i] for i in sorted(kept)]
    made = {name for node in nodes for name in node.output if name}
    read = dict.fromkeys(name for node in nodes for name in (*node.input, *outer_reads(node)) if name)
    declared = {v.name: v for v in graph.input}
    stored = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    fed = [name for name in declared if name in read and name not in made]
    fed += [name for name in read if name not in made and name not in stored and name not in declared]
    returned = [o.name for o in graph.output if o.name in made]
    for node in nodes:
        outputs = [name for name in node.output if name]
        if outputs and read.keys().isdisjoint(outputs) and not set(outputs) & set(returned):
            returned.append(outputs[0])
    if not returned or any(name not in declared and name not in types for name in fed):
        return None
    part = _empty_like(proto)
    part.graph.node.extend(nodes)
    part.graph.input.extend(declared.get(name) or helper.make_value_info(name, types[name]) for name in fed)
    outputs = {o.name: o for o in graph.output}
    part.graph.output.extend(outputs.get(name) or _value(name, types) for name in returned)
    part.graph.initializer.extend(t for t in graph.initializer if t.name in read)
    part.graph.sparse_initializer.extend(t for t in graph.sparse_initializer if t.values.name in read)
    return part


def _empty_like(proto: onnx.ModelProto) -> onnx.ModelProto:
    part = onnx.ModelProto(ir_version=proto.ir_version)
    part.opset_import.extend(proto.opset_import)
    part.functions.extend(proto.functions)
    part.graph.name = "reduced"
    return part


def _value(name: str, types: Types) -> onnx.ValueInfoProto:
    return helper.make_value_info(name, types[name]) if name in types else helper.make_empty_tensor_value_info(name)


def simpler(proto: onnx.ModelProto, types: Types) -> Iterator[onnx.ModelProto]:
    """Models in which one node is gone, and the others still hang together: a choice has become one of its branches, or those
    who read a node read an input of it instead, which has the same type. Nested graphs too."""
    for index in reversed(range(len(proto.graph.node))):
        yield from _branches(proto, index)
    for number, graph in enumerate(all_graphs(proto.graph)):
        for index in reversed(range(len(graph.node))):
            yield from _without(proto, number, index, types if number == 0 else None)


def _branches(proto: onnx.ModelProto, index: int) -> Iterator[onnx.ModelProto]:
    """Each graph without inputs of its own that the node holds, in its place."""
    for branch in nested_graphs(proto.graph.node[index]):
        node = proto.graph.node[index]
        inner = {name for inside in branch.node for name in inside.output}
        if branch.input or len(branch.output) != len(node.output) or any(o.name not in inner for o in branch.output):
            continue
        made, placed = _copy(proto), GraphProto()
        placed.CopyFrom(branch)
        names = {o.name: name for o, name in zip(branch.output, node.output, strict=True) if name}
        for graph in all_graphs(placed):
            rename(graph, names)
        nodes = [*proto.graph.node[:index], *placed.node, *proto.graph.node[index + 1 :]]
        del made.graph.node[:]
        made.graph.node.extend(nodes)
        made.graph.initializer.extend(placed.initializer)
        yield made


def _without(proto: onnx.ModelProto, number: int, index: int, types: Types | None) -> Iterator[onnx.ModelProto]:
    """``number``: which of all graphs; ``types`` None: they are not known, and each input is tried."""
    graph = list(all_graphs(proto.graph))[number]
    node = graph.node[index]
    returned = [o.name for o in graph.output]
    ends = node.output[0] in returned if len(node.output) == 1 else True
    if len(node.output) != 1 or (ends and number == 0) or _copies(node):  # the main graph can end anywhere, see ``cut``
        return
    stored = {t.name for t in graph.initializer}
    made_here = {name for other in graph.node for name in other.output}
    for source in dict.fromkeys(name for name in node.input if name and name not in stored):
        if types is not None and (source not in types or types[source] != types.get(node.output[0])):
            continue
        if ends and (source not in made_here or source in returned):
            continue
        made = _copy(proto)
        changed = list(all_graphs(made.graph))[number]
        output = node.output[0]
        del changed.node[index]
        for inside in all_graphs(changed):  # a nested graph returns its results by their names
            rename(inside, {source: output}) if ends else _redirect(inside, output, source)
        yield made


def _redirect(graph: GraphProto, old: str, new: str) -> None:
    for reader in graph.node:
        reader.input[:] = [new if name == old else name for name in reader.input]


def _copies(node: NodeProto) -> bool:
    return not node.input


def _copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    return made


def fewer_outputs(proto: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """Without one of several outputs, where its maker is read by others too."""
    read = {name for node in proto.graph.node for name in (*node.input, *outer_reads(node))}
    for index, output in enumerate(proto.graph.output):
        if len(proto.graph.output) > 1 and output.name in read:
            made = _copy(proto)
            del made.graph.output[index]
            yield made


def bare(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Without what no compile looks at: documentation, metadata, training."""
    made = _copy(proto)
    del made.metadata_props[:]
    del made.training_info[:]
    made.ClearField("doc_string")
    for graph in all_graphs(made.graph):
        graph.ClearField("doc_string")
        for node in graph.node:
            node.ClearField("doc_string")
            del node.metadata_props[:]
    return made
