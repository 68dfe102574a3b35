"""Program x Snapshot -> Plan: which kernels are taken, where quantizers go, which tensors share one.

One sweep down the graph asks every kernel what it wants of its tensors; one sweep up lets value-preserving operators pass
those requests on; then tensors are joined into scale classes and each class keeps the formats that all members allow.
A kernel whose wishes can't be met is given up with its reason, and the sweeps run again without it.
"""

from __future__ import annotations

import gc
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

from potc.diagnostics.source import Span
from potc.graph.snapshot import OUTER, Snapshot
from potc.language.lattice import Ranked, interchanged, listed, meet_ranked, ranked, spell
from potc.language.program import Alternatives, Program, QType, Require, Rule
from potc.match.cover import Finder, is_late
from potc.match.environment import MatchEnvironment, Scope
from potc.match.joint import Joint, JointCover, Member, choose_joint, ports
from potc.match.match import Bound, is_true, why_not
from potc.quantize.classes import UnionFind
from potc.quantize.constants import Unmet, choose_branch, constant_quantizers
from potc.quantize.left import left_nodes
from potc.quantize.plan import Insertion, Kernel, Origin, Plan, Quantizer

ACCUMULATOR_BITS = 32  # an activation of so many bits is the accumulator itself: nothing is stored


@dataclass(frozen=True, slots=True)
class Want:
    """What one part of a device wants of a tensor. ``types`` empty: float; ``none``: float will do as well; ``derived``: its
    scale would be the product of others, which only a constant's can be."""

    rule: str
    place: str
    name: str
    words: str
    types: Ranked
    none: bool
    derived: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """One kernel's wish for one tensor, the meet of what its parts want. ``reader``: (node, port), None where the kernel
    makes the tensor. ``joint`` is None for what the device says of the model's inputs and outputs."""

    joint: Joint | None
    reader: tuple[int, int] | None
    types: Ranked
    none: bool
    wants: tuple[Want, ...]

    @property
    def origins(self) -> Iterator[Origin]:
        return (Origin(w.rule, w.place, w.words) for w in self.wants)


@dataclass(slots=True)
class Wishes:
    """What the sweep down found."""

    stored: set[int] = field(default_factory=set)
    made: dict[int, Ask] = field(default_factory=dict)
    read: dict[int, list[Ask]] = field(default_factory=dict)
    taken: list[Joint] = field(default_factory=list)
    refused: dict[int, Origin] = field(default_factory=dict)  # id(joint) -> why

    def wanted_by(self, tensor: int) -> set[tuple[int, int]]:
        """Readers that insist on integers (those that also take float do not)."""
        return {a.reader for a in self.read.get(tensor, ()) if a.reader is not None and not a.none}


@dataclass(frozen=True, slots=True)
class _Problem:
    """What stays the same while kernels are given up."""

    program: Program
    programs: tuple[Program, ...]
    snapshot: Snapshot
    finders: tuple[Finder, ...]
    cover: JointCover
    kept: Mapping[int, Rule]
    late: Mapping[int, tuple[Require, ...]]
    lists: dict[tuple[int, int], Ranked] = field(default_factory=dict[tuple[int, int], Ranked])
    places: dict[int, str] = field(default_factory=dict[int, str])

    def place(self, span: Span) -> str:
        """``file:line`` of a statement of the rules, which outlive this."""
        if id(span) not in self.places:
            self.places[id(span)] = span.place
        return self.places[id(span)]

    def ranked(self, alternatives: Alternatives, program: Program) -> Ranked:
        """The list of a rule. Beside others, what a loader may store in another way is listed in all of them."""
        key = (id(alternatives), id(program))
        if key not in self.lists:
            types = ranked(alternatives.types)
            self.lists[key] = interchanged(types, program.interchange) if len(self.programs) > 1 else types
        return self.lists[key]


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
    finders = tuple(Finder(p, snapshot) for p in program.members)
    cover = choose_joint(program.members, snapshot, finders)
    late = {id(r): tuple(q for q in r.requires if is_late(q)) for p in program.members for r in p.rules}
    problem = _Problem(program, program.members, snapshot, finders, cover, _kept(cover), late)
    refused: dict[int, Origin] = {}
    while True:
        wishes = _sweep_down(problem, refused)
        through = _sweep_up(snapshot, cover, wishes)
        try:
            return _build(problem, wishes, through)
        except Unmet as unmet:
            refused[id(unmet.joint)] = unmet.origin


