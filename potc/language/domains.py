"""One alternative of a condition: comparisons that must all hold, and whether they can.

A term is what a condition asks of a model (``x.rank``, ``y.axis``, ``x.shape[1] % 4``); equal text is an equal term.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from typing import Any

from potc.language.conditions import QUESTIONS
from potc.language.expression import Environment, ExpressionError, evaluate, text
from potc.language.scope import parts
from potc.language.syntax import (
    Binary,
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

NEGATED = {"<": ">=", ">=": "<", ">": "<=", "<=": ">", "==": "!=", "!=": "=="}
_MIRROR = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "==": "==", "!=": "!="}
_ORDERS: Mapping[str, frozenset[str]] = {op: frozenset(op.replace("==", "=").replace("!=", "<>")) for op in NEGATED}

Clause = tuple[Expr, ...]


def term_of(expr: Expr) -> str | None:
    """The one term (or pair of terms) that a comparison is about."""
    if isinstance(expr, In) and isinstance(expr.members, Range | SetOf):
        return text(expr.item) if all(constant(m) is not None for m in parts(expr.members)) else None
    if isinstance(expr, Compare):
        left, right = constant(expr.left), constant(expr.right)
        if left is not None or right is not None:
            return text(expr.left if left is None else expr.right)
        return " ".join(sorted((text(expr.left), text(expr.right))))
    return None


class _Nothing(Environment):
    """No names at all."""

    def lookup(self, name: str) -> object:
        raise KeyError(name)

    def field(self, obj: object, name: str) -> object:
        raise ExpressionError(f"`.{name}` means nothing here", None)


@lru_cache(maxsize=4096)
def constant(expr: Any) -> object:
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
            return _is_whole(left) and isinstance(constant(right), int)
        case _:
            return False


def consistent(clause: Clause) -> bool:
    domains: dict[str, _Domain] = {}
    orders: dict[tuple[str, str], set[str]] = {}
    signs: dict[str, bool] = {}
    for literal in clause:
        if not isinstance(literal, Compare):
            inner, sign = (literal.operand, False) if isinstance(literal, Unary) else (literal, True)
            if signs.setdefault(text(inner), sign) is not sign:
                return False
            continue
        left, right = constant(literal.left), constant(literal.right)
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
        inside = inner_terms(literal) & only.keys()
        if inside and constant(_with_values(literal, {term: only[term] for term in inside})) is False:
            return False
    return True


@lru_cache(maxsize=4096)
def inner_terms(expr: Expr) -> frozenset[str]:
    """Texts of all terms of a condition but the one that it compares with a constant: that has been looked at."""
    found: set[str] = set()
    waiting: list[object] = [expr]
    while waiting:
        part = waiting.pop()
        waiting.extend(parts(part))
        if isinstance(part, Field | Index | Call | Name | Binary):
            found.add(text(part))
    return frozenset(found - {term_of(expr)})


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
