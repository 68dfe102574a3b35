"""Integer inputs and outputs: what quantizes an input, or makes an output float again, is left to who runs the model.

The numbers that the caller needs for it stand in ``metadata_props``, as ``potc.input.NAME`` and ``potc.output.NAME``:
``{"storage": "u8", "scale": 0.0078, "zero_point": 128}``. A value is ``scale * (code - zero_point)``, and codes are made as
ONNX QuantizeLinear makes them: rounded half to even, then clamped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from potc.diagnostics.diagnostic import reject
from potc.execute.aside import array_of
from potc.graph.names import fresh, names_in
from potc.graph.snapshot import outer_reads

EVERY = ""  # the wish for all tensors that no other wish names
FLOAT = "float"
STORAGES = {"u8": TensorProto.UINT8, "i8": TensorProto.INT8}
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16})


@dataclass(frozen=True, slots=True)
class Border:
    """An input or output of the model that holds codes. ``direction``: "input" or "output"."""

    direction: str
    tensor: str
    storage: str
    scale: float
    zero_point: int

    def codes(self, values: np.ndarray) -> np.ndarray:
        """The codes of float32 values, as QuantizeLinear makes them."""
        dtype = np.dtype(np.uint8 if self.storage == "u8" else np.int8)
        limits = np.iinfo(dtype)
        codes = np.rint(values.astype(np.float32) / np.float32(self.scale)) + self.zero_point
        return np.clip(codes, limits.min, limits.max).astype(dtype)

    def values(self, codes: np.ndarray) -> np.ndarray:
        """The float32 values of codes, as DequantizeLinear makes them."""
        return (codes.astype(np.int32) - self.zero_point).astype(np.float32) * np.float32(self.scale)


def with_integer_borders(compiled: bytes, wishes: Mapping[str, str]) -> tuple[onnx.ModelProto, tuple[Border, ...]]:
    """The model with codes for inputs and outputs, and their numbers in the order of the graph.

    ``wishes``: by name "u8", "i8" or "float"; by ``EVERY`` for all others. Tensors that are no floats stay as they are. Raises
    Rejected (``unknown-tensor``, ``float-border``).
    """
    model = onnx.ModelProto.FromString(compiled)
    graph = _Graph(model)
    known = [*graph.inputs, *graph.outputs]
    for name in wishes:
        if name != EVERY and name not in known:
            raise reject(
                "unknown-tensor", f"the model has no input or output `{name}`", help=f"it has {', '.join(known)}"
            )
    found = [*_each(graph, "input", wishes), *_each(graph, "output", wishes)]
    for border in found:
        numbers = {"storage": border.storage, "scale": border.scale, "zero_point": border.zero_point}
        model.metadata_props.add(key=f"potc.{border.direction}.{border.tensor}", value=json.dumps(numbers))
    return model, tuple(found)


def borders_of(model: onnx.ModelProto) -> tuple[Border, ...]:
    """The borders that a compiled model tells of in its metadata; none for models of other tools."""
    found: list[Border] = []
    for prop in model.metadata_props:
        potc, _, rest = prop.key.partition(".")
        direction, _, tensor = rest.partition(".")
        if potc == "potc" and direction in ("input", "output") and tensor:
            found.append(_told(prop.key, prop.value, direction, tensor))
    return tuple(found)


def _told(key: str, text: str, direction: str, tensor: str) -> Border:
    try:
        numbers = json.loads(text)
        storage, scale, zero_point = numbers["storage"], float(numbers["scale"]), int(numbers["zero_point"])
        limits = np.iinfo(np.uint8 if storage == "u8" else np.int8)
        if storage not in STORAGES or not 0 < scale < np.inf or not limits.min <= zero_point <= limits.max:
            raise ValueError("no such numbers")
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        message = f"the model's metadata `{key}` does not say what its {direction} `{tensor}` holds: {text[:80]!r}"
        raise reject("invalid-model", message, node=tensor, help="take the entry out, or compile again") from error
    return Border(direction, tensor, storage, scale, zero_point)


def with_float_borders(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as it was before ``with_integer_borders``, but for the names of some tensors; unchanged if it has no borders."""
    borders = borders_of(model)
    if not borders:
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    names = names_in(changed)
    graph = _Graph(changed)
    for border in borders:
        graph.sew(border, names)
    return changed


def _each(graph: _Graph, direction: str, wishes: Mapping[str, str]) -> Iterator[Border]:
    values = graph.inputs if direction == "input" else graph.outputs
    for name, value in values.items():
        wish = wishes.get(name, wishes.get(EVERY, FLOAT))
        if wish == FLOAT or (value.type.tensor_type.elem_type not in _FLOATS and name not in wishes):
            continue
        converters = graph.quantizers(name) if direction == "input" else graph.dequantizer(name)
        if not converters:
            wants = "the device computes with its float values"
            _refuse(direction, name, wish, wants if direction == "input" else "no kernel stores it as integers")
        border = graph.numbers(direction, name, converters)
        if border is None:
            _refuse(direction, name, wish, "it is not stored with one scale")
        elif border.storage != wish:
            _refuse(direction, name, wish, f"the device stores it as {border.storage}")
        else:
            graph.cut(border, converters)
            yield border