# ---------------------------------------------------------------------------------------------- the two sweeps


def _sweep_down(problem: _Problem, refused: Mapping[int, Origin]) -> Wishes:
    """Kernels in canonical order say what they want; late requirements see what was stored before them."""
    snapshot, cover = problem.snapshot, problem.cover
    wishes = Wishes(refused=dict(refused))
    scopes = {id(p): Scope.of(p, wishes.stored.__contains__) for p in problem.programs}
    _ends_of_the_model(problem, wishes)
    ending = {joint.nodes[-1]: joint for joint in cover.taken}
    for node in range(len(snapshot.ops)):
        joint = ending.get(node)
        if joint is not None:
            if id(joint) not in wishes.refused:
                _hear(problem, joint, scopes, wishes)
        elif node in cover.passing:
            ins, outs = ports(snapshot, node)
            if all(t in wishes.stored for t in ins):
                wishes.stored.update(outs)
    return wishes


def _ends_of_the_model(problem: _Problem, wishes: Wishes) -> None:
    """What the device says of the model's own inputs and outputs."""
    snapshot = problem.snapshot
    for end, tensors in (("graph input", snapshot.graph_inputs), ("graph output", snapshot.graph_outputs)):
        stated = [(p, p.graph_input if end == "graph input" else p.graph_output) for p in problem.programs]
        wants = tuple(
            Want(end, a.span.place, end, f"{end} of the device", problem.ranked(a, p), a.none)
            for p, a in stated
            if a is not None
        )
        types = reduce(meet_ranked, (w.types for w in wants)) if wants else ()
        for tensor in sorted(tensors) if types else ():
            if not snapshot.is_float(tensor) or tensor in problem.kept:
                continue
            if end == "graph input":
                wishes.stored.add(tensor)
                wishes.made[tensor] = Ask(None, None, types, False, wants)
            else:
                wishes.read.setdefault(tensor, []).append(Ask(None, (-1, tensor), types, False, wants))


def _kept(cover: JointCover) -> dict[int, Rule]:
    kept: dict[int, Rule] = {}
    for candidate in cover.kept:
        for name in candidate.rule.keep:
            binding = candidate.match.bindings.get(name)
            for bound in binding if isinstance(binding, tuple) else (binding,):
                if bound is not None:
                    kept[bound.tensor] = candidate.rule
    return kept


def _hear(problem: _Problem, joint: Joint, scopes: Mapping[int, Scope], wishes: Wishes) -> None:
    """Adds one kernel's asks, or the reason why it can't be taken."""
    snapshot = problem.snapshot
    wants: dict[tuple[int, tuple[int, int] | None], list[Want]] = {}
    for member in joint.members:
        if member.candidate is None:
            continue
        rule, match = member.candidate.rule, member.candidate.match
        environment = MatchEnvironment(snapshot, scopes[id(member.program)], match.bindings, None)
        for require in problem.late[id(rule)]:
            if not is_true(require.condition, environment):
                reason = why_not(require.condition, environment)
                wishes.refused[id(joint)] = Origin(rule.qualified, require.span.place, require.reason or reason)
                return
        for bound, want in _wants(problem, member, environment):
            if want.types and (trouble := _trouble(bound, want, problem)):
                wishes.refused[id(joint)] = Origin(want.rule, want.place, trouble)
                return
            key = (bound.tensor, None if bound.port < 0 else (bound.node, bound.port))
            wants.setdefault(key, []).append(want)
    asks: list[tuple[int, Ask]] = []
    for (tensor, reader), listed_wants in wants.items():
        ask = _together(joint, reader, listed_wants)
        if isinstance(ask, Origin):
            wishes.refused[id(joint)] = ask
            return
        if ask is not None:
            asks.append((tensor, ask))
    wishes.taken.append(joint)
    for tensor, ask in asks:
        if ask.reader is None:
            wishes.made[tensor] = ask
            if not ask.none:
                wishes.stored.add(tensor)
        else:
            wishes.read.setdefault(tensor, []).append(ask)


