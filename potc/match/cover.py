"""Which matches win: more covered nodes first, then proven specificity and ``prefer``, then the place in the graph.

The order of rules in a file and the names of nodes never matter. Two rules that match the same nodes with nothing to
order them are a mistake in the rule file, and said so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from potc.diagnostics.diagnostic import Diagnostic, Rejected, Related
from potc.graph.snapshot import Snapshot
from potc.language.precedence import Precedence
from potc.language.program import Program, Rule
from potc.language.variants import is_late
from potc.match.alike import Alike, Looks, nothing_above, reach, sees_only_looks
from potc.match.environment import Scope
from potc.match.found import Match, Trail
from potc.match.match import Matcher
from potc.match.record import record

__all__ = ["Candidate", "Cover", "Finder", "Precedence", "choose", "is_late"]


@record
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


class Finder:
    """All rules of a program, compiled for one snapshot and indexed by the operator of their anchor."""

    def __init__(self, program: Program, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        scope = Scope.of(program)
        self._by_op: dict[str, list[tuple[Rule, Matcher]]] = {}
        self._early: dict[int, bool] = {}  # id of a rule -> looks decide
        length = 1
        for rule in program.rules:
            early = tuple(r for r in rule.requires if not is_late(r))
            matcher = Matcher(rule.pattern, early, snapshot, scope, program.signatures)
            self._early[id(rule)] = sees_only_looks(rule.pattern, early)
            length = max(length, reach(rule.pattern)) if self._early[id(rule)] else length
            for op in sorted(matcher.anchor_ops):
                self._by_op.setdefault(op, []).append((rule, matcher))
        self._length = length

    def candidates(self) -> list[Candidate]:
        """Every match of every rule, in no order that means anything."""
        found: list[Candidate] = []
        snapshot = self.snapshot
        looks = Looks(snapshot, self._length)
        for op, entries in self._by_op.items():
            plain = [e for e in entries if self._early[id(e[0])]]
            rest = [e for e in entries if not self._early[id(e[0])]]
            alike = Alike(looks, snapshot, tuple(m for _, m in plain))
            for node in snapshot.by_op.get(op, ()):
                for k, match in alike.matches(node) if plain else ():
                    found.append(Candidate(plain[k][0], match))
                for rule, matcher in rest:
                    if not nothing_above(rule.pattern, snapshot, node):
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
        """For each rule of a kernel that could be anchored at a node but does not match there: how far it came, and what
        stopped it."""
        misses: list[tuple[Rule, Trail]] = []
        for rule, matcher in self._by_op.get(self.snapshot.ops[node], ()):
            trail = Trail()
            if not rule.is_float and next(matcher.matches(node, trail), None) is None:
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
