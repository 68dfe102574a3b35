"""Where a condition begins and ends to hold: what to pin so that a graph is at its limit, or one step beyond."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from potc.diagnostics.source import Span
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
    Unary,
)
from potc.language.text import text

LEAST = 1  # what dimensions, ranks and most attributes begin with: nothing below is tried unless the limit is there
_MIRROR = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


@dataclass(frozen=True, slots=True)
class Pin:
    """A condition that puts a graph at one place. ``words``: what it pins, for people; ``condition`` None: nothing to pin."""

    condition: Expr | None
    words: str


def inside(condition: Expr) -> tuple[Pin, ...]:
    """The nearest places on the allowed side: the ends of a range, each of a set, each operand of an ``or``."""
    return tuple(dict.fromkeys(_inside(condition)))


def beyond(condition: Expr) -> tuple[Pin, ...]:
    """One step outside, at each end that has a number; a single pin without a condition where there is none."""
    return tuple(dict.fromkeys(_beyond(condition))) or (Pin(None, "any other"),)


def _inside(condition: Expr) -> Iterator[Pin]:
    match condition:
        case Boolean("and", operands):
            for operand in operands:
                yield from _inside(operand)
        case Boolean("or", operands):
            for operand in operands:
                if _asks_what_is_known(operand):
                    continue
                pinned = [p for p in _inside(operand) if p.condition is not None]
                yield from (Pin(_both(operand, p.condition), p.words) for p in pinned if p.condition is not None)
                if not pinned:
                    yield Pin(operand, f"`{text(operand)}`")
        case Call("all" | "any" as name, (Compare() as inner,)):
            for pin in _inside(inner):
                if isinstance(pin.condition, Compare):
                    yield Pin(Call(name, (pin.condition,), condition.span), pin.words)
        case In(item, Range(low, high)):
            yield _equal(item, low)
            yield _equal(item, high)
        case In(item, SetOf(items)):
            yield from (_equal(item, member) for member in items)
        case Compare():
            found = _turned(condition)
            if found is not None:
                yield from _compare_inside(*found)
        case _:
            return


def _asks_what_is_known(condition: Expr) -> bool:
    """True for ``not known(x, 0)``: every dimension of a drawn graph is known."""
    return isinstance(condition, Unary) and isinstance(condition.operand, Call) and condition.operand.name == "known"


def _compare_inside(op: str, item: Expr, limit: Number) -> Iterator[Pin]:
    if op == "==":
        if isinstance(item, Binary) and item.op == "%" and isinstance(item.right, Number):
            yield _equal(item.left, _number(limit.value or item.right.value, limit.span))
        return
    step = {"<": -1, ">": 1, "<=": 0, ">=": 0}.get(op)
    if step is not None and (step == 0 or isinstance(limit.value, int)):
        yield _equal(item, _number(limit.value + step, limit.span))


def _beyond(condition: Expr) -> Iterator[Pin]:
    match condition:
        case Boolean("and", operands):
            for operand in operands:
                yield from _beyond(operand)
        case Boolean("or", operands):  # all of them must fail: one is one step off, and the others as may be
            yield from next((pins for o in operands if (pins := tuple(_beyond(o)))), ())
        case Call("all" | "any", (Compare() as inner,)):
            for pin in _beyond(inner):
                if isinstance(pin.condition, Compare):
                    yield Pin(Call("all", (pin.condition,), condition.span), pin.words)
        case In(item, Range(Number(low), Number(high))):
            yield from (_equal(item, _number(v, condition.span)) for v in (low - 1, high + 1) if v >= LEAST)
        case Compare():
            found = _turned(condition)
            if found is not None:
                yield from _compare_beyond(*found)
        case _:
            return


def _compare_beyond(op: str, item: Expr, limit: Number) -> Iterator[Pin]:
    value = limit.value
    if op == "==" and isinstance(item, Binary) and item.op == "%" and isinstance(item.right, Number):
        yield _equal(item.left, _number((value or item.right.value) + 1, limit.span))
        return
    if not isinstance(value, int):
        return
    steps: tuple[int, ...] = {"==": (1, -1), "<=": (1,), "<": (0,), ">=": (-1,), ">": (0,)}.get(op, ())
    found = [value + step for step in steps]
    yield from (_equal(item, _number(v, limit.span)) for v in found if v >= min(LEAST, value))


def _turned(condition: Compare) -> tuple[str, Expr, Number] | None:
    """A comparison with its number on the right."""
    if isinstance(condition.right, Number) and not isinstance(condition.left, Number):
        return condition.op, condition.left, condition.right
    if isinstance(condition.left, Number):
        return (_MIRROR[condition.op], condition.right, condition.left) if condition.op in _MIRROR else None
    negative = condition.right
    if isinstance(negative, Unary) and negative.op == "-" and isinstance(negative.operand, Number):
        return condition.op, condition.left, Number(-negative.operand.value, negative.span)
    return None


def _equal(item: Expr, value: Expr) -> Pin:
    pinned = Compare("==", item, value, item.span)
    return Pin(pinned, f"`{text(item)}` is {text(value)}")


def _number(value: float, span: Span) -> Number:
    return Number(value, span)


def _both(a: Expr, b: Expr) -> Expr:
    return Boolean("and", (a, b), a.span)


def of_shape(name: str, shape: tuple[int, ...], span: Span) -> Expr:
    """``x.rank == 2 and x.shape[0] == 1 and x.shape[1] == 4``."""
    tensor = Name(name, span)
    rank: Expr = Compare("==", Field(tensor, "rank", span), Number(len(shape), span), span)
    sizes: list[Expr] = [
        Compare("==", Index(Field(tensor, "shape", span), Number(axis, span), span), Number(size, span), span)
        for axis, size in enumerate(shape)
    ]
    return Boolean("and", (rank, *sizes), span) if sizes else rank
