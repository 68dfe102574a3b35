"""A quantized model read as a float model with notes: which tensor is stored how, and who reads it so.

Operators that take integers and scales (QLinear...) become float operators between Quantize and Dequantize first: by the
rewrites of ``operator_forms.rules``, so that this module knows the two of them only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from potc.execute.aside import array_of
from potc.graph.ask import ask_types
from potc.graph.model import Model
from potc.graph.prepare import drop_dead, fold_constants, infer_shapes
from potc.graph.snapshot import DTYPES, outer_reads
from potc.language.resolve import load_rewrites
from potc.legal.stored import Stored
from potc.match.rewrite import apply_rewrites

FORMS = Path(__file__).with_name("operator_forms.rules")
QUANTIZE, DEQUANTIZE, CONSTANT = "QuantizeLinear", "DequantizeLinear", "Constant"
LOW_BITS = {TensorProto.INT4: "i4", TensorProto.UINT4: "u4", TensorProto.INT2: "i2", TensorProto.UINT2: "u2"}
FLOAT_8 = {TensorProto.FLOAT8E4M3FN: "f8e4m3", TensorProto.FLOAT8E5M2: "f8e5m2"}
CODES = frozenset({TensorProto.INT8, TensorProto.UINT8, *LOW_BITS})
STORAGES: Mapping[int, str] = {**DTYPES, **LOW_BITS, **FLOAT_8}


@dataclass(frozen=True, slots=True)
class Annotated:
    """``model``: float, shapes inferred. ``made``: tensor -> how its maker stores it, where all readers read it so.

    ``read``: (node, input port) -> how the value there was stored. ``constants``: the same for constant inputs. ``names``:
    what people call a tensor that was renamed. ``integers``: nodes that still take integers, and are not understood.
    """

    model: Model
    made: Mapping[str, Stored]
    read: Mapping[tuple[str, int], Stored]
    constants: Mapping[tuple[str, int], Stored]
    names: Mapping[str, str]
    integers: tuple[str, ...]


def read_quantized(model: Model) -> Annotated:
    """Takes the quantizers out of a model of any form. Raises Rejected only where a rewrite of a form fails."""
    program = load_rewrites(str(FORMS))
    model = apply_rewrites(infer_shapes(model), program).model
    stripping = _Stripping(model.proto)
    return stripping.annotated(model)


@dataclass(slots=True)
class _Source:
    """What a tensor stands for: ``base`` of the float model, and how it was stored on the way (None: not at all)."""

    base: str
    stored: Stored | None


@dataclass(slots=True)
class _Stripping:
    """Walks the nodes once, in topological order."""

    proto: onnx.ModelProto
    values: dict[str, TensorProto] = field(default_factory=dict)
    sources: dict[str, _Source] = field(default_factory=dict)
    codes: dict[str, _Source] = field(default_factory=dict)  # tensors that hold codes
    quantized: dict[str, list[Stored]] = field(default_factory=dict)  # float tensor -> the quantizers right behind it
    plain: set[str] = field(default_factory=set)  # float tensors that somebody reads as they are
    nodes: list[NodeProto] = field(default_factory=list)
    made: dict[str, Stored] = field(default_factory=dict)
    read: dict[tuple[str, int], Stored] = field(default_factory=dict)
    constants: dict[tuple[str, int], Stored] = field(default_factory=dict)
    floats: dict[str, TensorProto] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def annotated(self, model: Model) -> Annotated:
        graph = self.proto.graph
        overridable = {i.name for i in graph.input}
        self.values = {t.name: t for t in graph.initializer if t.name not in overridable}
        for node in graph.node:
            self._node(node)
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        del proto.graph.node[:]
        proto.graph.node.extend(self.nodes)
        proto.graph.initializer.extend(self.floats.values())
        del proto.graph.value_info[:]
        self._outputs(proto.graph)
        for base, stored in self.quantized.items():
            if base not in self.plain and all(s.same_as(stored[0]) for s in stored):
                self.made[base] = stored[0]
        integers = self._integers()
        stripped = infer_shapes(fold_constants(ask_types(infer_shapes(drop_dead(model.with_proto(proto))))))
        return Annotated(stripped, self.made, self.read, self.constants, self.names, integers)

    # ------------------------------------------------------------------------------------------ nodes

    def _node(self, node: NodeProto) -> None:
        if node.op_type == CONSTANT and node.attribute and node.attribute[0].name == "value":
            self.values[node.output[0]] = node.attribute[0].t
        if node.op_type == QUANTIZE and self._quantize(node):
            return
        if node.op_type == DEQUANTIZE and self._dequantize(node):
            return
        kept = NodeProto()
        kept.CopyFrom(node)
        for port, name in enumerate(node.input):
            source = self._source(name)
            kept.input[port] = source.base
            if name in self.codes and source.stored is not None and source.stored.codes is None:
                self.read[node.name, port] = source.stored
            elif source.stored is None:
                self.plain.add(source.base)
            elif source.base in self.floats:
                self.constants[node.name, port] = source.stored
            else:
                self.read[node.name, port] = source.stored
        self.plain.update(self._source(name).base for name in outer_reads(node))
        self.nodes.append(kept)

    def _source(self, name: str) -> _Source:
        return self.codes.get(name) or self.sources.get(name) or _Source(name, None)

    def _quantize(self, node: NodeProto) -> bool:
        """False for what has no constant scale: it stays a node."""
        numbers = self._numbers(node, None)
        if numbers is None:
            return False
        value = self.values.get(node.input[0])
        if value is not None:
            reals = array_of(value).astype(np.float64)
            codes = _quantized(reals, numbers)
            stored = Stored(
                numbers.storage, numbers.scale, numbers.zero_point, numbers.axis, numbers.block, codes, node.name
            )
            self.codes[node.output[0]] = _Source(node.input[0], stored)
            return True
        source = self._source(node.input[0])
        if source.stored is None:  # else it is quantized again, for these readers only
            self.quantized.setdefault(source.base, []).append(numbers)
        self.codes[node.output[0]] = _Source(source.base, numbers)
        return True

    def _dequantize(self, node: NodeProto) -> bool:
        name, output = node.input[0], node.output[0]
        before = self.codes.get(name)
        value = self.values.get(name)
        if before is not None and before.stored is not None and before.stored.codes is None:
            self.sources[output] = before
            if before.base not in self.names:
                self.names[before.base] = output
            return True
        if before is not None and before.stored is not None and before.stored.codes is not None:
            return self._constant(output, before.stored)
        codes = None if value is None else array_of(value).astype(np.int64)
        numbers = self._numbers(node, codes, None if value is None else value.data_type)
        if numbers is None:
            return False
        if value is not None:
            return self._constant(output, numbers)
        # Codes that some operator makes: it is read as a float operator that stores its result so.
        self.made[name] = numbers
        self.quantized.setdefault(name, []).append(numbers)
        self.sources[output] = _Source(name, numbers)
        return True

    def _constant(self, output: str, stored: Stored) -> bool:
        assert stored.codes is not None
        scale, zero = _spread(stored.codes.shape, stored)
        reals = ((stored.codes - zero) * scale).astype(np.float32)
        self.floats[output] = numpy_helper.from_array(reals, output)
        self.sources[output] = _Source(output, stored)
        return True

    def _numbers(self, node: NodeProto, codes: np.ndarray | None, kind: int | None = None) -> Stored | None:
        """Scale and zero point of a node where both are constants."""
        scale = self.values.get(node.input[1])
        has_zero = len(node.input) > 2 and bool(node.input[2])
        zero = self.values.get(node.input[2]) if has_zero else None
        if scale is None or (has_zero and zero is None):
            return None
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if zero is not None:
            kind = zero.data_type
        elif kind is None:
            kind = int(given.get("output_dtype") or TensorProto.UINT8)
        scales = array_of(scale).astype(np.float64)
        zeros = np.zeros(scales.shape, np.int64)
        if zero is not None:
            zeros = array_of(zero).astype(np.float64).astype(np.int64)
        axis = None if scales.size == 1 else int(given.get("axis", 1))
        if axis is not None and codes is not None:
            axis %= codes.ndim
        storage = STORAGES.get(kind, "unknown")
        return Stored(storage, scales, zeros, axis, int(given.get("block_size", 0)), codes, node.name)

    def _integers(self) -> tuple[str, ...]:
        """Nodes that compute from codes whose scale is not known: quantized while the model runs, say."""
        codes = {name: kind for name, kind in _element_types(self.proto) if kind in CODES}
        understood = {name for name, _ in self.read}
        return tuple(
            node.name
            for node in self.nodes
            if any(n in codes for n in node.input)
            and node.name not in understood
            and not any(o in self.made for o in node.output)
        )

    # ------------------------------------------------------------------------------------------ the model's ends

    def _outputs(self, graph: onnx.GraphProto) -> None:
        """Outputs keep their names: the float tensor behind one is renamed. An output that only returns once more what
        another output or an input holds is left out."""
        fixed = {i.name for i in graph.input} | {o.name for o in graph.output} | set(self.floats)
        renamed: dict[str, str] = {}
        doubled: set[str] = set()
        for output in graph.output:
            source = self.sources.get(output.name)
            if source is None:
                self.plain.add(output.name)
            elif source.base in fixed or source.base in renamed:
                doubled.add(output.name)
            else:
                renamed[source.base] = output.name
        kept = [o for o in graph.output if o.name not in doubled]
        del graph.output[:]
        graph.output.extend(kept)
        for node in graph.node:
            node.input[:] = [renamed.get(n, n) for n in node.input]
            node.output[:] = [renamed.get(n, n) for n in node.output]
        for table in (self.made, self.quantized, self.names):
            for old in [name for name in table if name in renamed]:
                table[renamed[old]] = table.pop(old)  # pyright: ignore[reportArgumentType]
        self.plain = {renamed.get(n, n) for n in self.plain}


def _element_types(proto: onnx.ModelProto) -> Iterator[tuple[str, int]]:
    graph = proto.graph
    for value in (*graph.value_info, *graph.input, *graph.output):
        yield value.name, value.type.tensor_type.elem_type
    for tensor in graph.initializer:
        yield tensor.name, tensor.data_type


def _spread(shape: tuple[int, ...], stored: Stored) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point shaped to broadcast against the tensor."""
    if stored.is_per_tensor:
        return stored.scale.reshape(()), stored.zero_point.reshape(())
    assert stored.axis is not None
    if stored.block:
        take = np.arange(shape[stored.axis]) // stored.block
        return np.take(stored.scale, take, stored.axis), np.take(stored.zero_point, take, stored.axis)
    form = [1] * len(shape)
    form[stored.axis] = -1
    return stored.scale.reshape(form), stored.zero_point.reshape(form)


def _quantized(reals: np.ndarray, stored: Stored) -> np.ndarray:
    """Codes of reals, as QuantizeLinear makes them."""
    scale, zero = _spread(reals.shape, stored)
    signed, bits = stored.storage[0] == "i", int(stored.storage[1:])
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return np.clip(np.rint(reals / scale) + zero, low, high).astype(np.int64)
