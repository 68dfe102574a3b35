"""The straight-line forms of a pattern: which optional steps and alternatives are taken, and where every name is then.

Names of tensors become terms that say where a tensor is: ``o2`` is the first output of node 2 of the form, ``i2_0`` its
first input. Two forms are compared by placing one on the other, node on node: ``placements`` gives all ways.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache
from typing import Any

from potc.diagnostics.source import Span
from potc.language import operators
from potc.language.program import Arg, Capture, Pattern, PatternNode, Require, Result, Step
from potc.language.satisfy import ABSENT
from potc.language.syntax import Expr, Field, Name

Part = PatternNode | Step | Pattern
MAX_FORMS = 96
MAX_PLACEMENTS = 64
MAX_TIMES = 4  # that a step is repeated in the forms that are listed


@dataclass(frozen=True, slots=True)
class Spot:
    """One node of a form. ``args``: inputs in port order, ``Result`` numbers are those of spots of this form.

    ``exclusive``: the tensor that a chain step arrives by has no other reader. ``chain``: a step of the chain part.
    """

    ops: frozenset[str]
    args: tuple[Arg, ...]
    exclusive: bool
    chain: bool
    span: Span

    def arg(self, port: int) -> Arg | None:
        """What stands at a port; the last argument may take all further ones. None: nothing is said."""
        if port < len(self.args):
            return self.args[port]
        last = self.args[-1] if self.args else None
        return last if isinstance(last, Capture) and last.variadic else None


@dataclass(frozen=True, slots=True)
class Condition:
    """``expr`` speaks of terms, ``span`` is where it is written. ``late``: it asks what is stored."""

    expr: Expr
    span: Span
    late: bool


@dataclass(frozen=True, slots=True)
class Form:
    """``choices``: (place of a step, index of the alternative) taken. ``same``: pairs of terms that are one tensor."""

    spots: tuple[Spot, ...]
    conditions: tuple[Condition, ...]
    same: tuple[tuple[str, str], ...]
    choices: tuple[tuple[Span, int], ...]
    terms: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Forms:
    """``complete`` is False where a pattern has more forms than are listed, ``guarded`` True where it says ``not``."""

    forms: tuple[Form, ...]
    complete: bool
    guarded: bool


@lru_cache(maxsize=4096)
def is_late(require: Require) -> bool:
    """True if a requirement asks what is stored, which is known only after the kernels are chosen."""
    return _calls(require.condition, "stored")


def _calls(part: Any, name: str) -> bool:
    if is_dataclass(part) and not isinstance(part, type):
        # A call's function name and a plain name are both stored in a field called `name`.
        return getattr(part, "name", None) == name or any(
            _calls(getattr(part, f.name), name) for f in fields(part) if f.name != "span"
        )
    return isinstance(part, tuple) and any(_calls(p, name) for p in part)


def forms_of(pattern: Pattern, requires: tuple[Require, ...], opsets: tuple[int, int]) -> Forms:
    """All forms of a pattern with its requirements."""
    names = frozenset(_names(pattern))
    guarded = any(s.negative for s in steps_of(pattern))
    complete = all(s.high <= MAX_TIMES for s in steps_of(pattern))
    found: list[Form] = []
    for way in pattern.ways:
        for walk in _chain(way.tail, _Walk()):
            for spots in _split(_nodes(way, walk)):
                if len(found) >= MAX_FORMS:
                    return Forms(tuple(found), False, guarded)
                found.append(_form(spots, way.result, walk, requires, opsets, names))
    return Forms(tuple(found), complete, guarded)


def steps_of(pattern: Pattern) -> Iterator[Step]:
    """All steps of a pattern, those inside of others included."""
    waiting: list[Part] = [step for way in pattern.ways for step in way.tail]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Step):
            yield part
            waiting.extend(p for sequence in part.alternatives for p in sequence)


def nodes_of(pattern: Pattern) -> Iterator[PatternNode]:
    """All nodes of a pattern, those of optional steps and alternatives included."""
    parts: list[Part] = [p for way in pattern.ways for p in (*way.nodes, *way.tail)]
    parts.extend(p for step in steps_of(pattern) for sequence in step.alternatives for p in sequence)
    for part in parts:
        if isinstance(part, PatternNode):
            yield part
        elif isinstance(part, Pattern):
            yield from part.nodes


def _names(pattern: Pattern) -> Iterator[str]:
    for node in nodes_of(pattern):
        yield from node.others
        if node.name is not None:
            yield node.name
        yield from (a.name for a in node.args if isinstance(a, Capture) and a.name != "_")


# ---------------------------------------------------------------------------------------------- walks


@dataclass(frozen=True, slots=True)
class _Taken:
    """A node of the chain part. ``exclusive``: the tensor before has one reader. ``before``: how many nodes of its own
    group come before it (a group is a part of several nodes); ``name``: what a step calls the tensor behind it."""

    node: PatternNode
    exclusive: bool
    before: int = 0
    name: str | None = None


@dataclass(frozen=True, slots=True)
class _Walk:
    nodes: tuple[_Taken, ...] = ()
    choices: tuple[tuple[Span, int], ...] = ()


def _chain(steps: tuple[Part, ...], walk: _Walk, exclusive: bool = True) -> Iterator[_Walk]:
    """Steps one after the other; ``exclusive`` is the edge of the first one where it is no step of its own."""
    if not steps:
        yield walk
        return
    step, rest = steps[0], steps[1:]
    if isinstance(step, PatternNode | Pattern):
        nodes = step.nodes if isinstance(step, Pattern) else (step,)
        taken = tuple(_Taken(node, exclusive, k) for k, node in enumerate(nodes))
        yield from _chain(rest, replace(walk, nodes=(*walk.nodes, *taken)))
    elif step.negative:
        yield from _chain(rest, walk)
    else:
        for count in range(min(step.high, max(step.low, MAX_TIMES)), step.low - 1, -1):
            for longer in _times(step, count, walk):
                yield from _chain(rest, longer)


def _times(step: Step, count: int, walk: _Walk) -> Iterator[_Walk]:
    if count == 0:
        yield walk
        return
    for index, sequence in enumerate(step.alternatives):
        head = sequence[0]
        inner = (replace(head, exclusive=step.exclusive), *sequence[1:]) if isinstance(head, Step) else sequence
        chosen = replace(walk, choices=(*walk.choices, (step.span, index)))
        for longer in _chain(inner, chosen, step.exclusive):
            if step.name is not None and len(longer.nodes) > len(walk.nodes):
                longer = replace(longer, nodes=(*longer.nodes[:-1], replace(longer.nodes[-1], name=step.name)))
            yield from _times(step, count - 1, longer)


# ---------------------------------------------------------------------------------------------- one form

_Spot = tuple[Spot, PatternNode, str | None]  # and what a step calls the tensor behind it


def _nodes(way: Pattern, walk: _Walk) -> list[_Spot]:
    """The nodes of a form with their arguments as numbers of spots."""
    found: list[_Spot] = [(Spot(n.ops, n.args, True, False, n.span), n, None) for n in way.nodes]
    for taken in walk.nodes:
        start = len(found) - taken.before
        args = taken.node.args or (Result(-1, taken.node.span),)
        placed = tuple(
            replace(a, node=start - 1 if a.node < 0 else start + a.node) if isinstance(a, Result) else a for a in args
        )
        found.append((Spot(taken.node.ops, placed, taken.exclusive, True, taken.node.span), taken.node, taken.name))
    return found


def _split(spots: list[_Spot]) -> Iterator[list[_Spot]]:
    """Operators of one node with conditions of their own make forms of their own."""
    for k, (spot, node, name) in enumerate(spots):
        if node.refined:
            refined = {op for op, _ in node.refined}
            for ops in (*(frozenset({op}) for op in sorted(refined)), spot.ops - refined):
                if ops:
                    conditions = (c for op, c in node.refined if op in ops)
                    alone = replace(node, ops=ops, conditions=(*node.conditions, *conditions), refined=())
                    yield from _split([*spots[:k], (replace(spot, ops=ops), alone, name), *spots[k + 1 :]])
            return
    yield spots


def _output(node: int, port: int = 0) -> str:
    return f"o{node}_{port}" if port else f"o{node}"


def _form(
    nodes: list[_Spot],
    result: str | None,
    walk: _Walk,
    requires: tuple[Require, ...],
    opsets: tuple[int, int],
    names: frozenset[str],
) -> Form:
    terms: dict[str, str] = {}
    same: list[tuple[str, str]] = []
    for k, (spot, node, name) in enumerate(nodes):
        for port, arg in enumerate(spot.args):
            here = f"i{k}_{port}"
            if isinstance(arg, Result):
                same.append((here, _output(arg.node, arg.output)))
            elif isinstance(arg, Capture) and arg.name != "_":
                if arg.name in terms:
                    same.append((here, terms[arg.name]))
                terms.setdefault(arg.name, here)
        terms |= {n: _output(k) for n in (node.name, name) if n is not None}
        terms |= {n: _output(k, port) for port, n in enumerate(node.others, 1)}
    if result is not None:
        terms[result] = _output(len(nodes) - 1)
    lookup = {**dict.fromkeys(names, ABSENT), **terms}
    conditions: list[Condition] = []
    for k, (spot, node, _) in enumerate(nodes):
        attributes = _attributes(spot.ops, opsets)
        for condition in node.conditions:
            expr = renamed(condition, lambda n, k=k, known=attributes: _attribute(n, k, known, lookup))
            conditions.append(Condition(expr, condition.span, False))
    for require in requires:
        expr = renamed(require.condition, lambda n: _term(n, lookup))
        conditions.append(Condition(expr, require.span, is_late(require)))
    return Form(tuple(s for s, _, _ in nodes), tuple(conditions), tuple(same), walk.choices, terms)


@lru_cache(maxsize=1024)
def _attributes(ops: frozenset[str], opsets: tuple[int, int]) -> frozenset[str]:
    found = (operators.operator(op, opsets) for op in ops)
    return frozenset(name for schema in found if schema is not None for name in schema.attributes)


def _attribute(name: Name, spot: int, known: frozenset[str], lookup: Mapping[str, str]) -> Expr:
    """Inside brackets a bare name is the node's attribute before it is a tensor."""
    if name.name in known or (not known and name.name not in lookup):
        return Field(Name(f"o{spot}", name.span), name.name, name.span)
    return _term(name, lookup)


