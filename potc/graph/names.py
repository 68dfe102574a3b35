"""Names that mean one thing each in a whole model: of nodes, and of tensors in nested graphs.

ONNX wants it so, and most exporters keep to it; others name nodes not at all, or the tensors of both branches alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import GraphProto, NodeProto

from potc.graph.snapshot import outer_reads


def nested_graphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs that a node holds, in the order of its attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph, and all graphs nested in it, each behind the one that holds it."""
    waiting = [graph]
    while waiting:
        found = waiting.pop()
        yield found
        for node in reversed(found.node):
            waiting.extend(reversed(list(nested_graphs(node))))


def all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of a graph and of all graphs nested in it."""
    for found in all_graphs(graph):
        yield from found.node


def settle_names(graph: GraphProto) -> None:
    """In place: every node gets a name of its own, and a tensor of a nested graph whose name another tensor has gets a new
    one. Names that are there and unique stay; the main graph comes first, so its names stay above all."""
    _name_nodes(graph)
    if any(nested_graphs(node) for node in graph.node):
        _separate_tensors(graph)


def _name_nodes(graph: GraphProto) -> None:
    taken: set[str] = set()
    unnamed: list[tuple[int, NodeProto]] = []
    for nested in all_graphs(graph):
        for i, node in enumerate(nested.node):
            if node.name and node.name not in taken:
                taken.add(node.name)
            else:
                unnamed.append((i, node))
    for i, node in unnamed:
        node.name = fresh(f"{node.name or node.op_type}_{i}", taken)


def _separate_tensors(graph: GraphProto) -> None:
    taken = {name for nested in all_graphs(graph) for name in _defined(nested)}
    met = set(_defined(graph))
    for node in graph.node:
        for nested in nested_graphs(node):
            _separate(nested, {}, met, taken)


def _separate(graph: GraphProto, outer: Mapping[str, str], met: set[str], taken: set[str]) -> None:
    """``outer``: new names of what is read from outside; ``met``: names of all graphs that came before."""
    names = dict(outer)
    for name in _defined(graph):
        names.pop(name, None)
        if name in met:
            names[name] = fresh(name, taken)
        met.add(names.get(name, name))
    if names:
        rename(graph, names)
    for node in graph.node:
        for nested in nested_graphs(node):
            _separate(nested, names, met, taken)


def rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Gives tensors of a graph other names, in place; not inside the graphs nested in it."""
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)
    for node in graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]


def _defined(graph: GraphProto) -> Iterator[str]:
    """What a graph itself defines, each name once."""
    names = [v.name for v in (*graph.input, *graph.initializer)]
    names += [t.values.name for t in graph.sparse_initializer]
    names += [name for node in graph.node for name in node.output if name]
    yield from dict.fromkeys(names)


def fresh(name: str, taken: set[str]) -> str:
    """``name``, or with a number behind it; ``taken`` holds it afterwards."""
    unique, count = name, 1
    while unique in taken:
        count += 1
        unique = f"{name}_{count}"
    taken.add(unique)
    return unique


def names_in(proto: onnx.ModelProto) -> set[str]:
    """All names of nodes and tensors of a model, nested graphs included."""
    found: set[str] = set()
    for graph in all_graphs(proto.graph):
        found.update(_defined(graph))
        for node in graph.node:
            found.update((node.name, *node.input))
        found.update(o.name for o in graph.output)
    return found


def free_prefix(proto: onnx.ModelProto, start: str) -> str:
    """``start``, lengthened until no name in the main graph, or read from nested ones, begins with it."""
    graph = proto.graph
    names = {name for node in graph.node for name in (node.name, *node.output, *outer_reads(node))}
    names |= {i.name for i in graph.input} | {t.name for t in graph.initializer}
    while any(name.startswith(start) for name in names):
        start += "_"
    return start
