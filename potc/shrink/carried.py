"""What a node with nested graphs gives that nobody reads: values that a loop carries or collects, results of branches; and a loop
that is its first pass.

ONNX, operators If, Loop and Scan: a branch returns what the node does; a body of Loop takes a count, a condition and the carried
values, and returns a condition, these, and what is collected; one of Scan takes the carried values and a slice of each scanned
tensor, and returns the carried values and what is collected.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, numpy_helper

from potc.graph.names import all_graphs, fresh, names_in, nested_graphs, rename
from potc.graph.snapshot import outer_reads

# Of a node and its body: inputs and outputs in front of the carried values.
BEFORE = {"Loop": (2, 2, 1), "Scan": (0, 0, 0)}


def fewer_values(proto: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """Models in which one node with nested graphs returns one value less, that nobody reads. Who reads it inside, reads what it was
    at first. Nodes of nested graphs that nobody needs any more are gone."""
    for number, graph in enumerate(all_graphs(proto.graph)):
        read = _read(graph)
        for index, node in enumerate(graph.node):
            for place, name in enumerate(node.output):
                if any(nested_graphs(node)) and len(node.output) > 1 and name not in read:
                    made = onnx.ModelProto()
                    made.CopyFrom(proto)
                    changed = list(all_graphs(made.graph))[number].node[index]
                    _drop(changed, place)
                    tidied(changed)
                    yield made


def _drop(node: NodeProto, place: int) -> None:
    graphs = list(nested_graphs(node))
    inputs, taken, returned = BEFORE.get(node.op_type, (0, 0, 0))
    del node.output[place]
    for graph in graphs:
        del graph.output[returned + place]
    if node.op_type in BEFORE and place < _carried(node, graphs[0]):
        (graph,) = graphs
        start = {graph.input[taken + place].name: node.input[inputs + place]}
        for inside in all_graphs(graph):
            rename(inside, start)
        del node.input[inputs + place], graph.input[taken + place]


def _carried(node: NodeProto, graph: GraphProto) -> int:
    """How many values go from pass to pass."""
    inputs, _, _ = BEFORE[node.op_type]
    scanned = next((a.i for a in node.attribute if a.name == "num_scan_inputs"), 0)
    return len(node.input) - inputs - scanned


def tidied(node: NodeProto) -> None:
    """Without nodes of nested graphs whose results nobody reads, and without what these alone stored."""
    for graph in nested_graphs(node):
        while True:
            read = _read(graph)
            dead = [i for i, inner in enumerate(graph.node) if read.isdisjoint(inner.output)]
            for index in reversed(dead):
                del graph.node[index]
            if not dead:
                break
        for index in reversed([i for i, t in enumerate(graph.initializer) if t.name not in read]):
            del graph.initializer[index]
        for inner in graph.node:
            tidied(inner)


def _read(graph: GraphProto) -> set[str]:
    return {n for node in graph.node for n in (*node.input, *outer_reads(node)) if n} | {o.name for o in graph.output}


def first_passes(proto: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """Models in which a loop of the main graph that collects nothing anybody reads has become its first pass."""
    read = _read(proto.graph)
    for index, node in enumerate(proto.graph.node):
        if node.op_type != "Loop":
            continue
        (body,) = nested_graphs(node)
        carried = _carried(node, body)
        inner = {name for inside in body.node for name in inside.output}
        ends = [o.name for o in body.output[1 : 1 + carried]]
        if read.intersection(node.output[carried:]) or len(set(ends)) < carried or not inner.issuperset(ends):
            continue
        made, placed, taken = onnx.ModelProto(), GraphProto(), names_in(proto)
        made.CopyFrom(proto)
        placed.CopyFrom(body)
        first = [(np.array(0, np.int64), "count"), (np.array(True), "condition")]
        told = [numpy_helper.from_array(v, fresh(f"{node.name or 'loop'}/{word}", taken)) for v, word in first]
        starts = dict(zip((i.name for i in body.input), (*(t.name for t in told), *node.input[2:]), strict=True))
        results = {end: name for end, name in zip(ends, node.output, strict=False) if name}
        for graph in all_graphs(placed):
            rename(graph, {**starts, **results})
        nodes = [*proto.graph.node[:index], *placed.node, *proto.graph.node[index + 1 :]]
        del made.graph.node[:]
        made.graph.node.extend(nodes)
        made.graph.initializer.extend((*placed.initializer, *told))
        yield made
