"""Patterns while they are put together: parts with numbers of their own, renamed, put one behind the other, finished.

A pattern may begin in several ways (a choice as its first step), and so may a pattern that is used as a line of another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from potc.diagnostics.source import Span
from potc.language import syntax
from potc.language.program import Arg, Capture, Kind, Pattern, PatternNode, Result, Step

PREVIOUS = -1
FIRST = 1 << 20  # the smallest number of a node that has no place in a finished pattern yet; below are places

Part = PatternNode | Step | Pattern  # of a chain


@dataclass(frozen=True, slots=True)
class Placed:
    """A node of a DAG. ``Result.node`` of other nodes refers to ``number`` until the pattern is finished."""

    number: int
    node: PatternNode


@dataclass(frozen=True, slots=True)
class Way:
    """One way to begin: a DAG in topological order, its result last, and the chain behind that."""

    dag: tuple[Placed, ...]
    tail: tuple[Step, ...] = ()


def finished(way: Way, result: str | None, at: Span) -> Pattern:
    """The pattern with places instead of numbers."""
    places = {placed.number: place for place, placed in enumerate(way.dag)}
    nodes = tuple(moved(placed.node, places) for placed in way.dag)
    return Pattern(nodes, way.tail, result, at)


def moved(node: PatternNode, places: Mapping[int, int]) -> PatternNode:
    """The node with other numbers in its references; those that are not listed stay."""
    args = tuple(replace(a, node=places.get(a.node, a.node)) if isinstance(a, Result) else a for a in node.args)
    return replace(node, args=args)


def reads(node: PatternNode, number: int) -> bool:
    return any(isinstance(a, Result) and a.node == number for a in node.args)


def nodes_of(parts: Iterable[Part]) -> Iterator[PatternNode]:
    """All nodes of a chain, those of optional steps and alternatives included."""
    for part in parts:
        if isinstance(part, PatternNode):
            yield part
        elif isinstance(part, Pattern):
            yield from part.nodes
        else:
            for sequence in part.alternatives:
                yield from nodes_of(sequence)


def labeled(way: Way, number: int, names: tuple[str, ...]) -> Way:
    """The way with a number, and names if there are any, for the node that gives its result."""
    *before, last = way.dag
    name, others = (names[0], names[1:]) if names else (last.node.name, last.node.others)
    return Way((*before, Placed(number, replace(last.node, name=name, others=others))))


def needs_dag(way: Way) -> bool:
    """True if the chain reads results of the DAG that it can't name: it must become a part of the DAG."""
    return any(isinstance(a, Result) and a.node >= FIRST for node in nodes_of(way.tail) for a in node.args)


def last_ops(parts: Iterable[Part]) -> tuple[set[str], bool]:
    """Operators that may come last in a chain, and whether one of them surely does."""
    ops: set[str] = set()
    for part in reversed(tuple(parts)):
        if isinstance(part, PatternNode):
            return ops | part.ops, True
        if isinstance(part, Pattern):
            return ops | part.nodes[-1].ops, True
        if part.negative:
            continue
        ends = [last_ops(sequence) for sequence in part.alternatives]
        ops = ops.union(*(e for e, _ in ends))
        if part.low > 0 and all(sure for _, sure in ends):
            return ops, True
    return ops, False


def ends(ways: Iterable[Way]) -> frozenset[str]:
    """Operators that may make the result of a pattern."""
    found: set[str] = set()
    for way in ways:
        ops, sure = last_ops(way.tail)
        found |= ops if sure or not way.dag else ops | way.dag[-1].node.ops
    return frozenset(found)


def reached(way: Way) -> set[int]:
    """Numbers of the nodes that lead to the result."""
    nodes = {placed.number: placed.node for placed in way.dag}
    waiting, seen = [way.dag[-1].number] if way.dag else [], set[int]()
    while waiting:
        number = waiting.pop()
        if number in nodes and number not in seen:
            seen.add(number)
            waiting.extend(a.node for a in nodes[number].args if isinstance(a, Result))
    return seen


# ---------------------------------------------------------------------------------------------- patterns by name


@dataclass(frozen=True, slots=True)
class Renaming:
    """Puts arguments for parameters, and private names for the rest."""

    given: Mapping[str, Arg]
    private: Mapping[str, str]

    def way(self, way: Way) -> Way:
        return Way(tuple(Placed(p.number, self._node(p.node)) for p in way.dag), tuple(self._step(s) for s in way.tail))

    def expr(self, expr: syntax.Expr) -> syntax.Expr:
        """A condition, its tensors renamed; attributes keep their names."""
        names = {p: a.name for p, a in self.given.items() if isinstance(a, Capture)}
        return _renamed(expr, {**self.private, **names})

    def _node(self, node: PatternNode) -> PatternNode:
        return replace(
            node,
            args=tuple(self._arg(a) for a in node.args),
            conditions=tuple(self.expr(c) for c in node.conditions),
            refined=tuple((op, self.expr(c)) for op, c in node.refined),
            name=self._name(node.name),
            others=tuple(self.private.get(n, n) for n in node.others),
        )

    def _name(self, name: str | None) -> str | None:
        return None if name is None else self.private.get(name, name)

    def _arg(self, arg: Arg) -> Arg:
        if not isinstance(arg, Capture) or arg.name == "_":
            return arg
        given = self.given.get(arg.name)
        if isinstance(given, Capture):
            kind = arg.kind if given.kind is Kind.ANY else given.kind
            return replace(given, kind=kind, optional=given.optional or arg.optional)
        return given if given is not None else replace(arg, name=self.private.get(arg.name, arg.name))

    def _step(self, step: Step) -> Step:
        sequences = tuple(tuple(self._part(p) for p in sequence) for sequence in step.alternatives)
        return replace(step, alternatives=sequences, name=self._name(step.name))

    def _part(self, part: Part) -> Part:
        if isinstance(part, PatternNode):
            return self._node(part)
        if isinstance(part, Pattern):
            return replace(part, nodes=tuple(self._node(n) for n in part.nodes))
        return self._step(part)


def _renamed(expr: Any, names: Mapping[str, str]) -> Any:
    if isinstance(expr, syntax.Name):
        return replace(expr, name=names.get(expr.name, expr.name))
    changes: dict[str, Any] = {}
    for field in fields(expr):
        part = getattr(expr, field.name)
        if field.name != "span" and is_dataclass(part):
            changes[field.name] = _renamed(part, names)
        elif isinstance(part, tuple):
            changes[field.name] = tuple(_renamed(p, names) for p in part)
    return replace(expr, **changes) if changes else expr
