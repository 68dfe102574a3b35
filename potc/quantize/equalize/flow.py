"""Which element of a node's result comes from which place of an input: found by running the node on labels.

A homogeneous operator gives back what it is given where all that it reads is equal. So an input that holds one label along
an axis shows where that axis goes: through movements, poolings, means and products with a matrix of equal numbers alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from potc.execute.session import open_session
from potc.graph.snapshot import Snapshot

FOREIGN, NOTHING = -1, -2  # in place of an index: an element of another input, a zero that was filled in

Axes = tuple[np.ndarray | None, ...]  # by input axis: of each element of the result, the index along that axis


@dataclass(frozen=True, slots=True)
class Flows:
    """What was found out about nodes of one snapshot whose shapes are numbers."""

    snapshot: Snapshot
    _found: dict[tuple[object, ...], tuple[Axes, ...]] = field(
        default_factory=dict["tuple[object, ...]", "tuple[Axes, ...]"]
    )

    def of(self, node: int, port: int, output: int, depth: int | None = None) -> Axes | None:
        """For each axis of an input, where its indices arrive in an output; None for an axis that is summed, averaged or
        compared along, or has one element. ``depth``: of a product, how many terms a sum has: other inputs then hold its
        reciprocal, else NaN. None where the node can't be run on its own.
        """
        snapshot = self.snapshot
        shapes = tuple(snapshot.shapes[t] if t >= 0 else None for t in snapshot.inputs[node])
        fixed = tuple(
            t for t in snapshot.inputs[node] if t >= 0 and snapshot.is_constant(t) and not snapshot.is_float(t)
        )
        key = (snapshot.ops[node], snapshot.attribute_keys[node], shapes, fixed, port, depth)
        if key not in self._found:
            self._found[key] = _probe(snapshot, node, port, depth)
        flows = self._found[key]
        return flows[output] if output < len(flows) else None


def _probe(snapshot: Snapshot, node: int, port: int, depth: int | None) -> tuple[Axes, ...]:
    proto = onnx.NodeProto()
    proto.CopyFrom(snapshot.protos[node])
    proto.input[:] = [f"i{k}" if name else "" for k, name in enumerate(proto.input)]
    outputs = [k for k, name in enumerate(proto.output) if name]
    proto.output[:] = [f"o{k}" if name else "" for k, name in enumerate(proto.output)]
    shape = snapshot.shapes[snapshot.inputs[node][port]]
    if shape is None or None in shape:
        return ()
    dims = [int(d or 0) for d in shape]
    initializers: list[onnx.TensorProto] = []
    for k, tensor in enumerate(snapshot.inputs[node]):
        if tensor < 0 or k == port:
            continue
        if snapshot.is_constant(tensor) and not (depth and snapshot.is_float(tensor)):
            value = snapshot.value(tensor)
        else:
            other = snapshot.shapes[tensor]
            if other is None or None in other or not snapshot.is_float(tensor):
                return ()
            value = np.full([int(d or 0) for d in other], 1.0 / depth if depth else np.nan, np.float32)
        initializers.append(numpy_helper.from_array(np.array(value, order="C"), f"i{k}"))
    graph = helper.make_graph(
        [proto],
        "probe",
        [helper.make_tensor_value_info(f"i{port}", onnx.TensorProto.FLOAT, dims)],
        [helper.make_empty_tensor_value_info(f"o{k}") for k in outputs],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", snapshot.opset)], ir_version=10)
    try:
        session = open_session(model.SerializeToString(), optimize=False, threads=1)
        found: list[list[np.ndarray | None]] = [[] for _ in outputs]
        for axis in range(len(dims)):
            seen = [session.run(None, {f"i{port}": row}) for row in _labelled(dims, axis)] if dims[axis] > 1 else []
            for k in range(len(outputs)):
                found[k].append(_read(dims[axis], [np.asarray(run[k]) for run in seen]) if seen else None)
    except (
        Exception
    ):  # onnxruntime's errors have no common base; a node that can't be run alone tells nothing: it is fixed
        return ()
    result: list[Axes] = [()] * len(proto.output)
    for k, axes in zip(outputs, found, strict=True):
        result[k] = tuple(axes)
    return tuple(result)


def _labels(size: int) -> tuple[np.ndarray, ...]:
    """Three numbers for each index, such that no minimum, maximum or mean of several has all three of one index."""
    random = np.random.default_rng(size)
    first = 1 + random.permutation(size) / size
    return first, 4 - first, np.exp2(random.permutation(size) / size)


def _labelled(dims: list[int], axis: int) -> list[np.ndarray]:
    shape = [1] * len(dims)
    shape[axis] = -1
    rows = (labels.astype(np.float32).reshape(shape) for labels in _labels(dims[axis]))
    return [np.ascontiguousarray(np.broadcast_to(row, dims)) for row in rows]


def _read(size: int, seen: list[np.ndarray]) -> np.ndarray | None:
    """The index that each element shows, ``FOREIGN`` or ``NOTHING``; None unless every one shows one of these."""
    labels = _labels(size)
    order = np.argsort(labels[0])
    values = seen[0].astype(np.float64)
    if values.size == 0:
        return None
    foreign, nothing = np.isnan(values), np.logical_and.reduce([np.asarray(s) == 0 for s in seen])
    places = np.searchsorted(labels[0][order], np.where(foreign | nothing, 1.0, values) - 0.5 / size)
    index = order[np.clip(places, 0, size - 1)]
    for row, array in zip(labels, seen, strict=True):
        if not (np.abs(np.where(foreign | nothing, 0, array.astype(np.float64) - row[index])) < 0.05 / size).all():
            return None
    return np.where(foreign, FOREIGN, np.where(nothing, NOTHING, index))
