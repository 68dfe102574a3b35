"""Program x Snapshot -> Plan: which kernels are taken, where quantizers go, which tensors share one.

One sweep down the graph asks every kernel what it wants of its tensors; one sweep up lets value-preserving operators pass
those requests on; then tensors are joined into scale classes and each class keeps the formats that all members allow.
A kernel whose wishes can't be met is given up with its reason, and the sweeps run again without it.
"""

from __future__ import annotations

import gc
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from potc.diagnostics.source import Span
from potc.graph.snapshot import OUTER, Snapshot
from potc.language.lattice import meet_lists, spell
from potc.language.program import Alternatives, OpStatement, Program, QType, Rule
from potc.match.cover import Candidate, Cover, Finder, choose, is_late
from potc.match.environment import MatchEnvironment, Scope
from potc.match.match import Bound, is_true, why_not
from potc.quantize.classes import UnionFind
from potc.quantize.constants import Unmet, choose_alternatives, constant_quantizers
from potc.quantize.left import left_nodes
from potc.quantize.plan import Insertion, Kernel, Origin, Plan, Quantizer


@dataclass(frozen=True, slots=True)
class Ask:
    """One kernel's wish for one tensor. ``reader``: (node, port), None where the kernel makes the tensor."""

    candidate: Candidate | None
    name: str
    reader: tuple[int, int] | None
    alternatives: Alternatives
    span: Span

    def origin(self, snapshot: Snapshot) -> Origin:
        if self.candidate is None:
            return Origin(self.name, self.span.place, f"{self.name} of the device")
        verb = "made" if self.reader is None else "read"
        node = snapshot.names[self.candidate.match.nodes[0]]
        return Origin(
            self.candidate.rule.qualified, self.span.place, f"{verb} as `{self.name}` by the kernel at {node}"
        )


@dataclass(slots=True)
class Wishes:
    """What the sweep down found."""

    stored: set[int] = field(default_factory=set)
    made: dict[int, Ask] = field(default_factory=dict)
    read: dict[int, list[Ask]] = field(default_factory=dict)
    passes: dict[int, OpStatement] = field(default_factory=dict)
    taken: list[Candidate] = field(default_factory=list)
    refused: dict[int, Origin] = field(default_factory=dict)  # id(candidate) -> why

    def wanted_by(self, tensor: int) -> set[tuple[int, int]]:
        """Readers that insist on integers (those that also take float do not)."""
        return {a.reader for a in self.read.get(tensor, ()) if a.reader is not None and not a.alternatives.none}


def solve(program: Program, snapshot: Snapshot) -> Plan:
    """Decides everything that can be decided before samples are seen. Linear in the graph, apart from given-up kernels.

    Raises Rejected where two rules match the same nodes and nothing orders them.
    """
    # Millions of small objects live until the end and form no cycles: collecting in between would cost half the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _solve(program, snapshot)
    finally:
        if collecting:
            gc.enable()


def _solve(program: Program, snapshot: Snapshot) -> Plan:
    finder = Finder(program, snapshot)
    cover = choose(program, snapshot, finder.candidates())
    refused: dict[int, Origin] = {}
    while True:
        wishes = _sweep_down(program, snapshot, cover, refused)
        through = _sweep_up(snapshot, wishes)
        try:
            return _build(program, snapshot, finder, cover, wishes, through)
        except Unmet as unmet:
            refused[id(unmet.candidate)] = unmet.origin


# ---------------------------------------------------------------------------------------------- the two sweeps


