"""A judged candidate as an ONNX model, and a model as ONNX text."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import onnx
import onnx.printer
from onnx import NodeProto, helper, numpy_helper

from potc.language.operators import split
from potc.match.found import Bound
from potc.sketch.board import Assignment, Board, bound
from potc.sketch.infer import CODES
from potc.sketch.variants import schema_of

OPSET = 17  # of tests that name none


def build_model(board: Board, candidate: Assignment, bystander: str) -> onnx.ModelProto:
    """The model of a candidate that its schemas accept. Equal candidates give equal bytes."""
    frame = board.frame
    names = _names(board)
    snapshot = board.judge(candidate).snapshot
    inputs: list[onnx.ValueInfoProto] = []
    stored: list[onnx.TensorProto] = []
    nodes: list[NodeProto] = []
    outputs: list[tuple[str, int]] = []
    for t in sorted(frame.externals):
        if board.is_constant(candidate, t):
            stored.append(numpy_helper.from_array(board.array(candidate, t), names[t]))
            continue
        name = names[t]
        if candidate.get(("made", t)):
            name = f"{names[t]}_before"
            nodes.append(_node(bystander, [name], names[t], f"make_{names[t]}"))
        inputs.append(_value(name, snapshot.dtypes[t], snapshot.shapes[t]))
    for k, placed in enumerate(frame.nodes):
        node = NodeProto()
        node.CopyFrom(board.proto(candidate, k))
        node.input[:] = [names[t] if t >= 0 else "" for t in placed.inputs]
        node.output[:] = [names[t] for t in placed.outputs]
        node.name = f"{split(placed.op)[1]}_{k}"
        nodes.append(node)
    for t in range(frame.tensors):
        made = t not in frame.externals
        for i in range(board.extra_readers(candidate, t)):
            nodes.append(_node(bystander, [names[t]], f"{names[t]}_read{i}", f"read_{names[t]}_{i}"))
            outputs.append((f"{names[t]}_read{i}", t))
        if made and t == frame.nodes[board.producer(t)].outputs[0] and board.returned(candidate, t):
            outputs.append((names[t], t))
    graph = helper.make_graph(
        nodes,
        "sketch",
        inputs,
        [_value(name, snapshot.dtypes[t], snapshot.shapes[t]) for name, t in outputs],
        stored,
    )
    imports = [helper.make_opsetid("", frame.opset)]
    for domain in sorted({split(n.op)[0] for n in frame.nodes} - {""}):
        schemas = [schema_of(n.op, frame.opset) for n in frame.nodes if split(n.op)[0] == domain]
        imports.append(helper.make_opsetid(domain, max((s.since_version for s in schemas if s is not None), default=1)))
    return helper.make_model(graph, producer_name="potc", opset_imports=imports, ir_version=_ir_version(frame.opset))


def inside(model: onnx.ModelProto, bystander: str) -> onnx.ModelProto:
    """The same nodes in the middle of a model: an operator that no rule speaks of before each float input, and behind each
    float output."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    graph = found.graph
    stored = {t.name for t in graph.initializer}
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
    before: list[NodeProto] = []
    behind: list[NodeProto] = []
    for value in graph.input:
        if value.name not in stored and value.type.tensor_type.elem_type in floats:
            name = value.name
            value.name = f"{name}_outside"
            before.append(_node(bystander, [value.name], name, f"{bystander}_{name}_in"))
    for value in graph.output:
        if value.type.tensor_type.elem_type in floats:
            name = value.name
            value.name = f"{name}_outside"
            behind.append(_node(bystander, [name], value.name, f"{bystander}_{name}_out"))
    nodes = [*before, *(NodeProto.FromString(n.SerializeToString()) for n in graph.node), *behind]
    del graph.node[:]
    graph.node.extend(nodes)
    return found


def _ir_version(opset: int) -> int:
    """The IR version that came with an opset, so that older runtimes take what is drawn for older opsets."""
    return int(helper.find_min_ir_version_for([helper.make_opsetid("", opset)], ignore_unknown=True))


def _node(op: str, inputs: list[str], output: str, name: str) -> NodeProto:
    domain, kind = split(op)
    return helper.make_node(kind, inputs, [output], name=name, domain=domain or None)


