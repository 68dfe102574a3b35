"""Which parts of a rule file its tests reach: rules, steps and alternatives of patterns, both answers of each `require`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from potc.diagnostics.source import Span
from potc.language.program import Capture, Pattern, PatternNode, Program, Require, Rule, Step
from potc.match.cover import Candidate, is_late
from potc.match.environment import MatchEnvironment, Scope
from potc.match.found import Match, Trail
from potc.match.match import Matcher
from potc.match.truth import is_true
from potc.workbench.found import Found
from potc.workbench.run_tests import FileRun

_Part = PatternNode | Step | Pattern
_REASON = re.compile(r' else "(?:[^"\\]|\\.)*"$')


@dataclass(frozen=True, slots=True)
class Point:
    """Something that a test can reach. ``kind``: "rule", "step", "alternative", "input", "require" or "pass"."""

    line: int
    start: int
    rule: str
    kind: str
    what: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """How often each point was reached, in the order of the file."""

    path: str
    hits: Mapping[Point, int]

    @property
    def reached(self) -> int:
        return sum(1 for count in self.hits.values() if count)

    @property
    def percent(self) -> float:
        """100 where there is nothing to reach."""
        return 100.0 * self.reached / len(self.hits) if self.hits else 100.0


def coverage(run: FileRun) -> Coverage:
    """What the tests of a file reach of the rules that the file itself states; tests that could not be run reach nothing.

    A step, an alternative or an optional input is reached by a kernel that was taken; an answer of a `require` by any match
    of the pattern that got so far.
    """
    points: dict[Point, None] = {}
    for program in run.programs.values():
        for part in program.members:
            points |= dict.fromkeys(_points(part, run.path))
    counts: Counter[Point] = Counter()
    for outcome in run.outcomes:
        if outcome.found is not None:
            for graph in outcome.found.graphs:
                counts.update(_reached(graph, run.path))
    ordered = sorted(points, key=lambda p: (p.start, p.kind != "rule", p.kind, p.what))
    return Coverage(run.path, {point: counts[point] for point in ordered})


# ---------------------------------------------------------------------------------------------- what there is


def _points(program: Program, path: str) -> Iterator[Point]:
    for rule in program.rules:
        yield from _of_rule(rule, path)
    for statement in program.passes:
        yield from _point(statement.span, path, "pass", "pass", ", ".join(sorted(statement.ops)))


def _of_rule(rule: Rule, path: str) -> Iterator[Point]:
    pattern = rule.pattern
    yield from _point(rule.span, path, rule.name, "rule", rule.name)
    if len(pattern.ways) > 1:
        for way in pattern.ways:
            yield from _alternative(way, rule, path)
    for step in _steps(pattern):
        if step.low == 0:
            for taken in ("taken", "left out"):
                yield from _point(step.span, path, rule.name, "step", f"`{_text(step.span)}` {taken}")
        if len(step.alternatives) > 1:
            for first, *_ in step.alternatives:
                yield from _alternative(first, rule, path)
    for node in _nodes(pattern):
        if len(node.ops) > 1:
            for op in sorted(node.ops):
                yield from _point(node.span, path, rule.name, "alternative", op)
        for arg in _optional(node):
            for given in ("given", "absent"):
                yield from _point(arg.span, path, rule.name, "input", f"`{arg.name}` {given}")
    for require in rule.requires:
        for answer in (True, False):
            yield from _answer(require, rule, path, answer)


def _answer(require: Require, rule: Rule, path: str, answer: bool) -> Iterator[Point]:
    condition = _REASON.sub("", _text(require.span)).removeprefix("require ")
    yield from _point(require.span, path, rule.name, "require", f"`{condition}` {'true' if answer else 'false'}")


def _alternative(part: _Part, rule: Rule, path: str) -> Iterator[Point]:
    """Told by the operator that it begins or, where a pattern begins in several ways, ends with."""
    span = part.nodes[-1].span if isinstance(part, Pattern) else part.span
    yield from _point(span, path, rule.name, "alternative", f"`{_text(span)}`")


def _point(span: Span, path: str, rule: str, kind: str, what: str) -> Iterator[Point]:
    """Parts of files that are used are those files' own business."""
    if span.source.path == path:
        yield Point(span.line, span.start, rule, kind, what)