def _sweep_down(program: Program, snapshot: Snapshot, cover: Cover, refused: Mapping[int, Origin]) -> Wishes:
    """Kernels in canonical order say what they want; late requirements see what was stored before them."""
    wishes = Wishes(refused=dict(refused))
    scope = Scope.of(program, wishes.stored.__contains__)
    passes_by_op: dict[str, list[OpStatement]] = {}
    for statement in program.passes:
        for op in statement.ops:
            passes_by_op.setdefault(op, []).append(statement)
    kept = _kept(cover)
    if program.graph_input is not None:
        for tensor in sorted(snapshot.graph_inputs):
            if snapshot.is_float(tensor):
                wishes.stored.add(tensor)
                wishes.made[tensor] = Ask(None, "graph input", None, program.graph_input, program.graph_input.span)
    if program.graph_output is not None:
        for tensor in sorted(snapshot.graph_outputs):
            if snapshot.is_float(tensor):
                ask = Ask(None, "graph output", (-1, tensor), program.graph_output, program.graph_output.span)
                wishes.read.setdefault(tensor, []).append(ask)
    ending = {c.match.nodes[-1]: c for c in cover.taken}
    for node in range(len(snapshot.ops)):
        candidate = ending.get(node)
        if candidate is not None:
            if not candidate.rule.is_float and id(candidate) not in wishes.refused:
                _hear(candidate, snapshot, scope, wishes, kept)
        elif node not in cover.owner:
            stated = passes_by_op.get(snapshot.ops[node], ())
            statement = next((s for s in stated if _passes(s, node, snapshot, scope)), None)
            if statement is not None:
                wishes.passes[node] = statement
                ins, outs = ports(snapshot, node)
                if all(t in wishes.stored for t in ins):
                    wishes.stored.update(outs)
    return wishes


def _kept(cover: Cover) -> dict[int, Rule]:
    kept: dict[int, Rule] = {}
    for candidate in cover.kept:
        for name in candidate.rule.keep:
            binding = candidate.match.bindings.get(name)
            for bound in binding if isinstance(binding, tuple) else (binding,):
                if bound is not None:
                    kept[bound.tensor] = candidate.rule
    return kept


def _passes(statement: OpStatement, node: int, snapshot: Snapshot, scope: Scope) -> bool:
    ins, outs = ports(snapshot, node)
    if not ins or not outs:
        return False
    if statement.where is None:
        return True
    environment = MatchEnvironment(snapshot, scope, {}, node)
    return is_true(statement.where, environment)