def _term(name: Name, lookup: Mapping[str, str]) -> Name:
    term = lookup.get(name.name)
    return name if term is None else Name(term, name.span)


def renamed(expr: Any, change: Callable[[Name], Expr]) -> Any:
    """The expression with every name changed; functions and fields are no names."""
    kind = type(expr)
    if kind is Name:
        return change(expr)
    if kind is tuple:
        items = tuple([renamed(part, change) for part in expr])
        return expr if all(map(operator.is_, items, expr)) else items
    names = _parts_of(kind)
    parts = [getattr(expr, name) for name in names]
    changed = [renamed(part, change) for part in parts]
    return expr if all(map(operator.is_, parts, changed)) else kind(*changed, expr.span)  # the span is always last


@lru_cache(maxsize=64)
def _parts_of(kind: type) -> tuple[str, ...]:
    """The fields of an expression that hold others, or words."""
    return tuple(f.name for f in fields(kind) if f.name != "span") if is_dataclass(kind) else ()


# ---------------------------------------------------------------------------------------------- two forms


@dataclass(frozen=True, slots=True)
class Placement:
    """Form ``b`` lies on form ``a``. ``spot``: spot of b -> spot of a; ``swapped``: spots of a whose two inputs b sees in
    the other order.
    """

    spot: Mapping[int, int]
    swapped: frozenset[int]

    def port(self, a_spot: int, port: int) -> int:
        """The port of a that b calls ``port``."""
        return 1 - port if a_spot in self.swapped and port < 2 else port

    def term(self, term: str) -> str:
        """A term of b as one of a."""
        if term[0] == "o":
            node, _, port = term[1:].partition("_")
            return _output(self.spot[int(node)], int(port or 0))
        spot, port = map(int, term[1:].split("_"))
        there = self.spot[spot]
        return f"i{there}_{self.port(there, port)}"


