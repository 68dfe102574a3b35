"""Scales become new constants. What several nodes read is copied where they need different numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from potc.graph.model import Model
from potc.graph.snapshot import Snapshot, outer_reads
from potc.quantize.equalize.channels import Touch


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
        old = numpy_helper.to_array(self._old[name])
        with np.errstate(over="ignore"):
            new = np.array(old.astype(np.float64) * factor, old.dtype, order="C")
        self.overflowed |= bool((np.isfinite(old) & ~np.isfinite(new)).any())
        made = self._made.setdefault(name, {})
        key = new.tobytes()
        if key not in made:
            made[key] = name if name not in self._needed and not made else self._fresh(f"{name}/equalized")
            self._new[made[key]] = numpy_helper.from_array(new, made[key])
        return made[key]

    def _fresh(self, name: str) -> str:
        unique, count = name, 1
        while unique in self._names:
            count += 1
            unique = f"{name}_{count}"
        self._names.add(unique)
        return unique

    def store(self) -> None:
        initializers = self._proto.graph.initializer
        for tensor in initializers:
            new = self._new.pop(tensor.name, None)
            if new is not None:
                tensor.CopyFrom(new)
        initializers.extend(self._new.values())
