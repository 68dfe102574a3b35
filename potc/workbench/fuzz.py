"""Rules against graphs that are drawn from them: what must match does, and what is broken on purpose is named."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from potc.diagnostics.diagnostic import Rejected
from potc.diagnostics.source import Span
from potc.graph.model import Model
from potc.graph.prepare import infer_shapes
from potc.graph.snapshot import Snapshot, take_snapshot
from potc.language.program import Pattern, PatternNode, Program, Rewrite, Rule, Step
from potc.language.syntax import Expr
from potc.language.text import text
from potc.language.variants import is_late
from potc.match.cover import Finder
from potc.match.environment import Scope
from potc.match.found import Trail
from potc.match.match import Matcher
from potc.quantize.solve import solve
from potc.sketch.constraints import Constraint, conjuncts, constraints, reads_previous
from potc.sketch.draw import Sketch, draw, draw_broken, excluded
from potc.sketch.model import inside, onnx_text
from potc.sketch.oracle import bystander_of
from potc.sketch.variants import variants


@dataclass(frozen=True, slots=True)
class Failure:
    """A rule that does not do what it says. ``kind``: "undrawn" (no graph was found for any variant), "overlapping",
    "untaken" (it matches, nothing else does, and the solver leaves the nodes in float), "matched" (although a constraint is
    broken), or "unnamed" (another place is told than the one that was broken). ``graph``: ONNX text, empty for none.
    """

    rule: str
    kind: str
    at: Span
    message: str
    graph: str


@dataclass(frozen=True, slots=True)
class FuzzReport:
    """``matched``: whole graphs that were drawn and matched; ``broken``: graphs with one constraint broken; ``named``: how
    often of these the broken one was told; ``unbroken``: constraints that no drawn graph breaks (others may imply them);
    ``undrawn``: variants for which no graph was found, in words (it may be that there is none).
    """

    matched: int
    broken: int
    named: int
    unbroken: tuple[tuple[str, Constraint], ...]
    undrawn: tuple[tuple[str, str], ...]
    failures: tuple[Failure, ...]


def fuzz(program: Program, count: int, seed: int) -> FuzzReport:
    """Draws ``count`` whole and ``count`` broken graphs, spread evenly over the rules and rewrites of a device.

    Equal seeds give equal reports. Whole graphs go through the variants of a rule, broken ones through its constraints.
    """
    parts = [(part, rule) for part in program.members for rule in _rules(part)]
    failures: list[Failure] = []
    matched = broken = named = 0
    drawn: set[str] = set()
    undrawn: dict[str, tuple[Rule | Rewrite, dict[str, None]]] = {}
    unbroken: dict[tuple[str, int, int, str], tuple[str, Constraint]] = {}
    for part, rule, n in _turns(parts, count):
        listed = [v for v in variants(rule.pattern) if not excluded(part, rule, v)]
        if not listed:
            continue
        sketch = draw(part, rule, seed + n // len(listed), listed[n % len(listed)])
        if sketch is None:
            undrawn.setdefault(name_of(rule), (rule, {}))[1][listed[n % len(listed)].words] = None
            continue
        matched += 1
        drawn.add(name_of(rule))
        failures.extend(_not_taken(part, rule, sketch))
    for name, (rule, words) in undrawn.items():
        if name not in drawn:
            message = f"no graph was found for {', '.join(f'`{w}`' for w in words)}"
            failures.append(Failure(name, "undrawn", rule.pattern.span, message, ""))
    for part, rule, n in _turns(parts, count):
        listed = constraints(rule)
        if not listed:
            continue
        constraint = listed[n % len(listed)]
        sketch = draw_broken(part, rule, constraint, seed + n // len(listed))
        if sketch is None:
            key = (name_of(rule), constraint.span.start, constraint.span.end, constraint.kind)
            unbroken[key] = (name_of(rule), constraint)
            continue
        broken += 1
        failure = judge_broken(part, rule, constraint, sketch)
        named += failure is None
        failures.extend(() if failure is None else (failure,))
    missing = tuple((name, words) for name, (_, several) in undrawn.items() for words in several)
    return FuzzReport(matched, broken, named, tuple(unbroken.values()), missing, tuple(failures))


def name_of(rule: Rule | Rewrite) -> str:
    """``cpu.conv``, or the bare name of a rewrite."""
    return rule.qualified if isinstance(rule, Rule) else rule.name


def _rules(part: Program) -> tuple[Rule | Rewrite, ...]:
    return (*part.rules, *part.rewrites)


def _turns(parts: list[tuple[Program, Rule | Rewrite]], count: int) -> Iterator[tuple[Program, Rule | Rewrite, int]]:
    """``count`` turns, and how often each rule was on turn before."""
    rounds = ((part, rule, n) for n in itertools.count() for part, rule in parts) if parts else iter(())
    return itertools.islice(rounds, count)


def snapshot_of(sketch: Sketch) -> Snapshot:
    """The graph as a compile sees it after preparation."""
    return take_snapshot(infer_shapes(Model("", sketch.model, ())).proto)


# ---------------------------------------------------------------------------------------------- whole graphs


def _not_taken(part: Program, rule: Rule | Rewrite, sketch: Sketch) -> Iterator[Failure]:
    """Says so where the solver leaves a match in float that no other rule claims and no late requirement excludes."""
    if isinstance(rule, Rewrite) or rule.is_float or rule.keep:
        return
    snapshot = snapshot_of(sketch)
    nodes = set(sketch.nodes)
    try:
        plan = solve(part, snapshot)
        if not any(set(kernel.nodes) == nodes for kernel in plan.kernels):
            # The device may allow other formats at the ends of a model than inside of it.
            snapshot = take_snapshot(infer_shapes(Model("", inside(sketch.model, bystander_of(part)), ())).proto)
            plan = solve(part, snapshot)
    except Rejected as rejected:
        yield Failure(name_of(rule), "overlapping", rule.span, str(rejected), onnx_text(sketch.model))
        return
    if any(set(kernel.nodes) == nodes for kernel in plan.kernels):
        return
    for candidate in Finder(part, snapshot).candidates():
        if candidate.rule is not rule and not nodes.isdisjoint(snapshot.names[n] for n in candidate.match.nodes):
            return
    late = {require.span.place for require in rule.requires if is_late(require)}
    reasons = [r for left in plan.left if left.node in nodes for r in left.reasons]
    if any(reason.place in late for reason in reasons):
        return
    words = "; ".join(dict.fromkeys(r.reason for r in reasons)) or "no reason is given"
    yield Failure(name_of(rule), "untaken", rule.span, words, onnx_text(sketch.model))


# ---------------------------------------------------------------------------------------------- broken graphs


def judge_broken(part: Program, rule: Rule | Rewrite, constraint: Constraint, sketch: Sketch) -> Failure | None:
    """None where the rule does not match the nodes, and what is told of it is the broken constraint."""
    snapshot = snapshot_of(sketch)
    graph = onnx_text(sketch.model)
    if constraint.late:
        return _judge_late(part, rule, constraint, sketch, snapshot, graph)
    trail = near_miss(part, rule, snapshot, sketch)
    if trail is None:
        return Failure(name_of(rule), "matched", constraint.span, f"it matches without {constraint.words}", graph)
    if names(trail, constraint) or any(_speaks_of_condition(trail, rule, other) for other in sketch.also):
        return None
    told = f"{trail.reason} ({trail.at.place})" if trail.at is not None else "nothing"
    return Failure(name_of(rule), "unnamed", constraint.span, f"without {constraint.words}, told is: {told}", graph)


def near_miss(part: Program, rule: Rule | Rewrite, snapshot: Snapshot, sketch: Sketch) -> Trail | None:
    """How far a rule came at nodes that it does not match as a whole, None if it does: what ``explain`` replays when it is
    asked about the anchor."""
    early = tuple(r for r in rule.requires if not is_late(r))
    matcher = Matcher(rule.pattern, early, snapshot, Scope.of(part), part.signatures)
    node = snapshot.names.index(sketch.anchor)
    trail = Trail()
    for match in matcher.matches(node, trail):
        if {snapshot.names[n] for n in match.nodes} >= set(sketch.nodes):
            return None
    return trail


def names(trail: Trail, constraint: Constraint) -> bool:
    """True if a trail ends in the statement, or in the part of the pattern, that a constraint is from; of several parts of
    one requirement, the words must be about the broken one."""
    if trail.at is None or constraint.span.source.path != trail.at.source.path:
        return False
    if constraint.kind in ("operator", "edge") and frozenset() < operators_at(constraint) <= trail.wanted:
        return True  # alternatives that could stand there, optional steps among them, are told together
    if constraint.require is not None:
        return _within(trail.at, constraint.require.span) and _speaks_of(trail.reason, constraint)
    if constraint.condition is not None:
        return _overlap(trail.at, constraint.span) and _speaks_of(trail.reason, constraint)
    return _overlap(trail.at, constraint.span)


def _speaks_of_condition(trail: Trail, rule: Rule | Rewrite, condition: Expr) -> bool:
    """True if a trail ends at a condition that the broken one implies to be false."""
    if trail.at is None or (f"`{text(condition)}`" not in trail.reason and " is false" in trail.reason):
        return False
    places = (condition.span, *(r.span for r in rule.requires if condition in conjuncts(r.condition)))
    return any(_overlap(trail.at, place) for place in places)


def operators_at(constraint: Constraint) -> frozenset[str]:
    """The operators that a step may begin with, or those of one node."""
    if constraint.node is not None:
        return constraint.node.ops
    waiting: list[PatternNode | Step | Pattern] = [constraint.step] if constraint.step is not None else []
    found: set[str] = set()
    while waiting:
        part = waiting.pop()
        if isinstance(part, Step):
            waiting.extend(sequence[0] for sequence in part.alternatives)
        else:
            first = (
                next((n for n in part.nodes if reads_previous(n)), part.nodes[0]) if isinstance(part, Pattern) else part
            )
            found |= first.ops
    return frozenset(found)


def _within(inner: Span, outer: Span) -> bool:
    return outer.start <= inner.start and inner.end <= outer.end


def _overlap(a: Span, b: Span) -> bool:
    return _within(a, b) or _within(b, a)


def _speaks_of(reason: str, constraint: Constraint) -> bool:
    """The words of a false condition repeat it; those of one that can't be computed do not."""
    return constraint.condition is None or " is false" not in reason or f"`{text(constraint.condition)}`" in reason


def _judge_late(
    part: Program, rule: Rule | Rewrite, constraint: Constraint, sketch: Sketch, snapshot: Snapshot, graph: str
) -> Failure | None:
    """A requirement that asks what is stored is the solver's to refuse."""
    try:
        plan = solve(part, snapshot)
    except Rejected:
        return None  # told where whole graphs are drawn
    nodes = set(sketch.nodes)
    if any(k.rule == name_of(rule) and set(k.nodes) == nodes for k in plan.kernels):
        return Failure(name_of(rule), "matched", constraint.span, f"it is taken without {constraint.words}", graph)
    reasons = [r for left in plan.left if left.node in nodes for r in left.reasons if r.rule == name_of(rule)]
    place = constraint.require.span.place if constraint.require is not None else constraint.span.place
    if any(r.place == place for r in reasons) or not reasons:
        return None
    told = "; ".join(f"{r.reason} ({r.place})" for r in reasons)
    return Failure(name_of(rule), "unnamed", constraint.span, f"without {constraint.words}, told is: {told}", graph)
