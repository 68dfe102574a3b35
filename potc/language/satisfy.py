"""Can conditions hold together, and does one follow from others? Decided where terms meet constants or each other.

A condition that can't be computed counts as false, so terms of a condition that holds have values. ``satisfiable`` errs
towards yes, ``entails`` towards no.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from potc.language.domains import NEGATED, Clause, consistent, constant, inner_terms, term_of
from potc.language.expression import text
from potc.language.scope import parts
from potc.language.syntax import Binary, Boolean, Call, Compare, Expr, In, Name, Range, SetOf, Unary

ABSENT = "%absent"  # stands for a tensor that a pattern does not bind: what asks of it has no value
MAX_CLAUSES = 256

Facts = Mapping[str, bool]


def satisfiable(conditions: Iterable[Expr], facts: Facts | None = None) -> bool:
    """False only if no model makes all conditions true. ``facts``: the truth of some conditions, by text."""
    clauses: list[Clause] = [()]
    for condition in conditions:
        more = _clauses(condition, True, facts or {})
        if len(clauses) * len(more) > MAX_CLAUSES:
            clauses = [c for c in clauses if consistent(c)]
            if len(clauses) * len(more) > MAX_CLAUSES:
                continue  # says nothing instead of taking forever
        clauses = [(*a, *b) for a in clauses for b in more]
        if not clauses:
            return False
    return any(consistent(c) for c in clauses)


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
    split = next(
        (a for a in atoms if isinstance(a, Boolean) and not inner_terms(a).isdisjoint(inner_terms(wanted))), None
    )
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
        wanted = replace(inner, op=NEGATED[inner.op])
    term = term_of(wanted)
    if term is None:
        return False
    if any(_divides(wanted, a) for a in atoms):
        return True
    about = [a for a in atoms if term_of(a) == term]
    refuted = _clauses(wanted, False, facts)
    return bool(about) and not any(
        consistent((*about_clause, *r)) for r in refuted for about_clause in _all(about, facts)
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
        return replace(expr, op=NEGATED[expr.op])
    return Unary("not", expr, expr.span)


def _divides(wanted: Expr, known: Expr) -> bool:
    """``t % 4 == 0`` follows from ``t % 8 == 0``."""
    match wanted, known:
        case Compare("==", Binary("%", t, m), r), Compare("==", Binary("%", u, n), s) if text(t) == text(u):
            small, rest, large, left = map(constant, (m, r, n, s))
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
        return [(expr if positive else replace(expr, op=NEGATED[expr.op]),)]
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
    if isinstance(expr, Call) and expr.name in ("absent", "constant"):
        fact = facts.get(text(expr))
        if fact is not None:
            return fact
    if isinstance(expr, Call) and expr.name == "absent" and expr.args and isinstance(expr.args[0], Name):
        return True if expr.args[0].name == ABSENT else None
    value = constant(expr)
    return value if isinstance(value, bool) else None


def _mentions_absent(expr: object) -> bool:
    if isinstance(expr, Call) and expr.name == "opt" and expr.args and isinstance(expr.args[0], Name):
        return any(_mentions_absent(a) for a in expr.args[1:])
    if isinstance(expr, Name):
        return expr.name == ABSENT
    return any(_mentions_absent(p) for p in parts(expr))
