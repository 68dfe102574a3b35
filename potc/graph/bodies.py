"""Nested graphs as models of their own: what a body reads from outside becomes inputs, and constants come along.

So every pass that works on a model works on a body, and nothing has to know about two scopes at once. Formats: onnx/docs/IR.md,
"Nested graphs"; names are unique in the whole model (``names.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx
from onnx import GraphProto, NodeProto, TypeProto, ValueInfoProto

from potc.graph.control import formal_types
from potc.graph.model import Model
from potc.graph.snapshot import outer_reads


@dataclass(frozen=True, slots=True)
class Body:
    """One nested graph of a model's main graph: the attribute ``attribute`` of the node called ``node``.

    ``model`` has the body's own inputs, then ``captured``: the computed tensors that it reads from outside. ``constants``:
    initializers from outside that it reads, and stores under the same name.
    """

    node: str
    attribute: str
    model: Model
    captured: tuple[str, ...]
    constants: tuple[str, ...]

    @property
    def key(self) -> str:
        """What messages and files call it."""
        return f"{self.node}/{self.attribute}"


@dataclass(frozen=True, slots=True)
class Closed:
    """A body that can't stand alone, and why."""

    node: str
    attribute: str
    reason: str

    @property
    def key(self) -> str:
        return f"{self.node}/{self.attribute}"


def bodies_of(model: Model) -> tuple[Body | Closed, ...]:
    """The bodies of the main graph's nodes, in the order of the nodes and their attributes. Bodies in bodies are found by asking
    again."""
    graph = model.proto.graph
    holders = [node for node in graph.node if any(a.HasField("g") for a in node.attribute)]
    if not holders:
        return ()
    types = _types(graph)
    overridable = {i.name for i in graph.input}
    stored = {t.name: t for t in graph.initializer if t.name not in overridable}
    return tuple(
        _body(model, node, attribute, types, stored)
        for node in holders
        for attribute in sorted(node.attribute, key=lambda a: a.name)
        if attribute.HasField("g")
    )


def _body(
    model: Model,
    node: NodeProto,
    attribute: onnx.AttributeProto,
    types: dict[str, TypeProto],
    stored: dict[str, onnx.TensorProto],
) -> Body | Closed:
    nested = attribute.g
    alone = NodeProto(attribute=[attribute])
    reads = tuple(dict.fromkeys(outer_reads(alone)))
    constants = tuple(name for name in reads if name in stored)
    captured = tuple(name for name in reads if name not in stored)
    unknown = [name for name in captured if name not in types]
    formals = formal_types(node, attribute, types)
    unknown += [value.name for value in formals if not value.type.WhichOneof("value")]
    if unknown:
        reason = f"the type of `{unknown[0]}`, which it reads, can't be inferred"
        return Closed(node.name, attribute.name, reason)
    proto = onnx.ModelProto(ir_version=model.proto.ir_version)
    proto.opset_import.extend(model.proto.opset_import)
    proto.functions.extend(model.proto.functions)
    proto.graph.CopyFrom(nested)
    del proto.graph.input[:]
    proto.graph.input.extend(formals)
    proto.graph.input.extend(ValueInfoProto(name=name, type=types[name]) for name in captured)
    proto.graph.initializer.extend(stored[name] for name in constants)
    return Body(node.name, attribute.name, Model(model.path, proto, model.files), captured, constants)


def _types(graph: GraphProto) -> dict[str, TypeProto]:
    values = (*graph.value_info, *graph.output, *graph.input)
    return {v.name: v.type for v in values if v.type.WhichOneof("value") and _is_told(v.type)}


def _is_told(kind: TypeProto) -> bool:
    return not kind.HasField("tensor_type") or kind.tensor_type.elem_type != onnx.TensorProto.UNDEFINED


def with_bodies(model: Model, changed: Sequence[tuple[Body, Model]]) -> Model:
    """The model with changed bodies put back in their places. Each has the inputs and outputs of its ``Body.model``; what it
    stores of the outer constants is left outside."""
    if not changed:
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    places = {(n.name, a.name): a.g for n in proto.graph.node for a in n.attribute if a.HasField("g")}
    for body, inner in changed:
        _put(places[body.node, body.attribute], inner.proto.graph, set(body.constants))
    return model.with_proto(proto)


def _put(graph: GraphProto, inner: GraphProto, outside: set[str]) -> None:
    """The body's own inputs and texts stay as they were declared; outputs without a type get the one that was inferred."""
    for mine, theirs in zip(graph.output, inner.output, strict=True):
        if not mine.type.WhichOneof("value"):
            mine.type.CopyFrom(theirs.type)
    del graph.node[:]
    graph.node.extend(inner.node)
    del graph.initializer[:]
    graph.initializer.extend(t for t in inner.initializer if t.name not in outside)
    del graph.sparse_initializer[:]
    graph.sparse_initializer.extend(inner.sparse_initializer)
    del graph.value_info[:]
    graph.value_info.extend(inner.value_info)


def deep(model: Model) -> Iterator[tuple[str, Model, tuple[Body | Closed, ...]]]:
    """The main graph, under the key "", then all bodies at any depth that can stand alone, each with its own bodies."""
    waiting: list[tuple[str, Model]] = [("", model)]
    while waiting:
        key, found = waiting.pop(0)
        bodies = bodies_of(found)
        yield key, found, bodies
        waiting.extend((b.key, b.model) for b in bodies if isinstance(b, Body))