def ports(snapshot: Snapshot, node: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The computed float inputs and the float outputs of a node: what a value-preserving operator passes through."""
    ins = tuple(t for t in snapshot.inputs[node] if t >= 0 and snapshot.is_float(t) and not snapshot.is_constant(t))
    outs = tuple(t for t in snapshot.outputs[node] if t >= 0 and snapshot.is_float(t))
    return ins, outs


def _hear(candidate: Candidate, snapshot: Snapshot, scope: Scope, wishes: Wishes, kept: Mapping[int, Rule]) -> None:
    """Adds one kernel's asks, or the reason why it can't be taken."""
    rule, match = candidate.rule, candidate.match
    environment = MatchEnvironment(snapshot, scope, match.bindings, None)
    for require in rule.requires:
        if is_late(require) and not is_true(require.condition, environment):
            reason = why_not(require.condition, environment)
            wishes.refused[id(candidate)] = Origin(rule.qualified, require.span.place, require.reason or reason)
            return
    asks: list[tuple[int, Ask]] = []
    for statement in rule.quants:
        binding = match.bindings.get(statement.target)
        alternatives = choose_alternatives(statement.choice, environment)
        for bound in binding if isinstance(binding, tuple) else (binding,):
            if bound is None or snapshot.is_constant(bound.tensor) or not alternatives.types:
                continue
            problem = _problem(bound, snapshot, kept)
            if problem:
                wishes.refused[id(candidate)] = Origin(rule.qualified, statement.span.place, problem)
                return
            reader = None if bound.port < 0 else (bound.node, bound.port)
            asks.append((bound.tensor, Ask(candidate, statement.target, reader, alternatives, statement.span)))
    wishes.taken.append(candidate)
    for tensor, ask in asks:
        if ask.reader is None:
            wishes.made[tensor] = ask
            if not ask.alternatives.none:
                wishes.stored.add(tensor)
        else:
            wishes.read.setdefault(tensor, []).append(ask)


def _problem(bound: Bound, snapshot: Snapshot, kept: Mapping[int, Rule]) -> str:
    name = snapshot.tensors[bound.tensor]
    if not snapshot.is_float(bound.tensor):
        return f"`{name}` holds {snapshot.dtypes[bound.tensor] or 'values of unknown type'}: only float tensors are quantized"
    if bound.tensor in kept:
        return f"`{name}` is kept in float by {kept[bound.tensor].qualified} ({kept[bound.tensor].span.place})"
    return ""


def _sweep_up(snapshot: Snapshot, wishes: Wishes) -> frozenset[int]:
    """Value-preserving nodes that run on integers, decided from the last to the first.

    A quantizer rises above a node only if every reader below wants integers, or the values were stored as integers anyway.
    """
    through: set[int] = set()
    for node in sorted(wishes.passes, reverse=True):
        ins, outs = ports(snapshot, node)
        some, every = False, True
        for tensor in outs:
            wanted = wishes.wanted_by(tensor)
            readers = snapshot.consumers[tensor]
            heard = [r for r in readers if r in wanted or _is_through(r, through)]
            some = some or bool(heard) or (-1, tensor) in wanted
            every = (
                every
                and len(heard) == len(readers)
                and (tensor not in snapshot.graph_outputs or (-1, tensor) in wanted)
            )
        if some and (every or all(t in wishes.stored for t in ins)):
            through.add(node)
    return frozenset(through)


def _is_through(reader: tuple[int, int], through: Container[int]) -> bool:
    """True if a reader is a value-preserving node that runs on integers (the body of a nested graph does not)."""
    return reader[0] in through and reader[1] != OUTER


def _held(
    program: Program, snapshot: Snapshot, cover: Cover, wishes: Wishes, through: frozenset[int]
) -> dict[int, Origin]:
    """Why value-preserving nodes run in float, and nodes whose results a rule keeps in float."""
    held: dict[int, Origin] = {}
    for tensor, rule in _kept(cover).items():
        note = "; ".join(rule.notes) or f"keeps `{snapshot.tensors[tensor]}` in float"
        held[snapshot.producer[tensor]] = Origin(rule.qualified, rule.span.place, note)
    for node, statement in wishes.passes.items():
        if node not in through:
            reason = _why_not_through(node, snapshot, wishes, through)
            held[node] = Origin(f"{program.device}.pass", statement.span.place, reason)
    return held


def _why_not_through(node: int, snapshot: Snapshot, wishes: Wishes, through: frozenset[int]) -> str:
    ins, outs = ports(snapshot, node)
    some, others = False, list[str]()
    for tensor in outs:
        wanted = wishes.wanted_by(tensor)
        some = some or bool(wanted)
        for reader in snapshot.consumers[tensor]:
            if reader in wanted or _is_through(reader, through):
                some = True
            else:
                others.append(f"{snapshot.names[reader[0]]} reads `{snapshot.tensors[tensor]}` in float")
        if tensor in snapshot.graph_outputs and (-1, tensor) not in wanted:
            others.append(f"the model returns `{snapshot.tensors[tensor]}` in float")
    if not some:
        return "nothing that it passes values to runs on integers"
    loose = next(t for t in ins if t not in wishes.stored)
    return f"`{snapshot.tensors[loose]}` is not stored, and {', '.join(dict.fromkeys(others))}"


# ---------------------------------------------------------------------------------------------- classes and places


def _build(
    program: Program, snapshot: Snapshot, finder: Finder, cover: Cover, wishes: Wishes, through: frozenset[int]
) -> Plan:
    placed = _place(snapshot, wishes, through)
    classes = UnionFind(placed)
    for node in sorted(through):
        ins, outs = ports(snapshot, node)
        classes.join([t for t in (*ins, *outs) if t in placed])
    for candidate in wishes.taken:
        for group in candidate.rule.unify:
            classes.join([t for name in group for t in _tensors(candidate, name) if t in placed])
    for statement in program.same_scale:
        for op in sorted(statement.ops):
            for node in snapshot.by_op.get(op, ()):
                ins, outs = ports(snapshot, node)
                if all(t in placed for t in (*ins, *outs)):
                    classes.join([*ins, *outs])
    passed = {t for node in through for t in ports(snapshot, node)[1]}
    quantizers: list[Quantizer] = []
    id_of: dict[int, int] = {}
    for members in classes.groups():
        types, origins = _agree(members, snapshot, wishes)
        names = tuple(snapshot.tensors[t] for t in members)
        observed = tuple(snapshot.tensors[t] for t in members if t not in passed) or names
        id_of.update((t, len(quantizers)) for t in members)
        quantizers.append(Quantizer(len(quantizers), names, observed, types, origins))
    scope = Scope.of(program, wishes.stored.__contains__)
    constants, corrections = constant_quantizers(wishes.taken, snapshot, scope, id_of)
    insertions = tuple(Insertion(snapshot.tensors[t], id_of[t], placed[t]) for t in sorted(placed))
    kernels = _kernels(program, snapshot, wishes, through)
    held = _held(program, snapshot, cover, wishes, through)
    taken = frozenset(map(id, wishes.taken))
    left = left_nodes(program, snapshot, finder, cover, wishes.refused, held, through, taken)
    return Plan(program.device, tuple(quantizers), insertions, constants, kernels, left, corrections)


def _tensors(candidate: Candidate, name: str) -> list[int]:
    binding = candidate.match.bindings.get(name)
    return [b.tensor for b in (binding if isinstance(binding, tuple) else (binding,)) if b is not None]


def _place(
    snapshot: Snapshot, wishes: Wishes, through: frozenset[int]
) -> dict[int, tuple[tuple[str, int], ...] | None]:
    """Tensor -> readers of its dequantized value; None where everybody reads it."""
    placed: dict[int, tuple[tuple[str, int], ...] | None] = {}
    passed = {t for node in through for t in ports(snapshot, node)[1]}
    into = {(node, port): None for node in through for port in range(len(snapshot.inputs[node]))}
    for tensor in range(len(snapshot.tensors)):
        made = wishes.made.get(tensor)
        wanted = wishes.wanted_by(tensor)
        readers = [
            r for r in snapshot.consumers[tensor] if r in wanted or (r in into and tensor in ports(snapshot, r[0])[0])
        ]
        output = (-1, tensor) in wanted
        if tensor in passed or output or (made is not None and (readers or not made.alternatives.none)):
            placed[tensor] = None
        elif readers and not snapshot.is_constant(tensor):
            placed[tensor] = tuple((snapshot.names[n], port) for n, port in readers)
    return placed


def _agree(members: list[int], snapshot: Snapshot, wishes: Wishes) -> tuple[tuple[QType, ...], tuple[Origin, ...]]:
    """The formats that all askers of a class allow; raises Unmet for the first one that leaves none."""
    types: tuple[QType, ...] | None = None
    origins: list[Origin] = []
    for ask in (a for t in members for a in (*filter(None, (wishes.made.get(t),)), *wishes.read.get(t, ()))):
        both = ask.alternatives.types if types is None else meet_lists(types, ask.alternatives.types)
        origin = ask.origin(snapshot)
        if not both:
            wanted = " | ".join(map(spell, ask.alternatives.types))
            given = " | ".join(map(spell, types or ()))
            reason = f"`{ask.name}` wants {wanted}; what shares its scale allows {given} ({origins[0].rule}, {origins[0].place})"
            if ask.candidate is None:
                raise ValueError(reason)
            raise Unmet(ask.candidate, Origin(origin.rule, origin.place, reason))
        types = both
        origins.append(origin)
    return types or (), tuple(dict.fromkeys(origins))


def _kernels(program: Program, snapshot: Snapshot, wishes: Wishes, through: frozenset[int]) -> tuple[Kernel, ...]:
    kernels: list[tuple[int, Kernel]] = []
    for candidate in wishes.taken:
        bindings = tuple(
            (name, snapshot.tensors[t]) for name in sorted(candidate.match.bindings) for t in _tensors(candidate, name)
        )
        nodes = tuple(snapshot.names[n] for n in candidate.match.nodes)
        rule = candidate.rule
        kernels.append((candidate.match.nodes[-1], Kernel(rule.qualified, rule.span.place, nodes, bindings)))
    for node in through:
        statement = wishes.passes[node]
        kernels.append((node, Kernel(f"{program.device}.pass", statement.span.place, (snapshot.names[node],), ())))
    return tuple(kernel for _, kernel in sorted(kernels, key=lambda k: k[0]))
