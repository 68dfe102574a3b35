"""A model as its numbers are stored: pairs of QuantizeLinear and DequantizeLinear are taken away, and what they say is
written at the tensors. Models of any tool; names are those of the float model, whichever side of a pair kept them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import takewhile
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from potc.execute.aside import array_of
from potc.graph.snapshot import DTYPES, operator
from potc.quantize.provenance import DEVICE, DIGEST, KERNEL, PLACE, REWRITE, RULE, TENSOR, VERSION

INSERTED = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, eq=False)
class Format:
    """How integers stand for real numbers: ``scale`` None where the model computes it."""

    storage: str
    axis: int | None
    block: int
    scale: np.ndarray | None
    zero_point: np.ndarray | None

    @property
    def kind(self) -> str:
        """Storage and granularity, as rules spell them."""
        if self.axis is None:
            return f"{self.storage} per_tensor"
        return (
            f"{self.storage} per_channel({self.axis})"
            if not self.block
            else f"{self.storage} per_block({self.axis}, {self.block})"
        )

    def same_numbers(self, other: Format) -> bool:
        pairs = ((self.scale, other.scale), (self.zero_point, other.zero_point))
        return all((a is None and b is None) or (a is not None and b is not None and _equal(a, b)) for a, b in pairs)


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


@dataclass(frozen=True, eq=False)
class Value:
    """What a node reads at one port. ``rule``: who asked for its format, with the place; empty if unknown."""

    tensor: str
    constant: bool
    format: Format | None = None
    rule: str = ""
    load: Callable[[], np.ndarray] | None = field(default=None, repr=False)  # of constants: the codes, or the floats

    @cached_property
    def numbers(self) -> np.ndarray:
        assert self.load is not None
        return self.load()


@dataclass(frozen=True)
class ViewedNode:
    """A node that computes. ``key``: the tensor that it makes first, by the name of the float model. ``rule``, ``kernel``
    (its first node) and ``rewrite``: what a compiled model says of it, empty otherwise."""

    key: str
    name: str
    operator: str
    attributes: Mapping[str, bytes]
    inputs: tuple[Value | None, ...]
    rule: str
    place: str
    kernel: str
    rewrite: str


@dataclass(frozen=True)
class View:
    """``inputs`` and ``outputs``: what a caller sees, by name: type and shape. ``returned``: the values of the outputs."""

    nodes: Mapping[str, ViewedNode]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    returned: Mapping[str, Value]
    made_by: Mapping[str, str]  # version, device, digest of the rules; empty for models of other tools
    opset: int

    @cached_property
    def tensors(self) -> Mapping[str, tuple[tuple[str, Value], ...]]:
        """Computed tensors: (reader, value) for each place where they are read or returned."""
        found: dict[str, list[tuple[str, Value]]] = {}
        for node in self.nodes.values():
            for port, value in enumerate(node.inputs):
                if value is not None and not value.constant:
                    found.setdefault(value.tensor, []).append((f"{node.key}[{port}]", value))
        for name, value in self.returned.items():
            found.setdefault(value.tensor, []).append((f"output {name}", value))
        return {t: tuple(readers) for t, readers in found.items()}


def view(proto: onnx.ModelProto) -> View:
    """The view of a valid model; nested graphs are compared as attributes."""
    reading = _Reading(proto)
    nodes: dict[str, ViewedNode] = {}
    for node in proto.graph.node:
        if node.op_type not in INSERTED and node.op_type != "Constant":
            viewed = reading.node(node)
            nodes[viewed.key] = viewed
    stored = {t.name for t in proto.graph.initializer}
    return View(
        nodes,
        {i.name: _type(i) for i in proto.graph.input if i.name not in stored},
        {o.name: _type(o) for o in proto.graph.output},
        {o.name: reading.value(o.name) for o in proto.graph.output},
        {k: v for k, v in _props(proto).items() if k in (VERSION, DEVICE, DIGEST)},
        max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0),
    )


def _props(holder: Any) -> dict[str, str]:
    return {p.key: p.value for p in holder.metadata_props}


def _type(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    dims = [str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim]
    return f"{_kind(tensor.elem_type)} [{', '.join(dims)}]"


def _kind(elem_type: int) -> str:
    return DTYPES.get(elem_type) or TensorProto.DataType.Name(elem_type).lower()


class _Reading:
    """One model by names."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._maker = {name: node for node in proto.graph.node for name in node.output if name}
        self._stored: dict[str, TensorProto] = {t.name: t for t in proto.graph.initializer}
        for node in proto.graph.node:
            if node.op_type == "Constant":
                value = next((a.t for a in node.attribute if a.name == "value"), None)
                if value is not None:
                    self._stored[node.output[0]] = value
        self._raw = dict(self._raws(proto))
        self._opsets = {o.domain.replace("ai.onnx", ""): o.version for o in proto.opset_import}

    def _raws(self, proto: onnx.ModelProto) -> Iterator[tuple[str, str]]:
        """What is quantized, and what the float model calls it."""
        behind: dict[str, list[NodeProto]] = {}
        for node in proto.graph.node:
            if node.op_type == INSERTED[1]:
                behind.setdefault(node.input[0], []).append(node)
        for node in proto.graph.node:
            if node.op_type == INSERTED[0]:
                names = [node.input[0], *(d.output[0] for d in behind.get(node.output[0], ()))]
                known = _props(node).get(TENSOR)
                yield node.input[0], known or min(names, key=len)

    def node(self, node: NodeProto) -> ViewedNode:
        made = next((name for name in node.output if name), node.name)
        defaults = _defaults(node.op_type, node.domain, self._opsets.get(node.domain.replace("ai.onnx", ""), 0))
        given = {a.name: a.SerializeToString(deterministic=True) for a in node.attribute}
        attributes = {name: value for name, value in given.items() if defaults.get(name) != value}
        inputs = tuple(self.value(name) if name else None for name in node.input)
        while inputs and inputs[-1] is None:
            inputs = inputs[:-1]
        props = _props(node)
        key = self._raw.get(made, made)
        said = (props.get(name, "") for name in (RULE, PLACE, KERNEL, REWRITE))
        return ViewedNode(key, node.name, operator(node), attributes, inputs, *said)

    def value(self, name: str) -> Value:
        """The tensor behind a name, with the format that it went through last."""
        stored = self._stored.get(name)
        if stored is not None:
            return Value(name, True, None, "", lambda: array_of(stored))
        node = self._maker.get(name)
        if node is None or node.op_type != INSERTED[1]:
            return Value(self._raw.get(name, name), False)
        props = _props(node)
        rule = _rule(props.get(RULE, "").split("; ")[0], props.get(PLACE, "").split("; ")[0])
        codes = self._stored.get(node.input[0])
        if codes is not None:
            tensor = props.get(TENSOR) or _common(node.input[0], name)
            form = self._format(node, codes.data_type)
            return Value(tensor, True, form, rule, lambda: array_of(codes))
        quantize = self._maker.get(node.input[0])
        if quantize is None or quantize.op_type != INSERTED[0]:
            return Value(name, False)
        before = self.value(quantize.input[0])
        tensor = self._raw[quantize.input[0]] if before.format is None else before.tensor
        return Value(tensor, before.constant, self._format(quantize, None), rule, before.load)

    def _format(self, node: NodeProto, data_type: int | None) -> Format:
        scale = self._numbers(node.input[1])
        zero_point = self._numbers(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        named = {a.name: a for a in node.attribute}
        if data_type is None:
            given = self._stored.get(node.input[2]) if len(node.input) > 2 else None
            data_type = given.data_type if given is not None else int(getattr(named.get("output_dtype"), "i", 0))
        storage = DTYPES.get(data_type or TensorProto.UINT8) or _kind(data_type or TensorProto.UINT8)
        axis = helper.get_attribute_value(named["axis"]) if "axis" in named else 1
        block = int(named["block_size"].i) if "block_size" in named else 0
        per_tensor = scale is None or (scale.size == 1 and not block)
        if zero_point is None and scale is not None:
            zero_point = np.zeros(scale.shape, np.int8)
        numbers = (None if scale is None else _flat(scale), None if zero_point is None else _flat(zero_point))
        return Format(storage, None if per_tensor else int(axis), block, *numbers)

    def _numbers(self, name: str) -> np.ndarray | None:
        stored = self._stored.get(name)
        return None if stored is None else array_of(stored)


@lru_cache(maxsize=1024)
def _defaults(op: str, domain: str, opset: int) -> Mapping[str, bytes]:
    """Attributes that mean the same when they are left out."""
    try:
        schema = onnx.defs.get_schema(op, opset, domain) if opset else onnx.defs.get_schema(op, domain=domain)
    except onnx.defs.SchemaError:
        return {}
    return {n: a.default_value.SerializeToString(deterministic=True) for n, a in schema.attributes.items()}


def _flat(array: np.ndarray) -> np.ndarray:
    """One number per channel, of one type: how it is stored makes no difference."""
    return array.astype(np.float64 if array.dtype.kind == "f" else np.int64).reshape(-1)


def _rule(rule: str, place: str) -> str:
    return f"{rule} ({place})" if rule and place else rule


def _common(codes: str, dequantized: str) -> str:
    """What tools that keep no record call a constant: the part that the names of its codes and of its values share."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(codes, dequantized, strict=False))
    return "".join(a for a, _ in same).rstrip("/_.:") or codes
