"""Cutting a graph into groups of nodes that follow each other, where few tensors cross, so that each fits into the memory there is.

A group is a model of its own: what earlier groups made is fed to it. Numbers that are stored in fewer bits are made real by the
group that computes with them, so that what crosses is the codes, and kernels find both ends of their patterns.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from potc.diagnostics.diagnostic import Rejected, reject
from potc.execute.aside import size_of
from potc.graph.snapshot import outer_reads

STEP = 1 << 16  # bytes: how exactly the least memory is told
SESSION = 1 << 20  # what opening one more session costs, in bytes that cross a border
FUSED = 1 << 50  # the same for a border at which onnxruntime may compute in another way than without it
FURTHER = 1 << 20  # bytes of a tensor of which only the element type is known


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes that a group may need: ``weight`` times those of its stored numbers and ``number`` for each of them, ``activation``
    times the most that is alive at once, and once what is ``returned``."""

    bytes: int
    weight: float
    activation: float
    number: float = 0.0

    def held(self, tensor: TensorProto) -> int:
        """What a stored tensor counts."""
        return int(self.weight * size_of(tensor) + self.number * math.prod(tensor.dims))

    def needed(self, held: int, alive: int, returned: int) -> int:
        return held + int(self.activation * (alive + returned))


@dataclass(frozen=True, slots=True)
class Group:
    """``nodes``: positions in the graph, ascending; ``inputs``: what it reads of earlier groups and of the model's inputs;
    ``outputs``: what later groups or the caller read of it."""

    nodes: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wishes:
    """``watched``: tensors that are read beside their readers, at which nothing is fused; ``together``: names of nodes that must
    stay in one group; ``returned``: tensors whose values a run returns; ``lengths``: of symbolic dimensions."""

    watched: Collection[str] = ()
    together: Sequence[Collection[str]] = ()
    returned: Collection[str] = ()
    lengths: Mapping[str, int] = field(default_factory=dict[str, int])


def cut(proto: onnx.ModelProto, room: Room, wishes: Wishes | None = None) -> tuple[Group, ...]:
    """Groups in order. Of all ways to cut, one in which the fewest bytes cross borders. ``proto``: with nodes in topological order.

    Raises Rejected(memory-too-small) with the node that does not fit.
    """
    graph = _Graph(proto, room, wishes or Wishes())
    return graph.groups(_borders(graph, room))


def least(proto: onnx.ModelProto, room: Room, wishes: Wishes | None = None) -> tuple[int, str]:
    """The fewest bytes in which ``cut`` can do, to ``STEP``, and the node that needs them. ``room``: all but its bytes counts."""
    graph = _Graph(proto, room, wishes or Wishes())
    whole = room.needed(sum(graph.stored.values()), max(graph.alive(), default=0), sum(graph.given_back()))
    node, low, high = "", 0, whole // STEP + 1
    while low < high:
        middle = (low + high) // 2
        try:
            _borders(graph, replace(room, bytes=middle * STEP))
            high = middle
        except Rejected as rejected:
            node, low = rejected.diagnostics[0].node or "", middle + 1
    return high * STEP, node


def group_model(proto: onnx.ModelProto, group: Group) -> onnx.ModelProto:
    """A model of one group, with what the graph declares of its tensors."""
    graph = proto.graph
    nodes = [graph.node[i] for i in group.nodes]
    read = {name for node in nodes for name in _reads(node)} | set(group.outputs)
    known = read | {name for node in nodes for name in node.output}
    ends = {*group.inputs, *group.outputs}
    told = _declared(proto)
    part = onnx.ModelProto(ir_version=proto.ir_version)
    part.opset_import.extend(proto.opset_import)
    part.functions.extend(proto.functions)
    part.graph.name = graph.name
    part.graph.node.extend(nodes)
    part.graph.input.extend(told[name] for name in group.inputs)
    part.graph.output.extend(told.get(name) or helper.make_empty_tensor_value_info(name) for name in group.outputs)
    part.graph.initializer.extend(t for t in graph.initializer if t.name in read)
    part.graph.sparse_initializer.extend(s for s in graph.sparse_initializer if s.values.name in read)
    part.graph.value_info.extend(v for v in graph.value_info if v.name in known and v.name not in ends)
    return part


