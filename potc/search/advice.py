"""Lines of rules that keep in float from the start what loses most, to paste into a device.

Rules do not name nodes: what they say is the operators of the kernel and the shapes of its constants, so a layer of the same kind
and shape stays in float as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx

from potc.graph.names import all_graphs, all_nodes
from potc.quantize.plan import Kernel, Plan
from potc.search.search import Found

LISTED = 3  # of the worst kernels


def advice(found: Found, plan: Plan, prepared: onnx.ModelProto) -> str:
    """Rules for the kernels that lose most, the worst first; "" if there are none. ``plan``: with everything in
    integers."""
    kernels = {name: k for k in plan.kernels for name in k.nodes}
    chosen: dict[tuple[str, ...], Kernel] = {}
    for worst in sorted(found.worst, key=lambda w: -w.noise):
        for name in worst.nodes:
            if name in kernels:
                chosen.setdefault(kernels[name].nodes, kernels[name])
    nodes = {n.name: n for n in all_nodes(prepared.graph)}
    shapes = {t.name: tuple(t.dims) for graph in all_graphs(prepared.graph) for t in graph.initializer}
    rules: dict[str, str] = {}  # by what they say, so that equal layers are told once
    for kernel in chosen.values():
        lines = list(_lines(kernel, nodes, shapes)) if len(rules) < LISTED else []
        if lines:
            name = f"keep_{len(rules) + 1}"
            prefer = f'  prefer {name} over {kernel.rule.rpartition(".")[2]} because "it loses too much accuracy"'
            rules.setdefault("\n".join(lines), "\n".join([f"  float {name} {{", *lines, "  }", prefer]))
    return "\n".join(rules.values())


def _lines(kernel: Kernel, nodes: Mapping[str, onnx.NodeProto], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Nothing for kernels that are no chain, or of several devices."""
    chain = [nodes[name] for name in kernel.nodes]
    steps: list[str] = []
    conditions: list[str] = []
    for place, node in enumerate(chain):
        before = chain[place - 1].output[0] if place else None
        if before is not None and before not in node.input:
            return
        words: list[str] = []
        for port, tensor in enumerate(node.input):
            if not tensor:
                return
            name = f"c{place}_{port}"
            if tensor in shapes:
                words.append(f"{name}: const")
                conditions += [f"{name}.rank == {len(shapes[tensor])}"]
                conditions += [f"{name}.shape[{axis}] == {size}" for axis, size in enumerate(shapes[tensor])]
            else:
                words.append("prev" if tensor == before else f"x{place}_{port}")
        steps.append(f"{node.op_type}({', '.join(words)})")
    if " & " in kernel.rule:
        return
    yield f"    match {' -> '.join(steps)} as y"
    if conditions:
        yield f"    require {' and '.join(conditions)}"
    yield '    note "it loses most of the accuracy"'
