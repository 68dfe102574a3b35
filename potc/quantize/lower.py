"""Graph + Plan + Params -> quantized graph. The graph changes here, once.

Activations get a QuantizeLinear/DequantizeLinear pair; constants are stored as integers behind a DequantizeLinear. Tensors of
other float types are cast to float32 before and back behind. Names
stay readable: the tensor ``t`` keeps its name as the dequantized value where everybody reads that, and what its producer
makes becomes ``t/float``.
"""

# graphsurgeon declares sequences where it keeps lists, and shapes that can not be None although they can.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues

from potc.graph.bodies import Body, bodies_of, with_bodies
from potc.graph.envelope import through_graphsurgeon
from potc.graph.model import Aside, Model, is_large
from potc.graph.names import all_nodes, fresh, names_in
from potc.quantize.numbers import QuantParams
from potc.quantize.params import Params
from potc.quantize.plan import ConstantQuantizer, Insertion, Plan
from potc.quantize.scale import FLOATS

STORAGE: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(helper.tensor_dtype_to_np_dtype(kind))
    for name, kind in {
        "u4": TensorProto.UINT4,
        "i4": TensorProto.INT4,
        "u8": TensorProto.UINT8,
        "i8": TensorProto.INT8,
        "u16": TensorProto.UINT16,
        "i16": TensorProto.INT16,
        "i32": TensorProto.INT32,
        "u2": TensorProto.UINT2,
        "i2": TensorProto.INT2,
        **FLOATS,
    }.items()
}


def lower(model: Model, plan: Plan, params: Params) -> onnx.ModelProto:
    """The quantized model. Every inserted node is named after its tensor and carries the rule that asked for it."""
    covered = {name for kernel in plan.kernels for name in kernel.nodes}
    return _lower(model, plan, params, names_in(model.proto), covered, frozenset())


def _lower(
    model: Model, plan: Plan, params: Params, names: set[str], covered: set[str], outer: frozenset[str]
) -> onnx.ModelProto:
    """Bodies that hold kernels first: what they read from outside keeps its name until then. ``names``: all that are taken;
    ``outer``: inputs that are another graph's tensors."""
    changed = [
        (
            body,
            body.model.with_proto(
                _lower(body.model, plan, params, names, covered, frozenset((*body.captured, *body.constants)))
            ),
        )
        for body in bodies_of(model)
        if isinstance(body, Body) and any(n.name in covered for n in all_nodes(body.model.proto.graph))
    ]
    proto = with_bodies(model, changed).proto
    inputs = {i.name: i for i in proto.graph.input if i.name not in outer}
    return through_graphsurgeon(proto, _Editor(plan, params, names, inputs, model.aside).edit)


def _other_float(tensor: gs.Tensor) -> Any:
    """The type of a tensor that is not float32, None for one that is or of which nothing is known. Scales stay float32: what a
    bias has for a scale, the product of two, is often no number of float16; and opsets below 19 know no other."""
    return None if tensor.dtype is None or tensor.dtype in (np.float32, TensorProto.FLOAT) else tensor.dtype


def _constant(name: str, values: np.ndarray, aside: Aside | None = None) -> gs.Constant:
    """A constant of any storage: onnx packs what is smaller than a byte, graphsurgeon would not. ``aside``: where large ones
    go."""
    tensor = numpy_helper.from_array(values, name)
    if aside is not None and is_large(tensor):
        tensor = aside.scratch.taken(tensor)
    return gs.Constant(name, LazyValues(tensor))


def _digest(codes: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(codes).reshape(-1).view(np.uint8).data, digest_size=16).digest()


