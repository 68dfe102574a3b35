"""What rules say of a node that they did not take: matches that lost, and walks that stopped, the nearest first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from potc.diagnostics.source import Span
from potc.language.program import Pattern, PatternNode, Rule, Step
from potc.language.ways import nodes_of
from potc.match.cover import Candidate
from potc.match.found import Trail
from potc.match.match import Matcher
from potc.match.pattern_parts import operators_of
from potc.quantize.plan import Kernel
from potc.workbench.explain_model import Examined, Part, Reason

FARTHEST = 8  # edges; what a pattern takes along from farther away is not looked for


@dataclass(frozen=True, slots=True)
class Miss:
    """A rule whose walk from ``anchor`` stopped. ``steps``: matched nodes; ``whole``: only a requirement failed."""

    rule: Rule
    anchor: int
    steps: int
    whole: bool
    words: str
    span: Span

    @property
    def order(self) -> tuple[int, bool, str]:
        """Nearest first: deepest, then those that stopped at the very end, then by name."""
        return (-self.steps, not self.whole, self.rule.qualified)


def nearest(examined: Examined, part: Part, node: int) -> tuple[Miss, ...]:
    """The deepest miss of each kernel's rule that could be anchored at a node, or takes its operator along from another."""
    operator = examined.snapshot.ops[node]
    found: list[Miss] = []
    for rule in part.program.rules:
        if not rule.is_float and operator in operators_of(rule.pattern):  # what misses a `float` rule is free to run
            matcher = part.matchers[rule.qualified]
            here = [node] if operator in matcher.anchor_ops else []
            tried = (miss_at(rule, matcher, a, node) for a in (*here, *_anchors(examined, rule, matcher, node)))
            found += sorted((m for m in tried if m is not None), key=lambda m: (m.anchor != node, m.order))[:1]
    return tuple(sorted(found, key=lambda m: m.order))


def miss_at(rule: Rule, matcher: Matcher, anchor: int, node: int) -> Miss | None:
    """Why no match from an anchor takes a node; None if one does, or if nothing is known."""
    trail = Trail()
    longest = 0
    for match in matcher.matches(anchor, trail):
        if node in match.nodes:
            return None
        longest = max(longest, len(match.nodes))
    if not trail.reason or trail.steps < longest:
        return None
    span = trail.at or rule.span
    return Miss(rule, anchor, trail.steps, trail.whole, trail.reason, span)


def _anchors(examined: Examined, rule: Rule, matcher: Matcher, node: int) -> list[int]:
    """Other nodes from which a walk could get to a node: before it for what a chain takes along, behind it for the inner
    nodes of a pattern's DAG part."""
    snapshot, operator = examined.snapshot, examined.snapshot.ops[node]
    found: dict[int, None] = {}
    for way in rule.pattern.ways:
        if any(operator in part.ops for part in nodes_of(way.tail)):
            found |= dict.fromkeys(_reach(node, _longest(way.tail), lambda n: _makers(examined, n)))
        if any(operator in part.ops for part in way.nodes[:-1]):
            found |= dict.fromkeys(_reach(node, len(way.nodes) - 1, lambda n: _readers(examined, n)))
    return [n for n in found if snapshot.ops[n] in matcher.anchor_ops]


def _reach(start: int, steps: int, following: Callable[[int], Iterable[int]]) -> list[int]:
    """All nodes up to so many edges away, nearest first."""
    seen: dict[int, None] = {start: None}
    border = [start]
    for _ in range(min(steps, FARTHEST)):
        border = [n for b in border for n in following(b) if n not in seen]
        seen |= dict.fromkeys(border)
    del seen[start]
    return list(seen)


def _makers(examined: Examined, node: int) -> Iterator[int]:
    snapshot = examined.snapshot
    return (snapshot.producer[t] for t in snapshot.inputs[node] if t >= 0 and snapshot.producer[t] >= 0)


def _readers(examined: Examined, node: int) -> Iterator[int]:
    snapshot = examined.snapshot
    return (n for t in snapshot.outputs[node] if t >= 0 for n, port in snapshot.consumers[t] if port >= 0)


