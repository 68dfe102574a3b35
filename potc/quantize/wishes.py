"""What kernels want of their tensors: one sweep down the graph asks them, one sweep up passes requests on."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

from potc.diagnostics.source import Span
from potc.graph.snapshot import OUTER, Snapshot
from potc.language.lattice import Ranked, interchanged, listed, meet_ranked, ranked, spell
from potc.language.program import Alternatives, Program, Require, Rule
from potc.match.cover import Finder
from potc.match.environment import MatchEnvironment, Scope
from potc.match.found import Bound
from potc.match.joint import Joint, JointCover, Member, ports
from potc.match.record import record
from potc.match.truth import is_true, why_not
from potc.quantize.channels import on_axes, one_scale
from potc.quantize.constants import choose_branch
from potc.quantize.plan import Origin


@record
class Want:
    """What one part of a device wants of a tensor, and which rule says so. ``types`` empty: float; ``none``: float will do as
    well; ``derived``: its scale would be the product of others, which only a constant's can be; ``axisless``: its scales lie
    along an axis that the tensor has not."""

    origin: Origin
    name: str
    types: Ranked
    none: bool
    derived: bool = False
    axisless: bool = False


@record
class Ask:
    """One kernel's wish for one tensor, the meet of what its parts want. ``reader``: (node, port), None where the kernel
    makes the tensor. ``joint`` is None for what the device says of the model's inputs and outputs."""

    joint: Joint | None
    reader: tuple[int, int] | None
    types: Ranked
    none: bool
    wants: tuple[Want, ...]

    @property
    def origins(self) -> tuple[Origin, ...]:
        return tuple([w.origin for w in self.wants])


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
class Problem:
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


def sweep_down(problem: Problem, refused: Mapping[int, Origin]) -> Wishes:
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


def _ends_of_the_model(problem: Problem, wishes: Wishes) -> None:
    """What the device says of the model's own inputs and outputs."""
    snapshot = problem.snapshot
    for end, tensors in (("graph input", snapshot.graph_inputs), ("graph output", snapshot.graph_outputs)):
        stated = [(p, p.graph_input if end == "graph input" else p.graph_output) for p in problem.programs]
        wants = tuple(
            Want(Origin(end, a.span.place, f"{end} of the device"), end, problem.ranked(a, p), a.none)
            for p, a in stated
            if a is not None
        )
        types = one_scale(reduce(meet_ranked, (w.types for w in wants))) if wants else ()
        for tensor in sorted(tensors) if types else ():
            if not snapshot.is_float(tensor) or tensor in problem.kept:
                continue
            if end == "graph input":
                wishes.stored.add(tensor)
                wishes.made[tensor] = Ask(None, None, types, False, wants)
            else:
                wishes.read.setdefault(tensor, []).append(Ask(None, (-1, tensor), types, False, wants))


def kept_tensors(cover: JointCover) -> dict[int, Rule]:
    kept: dict[int, Rule] = {}
    for candidate in cover.kept:
        for name in candidate.rule.keep:
            binding = candidate.match.bindings.get(name)
            for bound in binding if isinstance(binding, tuple) else (binding,):
                if bound is not None:
                    kept[bound.tensor] = candidate.rule
    return kept


def _hear(problem: Problem, joint: Joint, scopes: Mapping[int, Scope], wishes: Wishes) -> None:
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
                wishes.refused[id(joint)] = replace(want.origin, reason=trouble)
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


def _wants(problem: Problem, member: Member, environment: MatchEnvironment) -> Iterator[tuple[Bound, Want]]:
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
            wanted = on_axes(types, bound, snapshot, member.program.signatures)
            lost = bool(types) and not wanted
            origin = Origin(name, place, words)
            yield bound, Want(origin, statement.target, wanted or types, alternatives.none, derived, lost)


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
        spoken = {w.origin.rule for w in wants if w.types}
        silent = next((m for m in kernels if m.rule not in spoken), kernels[0])
        first = insisting[0]
        must = f"`{first.name}` must be {spelled(first.types)} ({first.origin.place})"
        reason = f"{must}, and {silent.rule} takes it in float"
        return Origin(silent.rule, silent.span.place, reason)
    types = reduce(meet_ranked, (w.types for w in wants))
    if not types:
        if not insisting:
            return None
        given = "; ".join(f"{w.origin.rule} allows {spelled(w.types)}" for w in wants)
        return replace(wants[-1].origin, reason=f"no format of `{wants[0].name}` suits all parts: {given}")
    return Ask(joint, reader, types, not insisting, tuple(wants))


def spelled(types: Ranked) -> str:
    return " | ".join(spell(t) for t in listed(types))


def _trouble(bound: Bound, want: Want, problem: Problem) -> str:
    snapshot, kept = problem.snapshot, problem.kept
    name = snapshot.tensors[bound.tensor]
    if want.derived:
        return f"`{name}` is computed: only the scale of a constant is derived from others"
    if want.axisless:
        axis = next(t.axis for t in listed(want.types) if t.axis is not None)
        return f"`{name}` has no axis `{axis}` of known length for its scales, or they would be those of blocks"
    if not snapshot.is_float(bound.tensor):
        return f"`{name}` holds {snapshot.dtypes[bound.tensor] or 'values of unknown type'}: only float tensors are quantized"
    if bound.tensor in kept:
        return f"`{name}` is kept in float by {kept[bound.tensor].qualified} ({kept[bound.tensor].span.place})"
    return ""


def sweep_up(snapshot: Snapshot, cover: JointCover, wishes: Wishes) -> frozenset[int]:
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


def held_nodes(problem: Problem, wishes: Wishes, through: frozenset[int]) -> dict[int, Origin]:
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
