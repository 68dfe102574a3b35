"""A candidate: the plan with some kernels given up, and some tensors in more precise types."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from potc.language.program import Granularity, QType
from potc.quantize.plan import Plan

REASON = "the search for the accuracy target"


@dataclass(frozen=True, slots=True)
class Variant:
    """``held``: names of nodes that stay in float. ``raised``: keys of noise sources (see ``sources``) whose types are raised."""

    held: frozenset[str] = frozenset()
    raised: frozenset[str] = frozenset()

    def digest(self) -> str:
        text = "\n".join((*sorted(self.held), "", *sorted(self.raised)))
        return hashlib.sha256(text.encode()).hexdigest()


def precise(types: Sequence[QType]) -> tuple[QType, ...]:
    """The most precise of some types: those with most bits, of these the ones with several scales if there are any."""
    bits = max(t.bits for t in types)
    widest = [t for t in types if t.bits == bits]
    finest = [t for t in widest if t.granularity is not Granularity.PER_TENSOR]
    return tuple(finest or widest)


def is_raisable(types: Sequence[QType]) -> bool:
    return len(precise(types)) < len(types)


def with_raised(plan: Plan, raised: Iterable[str]) -> Plan:
    """The plan in which the sources have only their most precise types left."""
    wanted = frozenset(raised)
    if not wanted:
        return plan
    quantizers = tuple(
        replace(q, types=precise(q.types)) if any(tensor_key(t) in wanted for t in q.tensors) else q
        for q in plan.quantizers
    )
    constants = tuple(
        replace(c, types=precise(c.types)) if not c.factors and weights_key(c.node) in wanted else c
        for c in plan.constants
    )
    return replace(plan, quantizers=quantizers, constants=constants)


def tensor_key(tensor: str) -> str:
    """How the noise of storing a tensor is called."""
    return f"tensor {tensor}"


def weights_key(node: str) -> str:
    """How the noise of a node's stored constants is called."""
    return f"weights {node}"
