"""A compiled model with the device's sums: kernels whose lanes could saturate are run by ``saturate``, the rest as written.

The graph is cut at those kernels: onnxruntime runs what lies between two cuts in float arithmetic between the quantizers,
without optimizations. So a host whose own kernels never saturate, or always do, can judge any device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper

from potc.evaluate.saturate import Codes, Groups, Unfit, accumulate, groups_at_risk, groups_of
from potc.execute.aside import Unread
from potc.execute.session import open_session
from potc.graph.names import all_graphs
from potc.graph.snapshot import outer_reads, take_snapshot
from potc.language.program import Signature
from potc.match.environment import axis_of
from potc.quantize.params import ACTIVATION_SPAN
from potc.quantize.plan import Lanes, Plan

BYTE = frozenset({np.dtype(np.uint8), np.dtype(np.int8)})


@dataclass(slots=True)
class LaneUse:
    """The narrow sums of one kernel. ``at_risk``: lane groups that leave the register for some activations, of ``groups`` in
    the weight; ``saturated``: how often one did, over all positions of what was run; ``largest``: by how much at most.
    """

    node: str
    groups: int
    at_risk: int
    saturated: int = 0
    largest: int = 0


@dataclass(frozen=True, slots=True)
class _Stored:
    """What a DequantizeLinear reads. ``values``: the codes, None unless they are constant."""

    codes: str
    scale: np.ndarray
    zero_point: np.ndarray
    values: np.ndarray | None


@dataclass(frozen=True, slots=True)
class _Narrow:
    """A node whose input ``port`` is a constant weight that is added in narrow lanes."""

    node: NodeProto
    port: int
    weight: np.ndarray
    lanes: tuple[Lanes, ...]
    use: LaneUse


def lane_uses(compiled: bytes, plan: Plan) -> tuple[LaneUse, ...]:
    """One for each kernel of the plan that adds constant weights in narrow lanes, judged by the codes that the model holds."""
    if not any(lane.lanes > 1 for c in plan.constants for lane in c.lanes):
        return ()
    found: list[LaneUse] = []
    for graph in all_graphs(onnx.ModelProto.FromString(compiled).graph):
        found += (narrow.use for narrow in _Graph(onnx.ModelProto(graph=graph)).narrow(plan))
    return tuple(found)


class Simulation:
    """Runs like a session. ``uses``: what the lanes of each kernel did in all runs so far."""

    def __init__(self, compiled: bytes, plan: Plan, signatures: Mapping[str, Signature]) -> None:
        self._graph = graph = _Graph(onnx.ModelProto.FromString(compiled))
        narrow = list(graph.narrow(plan))
        self.uses = tuple(n.use for n in narrow)
        axis = _axes(graph.proto, signatures)
        self._cuts = {n.node.name: _Cut(graph, n, axis) for n in narrow if n.use.at_risk}
        self._levels = graph.levels(self._cuts)
        self._segments = _segments(graph, self._cuts, self._levels)

    def run(self, outputs: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[Any]:
        """Results by output name. Raises Unfit where a kernel can't be simulated, and what onnxruntime raises."""
        values: dict[str, Any] = {**self._graph.initializers, **feed}
        for level, segment in enumerate(self._segments):
            values.update(segment.run(values))
            for name, cut in self._cuts.items():
                if self._levels[name] == level:
                    values[cut.output] = cut.run(values)
        return [values[name] for name in outputs]


# ---------------------------------------------------------------------------------------------- the kernels


Axis = Callable[[NodeProto, int, str, int], int]  # node, port (-1: its result), role, rank


def _axes(proto: onnx.ModelProto, signatures: Mapping[str, Signature]) -> Axis:
    snapshot = take_snapshot(proto)
    index = {name: i for i, name in enumerate(snapshot.names)}

    def axis(node: NodeProto, port: int, role: str, rank: int) -> int:
        found = axis_of(snapshot, signatures, index[node.name], port, role, rank)
        if found is None:
            raise Unfit(f"{node.name}: no signature names the axis `{role}`")
        return found

    return axis


