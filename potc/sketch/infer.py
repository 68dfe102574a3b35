"""What schemas make of a node: types and shapes of its results, typed attributes, and the numbers of constants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TypeProto, helper, numpy_helper

from potc.graph.snapshot import DTYPES
from potc.sketch.variants import schema_of

CODES: Mapping[str, int] = {name: code for code, name in DTYPES.items()}
LARGEST = 1 << 14  # elements of one tensor
_KINDS: Mapping[str, int] = dict(onnx.AttributeProto.AttributeType.items())


@dataclass(frozen=True, slots=True)
class Values:
    """The numbers of a constant: one for all elements, and others at single places (modulo the size)."""

    fill: float
    others: tuple[tuple[int, float], ...] = ()


def attribute_proto(op: str, opset: int, name: str, value: Any) -> onnx.AttributeProto:
    """Typed by the schema, so that 1 is 1.0 where a float is meant, and an empty list has a type."""
    schema = schema_of(op, opset)
    kind = None
    if schema is not None and name in schema.attributes:
        kind = _KINDS[str(schema.attributes[name].type).rpartition(".")[2]]
        if kind == onnx.AttributeProto.FLOAT:
            value = float(value)
        elif kind == onnx.AttributeProto.FLOATS:
            value = [float(v) for v in value]
    return helper.make_attribute(name, list(value) if isinstance(value, tuple) else value, attr_type=kind)


@lru_cache(maxsize=1 << 15)
def infer_node(
    op: str, opset: int, serialized: bytes, described: tuple[tuple[Any, ...], ...]
) -> tuple[tuple[str, tuple[int | None, ...] | None], ...] | None:
    node = NodeProto.FromString(serialized)
    schema = schema_of(op, opset)
    if schema is None:  # a vendor's operator: taken to keep type and shape
        return tuple((described[0][1], described[0][2]) for _ in node.output) if described else None
    types: dict[str, TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    for t, dtype, shape, shown in described:
        types[f"t{t}"] = helper.make_tensor_type_proto(CODES[dtype], shape)
        if shown is not None:
            flat = np.frombuffer(shown, helper.tensor_dtype_to_np_dtype(CODES[dtype]))
            data[f"t{t}"] = numpy_helper.from_array(flat.reshape(shape), f"t{t}")
    try:
        outputs = _outputs(schema, node, types, data, opset)
    except Exception:  # onnx raises its own kinds, RuntimeError and ValueError alike
        return None
    found: list[tuple[str, tuple[int | None, ...] | None]] = []
    for name in node.output:
        made = outputs.get(name)
        if made is None or made.tensor_type.elem_type not in DTYPES:
            return None
        kind = made.tensor_type
        shape = None
        if kind.HasField("shape"):
            shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
            if any(d is not None and d <= 0 for d in shape):
                return None
            if np.prod([d or 1 for d in shape]) > LARGEST:
                return None
        found.append((DTYPES[kind.elem_type], shape))
    return tuple(found)


def _outputs(
    schema: onnx.defs.OpSchema,
    node: NodeProto,
    types: dict[str, TypeProto],
    data: dict[str, onnx.TensorProto],
    opset: int,
) -> Mapping[str, TypeProto]:
    imports = [helper.make_opsetid("", opset)]
    if schema.domain and schema.domain != "ai.onnx":
        imports.append(helper.make_opsetid(schema.domain, schema.since_version))
    if schema.has_type_and_shape_inference_function:
        return onnx.shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=imports)
    # Operators that the standard defines by others: only a whole model is looked into that far.
    inputs = [onnx.ValueInfoProto(name=n, type=t) for n, t in types.items()]
    graph = helper.make_graph([node], "g", inputs, [onnx.ValueInfoProto(name=n) for n in node.output])
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=imports), strict_mode=True)
    return {o.name: o.type for o in model.graph.output}


def numbers(tensor: int, dtype: str, shape: tuple[int, ...], values: Values | None, seed: int) -> np.ndarray:
    kind = helper.tensor_dtype_to_np_dtype(CODES[dtype])
    size = int(np.prod(shape))
    if values is None:
        generator = np.random.default_rng((seed, tensor))
        made = generator.normal(size=size)
        if np.dtype(kind).kind != "f":
            made = generator.integers(0, 2, size)
    else:
        made = np.full(size, values.fill)
        for place, value in values.others:
            if size:
                made[place % size] = value
    found = np.asarray(made).astype(kind).reshape(shape)
    found.flags.writeable = False
    return found