def _longest(parts: Sequence[PatternNode | Step | Pattern]) -> int:
    """How many nodes a chain can take at most."""
    total = 0
    for part in parts:
        if isinstance(part, PatternNode):
            total += 1
        elif isinstance(part, Pattern):
            total += len(part.nodes)
        elif not part.negative:
            total += part.high * max(map(_longest, part.alternatives), default=0)
    return total


def not_larger(examined: Examined, part: Part, candidate: Candidate) -> Reason | None:
    """Why a match is not larger than it is; None where its pattern has nothing more to take."""
    rule, size = candidate.rule, len(candidate.match.nodes)
    nodes = set(candidate.match.nodes)
    larger = (c for c in part.candidates if c.rule is rule and nodes < set(c.match.nodes))
    alone = max(larger, key=lambda c: len(c.match.nodes), default=None)
    if alone is not None:  # the rule could take more; other parts, or other kernels, have a say
        together = ", ".join(examined.snapshot.names[n] for n in alone.match.nodes)
        without = [p.program.device for p in examined.parts if p is not part and not _has(p, alone)]
        why = (
            f"; {' and '.join(without)} {'has' if len(without) == 1 else 'have'} no kernel of these" if without else ""
        )
        words = f"{part.program.device} alone could take {together}{why}"
        return Reason(rule.qualified, rule.span.place, words)
    if size >= max(len(way.nodes) + _longest(way.tail) for way in rule.pattern.ways):
        return None
    trail = part.finder.replay(candidate)
    if not trail.reason or trail.steps < size:
        return None
    return Reason(rule.qualified, (trail.at or rule.span).place, trail.reason)


def _has(part: Part, candidate: Candidate) -> bool:
    nodes = set(candidate.match.nodes)
    return any(set(c.match.nodes) == nodes and not c.rule.is_float for c in part.candidates)


def lost(examined: Examined, part: Part, node: int, kernel: Kernel | None) -> tuple[Reason, ...]:
    """Matches of other rules that take a node and were not chosen, and what they lost to: the largest of each rule."""
    names = examined.snapshot.names
    taken = set(kernel.rule.split(" & ")) if kernel is not None else set[str]()
    best: dict[str, Candidate] = {}
    for candidate in part.candidates:
        rule = candidate.rule
        if node not in candidate.match.nodes or rule.keep or rule.qualified in taken:
            continue
        before = best.get(rule.qualified)
        if before is None or len(before.match.nodes) < len(candidate.match.nodes):
            best[rule.qualified] = candidate
    found: list[Reason] = []
    for name, candidate in sorted(best.items()):
        holders = {id(h): h for n in candidate.match.nodes if (h := part.cover.owner.get(n)) is not None}
        if id(candidate) in holders:
            if kernel is not None:  # its own choice, which the other parts do not share
                nodes = ", ".join(names[n] for n in candidate.match.nodes)
                words = f"{part.program.device} alone would take {nodes}: not all parts have a kernel of these nodes"
                found.append(Reason(name, candidate.rule.span.place, words, names[node]))
            continue
        holder = next((h for h in holders.values() if node in h.match.nodes), next(iter(holders.values()), None))
        if holder is not None:
            found.append(_lost_to(examined, part, candidate, holder, names[node]))
    return tuple(found)


def _lost_to(examined: Examined, part: Part, loser: Candidate, winner: Candidate, node: str) -> Reason:
    names = examined.snapshot.names
    covered = ", ".join(names[n] for n in winner.match.nodes)
    rules = (winner.rule.qualified, loser.rule.qualified)
    place = loser.rule.span.place
    if len(winner.match.nodes) > len(loser.match.nodes):
        words = f"matches {len(loser.match.nodes)} of the nodes that {rules[0]} covers ({covered})"
        if not set(loser.match.nodes) <= set(winner.match.nodes):
            words = f"matches fewer nodes than {rules[0]} ({covered})"
        return Reason(rules[1], place, words, node)
    for prefer in part.program.prefers:
        if (prefer.winner, prefer.loser) == rules:
            because = f": {prefer.because}" if prefer.because else ""
            return Reason(rules[1], prefer.span.place, f"{rules[0]} is preferred{because}", node)
    if part.precedence.ordered(winner.rule, loser.rule):
        return Reason(rules[1], place, f"{rules[0]} is narrower, so it comes first", node)
    words = f"{rules[0]} was taken at {covered}, which comes first in the graph"
    return Reason(rules[1], place, words, node)
