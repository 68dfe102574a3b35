"""Which matches win: more covered nodes first, then proven specificity and ``prefer``, then the place in the graph.

The order of rules in a file and the names of nodes never matter. Two rules that match the same nodes with nothing to
order them are a mistake in the rule file, and said so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache

from potc.diagnostics.diagnostic import Diagnostic, Rejected, Related
from potc.graph.snapshot import Snapshot
from potc.language.expression import text
from potc.language.program import Capture, Kind, Pattern, PatternNode, Program, Require, Rule, Step
from potc.match.environment import Scope
from potc.match.match import Match, Matcher, Trail


@dataclass(frozen=True, slots=True)
class Candidate:
    """One rule on one set of nodes."""

    rule: Rule
    match: Match


@dataclass(frozen=True, slots=True)
class Cover:
    """The matches that were taken, in canonical order of their last nodes, and who owns each covered node.

    ``kept``: matches of ``float ... keep`` rules, which cover nothing and only name tensors.
    """

    taken: tuple[Candidate, ...]
    owner: Mapping[int, Candidate]
    kept: tuple[Candidate, ...]


@lru_cache(maxsize=4096)
def is_late(require: Require) -> bool:
    """True if a requirement asks what is stored, which is known only after the kernels are chosen."""
    return _mentions(require.condition, "stored")


def _mentions(part: object, name: str) -> bool:
    if is_dataclass(part) and not isinstance(part, type):
        # A call's function name and a plain name are both stored in a field called `name`.
        if getattr(part, "name", None) == name:
            return True
        return any(_mentions(getattr(part, f.name), name) for f in fields(part) if f.name != "span")
    if isinstance(part, tuple):
        return any(_mentions(p, name) for p in part)
    return False


class Finder:
    """All rules of a program, compiled for one snapshot and indexed by the operator of their anchor."""

    def __init__(self, program: Program, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        scope = Scope.of(program)
        self._by_op: dict[str, list[tuple[Rule, Matcher]]] = {}
        for rule in program.rules:
            early = tuple(r for r in rule.requires if not is_late(r))
            matcher = Matcher(rule.pattern, early, snapshot, scope, program.signatures)
            for op in sorted(matcher.anchor_ops):
                self._by_op.setdefault(op, []).append((rule, matcher))

    def candidates(self) -> list[Candidate]:
        found: list[Candidate] = []
        for op, entries in self._by_op.items():
            for node in self.snapshot.by_op.get(op, ()):
                for rule, matcher in entries:
                    found.extend(Candidate(rule, match) for match in matcher.matches(node))
        return found

    def replay(self, candidate: Candidate) -> Trail:
        """Why a match is not larger than it is: the deepest step that did not fit."""
        trail = Trail()
        anchored = (m for rule, m in self._by_op_of(candidate) if rule is candidate.rule)
        for matcher in anchored:
            for node in candidate.match.nodes:
                if self.snapshot.ops[node] in matcher.anchor_ops:
                    for _ in matcher.matches(node, trail):
                        pass
        return trail

    def _by_op_of(self, candidate: Candidate) -> list[tuple[Rule, Matcher]]:
        return [entry for node in candidate.match.nodes for entry in self._by_op.get(self.snapshot.ops[node], ())]

    def near_misses(self, node: int) -> list[tuple[Rule, Trail]]:
        """For each rule that could be anchored at a node but does not match there: how far it came, and what stopped it."""
        misses: list[tuple[Rule, Trail]] = []
        for rule, matcher in self._by_op.get(self.snapshot.ops[node], ()):
            trail = Trail()
            if next(matcher.matches(node, trail), None) is None:
                misses.append((rule, trail))
        return misses


def choose(program: Program, snapshot: Snapshot, candidates: Iterable[Candidate]) -> Cover:
    """Claims nodes greedily in the order of the module's first sentence. Raises Rejected for rules that nothing orders."""
    order = Precedence(program)
    kept: list[Candidate] = []
    rest: list[Candidate] = []
    for candidate in candidates:
        (kept if candidate.rule.keep else rest).append(candidate)
    rest.sort(
        key=lambda c: (
            -len(c.match.nodes),
            order.rank[c.rule.qualified],
            c.match.nodes[-1],
            c.rule.qualified,
            c.match.nodes,
        )
    )
    owner: dict[int, Candidate] = {}
    taken: list[Candidate] = []
    for candidate in rest:
        holders = {id(h): h for n in candidate.match.nodes if (h := owner.get(n)) is not None}
        if not holders:
            taken.append(candidate)
            owner.update((n, candidate) for n in candidate.match.nodes)
            continue
        for holder in holders.values():
            same = set(holder.match.nodes) == set(candidate.match.nodes)
            if same and holder.rule is not candidate.rule and not order.ordered(holder.rule, candidate.rule):
                raise _overlap(holder, candidate, snapshot)
    taken.sort(key=lambda c: c.match.nodes[-1])
    return Cover(tuple(taken), owner, tuple(kept))


