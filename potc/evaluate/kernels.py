"""Which kernels really run on integers: read from the graph that onnxruntime makes of a compiled model."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, helper
from onnx.external_data_helper import load_external_data_for_tensor

from potc.execute.session import InferenceSession, SessionError, open_session
from potc.graph.ask import ELEMENTS
from potc.graph.bodies import Body, bodies_of
from potc.graph.model import Model
from potc.graph.names import all_graphs, all_nodes, settle_names
from potc.quantize.plan import Plan

CODES = frozenset(f"tensor({sign}int{bits})" for sign in ("", "u") for bits in (4, 8, 16))


@dataclass(frozen=True, slots=True)
class KernelShare:
    """``covered``: nodes of the plan's kernels; ``weighted``: those of them that have a weight. ``*_integer``: how many
    of them onnxruntime runs on integers. ``floating``: names of the covered nodes that it runs in float, in plan order.
    """

    covered: int
    covered_integer: int
    weighted: int
    weighted_integer: int
    floating: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in onnxruntime with all its optimizations, on one thread, and the graph that it executes, without its larger weights:
    these are names and types, of which nobody has the numbers any more."""

    session: InferenceSession
    graph: onnx.ModelProto


def load(model: bytes) -> Loaded | None:
    """Opens a session and asks it for its graph. None if onnxruntime does not take the model: ``verify`` says why."""
    with tempfile.TemporaryDirectory(prefix="potc-") as folder:
        path = Path(folder) / "optimized.onnx"
        try:
            session = open_session(model, optimize=True, threads=1, optimized_path=str(path))
        except SessionError:
            return None
        optimized = onnx.load(path, load_external_data=False)
        for graph in (g for g in all_graphs(optimized.graph) if g is not optimized.graph):
            for tensor in graph.initializer:  # a nested graph can't be fed from outside
                if tensor.data_location == TensorProto.EXTERNAL:
                    load_external_data_for_tensor(tensor, folder)
                    tensor.ClearField("data_location")
        settle_names(
            optimized.graph
        )  # its optimizations name new tensors in each nested graph alike, and can't read that again
        return Loaded(session, optimized)


def kernel_share(compiled: bytes, plan: Plan, loaded: Loaded | None = None) -> KernelShare:
    """Reads the graph that onnxruntime executes, with all optimizations; all is float in a model that it does not take. ``loaded``:
    the model, if it is loaded already.

    What that graph still holds of a node, by its name or by one of its outputs, runs in float if it reads no integer
    activations (weights alone do not count). A node that was fused away shares the fate of the next one of its kernel
    that is left, else of the one before; a kernel of which nothing is left became part of an integer operator, if it reads
    stored values at all.
    """
    loaded = loaded or load(compiled)
    covered = dict.fromkeys(name for kernel in plan.kernels for name in kernel.nodes)
    fused = set(covered)
    if loaded is not None:
        codes = integer_codes(loaded.graph)
        written = onnx.ModelProto.FromString(compiled).graph
        in_float, reading = runs_in_float(written, loaded.graph.graph, codes), _reading_codes(written)
        fused = {
            name
            for kernel in plan.kernels
            for name in (kernel.nodes if reading.isdisjoint(kernel.nodes) else _float_nodes(kernel.nodes, in_float))
        }
    floating = tuple(name for name in covered if name in fused)
    weighted = {c.node for c in plan.constants if c.role == "weight" and c.node in covered}
    return KernelShare(
        len(covered), len(covered) - len(floating), len(weighted), len(weighted.difference(floating)), floating
    )


def _float_nodes(nodes: Sequence[str], in_float: Mapping[str, bool]) -> list[str]:
    """The nodes of one kernel that run in float. ``in_float``: of each node that is left, whether it does."""
    found: list[str] = []
    for index, name in enumerate(nodes):
        left = (n for n in (*nodes[index:], *reversed(nodes[:index])) if n in in_float)
        if in_float.get(next(left, ""), False):
            found.append(name)
    return found