def _wants(problem: _Problem, member: Member, environment: MatchEnvironment) -> Iterator[tuple[Bound, Want]]:
    """What the rule of one part says of the computed tensors of its match."""
    snapshot, candidate = problem.snapshot, member.candidate
    assert candidate is not None
    rule, bindings, constants = candidate.rule, candidate.match.bindings, snapshot.initializers
    name = rule.qualified
    first = snapshot.names[candidate.match.nodes[0]]
    for statement in rule.quants:
        binding = bindings[statement.target]
        bounds = (binding,) if isinstance(binding, Bound) else binding or ()
        computed = [b for b in bounds if b.tensor not in constants]
        if not computed:
            continue
        branch = statement.choice
        branch = branch if branch.condition is None else choose_branch(branch, environment)
        alternatives, derived = branch.alternatives, bool(branch.derived)
        # What is derived is a constant's scale; a computed tensor in its place stays float where that is allowed.
        types = () if derived and alternatives.none else problem.ranked(alternatives, member.program)
        place = problem.place(statement.span)
        for bound in computed:
            words = f"{'made' if bound.port < 0 else 'read'} as `{statement.target}` by the kernel at {first}"
            yield bound, Want(name, place, statement.target, words, types, alternatives.none, derived)


def _together(joint: Joint, reader: tuple[int, int] | None, wants: Sequence[Want]) -> Ask | Origin | None:
    """One ask of all parts, None where the tensor stays in float, or why they don't agree. A part that has a kernel and
    does not speak of a tensor wants it in float."""
    if len(joint.members) == 1:
        want = wants[0]
        return Ask(joint, reader, want.types, want.none, (want,)) if want.types else None
    insisting = [w for w in wants if not w.none]
    kernels = [m for m in joint.members if m.candidate is not None]
    if len(wants) < len(kernels) or any(not w.types for w in wants):
        if not insisting:
            return None
        spoken = {w.rule for w in wants if w.types}
        silent = next((m for m in kernels if m.rule not in spoken), kernels[0])
        first = insisting[0]
        reason = f"`{first.name}` must be {_listed(first.types)} ({first.place}), and {silent.rule} takes it in float"
        return Origin(silent.rule, silent.span.place, reason)
    types = reduce(meet_ranked, (w.types for w in wants))
    if not types:
        if not insisting:
            return None
        given = "; ".join(f"{w.rule} allows {_listed(w.types)}" for w in wants)
        return Origin(wants[-1].rule, wants[-1].place, f"no format of `{wants[0].name}` suits all parts: {given}")
    return Ask(joint, reader, types, not insisting, tuple(wants))


def _listed(types: Ranked) -> str:
    return " | ".join(spell(t) for t in listed(types))


def _trouble(bound: Bound, want: Want, problem: _Problem) -> str:
    snapshot, kept = problem.snapshot, problem.kept
    name = snapshot.tensors[bound.tensor]
    if want.derived:
        return f"`{name}` is computed: only the scale of a constant is derived from others"
    if not snapshot.is_float(bound.tensor):
        return f"`{name}` holds {snapshot.dtypes[bound.tensor] or 'values of unknown type'}: only float tensors are quantized"
    if bound.tensor in kept:
        return f"`{name}` is kept in float by {kept[bound.tensor].qualified} ({kept[bound.tensor].span.place})"
    return ""


def _sweep_up(snapshot: Snapshot, cover: JointCover, wishes: Wishes) -> frozenset[int]:
    """Value-preserving nodes that run on integers, decided from the last to the first.

    A quantizer rises above a node only if every reader below wants integers, or the values were stored as integers anyway.
    """
    through: set[int] = set()
    for node in sorted(cover.passing, reverse=True):
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


