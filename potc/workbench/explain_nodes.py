"""One node: the kernel that covers it with the formats of what it reads and writes, or why it stays in float."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from potc.language.lattice import spell
from potc.language.program import QuantStatement, Rule
from potc.match.cover import Candidate
from potc.match.found import Bound
from potc.quantize.plan import ConstantQuantizer, Kernel, Left, Quantizer
from potc.workbench.explain_model import Examined, Part, Reason
from potc.workbench.near import Miss, lost, nearest, not_larger
from potc.workbench.preparation import rewritten_from


@dataclass(frozen=True, slots=True)
class Captured:
    """A tensor under its name in the rule. ``types``: what all who ask allow, preferred first; empty: float. ``place``: of
    the ``quant`` statement; ``note``: axis, derivation, or why it is float."""

    name: str
    tensor: str
    types: tuple[str, ...]
    place: str
    note: str
    shared: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PartAnswer:
    """What one device (of a meet) says: the rule that covers the node (empty: none), its captures, why the kernel is not
    larger, and what the other rules say, the nearest first."""

    device: str
    rule: str
    place: str
    captured: tuple[Captured, ...]
    larger: Reason | None
    others: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """``kernel``: all nodes of the kernel, in data-flow order; empty if the node stays in float for ``reasons``. ``body``: that
    the node is in (``node/attribute``), "" for the main graph."""

    node: str
    operator: str
    body: str
    kernel: tuple[str, ...]
    rule: str
    place: str
    reasons: tuple[Reason, ...]
    parts: tuple[PartAnswer, ...]
    rewritten: str


@dataclass(frozen=True, slots=True)
class Count:
    """A rule that covers nodes in ``kernels`` places."""

    rule: str
    place: str
    kernels: int


@dataclass(frozen=True, slots=True)
class FloatNode:
    """A node that stays in float, and why."""

    node: str
    operator: str
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class OverviewAnswer:
    """All kernels by rule, and each node that stays in float, in bodies too; a body that nothing is planned for counts as one
    node."""

    model: str
    device: str
    nodes: int
    covered: int
    rules: tuple[Count, ...]
    floats: tuple[FloatNode, ...]


def overview(examined: Examined) -> OverviewAnswer:
    graphs = examined.graphs
    counts = Counter((k.rule, k.place) for graph in graphs for k in graph.plan.kernels)
    floats = tuple(
        FloatNode(left.node, left.operator, why_float(graph, left)) for graph in graphs for left in graph.plan.left
    )
    rules = tuple(Count(rule, place, count) for (rule, place), count in sorted(counts.items()))
    nodes = sum(len(graph.snapshot.names) for graph in graphs)
    covered = sum(len(graph.kernel_of) for graph in graphs)
    return OverviewAnswer(examined.model.path, examined.plan.device, nodes, covered, rules, floats)


def explain_node(examined: Examined, name: str, rules: tuple[str, ...] = ()) -> NodeAnswer:
    """``rules``: qualified names; other candidates are told of these only, if any are given."""
    node = examined.node_ids[name]
    kernel = examined.kernel_of.get(name)
    reasons: list[Reason] = []
    parts: list[PartAnswer] = []
    missed = {part.program.device: nearest(examined, part, node) for part in examined.parts}
    if kernel is None:
        reasons = _decided(examined, node, [m for misses in missed.values() for m in misses])
    told = {(r.rule, r.place) for r in reasons}
    for part in examined.parts:
        others = [*lost(examined, part, node, kernel), *_reasons(examined, missed[part.program.device], node)]
        part_rule = _rule_of(part, kernel)
        taken = f"{part.program.device}.pass" if kernel is not None and part_rule is None else ""
        candidate = _candidate(examined, part, part_rule, kernel)
        seen = {*told, *((part_rule.qualified, r.place) for r in others if part_rule is not None)}
        unique = {r.rule: r for r in reversed(others) if (r.rule, r.place) not in seen}
        kept = tuple(r for r in others if unique.get(r.rule) is r and (not rules or r.rule in rules))
        parts.append(
            PartAnswer(
                part.program.device,
                part_rule.qualified if part_rule is not None else taken,
                _place_of(examined, part_rule, kernel),
                tuple(_captures(examined, part, candidate, kernel)),
                not_larger(examined, part, candidate) if candidate is not None else None,
                kept,
            )
        )
    if rules:
        reasons = [r for r in reasons if r.rule in rules]
    return NodeAnswer(
        name,
        examined.snapshot.ops[node],
        examined.key,
        kernel.nodes if kernel is not None else (),
        kernel.rule if kernel is not None else "",
        kernel.place if kernel is not None else "",
        tuple(reasons),
        tuple(parts),
        rewritten_from(examined, name),
    )


def why_float(examined: Examined, left: Left) -> tuple[Reason, ...]:
    """Why a node, or a whole body of one, stays in float, the nearest rule first."""
    node = examined.node_ids.get(left.node)
    if node is None:
        return tuple(Reason(r.rule, r.place, r.reason, left.node) for r in left.reasons)
    return tuple(_decided(examined, node, [m for part in examined.parts for m in nearest(examined, part, node)]))


def _decided(examined: Examined, node: int, missed: list[Miss]) -> list[Reason]:
    """What the plan says of a node in float; of rules that missed it, what stopped them, in the order of how near they came."""
    name = examined.snapshot.names[node]
    left = examined.left_of.get(name)
    if left is None:
        stopped = [_reason(examined, m, node) for m in sorted(missed, key=lambda m: m.order)]
        return [*stopped, Reason("", "", _no_float(examined, name))]
    near = {m.rule.qualified: m for m in sorted(missed, key=lambda m: m.order)[::-1]}
    order = {rule: i for i, rule in enumerate(sorted(near, key=lambda rule: near[rule].order))}
    found: list[Reason] = []
    for told in left.reasons:
        miss = near.get(told.rule)
        general = miss is not None and told.place in (miss.rule.span.place, miss.span.place)
        found.append(
            _reason(examined, miss, node) if miss and general else Reason(told.rule, told.place, told.reason, name)
        )
    return sorted(dict.fromkeys(found), key=lambda r: order.get(r.rule, -1))


def _no_float(examined: Examined, name: str) -> str:
    snapshot = examined.snapshot
    made = [t for t in snapshot.outputs[examined.node_ids[name]] if t >= 0]
    kinds = ", ".join(dict.fromkeys(snapshot.dtypes[t] or "values of unknown type" for t in made)) or "nothing"
    return f"makes {kinds}: only float tensors are quantized"


def _reasons(examined: Examined, misses: tuple[Miss, ...], node: int) -> Iterator[Reason]:
    return (_reason(examined, miss, node) for miss in misses)


def _reason(examined: Examined, miss: Miss, node: int) -> Reason:
    """A miss in words; those that were tried from another node say from which."""
    anchor = examined.snapshot.names[miss.anchor]
    at = "" if miss.anchor == node else f"from {anchor}: "
    return Reason(miss.rule.qualified, miss.span.place, f"{at}{miss.words}", anchor)


# ---------------------------------------------------------------------------------------------- the kernel


def _rule_of(part: Part, kernel: Kernel | None) -> Rule | None:
    """The rule of a part in a kernel; None where the part passes values through."""
    names = set(kernel.rule.split(" & ")) if kernel is not None else set[str]()
    return next((r for r in part.program.rules if r.qualified in names), None)


def _place_of(examined: Examined, rule: Rule | None, kernel: Kernel | None) -> str:
    if rule is not None:
        return rule.span.place
    return kernel.place if kernel is not None and len(examined.parts) == 1 else ""


def _candidate(examined: Examined, part: Part, rule: Rule | None, kernel: Kernel | None) -> Candidate | None:
    if rule is None or kernel is None:
        return None
    nodes = {examined.node_ids[n] for n in kernel.nodes}
    return next((c for c in part.candidates if c.rule is rule and set(c.match.nodes) == nodes), None)


def _captures(examined: Examined, part: Part, candidate: Candidate | None, kernel: Kernel | None) -> Iterator[Captured]:
    if candidate is None:
        if kernel is not None:
            yield from _passed(examined, kernel)
        return
    stated = {q.target: q for q in candidate.rule.quants}
    names = [*stated, *(n for n in candidate.match.bindings if n not in stated)]
    for name in names:
        binding = candidate.match.bindings.get(name)
        for bound in binding if isinstance(binding, tuple) else (binding,):
            if bound is not None:
                yield _captured(examined, name, bound, stated.get(name))


def _captured(examined: Examined, name: str, bound: Bound, statement: QuantStatement | None) -> Captured:
    snapshot = examined.snapshot
    tensor = snapshot.tensors[bound.tensor]
    place = statement.span.place if statement is not None else ""
    reader = None if bound.port < 0 else (snapshot.names[bound.node], bound.port)
    derived = " * ".join(f"scale({t})" for t in statement.derived) if statement is not None else ""
    if snapshot.is_constant(bound.tensor):
        constant = constant_at(examined, tensor, reader)
        if constant is not None:
            notes = (f"= {derived}" if derived else "", axis_note(constant))
            return Captured(name, tensor, spelled(constant), place, ", ".join(filter(None, notes)), ())
    insertion = examined.insertion(tensor, reader)
    if insertion is not None:
        quantizer = examined.plan.quantizers[insertion.quantizer]
        shared = tuple(t for t in quantizer.tensors if t != tensor)
        return Captured(name, tensor, spelled(quantizer), place, "", shared)
    return Captured(name, tensor, (), place, _why_float(examined, bound, statement), ())


def _passed(examined: Examined, kernel: Kernel) -> Iterator[Captured]:
    """What goes in and out of a node that passes values through."""
    snapshot = examined.snapshot
    node = examined.node_ids[kernel.nodes[0]]
    for name, tensors in (("in", snapshot.inputs[node]), ("out", snapshot.outputs[node])):
        for port, t in enumerate(tensors):
            if t >= 0 and snapshot.is_float(t) and not snapshot.is_constant(t):
                tensor = snapshot.tensors[t]
                insertion = examined.insertion(tensor, (kernel.nodes[0], port) if name == "in" else None)
                if insertion is not None:
                    quantizer = examined.plan.quantizers[insertion.quantizer]
                    shared = tuple(other for other in quantizer.tensors if other != tensor)
                    yield Captured(name, tensor, spelled(quantizer), kernel.place, "", shared)


def constant_at(examined: Examined, tensor: str, reader: tuple[str, int] | None) -> ConstantQuantizer | None:
    """How a constant is stored for one reader, None if it stays in float there."""
    stored = (c for c in examined.plan.constants if c.tensor == tensor)
    return next((c for c in stored if reader is None or (c.node, c.port) == reader), None)


def spelled(quantizer: Quantizer | ConstantQuantizer) -> tuple[str, ...]:
    return tuple(map(spell, quantizer.types))


def axis_note(constant: ConstantQuantizer) -> str:
    return "" if constant.axis is None else f"axis {constant.axis}"


def _why_float(examined: Examined, bound: Bound, statement: QuantStatement | None) -> str:
    if statement is None:
        return "the rule has no `quant` for it"
    choices = [statement.choice]
    while choices[-1].otherwise is not None:
        choices.append(choices[-1].otherwise)
    if any(c.alternatives.none for c in choices):
        reads = "it is made in 8 bits or more by nobody" if bound.port >= 0 else "nobody reads it as integers"
        return f"the rule allows `none`, and {reads}"
    if not examined.snapshot.is_float(bound.tensor):
        return f"holds {examined.snapshot.dtypes[bound.tensor] or 'values of unknown type'}"
    return "it is the accumulator itself, which is not stored" if bound.port < 0 else "it is not stored"
