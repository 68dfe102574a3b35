"""Can conditions hold together, and does one follow from others? Decided where terms meet constants or each other.

A term is what a condition asks of a model (``x.rank``, ``y.axis``, ``x.shape[1] % 4``); equal text is an equal term. A
condition that can't be computed counts as false, so terms of a condition that holds have values. ``satisfiable`` errs
towards yes, ``entails`` towards no.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from typing import Any

from potc.language.conditions import QUESTIONS
from potc.language.expression import Environment, ExpressionError, evaluate, text
from potc.language.scope import parts
from potc.language.syntax import (
    Binary,
    Boolean,
    Call,
    Compare,
    Expr,
    Field,
    In,
    Index,
    Name,
    Number,
    Range,
    SetOf,
    Text,
    Truth,
    Unary,
)

ABSENT = "%absent"  # stands for a tensor that a pattern does not bind: what asks of it has no value
MAX_CLAUSES = 256
_MIRROR = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "==": "==", "!=": "!="}
_NEGATED = {"<": ">=", ">=": "<", ">": "<=", "<=": ">", "==": "!=", "!=": "=="}
_ORDERS: Mapping[str, frozenset[str]] = {op: frozenset(op.replace("==", "=").replace("!=", "<>")) for op in _NEGATED}

Clause = tuple[Expr, ...]
Facts = Mapping[str, bool]


def satisfiable(conditions: Iterable[Expr], facts: Facts | None = None) -> bool:
    """False only if no model makes all conditions true. ``facts``: the truth of some conditions, by text."""
    clauses: list[Clause] = [()]
    for condition in conditions:
        more = _clauses(condition, True, facts or {})
        if len(clauses) * len(more) > MAX_CLAUSES:
            clauses = [c for c in clauses if _consistent(c)]
            if len(clauses) * len(more) > MAX_CLAUSES:
                continue  # says nothing instead of taking forever
        clauses = [(*a, *b) for a in clauses for b in more]
        if not clauses:
            return False
    return any(_consistent(c) for c in clauses)


def contradiction(conditions: tuple[Expr, ...], facts: Facts | None = None) -> tuple[int, ...]:
    """Indices of conditions that exclude each other, none of which can be left out; empty if all can hold together."""
    if satisfiable(conditions, facts):
        return ()
    kept = list(range(len(conditions)))
    for index in range(len(conditions)):
        fewer = [k for k in kept if k != index]
        if not satisfiable([conditions[k] for k in fewer], facts):
            kept = fewer
    return tuple(kept)


def entails(known: Iterable[Expr], wanted: Expr, facts: Facts | None = None) -> bool:
    """True only if ``wanted`` has a value and is true wherever everything ``known`` is."""
    atoms = [a for k in known for a in _conjuncts(k)]
    return all(_follows(atoms, w, facts or {}) for w in _conjuncts(wanted))


# ---------------------------------------------------------------------------------------------- logic


def _conjuncts(expr: Expr) -> tuple[Expr, ...]:
    if isinstance(expr, Boolean) and expr.op == "and":
        return tuple(c for o in expr.operands for c in _conjuncts(o))
    return (expr,)


def _follows(atoms: list[Expr], wanted: Expr, facts: Facts) -> bool:
    if _decided(wanted, facts) is True or any(text(a) == text(wanted) for a in atoms):
        return True
    split = next((a for a in atoms if isinstance(a, Boolean) and not _inner(a).isdisjoint(_inner(wanted))), None)
    if split is not None:  # an "or": the first operand that holds, those before it being false
        rest = [a for a in atoms if a is not split]
        cases = [(*map(negated, split.operands[:k]), o) for k, o in enumerate(split.operands)]
        return all(_follows([*rest, *(c for e in case for c in _conjuncts(e))], wanted, facts) for case in cases)
    if isinstance(wanted, Boolean):
        return _some_follows(atoms, wanted, facts)
    if isinstance(wanted, Unary) and wanted.op == "not":
        inner = wanted.operand
        if not isinstance(inner, Compare):
            return _decided(inner, facts) is False
        wanted = replace(inner, op=_NEGATED[inner.op])
    term = _term_of(wanted)
    if term is None:
        return False
    if any(_divides(wanted, a) for a in atoms):
        return True
    about = [a for a in atoms if _term_of(a) == term]
    refuted = _clauses(wanted, False, facts)
    return bool(about) and not any(
        _consistent((*about_clause, *r)) for r in refuted for about_clause in _all(about, facts)
    )


def _some_follows(atoms: list[Expr], wanted: Boolean, facts: Facts) -> bool:
    """An "or" is computed from the left: what comes before the operand that holds must have a value as well."""
    if wanted.op == "and":
        return all(_follows(atoms, o, facts) for o in wanted.operands)
    for operand in wanted.operands:
        if all(_follows(atoms, c, facts) for c in _conjuncts(operand)):
            return True
        if not _follows(atoms, negated(operand), facts):
            return False
    return False


def negated(expr: Expr) -> Expr:
    """The condition that holds where another one is false."""
    if isinstance(expr, Unary) and expr.op == "not":
        return expr.operand
    if isinstance(expr, Compare):
        return replace(expr, op=_NEGATED[expr.op])
    return Unary("not", expr, expr.span)


def _divides(wanted: Expr, known: Expr) -> bool:
    """``t % 4 == 0`` follows from ``t % 8 == 0``."""
    match wanted, known:
        case Compare("==", Binary("%", t, m), r), Compare("==", Binary("%", u, n), s) if text(t) == text(u):
            small, rest, large, left = map(_constant, (m, r, n, s))
            if isinstance(small, int) and isinstance(large, int) and isinstance(left, int) and small > 0 and large > 0:
                return large % small == 0 and left % small == rest
        case _:
            pass
    return False


def _all(conditions: list[Expr], facts: Facts) -> list[Clause]:
    clauses: list[Clause] = [()]
    for condition in conditions:
        clauses = [(*a, *b) for a in clauses for b in _clauses(condition, True, facts)]
        if len(clauses) > MAX_CLAUSES:
            return [()]
    return clauses


def _term_of(expr: Expr) -> str | None:
    """The one term (or pair of terms) that a comparison is about."""
    if isinstance(expr, In) and isinstance(expr.members, Range | SetOf):
        return text(expr.item) if all(_constant(m) is not None for m in parts(expr.members)) else None
    if isinstance(expr, Compare):
        left, right = _constant(expr.left), _constant(expr.right)
        if left is not None or right is not None:
            return text(expr.left if left is None else expr.right)
        return " ".join(sorted((text(expr.left), text(expr.right))))
    return None


def _clauses(expr: Expr, positive: bool, facts: Facts) -> list[Clause]:
    """Disjunctive normal form; each literal is an expression that must be true. [] is false, [()] says nothing."""
    if isinstance(expr, Unary) and expr.op == "not":
        return _clauses(expr.operand, not positive, facts)
    decided = _decided(expr, facts)
    if decided is not None:
        return [()] if decided is positive else []
    if isinstance(expr, Boolean):
        found = [_clauses(o, positive, facts) for o in expr.operands]
        if (expr.op == "or") is positive:
            joined = [c for clauses in found for c in clauses]
            return joined if len(joined) <= MAX_CLAUSES else [()]
        result: list[Clause] = [()]
        for clauses in found:
            if len(result) * len(clauses) <= MAX_CLAUSES:
                result = [(*a, *b) for a in result for b in clauses]
        return result
    if _mentions_absent(expr):
        return []
    if isinstance(expr, Compare):
        return [(expr if positive else replace(expr, op=_NEGATED[expr.op]),)]
    if isinstance(expr, In) and isinstance(expr.members, Range):
        low = Compare(">=", expr.item, expr.members.low, expr.span)
        high = Compare("<=", expr.item, expr.members.high, expr.span)
        return [(low, high)] if positive else [(replace(low, op="<"),), (replace(high, op=">"),)]
    if isinstance(expr, In) and isinstance(expr.members, SetOf):
        if positive:
            return [(Compare("==", expr.item, m, expr.span),) for m in expr.members.items]
        return [tuple(Compare("!=", expr.item, m, expr.span) for m in expr.members.items)]
    return [(expr if positive else Unary("not", expr, expr.span),)]


def _decided(expr: Expr, facts: Facts) -> bool | None:
    """The truth of a condition that depends on no model, or is a fact."""
    fact = facts.get(text(expr))
    if fact is not None:
        return fact
    if isinstance(expr, Call) and expr.name == "absent" and expr.args and isinstance(expr.args[0], Name):
        return True if expr.args[0].name == ABSENT else None
    value = _constant(expr)
    return value if isinstance(value, bool) else None


def _mentions_absent(expr: object) -> bool:
    if isinstance(expr, Call) and expr.name == "opt" and expr.args and isinstance(expr.args[0], Name):
        return any(_mentions_absent(a) for a in expr.args[1:])
    if isinstance(expr, Name):
        return expr.name == ABSENT
    return any(_mentions_absent(p) for p in parts(expr))


class _Nothing(Environment):
    """No names at all."""

    def lookup(self, name: str) -> object:
        raise KeyError(name)

    def field(self, obj: object, name: str) -> object:
        raise ExpressionError(f"`.{name}` means nothing here", None)


@lru_cache(maxsize=4096)
def _constant(expr: Any) -> object:
    """The value of an expression without names; None if it has none."""
    if isinstance(expr, Number | Text | Truth):
        return expr.value
    if _has_names(expr):
        return None
    try:
        return evaluate(expr, _Nothing())
    except ExpressionError:
        return None


def _has_names(expr: object) -> bool:
    if isinstance(expr, Name | Field | SetOf | Range) or (isinstance(expr, Call) and expr.name in QUESTIONS):
        return not isinstance(expr, SetOf | Range) or any(_has_names(p) for p in parts(expr))
    return any(_has_names(p) for p in parts(expr))


# ---------------------------------------------------------------------------------------------- terms


@dataclass(slots=True)
class _Domain:
    """What a term may be. ``whole``: a number that counts something."""

    whole: bool
    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    allowed: list[Any] | None = None
    excluded: list[Any] = field(default_factory=list)

    def add(self, op: str, value: Any) -> None:
        if op == "==":
            self.allowed = [value] if self.allowed is None else [v for v in self.allowed if _same(v, value)]
        elif op == "!=":
            self.excluded.append(value)
        elif isinstance(value, int | float):
            self._bound(op, value)

    def _bound(self, op: str, value: float) -> None:
        if self.whole and op == ">":
            op, value = ">=", math.floor(value) + 1
        if self.whole and op == "<":
            op, value = "<=", math.ceil(value) - 1
        is_open = op in "<>"
        if op[0] == ">" and (value, is_open) > (self.low, self.low_open):
            self.low, self.low_open = value, is_open
        if op[0] == "<" and (-value, is_open) > (-self.high, self.high_open):
            self.high, self.high_open = value, is_open

    @property
    def values(self) -> list[Any] | None:
        """All that is left where that can be listed."""
        listed = self.allowed
        if listed is None and self.whole and 0 <= self.high - self.low <= 64:
            listed = list(range(math.ceil(self.low), math.floor(self.high) + 1))
        if listed is None:
            return None
        return [v for v in listed if self._inside(v) and not any(_same(v, e) for e in self.excluded)]

    def _inside(self, value: Any) -> bool:
        if not isinstance(value, int | float):
            return self.low == -math.inf and self.high == math.inf
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below

    @property
    def empty(self) -> bool:
        values = self.values
        if values is not None:
            return not values
        return self.low > self.high or (self.low == self.high and (self.low_open or self.high_open))


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b if isinstance(a, str) or isinstance(b, str) else a == b


def _is_whole(term: Expr) -> bool:
    match term:
        case Field(_, "rank" | "size"):
            return True
        case Index(Field(_, "shape"), _):
            return True
        case Call("users" | "len", _):
            return True
        case Binary("%", left, right):
            return _is_whole(left) and isinstance(_constant(right), int)
        case _:
            return False


def _consistent(clause: Clause) -> bool:
    domains: dict[str, _Domain] = {}
    orders: dict[tuple[str, str], set[str]] = {}
    signs: dict[str, bool] = {}
    for literal in clause:
        if not isinstance(literal, Compare):
            inner, sign = (literal.operand, False) if isinstance(literal, Unary) else (literal, True)
            if signs.setdefault(text(inner), sign) is not sign:
                return False
            continue
        left, right = _constant(literal.left), _constant(literal.right)
        if left is not None and right is None:
            literal = Compare(_MIRROR[literal.op], literal.right, literal.left, literal.span)
            left, right = right, left
        if right is not None:
            term = text(literal.left)
            domain = domains.setdefault(term, _new_domain(literal.left))
            domain.add(literal.op, right)
        else:
            a, b = text(literal.left), text(literal.right)
            op = literal.op if a <= b else _MIRROR[literal.op]
            found = orders.setdefault((min(a, b), max(a, b)), {"<", "=", ">"} if a != b else {"="})
            found &= _ORDERS[op]
            if not found:
                return False
            if found == {"="}:
                _join(domains, literal)
    return not any(d.empty for d in domains.values()) and not _asks_the_absent(clause) and _agrees(clause, domains)


def _asks_the_absent(clause: Clause) -> bool:
    """A tensor that must be absent, of which another condition asks something that only a tensor has."""
    asked = (c.args[0] for c in clause if isinstance(c, Call) and c.name == "absent")
    gone: set[Expr] = {a for a in asked if isinstance(a, Name)}
    return bool(gone) and any(_reads(literal, gone) for literal in clause)


def _reads(expr: object, names: set[Expr]) -> bool:
    if isinstance(expr, Call) and expr.name in ("absent", "opt"):
        return any(_reads(a, names) for a in expr.args[1:])
    return expr in names if isinstance(expr, Name) else any(_reads(p, names) for p in parts(expr))


def _new_domain(term: Expr) -> _Domain:
    whole = _is_whole(term)
    return _Domain(whole, low=0.0 if whole else -math.inf)


def _join(domains: dict[str, _Domain], equal: Compare) -> None:
    """Two terms that are equal have one domain from here on."""
    a, b = text(equal.left), text(equal.right)
    one = domains.setdefault(a, _new_domain(equal.left))
    other = domains.get(b)
    if other is not None and other is not one:
        for op, bound, is_open in ((">", other.low, other.low_open), ("<", other.high, other.high_open)):
            if math.isfinite(bound):
                one.add(op if is_open else f"{op}=", bound)
        if other.allowed is not None:
            kept = other.allowed if one.allowed is None else [v for v in one.allowed if v in other.allowed]
            one.allowed = list(kept)
        one.excluded.extend(other.excluded)
    domains[b] = one


def _agrees(clause: Clause, domains: Mapping[str, _Domain]) -> bool:
    """Puts values for the terms that have only one left, and looks whether what can be computed then is true."""
    only = {t: v[0] for t, d in domains.items() if (v := d.values) is not None and len(v) == 1}
    if not only:
        return True
    for literal in clause:
        inside = _inner(literal) & only.keys()
        if inside and _constant(_with_values(literal, {term: only[term] for term in inside})) is False:
            return False
    return True


@lru_cache(maxsize=4096)
def _inner(expr: Expr) -> frozenset[str]:
    """Texts of all terms of a condition but the one that it compares with a constant: that has been looked at."""
    found: set[str] = set()
    waiting: list[object] = [expr]
    while waiting:
        part = waiting.pop()
        waiting.extend(parts(part))
        if isinstance(part, Field | Index | Call | Name | Binary):
            found.add(text(part))
    return frozenset(found - {_term_of(expr)})


def _with_values(expr: Any, only: Mapping[str, Any]) -> Any:
    if isinstance(expr, Field | Index | Call | Name | Binary):
        found = only.get(text(expr))
        if isinstance(found, bool):
            return Truth(found, expr.span)
        if isinstance(found, int | float):
            return Number(found, expr.span)
        if isinstance(found, str):
            return Text(found, expr.span)
    if not is_dataclass(expr) or isinstance(expr, type):
        return expr
    changes: dict[str, Any] = {}
    for f in fields(expr):
        part = getattr(expr, f.name)
        if isinstance(part, tuple):
            changes[f.name] = tuple(_with_values(p, only) for p in part)
        elif f.name != "span" and is_dataclass(part):
            changes[f.name] = _with_values(part, only)
    return replace(expr, **changes) if changes else expr