class _Cut:
    """One kernel's node, taken out of the graph. ``reads``: the tensors that it needs."""

    def __init__(self, graph: _Graph, narrow: _Narrow, axis: Axis) -> None:
        node, self._narrow, self._axis = narrow.node, narrow, axis
        computed = [p for p, name in enumerate(node.input) if graph.is_computed(name)]
        stored = [graph.stored(node.input[p]) for p in computed]
        w = graph.stored(node.input[narrow.port])
        if len(stored) != 1 or stored[0] is None or stored[0].scale.ndim or w is None:
            raise Unfit(f"{node.name}: its activations are not stored with one scale")
        self._x, self._w, self._port = stored[0], w, computed[0]
        self._others = [n for p, n in enumerate(node.input) if n and p not in (narrow.port, self._port)]
        self.reads = frozenset({*self._others, self._x.codes})
        self.output = node.output[0]
        inputs = [_declared(name, onnx.TensorProto.FLOAT) for name in dict.fromkeys(node.input) if name]
        alone = helper.make_graph([node], "kernel", inputs, [helper.make_empty_tensor_value_info(self.output)])
        self._session = open_session(_serialized(alone, graph.proto), optimize=False, threads=1)
        self._is_fixed = not any(map(graph.is_computed, self._others))
        self._offsets: dict[tuple[int, ...], np.ndarray] = {}
        self._groups: tuple[Groups, ...] | None = None

    def run(self, values: Mapping[str, Any]) -> np.ndarray:
        """Float32: the sums times the scales, and what the kernel adds to them."""
        narrow, node = self._narrow, self._narrow.node
        codes = np.asarray(values[self._x.codes])
        if codes.dtype not in BYTE or np.unique(self._w.zero_point).size > 1:
            raise Unfit(f"{node.name}: activations do not have 8 bits, or weights have several zero points")
        added = {name: np.asarray(values[name], np.float32) for name in self._others}
        nothing = {name: np.zeros_like(value) for name, value in added.items()}

        def once(x: np.ndarray, w: np.ndarray, others: Mapping[str, np.ndarray]) -> np.ndarray:
            feed = {node.input[self._port]: x, node.input[narrow.port]: w, **others}
            return np.asarray(self._session.run([self.output], feed)[0])

        offset = self._offsets.get(codes.shape) if self._is_fixed else None
        if offset is None:
            offset = once(np.zeros(codes.shape, np.float32), np.zeros(narrow.weight.shape, np.float32), added)
            self._offsets = {codes.shape: offset}
        out = self._axis(node, narrow.port, "out", narrow.weight.ndim)
        channel = self._axis(node, -1, "channel", offset.ndim)
        x = Codes(codes, int(self._x.zero_point))
        w = Codes(narrow.weight, int(self._w.zero_point.flat[0]))
        if self._groups is None:
            self._groups = groups_of(w, out, narrow.lanes) if self._is_shared(codes, offset, out, channel) else ()
        found = accumulate(lambda a, b: once(a, b, nothing), x, w, out, channel, narrow.lanes, self._groups)
        narrow.use.saturated += found.saturated
        narrow.use.largest = max(narrow.use.largest, found.largest)
        shape = [1] * offset.ndim
        if self._w.scale.ndim:
            shape[channel] = -1
        scale = self._w.scale.astype(np.float64).reshape(shape) * float(self._x.scale)
        return (found.sums * scale + offset).astype(np.float32)

    def _is_shared(self, codes: np.ndarray, result: np.ndarray, out: int, channel: int) -> bool:
        """True if every output channel is made of all input channels; else channels come in groups."""
        weight = self._narrow.weight
        read = self._axis(self._narrow.node, self._port, "channel", codes.ndim)
        inner = self._axis(self._narrow.node, self._narrow.port, "in", weight.ndim)
        return codes.shape[read] == weight.shape[inner] and result.shape[channel] == weight.shape[out]


# ---------------------------------------------------------------------------------------------- the graph between them


@dataclass(slots=True)
class _Segment:
    """Nodes between two rounds of cuts; opened when the types of its inputs are known."""

    proto: onnx.ModelProto
    nodes: list[NodeProto]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    session: Any = None

    def run(self, values: Mapping[str, Any]) -> dict[str, Any]:
        if not self.outputs:
            return {}
        given = {name: values[name] for name in self.inputs}
        if self.session is None:
            self.session = open_session(self._model(given), optimize=False, threads=1)
        return dict(zip(self.outputs, self.session.run(list(self.outputs), given), strict=True))

    def _model(self, given: Mapping[str, Any]) -> bytes:
        read = {name for node in self.nodes for name in _reads(node)}
        kinds = {name: helper.np_dtype_to_tensor_dtype(np.asarray(value).dtype) for name, value in given.items()}
        graph = helper.make_graph(
            self.nodes,
            "segment",
            [_declared(name, kind) for name, kind in kinds.items()],
            [helper.make_empty_tensor_value_info(name) for name in self.outputs],
            [t for t in self.proto.graph.initializer if t.name in read],
        )
        return _serialized(graph, self.proto)