def integer_codes(optimized: onnx.ModelProto) -> set[str]:
    """Computed tensors that hold integer codes, at any depth. Only onnxruntime knows the types of what its own operators
    return, so it is asked for them: as types of outputs.
    """
    return {name for name, kind in element_kinds(optimized).items() if kind in CODES}


def element_kinds(optimized: onnx.ModelProto) -> dict[str, str]:
    """onnxruntime's words for the types of all computed tensors, as ``tensor(uint8)``, and of inputs and outputs."""
    return _kinds(optimized, {})


def _kinds(model: onnx.ModelProto, outer: Mapping[str, str]) -> dict[str, str]:
    """onnxruntime's words for the types of all tensors of a model; ``outer``: of those that surround it."""
    declared = {o.name for o in model.graph.output}
    computed = dict.fromkeys(name for node in model.graph.node for name in node.output if name and name not in declared)
    session = _typed_alone(model, [helper.make_empty_tensor_value_info(name) for name in computed])
    kinds = {value.name: str(value.type) for value in (*session.get_inputs(), *session.get_outputs())}
    found = dict(kinds)
    for body in bodies_of(_declaring(model, {**outer, **kinds})):
        if isinstance(body, Body):
            found |= _kinds(body.model.proto, kinds)
    return found


def _typed_alone(model: onnx.ModelProto, told: Sequence[onnx.ValueInfoProto]) -> InferenceSession:
    """A session for asking: its outputs are ``told`` as well. Weights of which nobody has the numbers are inputs; zeros, where a
    kernel wants a constant."""
    apart = [t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    typed.graph.output.extend(told)
    del typed.graph.initializer[:]
    typed.graph.initializer.extend(t for t in model.graph.initializer if t.data_location != TensorProto.EXTERNAL)
    fed = onnx.ModelProto()
    fed.CopyFrom(typed)
    fed.graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in apart)
    try:
        return open_session(fed.SerializeToString(), optimize=False)
    except SessionError:
        typed.graph.initializer.extend(map(_zeros, apart))
        return open_session(typed.SerializeToString(), optimize=False)


def _zeros(tensor: TensorProto) -> TensorProto:
    entries = {e.key: e.value for e in tensor.external_data}
    raw = bytes(int(entries["length"]))
    return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=raw)


def _declaring(model: onnx.ModelProto, kinds: Mapping[str, str]) -> Model:
    """The model with the types of its tensors declared, as far as they are tensors."""
    told = onnx.ModelProto()
    told.CopyFrom(model)
    del told.graph.value_info[:]
    for name, kind in kinds.items():
        element = ELEMENTS.get(kind)
        if element is not None:
            told.graph.value_info.append(helper.make_tensor_value_info(name, element, None))
    return Model("", told, ())


def _reading_codes(compiled: onnx.GraphProto) -> set[str]:
    """Nodes that read computed values behind a DequantizeLinear: with stored weights alone a kernel computes in float."""
    stored = {tensor.name for tensor in compiled.initializer}
    nodes = list(all_nodes(compiled))
    values = {n.output[0] for n in nodes if n.op_type == "DequantizeLinear" and n.input[0] not in stored}
    return {node.name for node in nodes if not values.isdisjoint(node.input)}


def runs_in_float(compiled: onnx.GraphProto, optimized: onnx.GraphProto, codes: set[str]) -> dict[str, bool]:
    """Of each node of ``compiled`` that ``optimized`` still holds: does it compute from floats? ``codes``: computed
    integers."""
    by_output: dict[str, bool] = {}
    by_name: dict[str, bool] = {}
    for node in all_nodes(optimized):
        reads_floats = codes.isdisjoint(node.input)
        by_name[node.name] = reads_floats
        by_output.update((output, reads_floats) for output in node.output if output)
    found: dict[str, bool] = {}
    for node in all_nodes(compiled):
        traces = [by_output[output] for output in node.output if output in by_output]
        if node.name in by_name:
            traces.append(by_name[node.name])
        if traces:
            found[node.name] = any(traces)
    return found
