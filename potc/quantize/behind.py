"""What follows a layer element by element, an activation function above all, and how much of a shift gets through it.

A shift of what a layer returns counts only where the function f behind it passes it on: none of it where a Relu returns 0. So
means are taken behind f, and a shift in front of f changes them by it times the mean slope of f.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import NodeProto, helper

from potc.graph.snapshot import Snapshot
from potc.language.program import Signature
from potc.quantize.observe import Averaged, mean_graph


@dataclass(frozen=True, slots=True)
class Behind:
    """``nodes`` of the float model, in order, compute ``result`` from one tensor and constants, element by element, and nothing
    else reads what they leave on the way. Without nodes ``result`` is that tensor."""

    nodes: tuple[str, ...]
    result: str


def behind(snapshot: Snapshot, signatures: Mapping[str, Signature], tensor: int) -> Behind:
    """All that follows ``tensor`` (an id) up to the one place where something else than it comes in."""
    region, inside = {tensor}, set[int]()
    waiting = [node for node, _ in snapshot.consumers[tensor]]
    heapq.heapify(waiting)
    while waiting:  # nodes are numbered in topological order: what this one reads was looked at
        node = heapq.heappop(waiting)
        if node in inside or not _stays(snapshot, signatures, node, region, tensor):
            continue
        inside.add(node)
        made = snapshot.outputs[node][0]
        region.add(made)
        for reader, _ in snapshot.consumers[made]:
            heapq.heappush(waiting, reader)
    left = sorted(t for t in region if t in snapshot.graph_outputs or not _readers(snapshot, t) <= inside)
    if not inside or len(left) != 1 or left[0] == tensor:
        return Behind((), snapshot.tensors[tensor])
    return Behind(tuple(snapshot.names[n] for n in sorted(inside)), snapshot.tensors[left[0]])


def _stays(snapshot: Snapshot, signatures: Mapping[str, Signature], node: int, region: set[int], tensor: int) -> bool:
    """True if a node makes each element of what lies in its place in the region, and of constants."""
    signature = signatures.get(snapshot.ops[node])
    if signature is None or not signature.elementwise or len(snapshot.outputs[node]) != 1:
        return False
    known = all(t < 0 or t in region or snapshot.is_constant(t) for t in snapshot.inputs[node])
    shape = snapshot.shapes[tensor]
    return known and shape is not None and snapshot.shapes[snapshot.outputs[node][0]] == shape


def _readers(snapshot: Snapshot, tensor: int) -> set[int]:
    return {node for node, _ in snapshot.consumers[tensor]}


def looking(
    prepared: onnx.ModelProto, found: Behind, source: str, target: Averaged, step: float, prefix: str, opset: int
) -> tuple[list[NodeProto], list[onnx.TensorProto], tuple[str, ...]]:
    """Nodes and constants that take means by channel, and the names of these, float32 [C]: of f(t), and where f is a function, of
    f(t + step) and f(t - step), t being ``target.tensor``, float32. ``source``: what f reads in the float model; ``prefix``: of all
    new names."""
    names = (f"{prefix}/mean", f"{prefix}/up", f"{prefix}/down") if found.nodes else (f"{prefix}/mean",)
    nodes: list[NodeProto] = []
    constants: list[onnx.TensorProto] = []
    wanted: list[tuple[str, Averaged]] = []
    for name, offset in zip(names, (0.0, step, -step), strict=False):
        place = target.tensor
        if offset:
            place = f"{name}/moved"
            constants.append(helper.make_tensor(f"{name}/offset", onnx.TensorProto.FLOAT, [], [offset]))
            nodes.append(helper.make_node("Add", [target.tensor, f"{name}/offset"], [place], name=place))
        copies, end = _copied(prepared, found, source, place, name)
        nodes += copies
        wanted.append((name, Averaged(end, target.rank, target.channel)))
    means, stored = mean_graph(wanted, opset, {}, cast=False)
    return [*nodes, *means], [*constants, *stored], names


def _copied(
    prepared: onnx.ModelProto, found: Behind, source: str, place: str, prefix: str
) -> tuple[list[NodeProto], str]:
    """f of another tensor than its own: the nodes, and what they return."""
    names = {source: place}
    if not found.nodes:
        return [], place
    nodes: list[NodeProto] = []
    by_name = {node.name: node for node in prepared.graph.node}
    for name in found.nodes:
        node = NodeProto()
        node.CopyFrom(by_name[name])
        node.name = f"{prefix}/{name}"
        for port, read in enumerate(node.input):
            node.input[port] = names.get(read, read)
        names[node.output[0]] = f"{prefix}/{node.output[0]}"
        node.output[0] = names[node.output[0]]
        nodes.append(node)
    return nodes, names[found.result]


def constants_of(prepared: onnx.ModelProto, found: Behind) -> list[onnx.TensorProto]:
    """The constants that f reads."""
    read = {name for node in prepared.graph.node if node.name in found.nodes for name in node.input}
    return [t for t in prepared.graph.initializer if t.name in read]
