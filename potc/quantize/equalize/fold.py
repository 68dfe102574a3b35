"""Scales become new constants. What several nodes read is copied where they need different numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from potc.execute.aside import array_of
from potc.graph.model import Model
from potc.graph.names import fresh
from potc.graph.prepare import infer_shapes
from potc.graph.snapshot import Snapshot, outer_reads
from potc.language.program import Signature
from potc.quantize.equalize.channels import Limit, Touch


def fold(model: Model, snapshot: Snapshot, touches: Sequence[Touch], scale: np.ndarray) -> Model | None:
    """``snapshot``: of ``model``, or of one with the same names; ``scale``: float64 by channel. The same model where all
    scales are 1; None where a finite number would no longer be one."""
    factors: dict[tuple[str, int], np.ndarray] = {}
    for touch in touches:
        factor = scale[touch.index] ** touch.power
        if (factor != 1).any():
            place = (snapshot.names[touch.node], touch.port)
            factors[place] = factors[place] * factor if place in factors else factor
    if not factors:
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    constants = _Constants(proto, factors.keys())
    for node in proto.graph.node:
        for port, name in enumerate(node.input):
            factor = factors.get((node.name, port))
            if factor is not None:
                node.input[port] = constants.scaled(name, factor)
    if constants.overflowed:
        return None
    constants.store()
    return model.with_proto(proto)


def operator_of(signatures: Mapping[str, Signature], role: str) -> str | None:
    """The elementwise operator whose result std.rules calls so."""
    return next((n for n, s in signatures.items() if s.elementwise and s.outputs and s.outputs[0].role == role), None)


def spread(model: Model, snapshot: Snapshot, limits: Sequence[Limit], scale: np.ndarray, least: str) -> Model:
    """Gives each channel its own upper limit where scales differ: the node's becomes the largest, and a node of the operator
    ``least`` behind it cuts off the channels at theirs."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    graph = proto.graph
    bounds = {snapshot.names[e.node]: (e.port, e.bound / scale[e.index]) for e in limits if (scale[e.index] != 1).any()}
    taken = {n for node in graph.node for n in (node.name, *node.input, *node.output, *outer_reads(node))}
    taken |= {t.name for t in graph.initializer} | {i.name for i in graph.input}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        if node.name not in bounds:
            continue
        port, bound = bounds[node.name]
        values = bound.astype(np.float32)
        whole, each, inner = (fresh(f"{node.output[0]}/{word}", taken) for word in ("limit", "limits", "limited"))
        graph.initializer.append(numpy_helper.from_array(values.max(), whole))
        node.input[port] = whole
        if values.min() < values.max():
            graph.initializer.append(numpy_helper.from_array(values, each))
            added = helper.make_node(least, [inner, each], [node.output[0]], name=fresh(f"{node.name}/limits", taken))
            node.output[0] = inner
            nodes.append(added)
    kept = [copied(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    return infer_shapes(model.with_proto(proto))


def copied(node: onnx.NodeProto) -> onnx.NodeProto:
    """A node of its own, that lives on when its graph is emptied."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


class _Constants:
    """Initializers, and what becomes of them. One keeps its name where nobody reads the old numbers any more."""

    def __init__(self, proto: onnx.ModelProto, changed: Collection[tuple[str, int]]) -> None:
        graph = proto.graph
        places = set(changed)
        self._proto = proto
        self._old = {t.name: t for t in graph.initializer}
        self._needed = {
            name
            for node in graph.node
            for name in (*(n for k, n in enumerate(node.input) if (node.name, k) not in places), *outer_reads(node))
        } | {o.name for o in graph.output}
        self._names = {*self._old, *(n for node in graph.node for n in (*node.input, *node.output))}
        self._names |= {i.name for i in graph.input}
        self._made: dict[str, dict[bytes, str]] = {}
        self._new: dict[str, TensorProto] = {}
        self.overflowed = False

    def scaled(self, name: str, factor: np.ndarray) -> str:
        """The name of the constant with every element multiplied; products in float64."""
        old = array_of(self._old[name])
        with np.errstate(over="ignore"):
            new = np.array(old.astype(np.float64) * factor, old.dtype, order="C")
        self.overflowed |= bool((np.isfinite(old) & ~np.isfinite(new)).any())
        made = self._made.setdefault(name, {})
        key = new.tobytes()
        if key not in made:
            made[key] = name if name not in self._needed and not made else fresh(f"{name}/equalized", self._names)
            self._new[made[key]] = numpy_helper.from_array(new, made[key])
        return made[key]

    def store(self) -> None:
        initializers = self._proto.graph.initializer
        for tensor in initializers:
            new = self._new.pop(tensor.name, None)
            if new is not None:
                tensor.CopyFrom(new)
        initializers.extend(self._new.values())
