"""Equations solved for one unknown: what must change in a candidate for an expression to have a value."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from potc.language import arithmetic
from potc.language.expression import ExpressionError
from potc.language.program import Kind
from potc.language.scope import names_in, parts
from potc.language.syntax import (
    Binary,
    Call,
    Expr,
    Field,
    Index,
    Name,
    Number,
    Text,
    Truth,
    TypeName,
    Unary,
)
from potc.match.environment import AxisName, MatchEnvironment, TensorView, compiled
from potc.sketch.board import Assignment, Board, Check, Variable
from potc.sketch.infer import Values
from potc.sketch.variants import schema_of

Move = tuple[tuple[Variable, Any], ...]
HIGHEST_RANK = 8


class Assigner:
    """Moves for the expressions of one condition in one candidate."""

    def __init__(self, board: Board, candidate: Assignment, check: Check, environment: MatchEnvironment) -> None:
        self.board = board
        self.candidate = candidate
        self.node = check.node
        self.relation = check.relation
        self.environment = environment

    def value(self, expr: Expr) -> Any:
        """The value of an expression, NotImplemented where it has none."""
        try:
            value = compiled(expr)(self.environment)
            return self.environment.value(value)
        except ExpressionError:
            return NotImplemented

    def truth(self, expr: Expr) -> bool | None:
        value = self.value(expr)
        return value if isinstance(value, bool) else None

    def view(self, expr: Expr) -> TensorView | None:
        if not isinstance(expr, Name):
            return None
        try:
            found = self.environment.lookup(expr.name)
        except KeyError:
            return None
        if isinstance(found, tuple) and found and isinstance(found[0], TensorView):
            found = found[0]
        return found if isinstance(found, TensorView) else None

    def set(self, expr: Expr, value: Any, place: int | None = None) -> Iterator[Move]:
        """Moves after which an expression has a value. ``place``: it is enough that one element has it."""
        match expr:
            case Number() | Text() | Truth() | TypeName():
                return
            case Name():
                yield from self._name(expr, value, place)
            case Field(target, name):
                yield from self._field(target, name, value)
            case Index(target, index):
                yield from self._index(target, index, value)
            case Unary("-", operand):
                if is_number(value):
                    yield from self.set(operand, -value, place)
            case Binary(op, left, right):
                yield from self._binary(op, left, right, value, place)
            case Call(name, args):
                yield from self._call(name, args, value, place)
            case _:
                return

    def _name(self, expr: Name, value: Any, place: int | None) -> Iterator[Move]:
        if self.node is not None:
            kind = self._attribute_type(self.node, expr.name)
            if kind is not None:
                yield from self._attribute(self.node, expr.name, value, place)
                return
        view = self.view(expr)
        if view is None:
            return
        t = view.tensor
        external = self.board.frame.externals.get(t)
        if external is None or external.filled is not None or not is_number(value):
            return
        if external.kind is Kind.VALUE:
            return
        constant: Move = () if external.kind is Kind.CONST else ((("constant", t), True),)
        number = float(value)
        if place is None:
            yield (*constant, (("values", t), Values(number)))
        else:
            before = self.candidate.get(("values", t)) or Values(0.0)
            size = max(1, math.prod(self.candidate["shape", t]))
            for k in range(min(size, 8)):
                others = tuple(sorted((dict(before.others) | {k: number}).items()))
                yield (*constant, (("values", t), Values(before.fill, others)))

    def _elements_of(self, expr: Expr, value: Any, places: range) -> Iterator[Move]:
        """Some elements of a constant, the others as they are."""
        view = self.view(expr)
        external = self.board.frame.externals.get(view.tensor) if view is not None else None
        if view is None or external is None or external.kind is not Kind.CONST or not is_number(value):
            return
        before = self.candidate.get(("values", view.tensor)) or Values(0.0)
        others = dict(before.others) | dict.fromkeys(places, float(value))
        yield ((("values", view.tensor), Values(before.fill, tuple(sorted(others.items())))),)

    def _field(self, target: Expr, name: str, value: Any) -> Iterator[Move]:
        view = self.view(target)
        if view is None:
            return
        if name == "dtype":
            group = self.board.types.group[view.tensor]
            names = self.board.types.allowed[group]
            if value in names:
                yield ((("type", group), value),)
            return
        if name in ("rank", "size"):
            number = _whole(value)
            if number is not None:
                for t in self._sources(view.tensor):
                    shape = self.candidate["shape", t]
                    yield from _shaped(t, _ranked(shape, number) if name == "rank" else _sized(shape, number))
            return
        if name == "shape" and isinstance(value, tuple):
            for t in self._sources(view.tensor):
                yield from _shaped(t, [tuple(int(v) for v in value)])
            return
        maker = self.board.producer(view.tensor)
        if maker >= 0:
            yield from self._attribute(maker, name, value, None)

    def _index(self, target: Expr, index: Expr, value: Any) -> Iterator[Move]:
        number = _whole(value)
        if isinstance(target, Field) and target.name == "shape":
            view = self.view(target.target)
            if view is None or number is None:
                return
            axis = self._axis(view, index)
            if axis is None:
                return
            for t in self._sources(view.tensor):
                shape = self.candidate["shape", t]
                if -len(shape) <= axis < len(shape):
                    changed = list(shape)
                    changed[axis] = number
                    yield from _shaped(t, [tuple(changed)])
                elif 0 <= axis < HIGHEST_RANK:
                    for longer in _ranked(shape, axis + 1):
                        yield from _shaped(t, [(*longer[:-1], number)])
            return
        place = _whole(self.value(index))
        if place is not None:
            yield from self.set(target, value, place)

    def _axis(self, view: TensorView, index: Expr) -> int | None:
        if isinstance(index, Number):
            return _whole(index.value)
        try:
            found = compiled(index)(self.environment)
            number = view.axis(found.name) if isinstance(found, AxisName) else found
        except ExpressionError:
            return None
        return _whole(number)

    def _binary(self, op: str, left: Expr, right: Expr, value: Any, place: int | None) -> Iterator[Move]:
        a, b = self.value(left), self.value(right)
        if not is_number(value):
            return
        if is_number(b):
            for wanted in _left(op, b, value):
                yield from self.set(left, wanted, place)
        if is_number(a):
            for wanted in _right(op, a, value):
                yield from self.set(right, wanted, place)

    def _call(self, name: str, args: tuple[Expr, ...], value: Any, place: int | None) -> Iterator[Move]:
        if name == "len":
            yield from self._length(args[0], value)
        elif name == "users":
            view, count = self.view(args[0]), _whole(value)
            if view is not None and count is not None and count >= 0:
                readers = len(view.snapshot.consumers[view.tensor])
                more = self.candidate.get(("readers", view.tensor), 0) + count - readers
                if more >= 0:
                    yield ((("readers", view.tensor), more),)
        elif name == "slice":
            low = _whole(self.value(args[1]))
            high = _whole(self.value(args[2]))
            if low is not None and high is not None and low < high:
                if isinstance(args[0], Field) and args[0].name == "shape":
                    for k in range(low, high):
                        yield from self._index(args[0], Number(k, args[0].span), value)
                    return
                if place is None:
                    yield from self._elements_of(args[0], value, range(low, high))
                for k in range(low, high) if place is not None else (None,):
                    yield from self.set(args[0], value, k)
        elif name in ("abs", "min", "max", "sum", "floor", "ceil", "round", "opt", "reshape", "concat", "transpose"):
            for arg in args:
                yield from self.set(arg, value, place)
            if name == "abs" and is_number(value):
                yield from self.set(args[0], -value, place)
        elif name == "sqrt" and is_number(value):
            yield from self.set(args[0], value * value, place)
        elif name == "exp" and is_number(value) and value > 0:
            yield from self.set(args[0], math.log(value), place)

    def _length(self, arg: Expr, value: Any) -> Iterator[Move]:
        number = _whole(value)
        if number is None or number < 0:
            return
        view = self.view(arg)
        if view is not None:
            for t in self._sources(view.tensor):
                shape = self.candidate["shape", t] or (1,)
                yield from _shaped(t, [(number, *shape[1:])])
        elif isinstance(arg, Field) and arg.name == "shape":
            yield from self._field(arg.target, "rank", number)
        else:
            list_ = self.value(arg)
            if isinstance(list_, tuple):
                yield from self.set(arg, (list_ + (list_ or (1,))[-1:] * number)[:number])

    # ------------------------------------------------------------------------------------------ attributes

    def _attribute_type(self, node: int, name: str) -> str | None:
        schema = schema_of(self.board.frame.nodes[node].op, self.board.opset)
        if schema is None:
            return "ANY"
        return str(schema.attributes[name].type).rpartition(".")[2] if name in schema.attributes else None

    def _attribute(self, node: int, name: str, value: Any, place: int | None) -> Iterator[Move]:
        kind = self._attribute_type(node, name)
        if kind is None or value is None:
            return
        variable: Variable = ("attribute", node, name)
        if isinstance(value, np.generic):
            value = value.item()
        if kind in ("INTS", "FLOATS"):
            before = self.candidate.get(variable)
            if isinstance(value, tuple):
                yield ((variable, value),)
                return
            if not is_number(value):
                return
            number = value if kind == "FLOATS" else _whole(value)
            if number is None:
                return
            rank = self._spatial(node)
            for length in dict.fromkeys((len(before) if before else rank, rank, 2 * rank, 1)):
                filled = [number] * length
                if place is not None:
                    filled = (list(before) + [1] * length)[:length] if before else [1 if number != 1 else 2] * length
                    if not -length <= place < length:
                        continue
                    filled[place] = number
                yield ((variable, tuple(filled)),)
        elif kind == "INT":
            number = _whole(value)
            if number is not None:
                yield ((variable, number),)
        elif kind == "FLOAT":
            if is_number(value):
                yield ((variable, float(value)),)
        elif kind == "STRING":
            if isinstance(value, str):
                yield ((variable, value),)
        elif kind == "ANY" and isinstance(value, int | float | str | tuple):
            yield ((variable, value),)

    def _spatial(self, node: int) -> int:
        first = self.board.frame.nodes[node].inputs
        shape = self.candidate.get(("shape", first[0])) if first else None
        return max(1, len(shape) - 2) if shape else 2

    def _sources(self, tensor: int) -> list[int]:
        """The externals by which the shape of a tensor can be changed: itself, or all that it is computed from."""
        found: list[int] = []
        waiting, seen = [tensor], set[int]()
        while waiting:
            t = waiting.pop(0)
            if t in seen or t < 0:
                continue
            seen.add(t)
            if t in self.board.frame.externals:
                found.append(t)
            else:
                waiting.extend(self.board.frame.nodes[self.board.producer(t)].inputs)
        return found

    def tensors(self, expr: Expr) -> list[int]:
        """Externals that a condition depends on."""
        views = (self.view(name) for name in names_in(expr))
        return list(dict.fromkeys(t for v in views if v is not None for t in self._sources(v.tensor)))

    def attributes(self, expr: object) -> list[tuple[int, str]]:
        """(node, name) of the attributes that a condition asks for."""
        if isinstance(expr, Name) and self.node is not None:
            return [(self.node, expr.name)] if self._attribute_type(self.node, expr.name) not in (None, "ANY") else []
        if isinstance(expr, Field) and isinstance(expr.target, Name):
            view = self.view(expr.target)
            maker = self.board.producer(view.tensor) if view is not None else -1
            return [(maker, expr.name)] if maker >= 0 and self._attribute_type(maker, expr.name) else []
        return [found for part in parts(expr) for found in self.attributes(part)]


def _left(op: str, right: Any, value: Any) -> Iterator[Any]:
    """What the left operand must be."""
    if op == "+":
        yield value - right
    elif op == "-":
        yield value + right
    elif op == "*" and right:
        yield _exact(value / right)
    elif op == "/":
        yield _exact(value * right)
    elif op == "%":
        yield from (right * k + value for k in (1, 2, 0, 3, 4))


def _right(op: str, left: Any, value: Any) -> Iterator[Any]:
    """What the right operand must be."""
    if op == "+":
        yield value - left
    elif op == "-":
        yield left - value
    elif op == "*" and left:
        yield _exact(value / left)
    elif op == "/" and value:
        yield _exact(left / value)
    elif op == "%":
        yield from (d for d in (1, 2, 3, 4, 5, 8, left, left - value) if d > 0 and left % d == value)


def _exact(value: float) -> int | float:
    return int(value) if float(value).is_integer() else value


def is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _whole(value: Any) -> int | None:
    if isinstance(value, np.generic) or (arithmetic.is_array(value) and value.size == 1):
        value = np.asarray(value).reshape(()).item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _shaped(tensor: int, shapes: list[tuple[int, ...]]) -> Iterator[Move]:
    for shape in shapes:
        if len(shape) <= HIGHEST_RANK and all(0 < d <= 4096 for d in shape):
            yield ((("shape", tensor), shape),)


def _ranked(shape: tuple[int, ...], rank: int) -> list[tuple[int, ...]]:
    """Shapes of a rank that keep what they can of another."""
    if not 0 <= rank <= HIGHEST_RANK:
        return []
    if rank <= len(shape):
        return [shape[:rank], shape[len(shape) - rank :]] if rank else [()]
    fill = shape[-1] if shape else 1
    return [(*shape, *(fill,) * (rank - len(shape))), (*(1,) * (rank - len(shape)), *shape)]


def _sized(shape: tuple[int, ...], size: int) -> list[tuple[int, ...]]:
    """Shapes with so many elements: one axis has all of them."""
    if size < 1:
        return []
    if not shape:
        return [()] if size == 1 else [(size,)]
    found: list[tuple[int, ...]] = []
    for k in range(len(shape)):
        found.append(tuple(size if j == k else 1 for j in range(len(shape))))
        others = math.prod(shape) // shape[k]
        if others and size % others == 0:
            found.append(tuple(size // others if j == k else d for j, d in enumerate(shape)))
    return list(dict.fromkeys(found))
