"""Snapshot: an immutable, indexed view of a model's main graph, made for matching.

Nodes are numbered in canonical order: by depth, then by a hash of the structure above them, and only between twins by
name. So neither the order of nodes in the file nor (except between twins) their names can change what is decided.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from potc.execute.aside import array_of, is_aside

if TYPE_CHECKING:
    import networkx as nx

DTYPES: Mapping[int, str] = {
    TensorProto.FLOAT: "f32",
    TensorProto.DOUBLE: "f64",
    TensorProto.FLOAT16: "f16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "i8",
    TensorProto.INT16: "i16",
    TensorProto.INT32: "i32",
    TensorProto.INT64: "i64",
    TensorProto.UINT8: "u8",
    TensorProto.UINT16: "u16",
    TensorProto.UINT32: "u32",
    TensorProto.UINT64: "u64",
    TensorProto.BOOL: "bool",
    TensorProto.STRING: "string",
}
FLOATS = frozenset({"f32", "f64", "f16", "bf16"})
SHORT = 256  # bytes of attributes that are kept as they are; longer ones are told apart by a hash
OUTER = -1  # the port by which a nested graph reads a tensor of the main graph


@dataclass(frozen=True)
class Snapshot:
    """Arrays over nodes and tensors; integer ids everywhere. Read-only by convention: nothing in potc writes to them.

    ``inputs[n]`` and ``outputs[n]`` are tensor ids by port, -1 where a port is left out. ``consumers[t]`` are (node, port),
    with port ``OUTER`` for a read from inside a nested graph. ``shapes[t]`` is None if unknown; a dimension is None if symbolic.
    """

    protos: tuple[NodeProto, ...]
    names: tuple[str, ...]
    ops: tuple[str, ...]
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    depth: tuple[int, ...]
    by_op: Mapping[str, tuple[int, ...]]
    tensors: tuple[str, ...]
    tensor_ids: Mapping[str, int]
    producer: tuple[int, ...]
    consumers: tuple[tuple[tuple[int, int], ...], ...]
    dtypes: tuple[str | None, ...]
    shapes: tuple[tuple[int | None, ...] | None, ...]
    initializers: Mapping[int, TensorProto]
    graph_inputs: frozenset[int]
    graph_outputs: frozenset[int]
    opset: int
    attribute_keys: tuple[bytes, ...]  # equal for nodes with equal attributes
    attributes: dict[int, Mapping[str, object]] = field(
        default_factory=dict, repr=False, compare=False
    )  # a cache, by node
    _values: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def is_constant(self, tensor: int) -> bool:
        return tensor in self.initializers

    def is_float(self, tensor: int) -> bool:
        return self.dtypes[tensor] in FLOATS

    def value(self, tensor: int) -> np.ndarray:
        """The numbers of a constant tensor; not kept where they are set aside. Raises KeyError for any other."""
        found = self._values.get(tensor)
        if found is None:
            found = array_of(self.initializers[tensor])
            if not is_aside(self.initializers[tensor]):
                self._values[tensor] = found
        return found

    def has_one_reader(self, tensor: int) -> bool:
        """True if exactly one input port reads the tensor and the model does not return it."""
        return (
            len(self.consumers[tensor]) == 1
            and self.consumers[tensor][0][1] != OUTER
            and tensor not in self.graph_outputs
        )

    @cached_property
    def graph(self) -> nx.MultiDiGraph:
        """The same as a networkx graph: nodes carry ``op`` and ``name``, edges ``tensor`` and both ports. Frozen."""
        import networkx as nx  # slow to import, and a compile does not need it

        graph: nx.MultiDiGraph = nx.MultiDiGraph()
        graph.add_nodes_from((n, {"op": self.ops[n], "name": self.names[n]}) for n in range(len(self.ops)))
        graph.add_edges_from(self._edges())
        return nx.freeze(graph)

    def _edges(self) -> Iterator[tuple[int, int, dict[str, object]]]:
        for node, outputs in enumerate(self.outputs):
            for out_port, tensor in enumerate(outputs):
                if tensor >= 0:
                    for reader, in_port in self.consumers[tensor]:
                        yield node, reader, {"tensor": self.tensors[tensor], "out_port": out_port, "in_port": in_port}


def operator(node: NodeProto) -> str:
    """The operator as rules spell it: ``domain::`` stands before those outside the ONNX domain."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def outer_reads(node: NodeProto) -> Iterator[str]:
    """Names that the nested graphs of a node read from outside (names bound inside are left out)."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield from _free_names(attribute.g)
        for graph in attribute.graphs:
            yield from _free_names(graph)


def _free_names(graph: onnx.GraphProto) -> Iterator[str]:
    bound = {i.name for i in graph.input} | {t.name for t in graph.initializer}
    for node in graph.node:
        for name in (*node.input, *outer_reads(node)):
            if name and name not in bound:
                yield name
        bound.update(node.output)
    for output in graph.output:
        if output.name not in bound:
            yield output.name


def take_snapshot(proto: onnx.ModelProto) -> Snapshot:
    """Indexes the main graph of a valid, topologically sortable model. Linear in its size, apart from one sort."""
    graph = proto.graph
    overridable = {i.name for i in graph.input}
    stored = {t.name: t for t in graph.initializer if t.name not in overridable}
    reads = [
        (*node.input, *outer_reads(node)) if any(a.HasField("g") or a.graphs for a in node.attribute) else node.input
        for node in graph.node
    ]
    order, depths, keys = _canonical_order(graph, stored, reads)
    tensors: list[str] = []
    ids: dict[str, int] = {}

    def tensor_id(name: str) -> int:
        if not name:
            return -1
        found = ids.get(name)
        if found is None:
            found = ids[name] = len(tensors)
            tensors.append(name)
        return found

    for value in graph.input:
        tensor_id(value.name)
    protos = tuple(graph.node[i] for i in order)
    inputs = tuple(tuple(tensor_id(n) for n in node.input) for node in protos)
    outputs = tuple(tuple(tensor_id(n) for n in node.output) for node in protos)
    consumers: list[list[tuple[int, int]]] = [[] for _ in tensors]
    producer = [-1] * len(tensors)
    for n, ports in enumerate(inputs):
        for port, tensor in enumerate(ports):
            if tensor >= 0:
                consumers[tensor].append((n, port))
    for n, i in enumerate(order):
        for name in reads[i][len(graph.node[i].input) :]:
            if name in ids:
                consumers[ids[name]].append((n, OUTER))
    for n, ports in enumerate(outputs):
        for tensor in ports:
            if tensor >= 0:
                producer[tensor] = n
    ops = tuple(operator(node) for node in protos)
    dtypes, shapes = _types(graph, tensors)
    return Snapshot(
        protos=protos,
        names=tuple(node.name for node in protos),
        ops=ops,
        inputs=inputs,
        outputs=outputs,
        depth=tuple(depths[i] for i in order),
        by_op=_index(ops),
        tensors=tuple(tensors),
        tensor_ids=ids,
        producer=tuple(producer),
        consumers=tuple(tuple(c) for c in consumers),
        dtypes=dtypes,
        shapes=shapes,
        initializers={ids[name]: t for name, t in stored.items() if name in ids},
        graph_inputs=frozenset(ids[i.name] for i in graph.input),
        graph_outputs=frozenset(ids[o.name] for o in graph.output if o.name in ids),
        attribute_keys=tuple(keys[i] for i in order),
        opset=max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0),
    )


def _index(ops: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    by_op: dict[str, list[int]] = {}
    for n, op in enumerate(ops):
        by_op.setdefault(op, []).append(n)
    return {op: tuple(nodes) for op, nodes in by_op.items()}


def _types(
    graph: onnx.GraphProto, tensors: list[str]
) -> tuple[tuple[str | None, ...], tuple[tuple[int | None, ...] | None, ...]]:
    dtype: dict[str, str | None] = {}
    shape: dict[str, tuple[int | None, ...] | None] = {}
    for values in (graph.value_info, graph.output, graph.input):
        for value in values:
            kind = value.type.tensor_type
            dtype[value.name] = DTYPES.get(kind.elem_type)
            if kind.HasField("shape"):
                shape[value.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
    for tensor in graph.initializer:
        dtype[tensor.name] = DTYPES.get(tensor.data_type)
        shape[tensor.name] = tuple(tensor.dims)
    return tuple(dtype.get(t) for t in tensors), tuple(shape.get(t) for t in tensors)


def _canonical_order(
    graph: onnx.GraphProto, stored: Mapping[str, TensorProto], reads: Sequence[Sequence[str]]
) -> tuple[list[int], list[int], list[bytes]]:
    """Node positions sorted by (depth, structural hash, name); of each position of the file, the depth and its
    attributes."""
    hashes: dict[str, bytes] = {"": b""}
    depth_of: dict[str, int] = {}
    for value in graph.input:
        kind = value.type.tensor_type
        dims = ",".join(str(d.dim_value) for d in kind.shape.dim)
        hashes[value.name] = f"input {kind.elem_type} {dims}".encode()
    for name, tensor in stored.items():
        hashes[name] = f"constant {tensor.data_type} {tuple(tensor.dims)}".encode()
    depths = [0] * len(graph.node)
    attributes, seen = [b""] * len(graph.node), dict[bytes, bytes]()
    keys: list[tuple[int, bytes, str, int]] = [(0, b"", "", 0)] * len(graph.node)
    for i in _topological(graph, reads):
        node = graph.node[i]
        depth = 1 + max((depth_of.get(name, 0) for name in reads[i]), default=0)
        state = hashlib.blake2b(operator(node).encode(), digest_size=8)
        given = sorted(node.attribute, key=lambda a: a.name) if len(node.attribute) > 1 else node.attribute
        written = b"".join([attribute.SerializeToString(deterministic=True) for attribute in given])
        state.update(written)
        if len(written) > SHORT:
            written = hashlib.blake2b(written, digest_size=16).digest()
        attributes[i] = seen.setdefault(written, written)
        for name in reads[i]:
            state.update(hashes.get(name, b"?") + b"|")
        digest = state.digest()
        for port, name in enumerate(node.output):
            hashes[name] = digest + bytes((port & 255,))
            depth_of[name] = depth
        depths[i] = depth
        keys[i] = (depth, digest, node.name, i)
    return [key[3] for key in sorted(keys)], depths, attributes


def _topological(graph: onnx.GraphProto, reads: Sequence[Sequence[str]]) -> list[int]:
    made_by = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    waiting = [0] * len(graph.node)
    readers: list[list[int]] = [[] for _ in graph.node]
    for i, names in enumerate(reads):
        for source in {made_by[name] for name in names if name in made_by}:
            waiting[i] += 1
            readers[source].append(i)
    ready = [i for i, count in enumerate(waiting) if count == 0]
    for i in ready:
        for reader in readers[i]:
            waiting[reader] -= 1
            if waiting[reader] == 0:
                ready.append(reader)
    if len(ready) != len(graph.node):
        raise ValueError("the graph has a cycle: read_model refuses such models")
    return ready