def lengths_of(proto: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The lengths that one sample gives to symbolic dimensions."""
    found: dict[str, int] = {}
    for value in proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, length in zip(dims, feed[value.name].shape if value.name in feed else (), strict=False):
            if dim.dim_param:
                found[dim.dim_param] = length
    return found


class _Graph:
    """Nodes in order but for the carried ones, which every group that reads them has again; numbers are positions in ``order``."""

    def __init__(self, proto: onnx.ModelProto, room: Room, wishes: Wishes) -> None:
        graph = proto.graph
        self.proto, self._wishes = proto, wishes
        self.returned = {o.name for o in graph.output}
        self._carried = {
            node.output[0]: i
            for i, node in enumerate(graph.node)
            if node.op_type == "DequantizeLinear" and node.output[0] not in self.returned
        }
        carried = set(self._carried.values())
        self.order = [i for i in range(len(graph.node)) if i not in carried]
        self.stored = {t.name: room.held(t) for t in graph.initializer}
        self.stored |= {s.values.name: int(room.weight * s.ByteSize()) for s in graph.sparse_initializer}
        expanded = [self._expanded(_reads(graph.node[i])) for i in self.order]
        self.extra = [nodes for _, nodes in expanded]  # the carried nodes that each node reads
        self.reads = [tuple(n for n in names if n not in self.stored) for names, _ in expanded]
        self.weights = [tuple(n for n in names if n in self.stored) for names, _ in expanded]
        self.maker = {i.name: -1 for i in graph.input if i.name not in self.stored}
        for place, i in enumerate(self.order):
            self.maker.update((name, place) for name in graph.node[i].output if name)
        self.last: dict[str, int] = {}
        self.readers: Counter[str] = Counter()
        for place, names in enumerate(self.reads):
            self.last.update(dict.fromkeys(names, place))
            self.readers.update(names)
        decoded = {name for i in carried for name in graph.node[i].input}
        self._sound = decoded | set(wishes.watched)
        told = _declared(proto)
        self._kinds = {n: v for n, v in told.items() if v.type.tensor_type.elem_type}
        self.sizes = {n: _bytes(self._kinds.get(n), wishes.lengths) for n in self.maker}

    def _expanded(self, names: Iterable[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """What is read instead of the results of carried nodes, and these."""
        found: dict[str, None] = {}
        nodes: list[int] = []
        waiting = list(names)
        while waiting:
            name = waiting.pop(0)
            if name in self._carried:
                nodes.append(self._carried[name])
                waiting.extend(n for n in self.proto.graph.node[self._carried[name]].input if n)
            else:
                found[name] = None
        return tuple(found), tuple(nodes)

    def crossing(self) -> list[int | None]:
        """What a border in front of each node costs; None where there can't be one."""
        length = len(self.order)
        sizes, blocked, fused = ([0] * (length + 1) for _ in range(3))

        def over(counts: list[int], first: int, last: int, amount: int) -> None:
            """A tensor that is made by ``first`` and read by ``last`` crosses what is between."""
            counts[first + 1] += amount
            counts[last + 1] -= amount

        for name, last in self.last.items():
            first = self.maker.get(name, -1)
            over(sizes, first, last, self.sizes.get(name, FURTHER))
            over(blocked, first, last, int(name not in self._kinds))
            unsound = first >= 0 and name not in self._sound and self.readers[name] == 1
            over(fused, first, last, int(unsound))
        place = {self.proto.graph.node[i].name: p for p, i in enumerate(self.order)}
        for names in self._wishes.together:
            places = [place[n] for n in names if n in place]
            if places:
                over(blocked, min(places), max(places), 1)
        table = zip(*(list(accumulate(counts))[:length] for counts in (sizes, blocked, fused)), strict=True)
        return [None if shut else SESSION + size + FUSED * bad for size, shut, bad in table]

    def alive(self) -> list[int]:
        """Bytes of the tensors that are needed while each node runs."""
        counts = [0] * (len(self.order) + 1)
        for name, first in self.maker.items():
            counts[max(first, 0)] += self.sizes[name]
            counts[max(self.last.get(name, first), first, 0) + 1] -= self.sizes[name]
        return list(accumulate(counts))[: len(self.order)]

    def given_back(self) -> list[int]:
        """Bytes of the results of each node that a run returns."""
        wanted = self.returned | set(self._wishes.returned)
        outputs = (self.proto.graph.node[i].output for i in self.order)
        return [sum(self.sizes[n] for n in names if n in wanted) for names in outputs]

    def groups(self, borders: Sequence[int]) -> tuple[Group, ...]:
        return tuple(self._group(a, b) for a, b in pairwise(borders))

    def _group(self, first: int, end: int) -> Group:
        graph = self.proto.graph
        places = range(first, end)
        nodes = sorted({*(self.order[p] for p in places), *(i for p in places for i in self.extra[p])})
        inputs = dict.fromkeys(n for p in places for n in self.reads[p] if self.maker.get(n, -1) < first)
        made = [n for p in places for n in graph.node[self.order[p]].output if n]
        outputs = [n for n in made if n in self.returned or self.last.get(n, -1) >= end]
        if first == 0:  # what the caller gets without any node
            outputs += [n for n in self.returned if self.maker.get(n, -1) < 0]
            inputs.update(dict.fromkeys(n for n in outputs if n in self.maker and self.maker[n] < 0))
        return Group(tuple(nodes), tuple(inputs), tuple(outputs))


def _borders(graph: _Graph, room: Room) -> list[int]:
    """Where groups begin, and the end: a shortest path over the places in front of nodes. A group that is a part of one that fits
    fits as well, so the first place from which a group can reach ``end`` only moves on."""
    crossing, alive, returned = graph.crossing(), graph.alive(), graph.given_back()
    weights: Counter[str] = Counter()
    stored = back = first = 0
    highest: deque[int] = deque()  # places of the window, with ``alive`` falling
    starts: deque[tuple[int, int]] = deque([(0, 0)])  # cost so far and place, with the cost rising
    cost: list[int | None] = [0]
    before = [0]
    for place in range(len(graph.order)):
        for name in graph.weights[place]:
            stored += graph.stored[name] if not weights[name] else 0
            weights[name] += 1
        back += returned[place]
        while highest and alive[highest[-1]] <= alive[place]:
            highest.pop()
        highest.append(place)
        while room.needed(stored, alive[highest[0]], back) > room.bytes:
            if first == place:
                raise _too_small(graph, place, room.needed(stored, alive[place], back), room)
            for name in graph.weights[first]:
                weights[name] -= 1
                stored -= graph.stored[name] if not weights[name] else 0
            back -= returned[first]
            first += 1
            if highest[0] < first:
                highest.popleft()
        while starts and starts[0][1] < first:
            starts.popleft()
        if not starts:
            raise _too_small(graph, place, None, room)
        cost.append(starts[0][0])
        before.append(starts[0][1])
        border = crossing[place + 1] if place + 1 < len(graph.order) else None
        if border is not None:
            total = starts[0][0] + border
            while starts and starts[-1][0] >= total:
                starts.pop()
            starts.append((total, place + 1))
    borders = [len(graph.order)]
    while borders[-1]:
        borders.append(before[borders[-1]])
    return borders[::-1]


def _too_small(graph: _Graph, place: int, needed: int | None, room: Room) -> Exception:
    name = graph.proto.graph.node[graph.order[place]].name
    if needed is None:
        message = f"the layers around `{name}` can't be parted, and need more than the {room.bytes:,} bytes that are left for them"
    else:
        message = f"`{name}` alone needs about {needed:,} bytes; of the memory {room.bytes:,} are left for layers"
    return reject("memory-too-small", message, node=name, help="state more memory, or give smaller samples")


def _reads(node: NodeProto) -> tuple[str, ...]:
    return tuple(name for name in (*node.input, *outer_reads(node)) if name)


def _declared(proto: onnx.ModelProto) -> dict[str, ValueInfoProto]:
    graph = proto.graph
    return {v.name: v for v in (*graph.value_info, *graph.output, *graph.input)}


def _bytes(value: ValueInfoProto | None, lengths: Mapping[str, int]) -> int:
    """Of a tensor of which everything is known, else a guess: symbolic dimensions without a length count 1."""
    if value is None or not value.type.tensor_type.HasField("shape"):
        return FURTHER
    kind = value.type.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else lengths.get(d.dim_param, 1) for d in kind.shape.dim]
    if kind.elem_type == onnx.TensorProto.STRING:
        return FURTHER
    return math.prod(dims) * helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