def _text(span: Span) -> str:
    return " ".join(span.source.text[span.start : span.end].split())


def _steps(pattern: Pattern) -> Iterator[Step]:
    """All steps of a pattern that can be part of a match, those inside of others included."""
    waiting: list[_Part] = [step for way in pattern.ways for step in way.tail]
    while waiting:
        part = waiting.pop(0)
        if isinstance(part, Step) and not part.negative:
            yield part
            waiting.extend(inner for sequence in part.alternatives for inner in sequence)


def _nodes(pattern: Pattern) -> Iterator[PatternNode]:
    """All operators of a pattern that can be part of a match."""
    for way in pattern.ways:
        yield from way.nodes
    for step in _steps(pattern):
        for part in (part for sequence in step.alternatives for part in sequence):
            if not isinstance(part, Step):
                yield from _operators(part)


def _operators(part: PatternNode | Pattern) -> tuple[PatternNode, ...]:
    return part.nodes if isinstance(part, Pattern) else (part,)


def _optional(node: PatternNode) -> Iterator[Capture]:
    """Inputs that may be absent and have a name."""
    for arg in node.args:
        if isinstance(arg, Capture) and arg.optional and not arg.variadic and arg.name != "_":
            yield arg


# ---------------------------------------------------------------------------------------------- what was reached


def _reached(found: Found, path: str) -> Iterator[Point]:
    """The points of one test."""
    kernels = {frozenset(k.nodes): k for k in found.plan.kernels}
    names = found.snapshot.names
    kept = {id(c): c for c in (*found.cover.floats.values(), *found.cover.kept)}
    for joint in found.cover.taken:
        if frozenset(names[n] for n in joint.nodes) in kernels:
            for member in joint.members:
                if member.candidate is not None:
                    yield from _of_match(member.program, member.candidate, found, path)
    for candidate in kept.values():
        program = next(p for p in found.program.members if candidate.rule in p.rules)
        yield from _of_match(program, candidate, found, path)
    for program in found.program.members:
        for rule in program.rules:
            yield from _answers(program, rule, found, path)
        through = {place for k in kernels.values() for place in k.place.split(", ")}
        for statement in program.passes:
            if statement.span.place in through:
                yield from _point(statement.span, path, "pass", "pass", ", ".join(sorted(statement.ops)))


def _of_match(program: Program, candidate: Candidate, found: Found, path: str) -> Iterator[Point]:
    """The rule, its steps, alternatives and optional inputs, as one kernel uses them."""
    rule, match = candidate.rule, candidate.match
    parts = dict(zip(match.nodes, _matched_by(program, candidate, found), strict=True))
    used = set(map(id, parts.values()))
    yield from _point(rule.span, path, rule.name, "rule", rule.name)
    if len(rule.pattern.ways) > 1:
        for way in rule.pattern.ways:
            if _uses(way.nodes, used):
                yield from _alternative(way, rule, path)
    for step in _steps(rule.pattern):
        taken = [sequence for sequence in step.alternatives if _uses(sequence, used)]
        if step.low == 0:
            words = "taken" if taken else "left out"
            yield from _point(step.span, path, rule.name, "step", f"`{_text(step.span)}` {words}")
        if len(step.alternatives) > 1:
            for first, *_ in taken:
                yield from _alternative(first, rule, path)
    for node, part in parts.items():
        if len(part.ops) > 1:
            yield from _point(part.span, path, rule.name, "alternative", found.snapshot.ops[node])
        for arg in _optional(part):
            given = "given" if match.bindings.get(arg.name) is not None else "absent"
            yield from _point(arg.span, path, rule.name, "input", f"`{arg.name}` {given}")