def _held(problem: _Problem, wishes: Wishes, through: frozenset[int]) -> dict[int, Origin]:
    """Why value-preserving nodes run in float, and nodes whose results a rule keeps in float."""
    snapshot = problem.snapshot
    held: dict[int, Origin] = {}
    for tensor, rule in problem.kept.items():
        note = "; ".join(rule.notes) or f"keeps `{snapshot.tensors[tensor]}` in float"
        held[snapshot.producer[tensor]] = Origin(rule.qualified, rule.span.place, note)
    for node, statements in problem.cover.passing.items():
        if node not in through:
            reason = _why_not_through(node, snapshot, wishes, through)
            held[node] = Origin(f"{problem.program.device}.pass", statements[0].span.place, reason)
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


def _build(problem: _Problem, wishes: Wishes, through: frozenset[int]) -> Plan:
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
        names = tuple(snapshot.tensors[t] for t in members)
        observed = tuple(snapshot.tensors[t] for t in members if t not in passed) or names
        if not any(t.bits >= ACCUMULATOR_BITS for t in types):
            id_of.update((t, len(quantizers)) for t in members)
            quantizers.append(Quantizer(len(quantizers), names, observed, types, origins))
            separate = {(snapshot.names[a.reader[0]], a.reader[1]) for _, a in apart if a.reader is not None}
            for t in members:
                where = placed[t]
                where = None if where is None else tuple(r for r in where if r not in separate)
                if where != ():
                    insertions.append((t, Insertion(snapshot.tensors[t], id_of[t], where)))
        for tensor, ask in apart:
            assert ask.reader is not None
            again[ask.reader] = len(quantizers)
            reader = (snapshot.names[ask.reader[0]], ask.reader[1])
            insertions.append((tensor, Insertion(snapshot.tensors[tensor], len(quantizers), (reader,))))
            name = (snapshot.tensors[tensor],)
            quantizers.append(Quantizer(len(quantizers), name, name, listed(ask.types), tuple(ask.origins)))
    scopes = {id(p): Scope.of(p, wishes.stored.__contains__) for p in problem.programs}
    constants, corrections = constant_quantizers(wishes.taken, snapshot, scopes, id_of, again)
    kernels = _kernels(problem, wishes, through)
    held = _held(problem, wishes, through)
    taken = frozenset(map(id, wishes.taken))
    left = left_nodes(problem.program, snapshot, problem.finders, problem.cover, wishes.refused, held, through, taken)
    ordered = tuple(i for _, i in sorted(insertions, key=lambda entry: entry[0]))
    return Plan(problem.program.device, tuple(quantizers), ordered, constants, kernels, left, corrections)


def _classes(
    problem: _Problem,
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
    problem: _Problem, members: Sequence[int], wishes: Wishes
) -> tuple[tuple[QType, ...], tuple[Origin, ...], list[tuple[int, Ask]]]:
    """The formats that all askers of a class allow, and who asked. Readers that none of them suits come last: they get a
    quantizer of their own where the device requantizes, else Unmet is raised for the first of them."""
    types: Ranked = ()
    origins: list[Origin] = []
    apart: list[tuple[int, Ask]] = []
    last: Joint | None = None
    may_requantize = all(p.requantize for p in problem.programs)
    asks = ((t, a) for t in members for a in (*filter(None, (wishes.made.get(t),)), *wishes.read.get(t, ())))
    for tensor, ask in asks:
        both = ask.types if not origins or types is ask.types else meet_ranked(types, ask.types)
        if both:
            types, last = both, ask.joint or last
            origins.extend(ask.origins)
        elif may_requantize and ask.reader is not None and ask.reader[0] >= 0:
            apart.append((tensor, ask))
        else:
            want = ask.wants[0]
            reason = (
                f"`{want.name}` wants {_listed(ask.types)}; what shares its scale allows {_listed(types)}"
                f" ({origins[0].rule}, {origins[0].place})"
            )
            joint = ask.joint or last
            if joint is None:  # the device contradicts itself about its own inputs and outputs: they stay as they are
                continue
            raise Unmet(joint, Origin(want.rule, want.place, reason))
    return listed(types), tuple(dict.fromkeys(origins)), apart


def _kernels(problem: _Problem, wishes: Wishes, through: frozenset[int]) -> tuple[Kernel, ...]:
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
