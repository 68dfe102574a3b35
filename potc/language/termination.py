"""Do rewrites come to an end? Proved by counting nodes, and by what one rewrite's output can be matched by.

A count that no rewrite raises and some lower (all nodes, nodes of one operator, nodes that a left side begins with) ends those
that lower it; this is repeated for the others. What is left must not feed itself: no rewrite may match a node that it, or a
chain of others, has made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from potc.diagnostics.diagnostic import Diagnostic, Diagnostics, Related
from potc.language.precedence import Tensors, fill, is_possible, tensors_of
from potc.language.program import Arg, Capture, EmitNode, EmitValue, Kind, Literal, Result, Rewrite, Signature
from potc.language.satisfy import satisfiable
from potc.language.scope import parts
from potc.language.syntax import Compare, Expr, Field, Name, Number, Text
from potc.language.variants import Form, Spot, forms_of, nodes_of

Measure = frozenset[str] | None  # the operators that are counted, None: all nodes


@dataclass(frozen=True, slots=True)
class _Side:
    """A rewrite, ready to be counted. ``gone``: for each form the operators of the nodes that surely go."""

    rewrite: Rewrite
    forms: tuple[Form, ...]
    gone: tuple[tuple[frozenset[str], ...], ...]
    emitted: tuple[EmitNode, ...]

    def change(self, measure: Measure) -> int:
        """By how much the count grows at most."""
        made = sum(measure is None or e.op in measure for e in self.emitted)
        lost = [sum(measure is None or ops <= measure for ops in gone) for gone in self.gone]
        return made - min(lost, default=made)


def find_endless(
    rewrites: tuple[Rewrite, ...], signatures: Mapping[str, Signature], opsets: tuple[int, int], problems: Diagnostics
) -> None:
    """Tells ``endless-rewrite`` for each rewrite, or circle of rewrites, of which no end can be proved."""
    commutative = frozenset(op for op, s in signatures.items() if s.commutative)
    left = [_possible(s) for s in _lowered([_side(r, opsets) for r in rewrites])]
    left = _lowered(left)
    feeds: dict[str, dict[str, tuple[EmitNode, Spot]]] = {}
    for a in left:
        for b in left:
            link = None if a is b and a.rewrite.once else _feeds(a, b, commutative)
            if link is not None:
                feeds.setdefault(a.rewrite.name, {})[b.rewrite.name] = link
    by_name = {s.rewrite.name: s.rewrite for s in left}
    told: set[frozenset[str]] = set()
    for name in sorted(feeds):
        circle = _circle(name, feeds)
        if circle and frozenset(circle) not in told:
            told.add(frozenset(circle))
            _tell([by_name[n] for n in circle], feeds, problems)


def _side(rewrite: Rewrite, opsets: tuple[int, int]) -> _Side:
    forms = forms_of(rewrite.pattern, rewrite.requires, opsets).forms
    emitted = tuple(e for e in rewrite.emits if isinstance(e, EmitNode))
    return _Side(rewrite, forms, tuple(tuple(_gone(f, rewrite)) for f in forms), emitted)


def _possible(side: _Side) -> _Side:
    """Without the forms that no graph has."""
    kept = [(f, g) for f, g in zip(side.forms, side.gone, strict=True) if is_possible(f)]
    return replace(side, forms=tuple(f for f, _ in kept), gone=tuple(g for _, g in kept))


def _lowered(sides: list[_Side]) -> list[_Side]:
    """What no count shows to end."""
    operators = {op for s in sides for node in nodes_of(s.rewrite.pattern) for op in node.ops}
    measures: list[Measure] = [None, *(frozenset({op}) for op in sorted(operators))]
    measures += [node.ops for s in sides for node in nodes_of(s.rewrite.pattern) if len(node.ops) > 1]
    while sides:
        for measure in measures:
            changes = [s.change(measure) for s in sides]
            if max(changes) <= 0 and min(changes) < 0:
                sides = [s for s, change in zip(sides, changes, strict=True) if change == 0]
                break
        else:
            return sides
    return sides


def _gone(form: Form, rewrite: Rewrite) -> Iterator[frozenset[str]]:
    """Operators of the matched nodes that nobody reads afterwards."""
    used = {name for e in rewrite.emits for value in _values(e) for name in _tensors_in(value)}
    kept = {int(t[1:].partition("_")[0]) for n, t in form.terms.items() if n in used and t[0] == "o"}
    for spot in form.spots:
        if spot.chain and not spot.exclusive:
            kept |= {a.node for a in spot.args if isinstance(a, Result)}
    kept.discard(len(form.spots) - 1)  # its name is the result's, which is emitted anew
    for number in reversed(range(len(form.spots))):
        if number in kept:
            kept |= {a.node for a in form.spots[number].args if isinstance(a, Result)}
    return (spot.ops for number, spot in enumerate(form.spots) if number not in kept)


def _values(emit: EmitNode | EmitValue) -> tuple[Expr, ...]:
    return emit.args if isinstance(emit, EmitNode) else (emit.value,)


def _tensors_in(expr: object) -> Iterator[str]:
    """Names that an expression reads values of; ``c.pads`` reads an attribute only."""
    if isinstance(expr, Name):
        yield expr.name
    elif not isinstance(expr, Field):
        for part in parts(expr):
            yield from _tensors_in(part)


# ---------------------------------------------------------------------------------------------- who feeds whom


def _feeds(a: _Side, b: _Side, commutative: frozenset[str]) -> tuple[EmitNode, Spot] | None:
    """A node that ``a`` makes and ``b`` may match, if there is one."""
    for emit in a.emitted:
        for form in b.forms:
            for k, spot in enumerate(form.spots):
                if emit.op in spot.ops:
                    orders = [False, True] if emit.op in commutative and len(emit.args) == 2 else [False]
                    if any(_matches(a, emit, form, k, swap) for swap in orders):
                        return emit, spot
    return None


def _matches(a: _Side, emit: EmitNode, form: Form, k: int, swap: bool) -> bool:
    args = emit.args[::-1] if swap else emit.args
    found = tensors_of(form)
    fill(found, form)
    spot = form.spots[k]
    for port, wanted in enumerate(spot.args):
        given = _given(args[port], a) if port < len(args) else "absent"
        if not _fits(given, wanted, form, a):
            return False
        if given in ("const", "value", "absent"):
            _learn(found, found.find(f"i{k}_{port}"), given)
    if not found.consistent:
        return False
    conditions = [found.expr(c.expr) for c in form.conditions]
    for name, value in emit.attributes:
        if isinstance(value, Number | Text):
            term = Field(Name(f"o{k}", value.span), name, value.span)
            conditions.append(found.expr(Compare("==", term, value, value.span)))
    return satisfiable(conditions, found.facts())


def _learn(found: Tensors, term: str, given: str) -> None:
    if given == "absent":
        found.const.add(term)
        found.value.add(term)  # neither, so absent
    else:
        found.present.add(term)
        (found.const if given == "const" else found.value).add(term)


def _given(expr: Expr, a: _Side) -> str:
    """What an emitted argument is: "const", "value", the name of an emitted node, or "" where that is open."""
    if not isinstance(expr, Name):
        return "const"
    for emit in a.rewrite.emits:
        if emit.name == expr.name:
            return f"={emit.name}" if isinstance(emit, EmitNode) else _given(emit.value, a)
    for node in nodes_of(a.rewrite.pattern):
        for arg in node.args:
            if isinstance(arg, Capture) and arg.name == expr.name:
                known = {Kind.CONST: "const", Kind.VALUE: "value"}.get(arg.kind, "")
                return "" if arg.optional else known
        if expr.name in (node.name, *node.others):
            return "value"
    return ""


def _fits(given: str, wanted: Arg, form: Form, a: _Side) -> bool:
    if isinstance(wanted, Result):
        if given.startswith("="):
            made = next(e for e in a.emitted if e.name == given[1:])
            return made.op in form.spots[wanted.node].ops
        return given in ("", "value")
    if isinstance(wanted, Literal):
        return given in ("", "const")
    if given == "absent":
        return wanted.optional or wanted.variadic
    computed = given == "value" or given.startswith("=")
    return not (computed and wanted.kind is Kind.CONST) and not (given == "const" and wanted.kind is Kind.VALUE)


def _circle(start: str, feeds: Mapping[str, Mapping[str, object]]) -> list[str]:
    """The shortest way from a rewrite back to itself; empty if there is none."""
    ways = [[start]]
    seen: set[str] = set()
    while ways:
        way = ways.pop(0)
        for after in sorted(feeds.get(way[-1], {})):
            if after == start:
                return way
            if after not in seen:
                seen.add(after)
                ways.append([*way, after])
    return []


def _tell(
    circle: list[Rewrite], feeds: Mapping[str, Mapping[str, tuple[EmitNode, Spot]]], problems: Diagnostics
) -> None:
    first = circle[0]
    emit, spot = feeds[first.name][circle[1].name if len(circle) > 1 else first.name]
    if len(circle) == 1:
        message = f"`{first.name}` can match what it has made, and nothing shows that it ends"
        at, label = emit.span, "made here"
        related = [Related(spot.span, "and matched here again")]
        help_ = "state `once`, or exclude what it makes by a condition on attributes"
    else:
        names = [f"`{r.name}`" for r in circle]
        chain = ", ".join(f"{a} makes what {b} matches" for a, b in zip(names, names[1:] + names[:1], strict=True))
        message = f"rewrites feed one another in a circle: {chain}"
        at, label = first.span, f"feeds {names[1]}"
        related = [Related(r.span, "part of the circle") for r in circle[1:]]
        help_ = "remove one of them, or exclude what the other one makes by a condition on attributes"
    problems.add(Diagnostic("endless-rewrite", message, at=at, label=label, related=tuple(related), help=help_))