def _uses(sequence: Sequence[_Part], used: set[int]) -> bool:
    """Was any operator of this alternative matched?"""
    for part in sequence:
        if isinstance(part, Step):
            if any(_uses(inner, used) for inner in part.alternatives):
                return True
        elif any(id(node) in used for node in _operators(part)):
            return True
    return False


class _Recorder(Matcher):
    """A matcher that remembers by which operator of the pattern each node was matched."""

    def __init__(self, rule: Rule, found: Found, program: Program) -> None:
        early = tuple(r for r in rule.requires if not is_late(r))
        super().__init__(rule.pattern, early, found.snapshot, Scope.of(program), program.signatures)
        self.by: dict[tuple[int, ...], PatternNode] = {}  # the nodes of a partial match -> who matched the last one

    def _node(
        self, dag: tuple[PatternNode, ...], index: int, node: int, state: Any, prev: int | None, trail: Trail | None
    ) -> Iterator[Any]:
        for placed in super()._node(dag, index, node, state, prev, trail):
            self.by.setdefault(placed.nodes, dag[index])
            yield placed


def _matched_by(program: Program, candidate: Candidate, found: Found) -> tuple[PatternNode, ...]:
    """The operators of the pattern that matched the nodes of a match, in their order."""
    recorder = _Recorder(candidate.rule, found, program)
    nodes = candidate.match.nodes
    for way in candidate.rule.pattern.ways:
        if len(way.nodes) <= len(nodes) and any(m.nodes == nodes for m in recorder.matches(nodes[len(way.nodes) - 1])):
            break
    return tuple(recorder.by[nodes[: k + 1]] for k in range(len(nodes)))


def _answers(program: Program, rule: Rule, found: Found, path: str) -> Iterator[Point]:
    """Every requirement that was decided for some match of the pattern: in order, up to the first that is not true."""
    if not any(r.span.source.path == path for r in rule.requires):
        return
    matcher = Matcher(rule.pattern, (), found.snapshot, Scope.of(program), program.signatures)
    for op in sorted(matcher.anchor_ops):
        for node in found.snapshot.by_op.get(op, ()):
            for match in matcher.matches(node):
                yield from _answers_of(program, rule, match, found, path)


def _answers_of(program: Program, rule: Rule, match: Match, found: Found, path: str) -> Iterator[Point]:
    snapshot = found.snapshot
    environment = MatchEnvironment(snapshot, Scope.of(program), match.bindings, None)
    nodes = {snapshot.names[n] for n in match.nodes}
    taken = any(nodes == set(k.nodes) and rule.qualified in k.rule.split(" & ") for k in found.plan.kernels)
    refused = {r.place for left in found.plan.left if left.node in nodes for r in left.reasons}
    for require in sorted(rule.requires, key=is_late):
        if not is_late(require):
            answer = is_true(require.condition, environment)
        elif taken:
            answer = True
        elif require.span.place in refused:
            answer = False
        else:
            return
        yield from _answer(require, rule, path, answer)
        if not answer:
            return


# ---------------------------------------------------------------------------------------------- for people and programs


def coverage_lines(found: Coverage) -> Iterator[str]:
    """A table: each rule with how much of it was reached, and below it what no test reached."""
    yield f"{found.path}: {found.reached} of {len(found.hits)} reached ({found.percent:.0f} %)"
    rules = dict.fromkeys(point.rule for point in found.hits)
    for rule in rules:
        mine = {point: count for point, count in found.hits.items() if point.rule == rule}
        reached = sum(1 for count in mine.values() if count)
        yield f"  {rule:<30} {reached:>3} / {len(mine)}"
        for point, count in mine.items():
            if not count:
                yield f"    line {point.line:<5} {point.kind} {point.what}"


def coverage_json(found: Coverage) -> dict[str, object]:
    """The same for programs, with how often each point was reached."""
    points = [
        {"rule": p.rule, "kind": p.kind, "what": p.what, "line": p.line, "hits": count}
        for p, count in found.hits.items()
    ]
    return {"reached": found.reached, "of": len(found.hits), "percent": round(found.percent, 1), "points": points}
