"""Changes that may make a condition true or false, most promising first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from potc.language import arithmetic
from potc.language.syntax import (
    Boolean,
    Call,
    Compare,
    Expr,
    Field,
    In,
    Name,
    Range,
    SetOf,
    Unary,
)
from potc.match.environment import ShapeView
from potc.sketch.assign import Assigner, Move, is_number

NARROW = 1e-4  # relative; limits of a float attribute may lie so near to each other
_OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}
_MIRROR = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
STEPS = 8  # values of a range that are tried


class Proposer(Assigner):
    """Moves for one condition in one candidate."""

    def moves(self, condition: Expr, wanted: bool) -> Iterator[Move]:
        """Moves after which a condition is perhaps as wanted."""
        match condition:
            case Boolean(op, operands):
                # For "and" to be true, or "or" to be false, all operands must agree: those that do not yet are changed.
                for operand in operands:
                    if (op == "or") == wanted or self.truth(operand) is not wanted:
                        yield from self.moves(operand, wanted)
            case Unary("not", operand):
                yield from self.moves(operand, not wanted)
            case Compare(op, left, right):
                yield from self._compare(op if wanted else _OPPOSITE[op], left, right)
            case In(item, members):
                yield from self._contains(item, members, wanted)
            case Call("all" | "any" as name, (Compare(op, left, right),)):
                yield from self._elements(
                    op if wanted else _OPPOSITE[op], left, right, single=(name == "any") == wanted
                )
            case Call(name, (Name() as target,)):
                yield from self._question(name, target, wanted)
            case Name() | Field():
                yield from self.set(condition, wanted)
            case _:
                return

    def _compare(self, op: str, left: Expr, right: Expr) -> Iterator[Move]:
        for target, other, order in ((left, right, op), (right, left, _MIRROR[op])):
            value = self.value(other)
            if value is NotImplemented:
                continue
            for wanted in _satisfying(order, value):
                yield from self.set(target, wanted)

    def _contains(self, item: Expr, members: Any, wanted: bool) -> Iterator[Move]:
        if isinstance(members, Range):
            low, high = self.value(members.low), self.value(members.high)
            if not isinstance(low, int | float) or not isinstance(high, int | float):
                return
            if wanted:
                whole = isinstance(low, int) and isinstance(high, int)
                values: list[Any] = list(range(int(low), int(high) + 1)[:STEPS]) if whole else [low, (low + high) / 2]
                values.append(high)
            else:
                values = [high + 1, low - 1, high * 2]
        else:
            listed = members.items if isinstance(members, SetOf) else (members,)
            found = [self.value(m) for m in listed]
            values = found if wanted else [v for f in found for v in _satisfying("!=", f)]
        for value in values:
            if value is not NotImplemented:
                yield from self.set(item, value)

    def _elements(self, op: str, left: Expr, right: Expr, single: bool) -> Iterator[Move]:
        """``all`` and ``any`` of a comparison: every element, or at least one."""
        for target, other, order in ((left, right, op), (right, left, _MIRROR[op])):
            value = self.value(other)
            if value is NotImplemented:
                continue
            if isinstance(value, tuple) or arithmetic.is_array(value):
                flat = [float(v) for v in np.asarray(value).reshape(-1)]
                value = (max(flat) if order in (">", ">=") else min(flat)) if flat else 0
            for wanted in _satisfying(order, value):
                yield from self.set(target, wanted, place=0 if single else None)

    def _question(self, name: str, target: Name, wanted: bool) -> Iterator[Move]:
        view = self.view(target)
        if view is None:
            return
        t = view.tensor
        external = self.board.frame.externals.get(t)
        if name == "constant" and external is not None and not self.relation:
            yield ((("constant", t), wanted),)
        elif name == "graph_output" and external is None:
            yield ((("returned", t), wanted),)
        elif name == "graph_input" and external is not None:
            yield ((("made", t), not wanted), (("constant", t), False))


def _satisfying(op: str, value: Any) -> list[Any]:
    """Values that compare as wanted with one value; the nearest first."""
    if isinstance(value, np.generic):
        value = value.item()
    if arithmetic.is_array(value):
        value = value.reshape(-1)[0].item() if value.size == 1 else NotImplemented
    if isinstance(value, ShapeView) or value is NotImplemented or value is None:
        return []
    if isinstance(value, bool):
        return [value if op == "==" else not value]
    if isinstance(value, str | tuple):
        if op == "==":
            return [value]
        if isinstance(value, str):
            return [value] if op != "!=" else list(OTHER_TYPES.get(value, ()))
        return [(*value, 1), tuple(v + 1 for v in value)] if all(is_number(v) for v in value) else []
    near: list[Any] = [value] if op in ("==", "<=", ">=") else []
    step = 1 if isinstance(value, int) else max(abs(value) * 0.5, 1e-3)
    if op in ("!=", ">", ">="):
        near += [value + step, value + 2 * step, value * 2 if value > 0 else value + 4 * step]
        near += [value + abs(value) * NARROW] if isinstance(value, float) else []
    if op in ("!=", "<", "<="):
        near += [
            value - step,
            value / 2 if isinstance(value, float) else value // 2,
            -value if value > 0 else value - step,
        ]
        near += [value - abs(value) * NARROW] if isinstance(value, float) else []
    return near


_TYPES = ("f32", "f16", "f64", "i64", "i32", "i8", "u8", "bool")
OTHER_TYPES = {name: tuple(o for o in _TYPES if o != name) for name in _TYPES}
