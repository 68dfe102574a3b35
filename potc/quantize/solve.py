"""Program x Snapshot -> Plan: which kernels are taken, where quantizers go, which tensors share one.

One sweep down the graph asks every kernel what it wants of its tensors; one sweep up lets value-preserving operators pass
those requests on; then tensors are joined into scale classes and each class keeps the formats that all members allow.
A kernel whose wishes can't be met is given up with its reason, and the sweeps run again without it.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import replace

from potc.graph.snapshot import Snapshot
from potc.language.lattice import Ranked, listed, meet_ranked
from potc.language.program import Program, QType
from potc.match.cover import Finder, is_late
from potc.match.environment import Scope
from potc.match.found import Bound
from potc.match.joint import Joint, Member, choose_joint, ports
from potc.quantize.already import quantized_already
from potc.quantize.channels import one_scale
from potc.quantize.classes import UnionFind
from potc.quantize.constants import Unmet, constant_quantizers
from potc.quantize.corrections import bias_corrections
from potc.quantize.left import left_nodes
from potc.quantize.plan import Insertion, Kernel, Origin, Plan, Quantizer
from potc.quantize.products import products
from potc.quantize.rectified import never_negative
from potc.quantize.sums import with_sums
from potc.quantize.wishes import Ask, Problem, Wishes, held_nodes, kept_tensors, spelled, sweep_down, sweep_up
from potc.quantize.within import ends_of

ACCUMULATOR_BITS = 32  # an activation of so many bits is the accumulator itself: nothing is stored


def solve(program: Program, snapshot: Snapshot, held: Mapping[int, str] | None = None) -> Plan:
    """Decides everything that can be decided before samples are seen. Linear in the graph, apart from given-up kernels.

    ``held``: nodes that stay in float whatever the rules say, and why.
    Raises Rejected where two rules match the same nodes and nothing orders them.
    """
    # Millions of small objects live until the end and form no cycles: collecting in between would cost half the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _solve(program, snapshot, _held(program, snapshot, held or {}))
    finally:
        if collecting:
            gc.enable()


def _held(program: Program, snapshot: Snapshot, held: Mapping[int, str]) -> dict[int, Origin]:
    """Nodes that stay as they are: what was quantized before, and what the user named."""
    found = {n: Origin(program.device, "", f"the node {words}") for n, words in quantized_already(snapshot).items()}
    return found | {n: Origin("command line", "", f"kept in float by {words}") for n, words in held.items()}


def _solve(program: Program, snapshot: Snapshot, held: Mapping[int, Origin]) -> Plan:
    finders = tuple(Finder(p, snapshot) for p in program.members)
    cover = choose_joint(program.members, snapshot, finders, held)
    late = {id(r): tuple(q for q in r.requires if is_late(q)) for p in program.members for r in p.rules}
    problem = Problem(program, program.members, snapshot, finders, cover, kept_tensors(cover), late)
    refused: dict[int, Origin] = {}
    while True:
        wishes = sweep_down(problem, refused)
        through = sweep_up(snapshot, cover, wishes)
        try:
            return _build(problem, wishes, through, held)
        except Unmet as unmet:
            refused[id(unmet.joint)] = unmet.origin


# ---------------------------------------------------------------------------------------------- classes and places


def _build(problem: Problem, wishes: Wishes, through: frozenset[int], scoped: Mapping[int, Origin]) -> Plan:
    snapshot = problem.snapshot
    placed = _place(snapshot, wishes, through)
    classes = _classes(problem, wishes, through, placed)
    passed = {t for node in through for t in ports(snapshot, node)[1]}
    quantizers: list[Quantizer] = []
    insertions: list[tuple[int, Insertion]] = []
    id_of: dict[int, int] = {}
    again: dict[tuple[int, int], int] = {}  # readers that get a quantizer of their own -> its id
    for members in classes.groups():
        types, origins, apart = _agree(problem, members, wishes)
        names = tuple([snapshot.tensors[t] for t in members])
        observed = tuple([snapshot.tensors[t] for t in members if t not in passed]) or names
        if not any(t.bits >= ACCUMULATOR_BITS for t in types):
            id_of.update((t, len(quantizers)) for t in members)
            quantizers.append(Quantizer(len(quantizers), names, observed, types, origins))
            separate = {(snapshot.names[a.reader[0]], a.reader[1]) for _, a in apart if a.reader is not None}
            for t in members:
                where = placed[t]
                if where is not None and separate:
                    where = tuple(r for r in where if r not in separate)
                if where != ():
                    insertions.append((t, Insertion(snapshot.tensors[t], id_of[t], where)))
        for tensor, ask in apart:
            assert ask.reader is not None
            again[ask.reader] = len(quantizers)
            reader = (snapshot.names[ask.reader[0]], ask.reader[1])
            insertions.append((tensor, Insertion(snapshot.tensors[tensor], len(quantizers), (reader,))))
            name = (snapshot.tensors[tensor],)
            quantizers.append(Quantizer(len(quantizers), name, name, listed(ask.types), ask.origins))
    scopes = {id(p): Scope.of(p, wishes.stored.__contains__) for p in problem.programs}
    stored = constant_quantizers(wishes.taken, snapshot, scopes, id_of, again)
    corrections, absent = bias_corrections(stored)
    kernels = _kernels(problem, wishes, through)
    held = held_nodes(problem, wishes, through)
    held |= scoped
    taken = frozenset(map(id, wishes.taken))
    left = left_nodes(
        problem.program, snapshot, problem.finders, problem.cover, wishes.refused, held, through, taken, scoped
    )
    ordered = tuple(i for _, i in sorted(insertions, key=lambda entry: entry[0]))
    constants, absent = with_sums(snapshot, quantizers, stored.constants, absent)
    signatures = problem.programs[0].signatures
    known = tuple(replace(q, within=ends_of(snapshot, signatures, q.observed)) for q in quantizers)
    plan = Plan(problem.program.device, known, ordered, constants, kernels, left, corrections, absent)
    plan = replace(plan, products=products(stored, quantizers, constants))
    rectified = (t for t in plan.observed if never_negative(snapshot, signatures, snapshot.tensor_ids[t]))
    return replace(plan, rectified=tuple(rectified))


def _classes(
    problem: Problem,
    wishes: Wishes,
    through: frozenset[int],
    placed: Mapping[int, tuple[tuple[str, int], ...] | None],
) -> UnionFind:
    """Tensors that share one scale: along operators that pass values through, and where rules say so."""
    snapshot = problem.snapshot
    classes = UnionFind(placed)
    passing = {joint.nodes[0] for joint in wishes.taken for member in joint.members if member.candidate is None}
    for node in sorted(through | passing):
        ins, outs = ports(snapshot, node)
        classes.join([t for t in (*ins, *outs) if t in placed])
    for joint in wishes.taken:
        for member in joint.members:
            for group in member.candidate.rule.unify if member.candidate is not None else ():
                classes.join([t for name in group for t in _tensors(member, name) if t in placed])
    for statement in (s for p in problem.programs for s in p.same_scale):
        for op in sorted(statement.ops):
            for node in snapshot.by_op.get(op, ()):
                ins, outs = ports(snapshot, node)
                if all(t in placed for t in (*ins, *outs)):
                    classes.join([*ins, *outs])
    return classes


def _tensors(member: Member, name: str) -> list[int]:
    binding = member.candidate.match.bindings.get(name) if member.candidate is not None else None
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
        if tensor in passed or output or (made is not None and (readers or not made.none)):
            placed[tensor] = None
        elif readers and not snapshot.is_constant(tensor):
            placed[tensor] = tuple((snapshot.names[n], port) for n, port in readers)
    return placed


def _agree(
    problem: Problem, members: Sequence[int], wishes: Wishes
) -> tuple[tuple[QType, ...], tuple[Origin, ...], list[tuple[int, Ask]]]:
    """The formats that all askers of a class allow, and who asked. Readers that none of them suits come last: they get a
    quantizer of their own where the device requantizes, else Unmet is raised for the first of them."""
    types: Ranked = ()
    origins: list[Origin] = []
    apart: list[tuple[int, Ask]] = []
    last: Joint | None = None
    asks: list[tuple[int, Ask]] = []
    for t in members:
        if (made := wishes.made.get(t)) is not None:
            asks.append((t, made))
        asks += [(t, ask) for ask in wishes.read.get(t, ())]
    for tensor, ask in asks:
        both = ask.types if not origins or types is ask.types else meet_ranked(types, ask.types)
        if both:
            types, last = both, ask.joint or last
            origins.extend(ask.origins)
        elif ask.reader is not None and ask.reader[0] >= 0 and all(p.requantize for p in problem.programs):
            apart.append((tensor, ask))
        else:
            want = ask.wants[0]
            reason = (
                f"`{want.name}` wants {spelled(ask.types)}; what shares its scale allows {spelled(types)}"
                f" ({origins[0].rule}, {origins[0].place})"
            )
            joint = ask.joint or last
            if joint is None:  # the device contradicts itself about its own inputs and outputs: they stay as they are
                continue
            raise Unmet(joint, replace(want.origin, reason=reason))
    # What shares its scale with other tensors has one: their channels may be others.
    return listed(one_scale(types) if len(members) > 1 else types), tuple(dict.fromkeys(origins)), apart


def _kernels(problem: Problem, wishes: Wishes, through: frozenset[int]) -> tuple[Kernel, ...]:
    names, tensors = problem.snapshot.names, problem.snapshot.tensors
    kernels: list[tuple[int, Kernel]] = []
    sorted_names: dict[int, tuple[str, ...]] = {}
    for joint in wishes.taken:
        found: list[tuple[str, str]] = []
        for member in joint.members:
            if member.candidate is None:
                continue
            bindings, key = member.candidate.match.bindings, id(member.candidate.rule)
            if key not in sorted_names:
                sorted_names[key] = tuple(sorted(bindings))
            for name in sorted_names[key]:
                bound = bindings[name]
                if isinstance(bound, Bound):
                    found.append((name, tensors[bound.tensor]))
                elif bound is not None:
                    found.extend((name, tensors[b.tensor]) for b in bound)
        if len(joint.members) > 1:
            found = sorted(dict.fromkeys(found), key=lambda entry: entry[0])
        nodes = tuple([names[n] for n in joint.nodes])
        place = ", ".join([problem.place(m.span) for m in joint.members])
        kernels.append((joint.nodes[-1], Kernel(joint.rule, place, nodes, tuple(found))))
    for node in through:
        place = ", ".join(problem.place(s.span) for s in problem.cover.passing[node])
        kernels.append((node, Kernel(f"{problem.program.device}.pass", place, (names[node],), ())))
    return tuple(kernel for _, kernel in sorted(kernels, key=lambda k: k[0]))
