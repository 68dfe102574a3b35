"""Kernels of a meet: the same nodes on every part, each part by a rule of its own.

A device on its own is a meet with one part, so there is one way through the solver. A part may also merely pass the
values of a single node through where the others have a kernel for it.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from potc.diagnostics.source import Span
from potc.graph.snapshot import Snapshot
from potc.language.program import OpStatement, Program
from potc.match.cover import Candidate, Cover, Finder, Precedence, choose
from potc.match.environment import MatchEnvironment, Scope
from potc.match.record import record
from potc.match.truth import is_true


@record
class Member:
    """What one part does with the nodes: a match of one of its rules, or a ``pass`` statement."""

    program: Program
    candidate: Candidate | None
    passing: OpStatement | None = None

    @property
    def rule(self) -> str:
        return self.candidate.rule.qualified if self.candidate is not None else f"{self.program.device}.pass"

    @property
    def span(self) -> Span:
        """Where the rule or the ``pass`` stands."""
        if self.candidate is not None:
            return self.candidate.rule.span
        assert self.passing is not None
        return self.passing.span


@record
class Joint:
    """One kernel. ``nodes`` are in the data-flow order of the first member's pattern."""

    nodes: tuple[int, ...]
    members: tuple[Member, ...]

    @property
    def rule(self) -> str:
        return " & ".join(m.rule for m in self.members)


@dataclass(frozen=True, slots=True)
class JointCover:
    """``taken`` in canonical order of their last nodes; ``owner`` of each node in them. ``floats``: nodes that some part
    keeps in float. ``passing``: nodes whose values all parts pass through. ``kept``: matches that only name tensors to be
    kept in float. ``covers``: what each part would take on its own.
    """

    taken: tuple[Joint, ...]
    owner: Mapping[int, Joint]
    floats: Mapping[int, Candidate]
    passing: Mapping[int, tuple[OpStatement, ...]]
    kept: tuple[Candidate, ...]
    covers: tuple[Cover, ...]


def choose_joint(
    programs: Sequence[Program], snapshot: Snapshot, finders: Sequence[Finder], held: Container[int] = ()
) -> JointCover:
    """The kernels that all parts have in common, larger ones first. ``held``: nodes that are kept in float whatever the
    rules say. Raises Rejected for rules that nothing orders."""
    found = [finder.candidates() for finder in finders]
    if held:
        found = [[c for c in some if c.rule.is_float or not any(n in held for n in c.match.nodes)] for some in found]
    covers = tuple(choose(p, snapshot, c) for p, c in zip(programs, found, strict=True))
    floats: dict[int, Candidate] = {}
    for cover in covers:
        for node, candidate in cover.owner.items():
            if candidate.rule.is_float:
                floats.setdefault(node, candidate)
    kept = tuple(candidate for cover in covers for candidate in cover.kept)
    passes = [_passes(p, snapshot) for p in programs]
    if len(programs) == 1:
        taken = tuple(Joint(c.match.nodes, (Member(programs[0], c),)) for c in covers[0].taken if not c.rule.is_float)
    else:
        taken = _common(programs, found, passes, floats)
    owner = {node: joint for joint in taken for node in joint.nodes}
    everywhere = set(passes[0]).intersection(*passes[1:]) - owner.keys() - floats.keys()
    passing = {node: tuple(p[node] for p in passes) for node in sorted(everywhere) if node not in held}
    return JointCover(taken, owner, floats, passing, kept, covers)


def _common(
    programs: Sequence[Program],
    found: Sequence[Sequence[Candidate]],
    passes: Sequence[Mapping[int, OpStatement]],
    floats: Mapping[int, Candidate],
) -> tuple[Joint, ...]:
    """All sets of nodes that every part has a kernel for, claimed greedily: more nodes first, then what the parts' own
    rules prefer, then the place in the graph."""
    best: list[dict[frozenset[int], tuple[int, Candidate]]] = []
    for program, candidates in zip(programs, found, strict=True):
        rank = Precedence(program).rank
        mine: dict[frozenset[int], tuple[int, Candidate]] = {}
        for c in candidates:
            if c.rule.is_float or c.rule.keep or not floats.keys().isdisjoint(c.match.nodes):
                continue
            key, entry = frozenset(c.match.nodes), (rank[c.rule.qualified], c)
            if key not in mine or (entry[0], c.rule.qualified) < (mine[key][0], mine[key][1].rule.qualified):
                mine[key] = entry
        best.append(mine)
    joints: list[tuple[tuple[int, ...], Joint]] = []
    for nodes in {key for mine in best for key in mine}:
        members: list[Member] = []
        ranks = 0
        for program, mine, passing in zip(programs, best, passes, strict=True):
            if nodes in mine:
                ranks += mine[nodes][0]
                members.append(Member(program, mine[nodes][1]))
            elif len(nodes) == 1 and (statement := passing.get(next(iter(nodes)))) is not None:
                members.append(Member(program, None, statement))
        if len(members) == len(programs):
            order = next(m.candidate.match.nodes for m in members if m.candidate is not None)
            joints.append(((-len(nodes), ranks, max(nodes), *sorted(nodes)), Joint(order, tuple(members))))
    taken: list[Joint] = []
    claimed: set[int] = set()
    for _, joint in sorted(joints, key=lambda entry: entry[0]):
        if claimed.isdisjoint(joint.nodes):
            claimed.update(joint.nodes)
            taken.append(joint)
    return tuple(sorted(taken, key=lambda joint: max(joint.nodes)))


def _passes(program: Program, snapshot: Snapshot) -> dict[int, OpStatement]:
    """Nodes whose values a part passes through, with the statement that says so."""
    scope = Scope.of(program)
    found: dict[int, OpStatement] = {}
    for statement in program.passes:
        for op in sorted(statement.ops):
            for node in snapshot.by_op.get(op, ()):
                if node not in found and _does_pass(statement, node, snapshot, scope):
                    found[node] = statement
    return found


def _does_pass(statement: OpStatement, node: int, snapshot: Snapshot, scope: Scope) -> bool:
    ins, outs = ports(snapshot, node)
    if not ins or not outs:
        return False
    return statement.where is None or is_true(statement.where, MatchEnvironment(snapshot, scope, {}, node))


def ports(snapshot: Snapshot, node: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The computed float inputs and the float outputs of a node: what a value-preserving operator passes through."""
    ins = tuple(t for t in snapshot.inputs[node] if t >= 0 and snapshot.is_float(t) and not snapshot.is_constant(t))
    outs = tuple(t for t in snapshot.outputs[node] if t >= 0 and snapshot.is_float(t))
    return ins, outs
