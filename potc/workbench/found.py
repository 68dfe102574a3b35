"""What the rules of one device made of the graph of a test, and questions about it: formats, kernels, what is gone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

from potc.graph.snapshot import Snapshot
from potc.language.lattice import spell
from potc.language.program import Granularity, Program, QType
from potc.language.syntax import Expect
from potc.match.cover import Finder
from potc.match.environment import axis_of
from potc.match.joint import JointCover, choose_joint
from potc.match.rewrite import Change
from potc.quantize.plan import Kernel, Origin, Plan

Types = tuple[QType, ...]


@dataclass(frozen=True)
class Found:
    """What the rules of one device made of the graph of a test. ``named``: the tensors of the graph as it is written;
    ``changes``: the rewrites that were applied to it. ``types``: the formats of each `expect TENSOR: ...`, resolved."""

    program: Program
    snapshot: Snapshot
    plan: Plan
    changes: tuple[Change, ...]
    named: Mapping[str, str]  # tensor -> the node that makes it, as written; empty for inputs and weights
    types: Mapping[Expect, tuple[Types, bool]]

    @cached_property
    def cover(self) -> JointCover:
        """Which matches were chosen; the plan, which is made from it, does not keep them."""
        finders = tuple(Finder(p, self.snapshot) for p in self.program.members)
        return choose_joint(self.program.members, self.snapshot, finders)


@dataclass(frozen=True, slots=True)
class Stored:
    """A list of formats that a tensor is stored in, as the rules spell it, and who asked for it."""

    types: Types
    origins: tuple[Origin, ...]


def lists_of(name: str, found: Found) -> dict[Types, Stored]:
    """The lists of formats that a tensor is stored in, mostly one; the key has axes as numbers."""
    lists: dict[Types, Stored] = {}
    for insertion in found.plan.insertions:
        if insertion.tensor == name:
            quantizer = found.plan.quantizers[insertion.quantizer]
            types = tuple(placed(t, name, None, found) for t in quantizer.types)
            lists.setdefault(types, Stored(quantizer.types, quantizer.origins))
    for constant in found.plan.constants:
        if constant.tensor == name:
            types = tuple(placed(t, name, (constant.node, constant.port), found) for t in constant.types)
            lists.setdefault(types, Stored(constant.types, constant.origins))
    return lists


def placed(qtype: QType, name: str, read: tuple[str, int] | None, found: Found) -> QType:
    """A format with its axis as a number from 0, so that a role and a number that mean the same are equal."""
    snapshot = found.snapshot
    tensor = snapshot.tensor_ids[name]
    shape = snapshot.shapes[tensor]
    if qtype.granularity is Granularity.PER_TENSOR or qtype.axis is None or shape is None:
        return qtype
    if isinstance(qtype.axis, int):
        return replace(qtype, axis=qtype.axis % len(shape)) if -len(shape) <= qtype.axis < len(shape) else qtype
    readers = [(n, port) for n, port in snapshot.consumers[tensor] if port >= 0]
    places = [(snapshot.names.index(read[0]), read[1])] if read is not None else readers
    if snapshot.producer[tensor] >= 0:
        places.insert(0, (snapshot.producer[tensor], -1))
    signatures = found.program.signatures
    axes = (axis_of(snapshot, signatures, node, port, qtype.axis, len(shape)) for node, port in places)
    number = next((axis for axis in axes if axis is not None), None)
    return qtype if number is None else replace(qtype, axis=number)


def written(types: Iterable[QType]) -> str:
    """Formats as rules write them, exact to the last digit."""
    return " | ".join(map(_written, types))


def _written(qtype: QType) -> str:
    fixed = []
    if qtype.scale is not None:
        fraction = Fraction(qtype.scale).limit_denominator(1 << 16)
        fixed.append(f"scale = {fraction if float(fraction) == qtype.scale else repr(qtype.scale)}")
    if qtype.zero_point is not None:
        fixed.append(f"zero_point = {qtype.zero_point}")
    return spell(replace(qtype, scale=None, zero_point=None)) + (f" fixed({', '.join(fixed)})" if fixed else "")


def gone_by(name: str, found: Found) -> Origin | None:
    """Which rewrite took a tensor of the written graph away; None if it is still there."""
    if name in found.snapshot.tensor_ids:
        return None
    maker = found.named.get(name, "")
    for change in found.changes:
        if maker and maker in change.nodes:
            return Origin(change.rewrite, change.place, f"replaced {', '.join(change.nodes)}")
    return Origin(found.program.device, "", f"`{name}` is computed at compile time, or nothing needs it")


def owner_of(node: int, found: Found) -> tuple[str, tuple[str, ...]]:
    """The rule and nodes of the kernel, or of the `float` rule, that covers a node; no names if none does."""
    kernel = kernel_of(node, found)
    if kernel is not None:
        return kernel.rule, kernel.nodes
    kept = found.cover.floats.get(node)
    if kept is not None:
        return kept.rule.qualified, tuple(found.snapshot.names[n] for n in kept.match.nodes)
    return "", ()


def maker_of(name: str, found: Found) -> int:
    tensor = found.snapshot.tensor_ids.get(name, -1)
    return found.snapshot.producer[tensor] if tensor >= 0 else -1


def kernel_of(node: int, found: Found) -> Kernel | None:
    if node < 0:
        return None
    name = found.snapshot.names[node]
    return next((k for k in found.plan.kernels if name in k.nodes), None)