def _refuse(direction: str, name: str, wish: str, why: str) -> None:
    help_ = f"leave it in float: --io {name}=float; or choose what the device stores: `graph {direction}` in its rules"
    raise reject("float-border", f"the {direction} `{name}` can't be {wish}: {why}", node=name, help=help_)


class _Graph:
    """The main graph of a model that is changed in place."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._names = names_in(model)
        self._stored = {t.name: t for t in model.graph.initializer}
        self.inputs = {i.name: i for i in model.graph.input if i.name not in self._stored}
        self.outputs = {o.name: o for o in model.graph.output}

    def quantizers(self, name: str) -> list[NodeProto]:
        """All readers of an input, if each of them quantizes it in the same way, and no nested graph reads it."""
        readers = [n for n in self._graph.node if name in n.input]
        same = {tuple(self._value(i) for i in n.input[1:]) for n in readers}
        quantize = all(n.op_type == "QuantizeLinear" and n.input[0] == name for n in readers)
        hidden = name in self.outputs or any(name in outer_reads(n) for n in self._graph.node)
        return readers if quantize and len(same) == 1 and not hidden else []

    def dequantizer(self, name: str) -> list[NodeProto]:
        """What makes an output float, if its codes are computed in this graph and are no output themselves."""
        makers = [n for n in self._graph.node if name in n.output and n.op_type == "DequantizeLinear"]
        computed = {o for n in self._graph.node for o in n.output} - self.outputs.keys()
        hidden = any({name, *(m.input[0] for m in makers)} & set(outer_reads(n)) for n in self._graph.node)
        return makers if makers and makers[0].input[0] in computed and not hidden else []

    def _value(self, name: str) -> bytes:
        return array_of(self._stored[name]).tobytes() if name in self._stored else name.encode()

    def numbers(self, direction: str, name: str, nodes: list[NodeProto]) -> Border | None:
        """None where scales are several, or computed, or the storage is no whole byte."""
        stored = [self._stored.get(i) for i in nodes[0].input[1:]]
        if len(stored) != 2 or stored[0] is None or stored[1] is None:
            return None
        scale, zero_point = (array_of(t) for t in stored if t is not None)
        storage = next((word for word, kind in STORAGES.items() if kind == stored[1].data_type), None)
        if scale.size != 1 or storage is None:
            return None
        return Border(direction, name, storage, float(scale.reshape(())), int(zero_point.reshape(())))

    def cut(self, border: Border, nodes: list[NodeProto]) -> None:
        """The codes get the name and the place of the tensor; what still reads its float values reads them under another name."""
        name = border.tensor
        value = self.inputs[name] if border.direction == "input" else self.outputs[name]
        value.type.tensor_type.elem_type = STORAGES[border.storage]
        if border.direction == "input":
            for node in nodes:
                self._rename(node.output[0], name)
                self._graph.node.remove(node)
            return
        others = any(name in n.input for n in self._graph.node)
        if others:
            self._rename(name, fresh(f"{name}/float", self._names))
        else:
            self._graph.node.remove(nodes[0])
        self._rename(nodes[0].input[0], name)

    def sew(self, border: Border, names: set[str]) -> None:
        """Puts back what ``cut`` took."""
        name, kind = border.tensor, STORAGES[border.storage]
        value = (self.inputs if border.direction == "input" else self.outputs).get(name)
        if value is None or value.type.tensor_type.elem_type != kind:
            message = (
                f"the model's metadata tells of an {border.direction} `{name}` of {border.storage}, which it has not"
            )
            raise reject("invalid-model", message, node=name, help="take the entry out, or compile again")
        codes, scale, zero_point = (fresh(f"{name}/{word}", names) for word in ("codes", "scale", "zero_point"))
        self._graph.initializer.append(numpy_helper.from_array(np.array(border.scale, np.float32), scale))
        self._graph.initializer.append(helper.make_tensor(zero_point, kind, [], [border.zero_point]))
        value.type.tensor_type.elem_type = TensorProto.FLOAT
        self._rename(name, codes)
        if border.direction == "input":
            numbers = [name, scale, zero_point]
            self._graph.node.insert(
                0, helper.make_node("QuantizeLinear", numbers, [codes], name=fresh(f"{name}/quantize", names))
            )
        else:
            numbers = [codes, scale, zero_point]
            self._graph.node.append(
                helper.make_node("DequantizeLinear", numbers, [name], name=fresh(f"{name}/dequantize", names))
            )

    def _rename(self, old: str, new: str) -> None:
        for node in self._graph.node:
            node.input[:] = [new if i == old else i for i in node.input]
            node.output[:] = [new if o == old else o for o in node.output]
        kept = [v for v in self._graph.value_info if v.name not in (old, new)]
        del self._graph.value_info[:]
        self._graph.value_info.extend(kept)