def _value(name: str, dtype: str | None, shape: tuple[int | None, ...] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, CODES[dtype or "f32"], shape if shape is not None else ())


def _names(board: Board) -> dict[int, str]:
    """What the pattern calls a tensor, else a letter and a number."""
    frame = board.frame
    found: dict[int, str] = {}
    for name, binding in frame.bindings.items():
        several = bound(binding)
        for i, b in enumerate(several):
            label = re.sub(r"\W", "_", name).lstrip("_") or "v"
            if isinstance(binding, tuple):
                label = f"{label}{i}"
            if b.tensor not in found and label not in found.values():
                found[b.tensor] = label
    taken = set(found.values())
    for t in range(frame.tensors):
        if t not in found:
            label = f"{'c' if t in frame.externals else 't'}{t}"
            while label in taken:
                label += "_"
            found[t] = label
            taken.add(label)
    return found


def name_of(binding: object, tensors: Mapping[int, str]) -> tuple[str, ...]:
    """Names of the tensors behind a binding of a match."""
    if binding is None:
        return ()
    several = binding if isinstance(binding, tuple) else (binding,)
    return tuple(tensors[b.tensor] for b in several if isinstance(b, Bound))


# ---------------------------------------------------------------------------------------------- text


def onnx_text(model: onnx.ModelProto) -> str:
    """The graph as ``test`` blocks of rule files take it between the braces of ``graph { ... }``.

    Random float weights are declared and not valued; numbers that conditions may look at (whole numbers, and floats that
    are all the same) are written out. Another opset than 17 stands in front. Names that ONNX text can't spell are replaced.
    """
    graph = model.graph
    names = _spelled(graph)
    inputs = ", ".join(_declared(v, names) for v in graph.input)
    outputs = ", ".join(_declared(v, names) for v in graph.output)
    stored = [_stored(t, names) for t in graph.initializer]
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=OPSET)
    head = "" if opset == OPSET else f'<opset_import: ["" : {opset}]>\n'
    head += f"g ({inputs}) => ({outputs})"
    if stored:
        head += f"\n  <{', '.join(stored)}>"
    lines = [head + " {"]
    for node in graph.node:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.ClearField("name")
        copy.input[:] = [names.get(n, n) for n in node.input]
        copy.output[:] = [names.get(n, n) for n in node.output]
        lines.append(f"  {onnx.printer.to_text(copy).strip()}")
    return "\n".join((*lines, "}"))


def _spelled(graph: onnx.GraphProto) -> dict[str, str]:
    found: dict[str, str] = {}
    used: set[str] = set()
    every = [v.name for v in (*graph.input, *graph.output)] + [t.name for t in graph.initializer]
    every += [n for node in graph.node for n in (*node.input, *node.output)]
    for name in dict.fromkeys(filter(None, every)):
        label = re.sub(r"\W", "_", name)
        label = label if re.match(r"[A-Za-z_]", label) else f"v{label}"
        while label in used:
            label += "_"
        used.add(label)
        found[name] = label
    return found


def _declared(value: onnx.ValueInfoProto, names: Mapping[str, str]) -> str:
    kind = value.type.tensor_type
    dims = ",".join(str(d.dim_value) if d.HasField("dim_value") else (d.dim_param or "?") for d in kind.shape.dim)
    return (
        f"{_type_text(kind.elem_type)}[{dims}] {names[value.name]}"
        if dims
        else f"{_type_text(kind.elem_type)} {names[value.name]}"
    )


def _type_text(code: int) -> str:
    return onnx.helper.tensor_dtype_to_string(code).partition(".")[2].lower()


def _stored(tensor: onnx.TensorProto, names: Mapping[str, str]) -> str:
    dims = ",".join(map(str, tensor.dims))
    declared = f"{_type_text(tensor.data_type)}{f'[{dims}]' if dims else ''} {names[tensor.name]}"
    array = numpy_helper.to_array(tensor)
    flat = array.reshape(-1)
    uniform = flat.size > 0 and bool((flat == flat[0]).all())
    if array.dtype.kind == "f" and not uniform and len(np.unique(flat)) > 2:
        return declared
    shown = ", ".join(repr(float(v)) if array.dtype.kind == "f" else str(int(v)) for v in flat)
    return f"{declared} = {{{shown}}}"