class _Editor:
    """Edits one graph: of the plan, it takes what belongs to the graph's own nodes and tensors."""

    def __init__(
        self,
        plan: Plan,
        params: Params,
        names: set[str],
        inputs: Mapping[str, ValueInfoProto],
        aside: Aside | None = None,
    ) -> None:
        self._plan = plan
        self._aside = aside
        self._params = params
        self._names = names
        self._inputs = inputs  # of the graph itself; those with a stored value are constants to graphsurgeon
        self._renamed: dict[str, str] = {}  # what nested graphs read instead of a tensor
        self._stored: dict[tuple[str, bytes], gs.Variable] = {}

    def edit(self, graph: gs.Graph) -> Mapping[str, str]:
        """Edits in place. Returns what nested graphs must read instead of a tensor."""
        tensors: dict[str, gs.Tensor] = graph.tensors()
        nodes: dict[str, gs.Node] = {node.name: node for node in graph.nodes}
        for index, constant in enumerate(self._plan.constants):
            if constant.node in nodes:
                self._store(graph, nodes[constant.node], constant, index)
        for insertion in self._plan.insertions:
            readers = insertion.consumers
            if readers is None:
                own = insertion.tensor in self._inputs or bool(
                    insertion.tensor in tensors and tensors[insertion.tensor].inputs
                )
            else:
                own = readers[0][0] in nodes
            if not own:
                continue
            tensor = tensors.get(insertion.tensor) or self._read_inside(graph, insertion.tensor)
            params = self._params.activations[insertion.quantizer]
            if insertion.consumers is None and insertion.tensor not in self._inputs:
                self._replace(graph, tensor, params)
            else:
                self._beside(graph, nodes, tensor, insertion, params)
        return self._renamed

    def _read_inside(self, graph: gs.Graph, name: str) -> gs.Tensor:
        """An input that only nested graphs read, which graphsurgeon does not count among the tensors of this one."""
        known = next((t for t in graph.inputs if t.name == name), None)
        kind = self._inputs[name].type.tensor_type.elem_type
        return known or gs.Variable(name, helper.tensor_dtype_to_np_dtype(kind), None)

    def _fresh(self, name: str) -> str:
        return fresh(name, self._names)

    def _numbers(self, name: str, params: QuantParams) -> list[gs.Constant]:
        zero_point = np.asarray(params.zero_point).astype(STORAGE[params.qtype.storage])
        return [
            gs.Constant(self._fresh(f"{name}/scale"), np.asarray(params.scale, np.float32)),
            _constant(self._fresh(f"{name}/zero_point"), zero_point),
        ]

    def _store(self, graph: gs.Graph, node: gs.Node, constant: ConstantQuantizer, index: int) -> None:
        """Integers and a DequantizeLinear in place of a float constant; equal ones are shared between kernels."""
        params, codes = self._params.constants[index], self._params.codes[index]
        key = (
            constant.tensor,
            b"|".join((_digest(codes), np.asarray(params.scale).tobytes(), f"{params.axis} {params.block}".encode())),
        )
        output = self._stored.get(key)
        if output is None:
            old = node.inputs[constant.port]
            kind = _other_float(old)
            stored = _constant(
                self._fresh(f"{constant.tensor}/codes"),
                np.asarray(codes, STORAGE[params.qtype.storage]),
                self._aside,
            )
            output = gs.Variable(self._fresh(f"{constant.tensor}/dequantized"), old.dtype, old.shape)
            real = self._before_cast(graph, constant.tensor, output, kind)
            attributes = {} if params.axis is None else {"axis": params.axis}
            if params.block is not None:
                attributes["block_size"] = params.block
            graph.nodes.append(
                gs.Node(
                    "DequantizeLinear",
                    self._fresh(f"{constant.tensor}/dequantize"),
                    attributes,
                    [stored, *self._numbers(constant.tensor, params)],
                    [real],
                )
            )
            self._stored[key] = output
        node.inputs[constant.port] = output

    def _pair(self, graph: gs.Graph, source: gs.Tensor, name: str, target: gs.Variable, params: QuantParams) -> None:
        scale, zero_point = self._numbers(name, params)
        attributes = {} if params.axis is None else {"axis": params.axis}
        kind = _other_float(source)
        if kind is not None:
            source = self._cast(
                graph, name, source, gs.Variable(self._fresh(f"{name}/float32"), np.float32, source.shape)
            )
        target = self._before_cast(graph, name, target, kind)
        codes = gs.Variable(self._fresh(f"{name}/quantized"), STORAGE[params.qtype.storage], source.shape)
        inputs = [source, scale, zero_point]
        graph.nodes.append(gs.Node("QuantizeLinear", self._fresh(f"{name}/quantize"), attributes, inputs, [codes]))
        inputs = [codes, scale, zero_point]
        graph.nodes.append(
            gs.Node("DequantizeLinear", self._fresh(f"{name}/dequantize"), dict(attributes), inputs, [target])
        )

    def _before_cast(self, graph: gs.Graph, name: str, target: gs.Variable, kind: Any) -> gs.Variable:
        """Where a DequantizeLinear writes, so that ``target`` gets its own float type."""
        if kind is None:
            return target
        real = gs.Variable(self._fresh(f"{name}/dequantized/float32"), np.float32, target.shape)
        self._cast(graph, name, real, target)
        return real

    def _cast(self, graph: gs.Graph, name: str, source: gs.Tensor, target: gs.Variable) -> gs.Variable:
        kind = (
            target.dtype if isinstance(target.dtype, int) else helper.np_dtype_to_tensor_dtype(np.dtype(target.dtype))
        )
        graph.nodes.append(gs.Node("Cast", self._fresh(f"{name}/cast"), {"to": int(kind)}, [source], [target]))
        return target

    def _replace(self, graph: gs.Graph, tensor: gs.Variable, params: QuantParams) -> None:
        """Everybody reads the dequantized value, which keeps the tensor's name; the producer writes ``t/float``."""
        raw = gs.Variable(self._fresh(f"{tensor.name}/float"), tensor.dtype, tensor.shape)
        producer = tensor.inputs[0]
        port = next(i for i, output in enumerate(producer.outputs) if output is tensor)
        producer.outputs[port] = raw
        self._pair(graph, raw, tensor.name, tensor, params)

    def _beside(
        self,
        graph: gs.Graph,
        nodes: Mapping[str, gs.Node],
        tensor: gs.Variable,
        insertion: Insertion,
        params: QuantParams,
    ) -> None:
        """Only the named readers read the dequantized value."""
        target = gs.Variable(self._fresh(f"{tensor.name}/dequantized"), tensor.dtype, tensor.shape)
        if insertion.consumers is None:
            self._renamed[tensor.name] = target.name
            readers = [
                (reader, p) for reader in list(tensor.outputs) for p, t in enumerate(reader.inputs) if t is tensor
            ]
        else:
            readers = [(nodes[name], port) for name, port in insertion.consumers]
        for reader, port in readers:
            reader.inputs[port] = target
        self._pair(graph, tensor, tensor.name, target, params)
