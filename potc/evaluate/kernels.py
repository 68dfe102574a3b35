"""Which kernels really run on integers: read from the graph that onnxruntime makes of a compiled model."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import helper

from potc.execute.session import open_session
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


def kernel_share(compiled: bytes, plan: Plan) -> KernelShare:
    """Loads the model into onnxruntime with all optimizations and reads the graph that it would execute.

    A node runs in float if the optimized graph still holds it, by its name or by one of its outputs, and what makes
    that output reads no integer activations (weights alone do not count). A kernel is as integer as its first and last
    node: if one of its nodes runs in float, all do.
    """
    with tempfile.TemporaryDirectory(prefix="potc-") as folder:
        path = Path(folder) / "optimized.onnx"
        open_session(compiled, optimize=True, optimized_path=str(path))
        optimized = onnx.load(path)
    floating_nodes = _in_float(onnx.ModelProto.FromString(compiled).graph, optimized.graph, _codes(optimized))
    covered = list(dict.fromkeys(name for kernel in plan.kernels for name in kernel.nodes))
    kernels_in_float = {n for k in plan.kernels if floating_nodes.intersection(k.nodes) for n in k.nodes}
    floating = tuple(name for name in covered if name in kernels_in_float)
    held = set(covered)
    weighted = {c.node for c in plan.constants if c.role == "weight" and c.node in held}
    return KernelShare(
        len(covered), len(covered) - len(floating), len(weighted), len(weighted.difference(floating)), floating
    )


def _codes(optimized: onnx.ModelProto) -> set[str]:
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


def _in_float(compiled: onnx.GraphProto, optimized: onnx.GraphProto, codes: set[str]) -> set[str]:
    """Names of nodes of ``compiled`` that ``optimized`` computes from floats. ``codes``: its integer tensors, weights
    left out.
    """
    made_in_float: set[str] = set()
    names_in_float: set[str] = set()
    for node in optimized.node:
        if codes.isdisjoint(node.input):
            made_in_float.update(node.output)
            names_in_float.add(node.name)
    return {
        n.name
        for n in compiled.node
        if n.name in names_in_float or not made_in_float.isdisjoint(filter(None, n.output))
    }