def _overlap(a: Candidate, b: Candidate, snapshot: Snapshot) -> Rejected:
    first, second = sorted((a.rule, b.rule), key=lambda r: r.qualified)
    nodes = ", ".join(snapshot.names[n] for n in a.match.nodes)
    return Rejected(
        [
            Diagnostic(
                "overlapping-rules",
                f"`{first.name}` and `{second.name}` both match {nodes}, and nothing says which one wins",
                at=first.span,
                label="this rule matches",
                related=(Related(second.span, "and so does this one"),),
                help=f'add `prefer {first.name} over {second.name} because "..."` (or the other way round), or narrow one of them',
            )
        ]
    )


class Precedence:
    """The partial order of rules: ``prefer``, and rules whose pattern implies another's."""

    def __init__(self, program: Program) -> None:
        names = {r.qualified: r for r in program.rules}
        self._losers: dict[str, set[str]] = {name: set() for name in names}
        for prefer in program.prefers:
            if prefer.winner in names and prefer.loser in names:
                self._losers[prefer.winner].add(prefer.loser)
        for a in program.rules:
            for b in program.rules:
                if a is not b and implies(a, b) and not implies(b, a) and a.qualified not in self._losers[b.qualified]:
                    self._losers[a.qualified].add(b.qualified)
        self._below = {name: self._reach(name) for name in names}
        self.rank = {name: sum(name in below for below in self._below.values()) for name in names}

    def _reach(self, name: str) -> set[str]:
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            for loser in self._losers[waiting.pop()]:
                if loser not in seen:
                    seen.add(loser)
                    waiting.append(loser)
        return seen

    def ordered(self, a: Rule, b: Rule) -> bool:
        return b.qualified in self._below[a.qualified] or a.qualified in self._below[b.qualified]


def implies(a: Rule, b: Rule) -> bool:
    """True if every graph that ``a`` matches is provably matched by ``b`` as well (same shape, no condition fewer)."""
    if not _texts(b.requires) <= _texts(a.requires):
        return False
    return _pattern_implies(a.pattern, b.pattern)


def _texts(requires: tuple[Require, ...]) -> frozenset[str]:
    return frozenset(text(r.condition) for r in requires)


def _pattern_implies(a: Pattern, b: Pattern) -> bool:
    if len(a.nodes) != len(b.nodes) or len(a.tail) != len(b.tail):
        return False
    return all(map(_node_implies, a.nodes, b.nodes)) and all(map(_step_implies, a.tail, b.tail))


def _step_implies(a: PatternNode | Step, b: PatternNode | Step) -> bool:
    if isinstance(a, PatternNode) or isinstance(b, PatternNode):
        return isinstance(a, PatternNode) and isinstance(b, PatternNode) and _node_implies(a, b)
    if (a.exclusive, a.low, a.high, a.negative) != (b.exclusive, b.low, b.high, b.negative) or a.negative:
        return False
    return all(any(len(x) == len(y) and all(map(_step_implies, x, y)) for y in b.alternatives) for x in a.alternatives)


def _node_implies(a: PatternNode, b: PatternNode) -> bool:
    if not a.ops <= b.ops or len(a.args) != len(b.args):
        return False
    if not {text(c) for c in b.conditions} <= {text(c) for c in a.conditions}:
        return False
    for x, y in zip(a.args, b.args, strict=True):
        if isinstance(x, Capture) and isinstance(y, Capture):
            if (
                (y.kind is not Kind.ANY and x.kind is not y.kind)
                or (x.optional and not y.optional)
                or x.variadic != y.variadic
            ):
                return False
        elif type(x) is not type(y):
            return False
    return True
