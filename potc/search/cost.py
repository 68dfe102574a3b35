"""How long kernels take, roughly: products and results, divided by what the rule file says a kernel gains.

``speedup`` of a rule is a factor over the float kernel. Where no rule of a device states one, moving a b-bit number is taken to
cost b / 32 of moving a float: 4 for 8 bits. Estimates rank candidates and draw the front; they promise no milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from potc.graph.snapshot import Snapshot
from potc.language.program import Program, QType
from potc.match.environment import axis_of
from potc.quantize.plan import Kernel, Plan
from potc.search.moves import Time
from potc.search.variant import precise

FLOAT_BITS = 32


class Costs:
    """Times of one prepared model on one device."""

    def __init__(self, program: Program, snapshots: Iterable[Snapshot]) -> None:
        self._program = program
        self._stated = {r.qualified: r.speedup for p in program.members for r in p.rules}
        self._is_silent = all(s == 1.0 for s in self._stated.values())
        self._work = {name: self._work_of(s, n) for s in snapshots for n, name in enumerate(s.names)}
        self._total = sum(self._work.values()) or 1.0

    def times(self, plan: Plan, kernels: Iterable[int]) -> dict[int, Time]:
        """By index of the kernel."""
        found: dict[int, Time] = {}
        bits = _Bits(plan)
        for index in kernels:
            kernel = plan.kernels[index]
            share = sum(self._work[n] for n in kernel.nodes) / self._total
            planned, raised = bits.of(kernel)
            gain = self._gain(kernel, planned)
            found[index] = Time(share, share / gain, share / max(gain * planned / raised, 1.0))
        return found

    def speedup(self, plan: Plan) -> float:
        """Of the whole model over the float model. ``plan``: with the types of its ``Variant``."""
        times = self.times(plan, range(len(plan.kernels))).values()
        covered = sum(t.floating for t in times)
        return 1.0 / max(sum(t.planned for t in times) + (1.0 - covered), 1e-9)

    def _gain(self, kernel: Kernel, bits: int) -> float:
        if self._is_silent:
            return FLOAT_BITS / bits
        stated = [self._stated[name] for name in kernel.rule.split(" & ") if name in self._stated]
        return min(stated, default=1.0)

    def _work_of(self, snapshot: Snapshot, node: int) -> float:
        """Products, or results where nothing is multiplied with a weight."""
        results = sum(_count(snapshot, t) for t in snapshot.outputs[node] if t >= 0)
        products = 1.0
        for port, tensor in enumerate(snapshot.inputs[node]):
            if tensor < 0 or not snapshot.is_float(tensor):
                continue
            shape = snapshot.shapes[tensor] or ()
            for program in self._program.members:
                out = axis_of(snapshot, program.signatures, node, port, "out", len(shape)) if len(shape) > 1 else None
                if out is not None:
                    products = max(products, _count(snapshot, tensor) / (shape[out] or 1))
        return results * products


def _count(snapshot: Snapshot, tensor: int) -> float:
    """Elements; 1 for each dimension that is not known."""
    return float(math.prod(d or 1 for d in snapshot.shapes[tensor] or ()))


class _Bits:
    """The widest format that each kernel reads, as planned and raised."""

    def __init__(self, plan: Plan) -> None:
        self._types: dict[str, tuple[QType, ...]] = {t: q.types for q in plan.quantizers for t in q.tensors}
        self._constants: dict[str, list[tuple[QType, ...]]] = {}
        for constant in plan.constants:
            if not constant.factors:
                self._constants.setdefault(constant.node, []).append(constant.types)

    def of(self, kernel: Kernel) -> tuple[int, int]:
        lists = [self._types[t] for _, t in kernel.bindings if t in self._types]
        for node in kernel.nodes:
            lists += self._constants.get(node, [])
        planned = max((types[0].bits for types in lists), default=8)
        return planned, max((precise(types)[0].bits for types in lists), default=8)