def _segments(graph: _Graph, cuts: Mapping[str, _Cut], levels: Mapping[str, int]) -> list[_Segment]:
    """One for each level: what it makes of model inputs, initializers, earlier segments and cuts."""
    segments = [_Segment(graph.proto, []) for _ in range(1 + max(levels.values(), default=0))]
    wanted = [{o.name for o in graph.proto.graph.output} for _ in segments]  # by level, beside what nodes read
    for node in graph.nodes:
        if node.name in cuts:
            wanted[levels[node.name]] |= cuts[node.name].reads
        elif node.name not in graph.constant_nodes:
            segments[levels[node.name]].nodes.append(node)
    for segment, names in zip(segments, wanted, strict=True):
        segment.nodes = graph.with_constants(segment.nodes, names)
        made = {name for node in segment.nodes for name in node.output}
        read = {name for node in segment.nodes for name in _reads(node)}
        segment.inputs = tuple(sorted(read - made - graph.initializers.keys()))
    for level, segment in enumerate(segments):
        later = {name for s in segments[level + 1 :] for name in s.inputs}.union(*wanted[level:])
        made = dict.fromkeys(name for node in segment.nodes for name in node.output)
        segment.outputs = tuple(name for name in made if name in later)
    return segments


class _Graph:
    """The compiled graph by names. ``constant_nodes``: names of those that compute from initializers alone."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.nodes = list(proto.graph.node)
        overridable = {i.name for i in proto.graph.input}
        self.initializers = Unread({t.name: t for t in proto.graph.initializer if t.name not in overridable})
        self._maker = {name: node for node in self.nodes for name in node.output if name}
        self._constants = set(self.initializers)
        self.constant_nodes: set[str] = set()
        for node in self.nodes:
            if self._constants.issuperset(_reads(node)):
                self.constant_nodes.add(node.name)
                self._constants.update(node.output)

    def is_computed(self, name: str) -> bool:
        return bool(name) and name not in self._constants

    def stored(self, name: str) -> _Stored | None:
        """The codes behind a dequantized tensor, None for any other."""
        node = self._maker.get(name)
        if node is not None and node.op_type == "Cast":  # of another float type than float32
            node = self._maker.get(node.input[0])
        if node is None or node.op_type != "DequantizeLinear" or node.input[1] not in self.initializers:
            return None
        scale = self.initializers[node.input[1]]
        zero = self.initializers.get(node.input[2]) if len(node.input) > 2 else None
        zero = np.zeros(scale.shape, np.int8) if zero is None else zero
        return _Stored(node.input[0], scale, zero, self.initializers.get(node.input[0]))

    def narrow(self, plan: Plan) -> Iterator[_Narrow]:
        """Every node of the plan with constant 8-bit weights that are added in several lanes."""
        by_name = {node.name: node for node in self.nodes}
        for constant in plan.constants:
            lanes = tuple(lane for lane in constant.lanes if lane.lanes > 1)
            node = by_name.get(constant.node)
            found = self.stored(node.input[constant.port]) if lanes and node is not None else None
            if node is None or found is None or found.values is None or found.values.dtype not in BYTE:
                continue
            weight = found.values
            risky = [groups_at_risk(weight, None, lane, ACTIVATION_SPAN) for lane in lanes]
            use = LaneUse(node.name, sum(r.size for r in risky), sum(int(np.count_nonzero(r)) for r in risky))
            yield _Narrow(node, constant.port, weight, lanes, use)

    def levels(self, cuts: Iterable[str]) -> dict[str, int]:
        """Of each node, how many cuts in a row come before it."""
        cut = set(cuts)
        of_tensor: dict[str, int] = {}
        found: dict[str, int] = {}
        for node in self.nodes:
            found[node.name] = max((of_tensor.get(name, 0) for name in _reads(node)), default=0)
            of_tensor.update(dict.fromkeys(node.output, found[node.name] + int(node.name in cut)))
        return found

    def with_constants(self, nodes: Sequence[NodeProto], names: Iterable[str]) -> list[NodeProto]:
        """The nodes and those that make constants for them, or constants with one of the names, in the order of the graph."""
        wanted = {node.name for node in nodes}
        pending = [*names, *(name for node in nodes for name in _reads(node))]
        while pending:
            maker = self._maker.get(pending.pop())
            if maker is not None and maker.name in self.constant_nodes and maker.name not in wanted:
                wanted.add(maker.name)
                pending.extend(_reads(maker))
        return [node for node in self.nodes if node.name in wanted]


def _reads(node: NodeProto) -> set[str]:
    return {*node.input, *outer_reads(node)} - {""}


def _declared(name: str, kind: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, None)


def _serialized(graph: onnx.GraphProto, like: onnx.ModelProto) -> bytes:
    """A model with the graph, of the same version and with the same functions as another."""
    model = helper.make_model(
        graph, opset_imports=list(like.opset_import), functions=list(like.functions), ir_version=like.ir_version
    )
    return model.SerializeToString()