def placements(a: Form, b: Form, commutative: frozenset[str]) -> Iterator[Placement]:
    """All ways to lay b on a so that nodes share an operator, and every edge that both state is one edge.

    Matches cover the same nodes only if their last nodes are one: every node of a pattern leads to its last.
    """
    if len(a.spots) != len(b.spots):
        return
    last = len(a.spots) - 1
    for number, placement in enumerate(_placed(a, b, [(last, last)], {}, frozenset(), commutative)):
        if number >= MAX_PLACEMENTS:
            return
        if len(placement.spot) == len(b.spots):
            yield placement


def _placed(
    a: Form,
    b: Form,
    waiting: list[tuple[int, int]],
    spot: Mapping[int, int],
    swapped: frozenset[int],
    commutative: frozenset[str],
) -> Iterator[Placement]:
    if not waiting:
        yield Placement(spot, swapped)
        return
    (i, j), rest = waiting[0], waiting[1:]
    if j in spot or i in spot.values():
        if spot.get(j) == i:
            yield from _placed(a, b, rest, spot, swapped, commutative)
        return
    mine, theirs = a.spots[i], b.spots[j]
    ops = mine.ops & theirs.ops
    if not ops:
        return
    orders = [False]
    if ops & commutative and 2 in (len(mine.args), len(theirs.args)):
        orders.append(True)
    for swap in orders:
        now = swapped | {i} if swap else swapped
        placement = Placement({**spot, j: i}, now)
        more: list[tuple[int, int]] = []
        for port, arg in enumerate(theirs.args):
            other = mine.arg(placement.port(i, port))
            if isinstance(arg, Result) and isinstance(other, Result) and arg.output == other.output:
                more.append((other.node, arg.node))
        yield from _placed(a, b, [*rest, *more], placement.spot, now, commutative)
