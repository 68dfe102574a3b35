"""The Plan for people: one line per decision, in plan order. Test cases are written in it."""

from __future__ import annotations

from collections.abc import Iterator

from potc.language.lattice import spell
from potc.quantize.plan import Plan


def plan_lines(plan: Plan) -> Iterator[str]:
    """Kernels, then quantizers with the places of their pairs, then constants, then what stayed float."""
    for kernel in plan.kernels:
        yield f"kernel {kernel.rule}: {', '.join(kernel.nodes)}"
    places: dict[int, list[str]] = {}
    for insertion in plan.insertions:
        if insertion.consumers is None:
            where = insertion.tensor
        else:
            where = f"{insertion.tensor} -> " + ", ".join(f"{node}[{port}]" for node, port in insertion.consumers)
        places.setdefault(insertion.quantizer, []).append(where)
    for quantizer in plan.quantizers:
        yield f"quantizer {'; '.join(places.get(quantizer.id, []))}: {' | '.join(map(spell, quantizer.types))}"
    for constant in plan.constants:
        axis = "" if constant.axis is None else f", axis {constant.axis}"
        yield f"constant {constant.tensor} -> {constant.node}[{constant.port}]: {' | '.join(map(spell, constant.types))}{axis}"
    for left in plan.left:
        yield f"float {left.node}: {'; '.join(f'{r.rule}: {r.reason}' for r in left.reasons)}"
