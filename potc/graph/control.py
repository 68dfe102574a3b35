"""How ONNX runs nested graphs: what a body is given, how often, and with which types. From onnx/docs/Operators.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper

Run = Callable[[str, Mapping[str, Any]], Sequence[Any]]  # attribute, values of the body's own inputs -> its outputs
BRANCHES = ("then_branch", "else_branch")


def formal_types(node: NodeProto, attribute: AttributeProto, types: Mapping[str, TypeProto]) -> list[ValueInfoProto]:
    """The body's own inputs, with the types that ``node`` gives them where the body does not say. ``types``: of tensors
    outside. Of what changes from run to run only the element type is known."""
    given = _given(node, types)
    found: list[ValueInfoProto] = []
    for position, value in enumerate(attribute.g.input):
        told = ValueInfoProto()
        told.CopyFrom(value)
        kind = value.type
        if kind.WhichOneof("value") in (None, "tensor_type") and not kind.tensor_type.elem_type:
            told.ClearField("type")
            kind = given[position] if position < len(given) else None
            if kind is not None:
                told.type.CopyFrom(kind)
        found.append(told)
    return found


def _given(node: NodeProto, types: Mapping[str, TypeProto]) -> list[TypeProto | None]:
    if node.op_type == "Loop":
        first = [_scalar(TensorProto.INT64), _scalar(TensorProto.BOOL)]
        return [*first, *(_without_shape(types.get(name)) for name in node.input[2:])]
    if node.op_type == "Scan":
        return [_without_shape(types.get(name)) for name in node.input]
    return []


def _scalar(kind: int) -> TypeProto:
    return helper.make_tensor_type_proto(kind, [])


def _without_shape(kind: TypeProto | None) -> TypeProto | None:
    if kind is None or not kind.HasField("tensor_type"):
        return kind
    return helper.make_tensor_type_proto(kind.tensor_type.elem_type, None)


def needed_inputs(node: NodeProto) -> tuple[str, ...]:
    """The inputs of a node without which nobody knows how its bodies run."""
    return tuple(dict.fromkeys(name for name in node.input if name)) if is_known(node) else ()


def is_known(node: NodeProto) -> bool:
    """Can ``run_bodies`` run it? Scan had an axis of batches before opset 9, which raising the opset leaves behind."""
    return node.domain in ("", "ai.onnx") and node.op_type in ("If", "Loop", "Scan")


def run_bodies(node: NodeProto, values: Mapping[str, Any], run: Run) -> None:
    """Calls ``run`` as often as the node runs a body, in order, and feeds what a run returns to the next one.

    ``values``: of the node's inputs, by name.
    """
    if node.op_type == "If":
        taken = bool(np.asarray(values[node.input[0]]).reshape(-1)[0])
        run(BRANCHES[0] if taken else BRANCHES[1], {})
    elif node.op_type == "Loop":
        _loop(node, values, run)
    else:
        _scan(node, values, run)


def _graph(node: NodeProto, name: str) -> GraphProto:
    return next(a.g for a in node.attribute if a.name == name)


def _loop(node: NodeProto, values: Mapping[str, Any], run: Run) -> None:
    trips = int(np.asarray(values[node.input[0]]).reshape(-1)[0]) if node.input[0] else None
    goes_on = bool(np.asarray(values[node.input[1]]).reshape(-1)[0]) if len(node.input) > 1 and node.input[1] else True
    formals = [i.name for i in _graph(node, "body").input]
    carried = [values[name] for name in node.input[2:]]
    turn = 0
    while goes_on and (trips is None or turn < trips):
        first = (np.array(turn, np.int64), np.array(goes_on))
        outputs = run("body", dict(zip(formals, (*first, *carried), strict=True)))
        goes_on = bool(np.asarray(outputs[0]).reshape(-1)[0])
        carried = list(outputs[1 : 1 + len(carried)])
        turn += 1


def _scan(node: NodeProto, values: Mapping[str, Any], run: Run) -> None:
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name != "body"}
    scanned = settings["num_scan_inputs"]
    states = len(node.input) - scanned
    axes = settings.get("scan_input_axes", [0] * scanned)
    backwards = settings.get("scan_input_directions", [0] * scanned)
    arrays = [np.moveaxis(np.asarray(values[n]), a, 0) for n, a in zip(node.input[states:], axes, strict=True)]
    formals = [i.name for i in _graph(node, "body").input]
    carried = [values[name] for name in node.input[:states]]
    length = arrays[0].shape[0]
    for turn in range(length):
        slices = [
            np.ascontiguousarray(array[length - 1 - turn if back else turn])
            for array, back in zip(arrays, backwards, strict=True)
        ]
        outputs = run("body", dict(zip(formals, (*carried, *slices), strict=True)))
        carried = list(outputs[:states])
