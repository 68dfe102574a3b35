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
    ``changes``: the rewrites that were applied to it. ``types``: the formats of each `expect TENSOR: ...`, resolved.
    ``bodies``: the same of all bodies in it."""

    program: Program
    snapshot: Snapshot
    plan: Plan
    changes: tuple[Change, ...]
    named: Mapping[str, str]  # tensor -> the node that makes it, as written; empty for inputs and weights
    types: Mapping[Expect, tuple[Types, bool]]
    bodies: tuple[Found, ...] = ()

    @property
    def graphs(self) -> tuple[Found, ...]:
        """The graph itself, and all bodies in it."""
        return (self, *self.bodies)

    def having(self, name: str) -> tuple[Found, ...]:
        """The graphs that know a tensor: a body also knows what it reads from outside."""
        return tuple(g for g in self.graphs if name in g.snapshot.tensor_ids)

    def home(self, name: str) -> Found:
        """The graph in which a node makes a tensor; where none does, the first that knows it."""
        having = self.having(name)
        made = (g for g in having if g.snapshot.producer[g.snapshot.tensor_ids[name]] >= 0)
        return next(made, having[0] if having else self)

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
    """The lists of formats that a tensor is stored in, mostly one, in the graph and its bodies; the key has axes as numbers."""
    lists: dict[Types, Stored] = {}
    for graph in found.having(name):
        for insertion in graph.plan.insertions:
            if insertion.tensor == name:
                quantizer = graph.plan.quantizers[insertion.quantizer]
                types = tuple(_placed(t, name, None, graph) for t in quantizer.types)
                lists.setdefault(types, Stored(quantizer.types, quantizer.origins))
        for constant in graph.plan.constants:
            if constant.tensor == name:
                types = tuple(_placed(t, name, (constant.node, constant.port), graph) for t in constant.types)
                lists.setdefault(types, Stored(constant.types, constant.origins))
    return lists


def placed(qtype: QType, name: str, found: Found) -> QType:
    """A format with its axis as a number from 0, so that a role and a number that mean the same are equal."""
    for graph in found.having(name):
        there = _placed(qtype, name, None, graph)
        if not isinstance(there.axis, str):
            return there
    return qtype


def _placed(qtype: QType, name: str, read: tuple[str, int] | None, found: Found) -> QType:
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
    if found.having(name):
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


def maker_of(name: str, found: Found) -> tuple[Found, int] | None:
    """The graph and the node that make a tensor; None if no node does."""
    home = found.home(name)
    tensor = home.snapshot.tensor_ids.get(name, -1)
    node = home.snapshot.producer[tensor] if tensor >= 0 else -1
    return (home, node) if node >= 0 else None


def kernel_of(node: int, found: Found) -> Kernel | None:
    if node < 0:
        return None
    name = found.snapshot.names[node]
    return next((k for k in found.plan.kernels if name in k.nodes), None)
