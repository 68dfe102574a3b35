"""Which kernels really run on integers: read from the graph that onnxruntime makes of a compiled model."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import helper

from potc.execute.session import InferenceSession, SessionError, open_session
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
    """A model in onnxruntime with all its optimizations, on one thread, and the graph that it executes."""

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
        return Loaded(session, onnx.load(path))


def kernel_share(compiled: bytes, plan: Plan, loaded: Loaded | None = None) -> KernelShare:
    """Reads the graph that onnxruntime executes, with all optimizations; all is float in a model that it does not take. ``loaded``:
    the model, if it is loaded already.

    What that graph still holds of a node, by its name or by one of its outputs, runs in float if it reads no integer
    activations (weights alone do not count). A node that was fused away shares the fate of the next one of its kernel
    that is left, else of the one before; a kernel of which nothing is left became part of an integer operator.
    """
    loaded = loaded or load(compiled)
    covered = dict.fromkeys(name for kernel in plan.kernels for name in kernel.nodes)
    fused = set(covered)
    if loaded is not None:
        codes = integer_codes(loaded.graph)
        in_float = _in_float(onnx.ModelProto.FromString(compiled).graph, loaded.graph.graph, codes)
        fused = {name for kernel in plan.kernels for name in _float_nodes(kernel.nodes, in_float)}
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
    """Computed tensors that hold integer codes. Only onnxruntime knows the types of what its own operators return, so
    it is asked for them: as types of outputs.
    """
    typed = onnx.ModelProto()
    typed.CopyFrom(optimized)
    declared = {o.name for o in typed.graph.output}
    computed = dict.fromkeys(name for node in typed.graph.node for name in node.output if name and name not in declared)
    typed.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in computed)
    session = open_session(typed.SerializeToString(), optimize=False)
    return {value.name for value in (*session.get_inputs(), *session.get_outputs()) if value.type in CODES}


def _in_float(compiled: onnx.GraphProto, optimized: onnx.GraphProto, codes: set[str]) -> dict[str, bool]:
    """Of each node of ``compiled`` that ``optimized`` still holds: does it compute from floats? ``codes``: computed
    integers."""
    by_output: dict[str, bool] = {}
    by_name: dict[str, bool] = {}
    for node in optimized.node:
        reads_floats = codes.isdisjoint(node.input)
        by_name[node.name] = reads_floats
        by_output.update((output, reads_floats) for output in node.output if output)
    found: dict[str, bool] = {}
    for node in compiled.node:
        traces = [by_output[output] for output in node.output if output in by_output]
        if node.name in by_name:
            traces.append(by_name[node.name])
        if traces:
            found[node.name] = any(traces)
    return found
