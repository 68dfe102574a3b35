"""Expressions of rules: compiled once into closures, evaluated many times, described for people when they fail.

Total: no loops, no recursion, no I/O. A value is a number, text, a tuple, a numpy array, or an object of the
environment (a tensor), which becomes numbers only where arithmetic asks for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from potc.diagnostics.source import Span
from potc.language import arithmetic
from potc.language.arithmetic import FUNCTIONS, ORDERS, SCALARS, Failed
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
    TypeName,
    Unary,
)
from potc.language.text import text

__all__ = [
    "Environment",
    "Evaluation",
    "ExpressionError",
    "UnknownValue",
    "compile_expression",
    "describe",
    "evaluate",
    "text",
]


class ExpressionError(Exception):
    """An expression has no value on this graph. ``span``: the part that has none, None where not known."""

    def __init__(self, message: str, span: Span | None) -> None:
        super().__init__(message)
        self.message = message
        self.span = span


class UnknownValue(ExpressionError):
    """An expression depends on what the model leaves open, such as a symbolic dimension. ``str`` is what is unknown."""

    def __init__(self, what: str, span: Span | None = None) -> None:
        super().__init__(what, span)
        self.what = what


class Environment(Protocol):
    """What names mean."""

    def lookup(self, name: str) -> object:
        """The object behind a name; None for an absent optional input. Raises KeyError for an unknown name."""
        ...

    def field(self, obj: object, name: str) -> object:
        """``obj.name``. Raises ExpressionError or UnknownValue."""
        ...

    def index(self, obj: object, index: object) -> object:
        """``obj[index]`` for objects of the environment; NotImplemented leaves it to the evaluator."""
        return NotImplemented

    def value(self, obj: object) -> object:
        """The numbers behind an object of the environment; anything else unchanged. Raises ExpressionError."""
        return obj

    def call(self, name: str, args: tuple[object, ...]) -> object:
        """A question about the graph; NotImplemented for a name that is none."""
        return NotImplemented


Evaluation = Callable[[Environment], object]


def evaluate(expr: Expr, env: Environment) -> object:
    """The value of an expression. Raises ExpressionError (UnknownValue is one) and nothing else."""
    return compile_expression(expr)(env)


def compile_expression(expr: Expr) -> Evaluation:
    """A closure for many evaluations. A comparison at the top gives a bool, or ExpressionError if it has many answers."""
    run = _compile(expr)
    if not isinstance(expr, Compare | In | Boolean) and not (isinstance(expr, Unary) and expr.op == "not"):
        return run
    span = expr.span

    def condition(env: Environment) -> object:
        result = run(env)
        return result if result is True or result is False else _truth(result, span)

    return condition


def _truth(value: object, span: Span) -> bool:
    try:
        return arithmetic.truth(value)
    except Failed as failed:
        raise ExpressionError(str(failed), span) from None


def _plain(value: Any, env: Environment) -> Any:
    """Numbers for arithmetic; lists become tuples."""
    if type(value) in SCALARS:
        return value
    value = env.value(value)
    return tuple(value) if isinstance(value, list) else value


def _compile(expr: Expr) -> Evaluation:
    return _COMPILERS[type(expr)](expr)


def _constant(expr: Number | Text | Truth) -> Evaluation:
    value = expr.value
    return lambda env: value


def _type_name(expr: TypeName) -> Evaluation:
    name = expr.name
    return lambda env: name


def _name(expr: Name) -> Evaluation:
    name, span = expr.name, expr.span

    def run(env: Environment) -> object:
        try:
            return env.lookup(name)
        except KeyError:
            raise ExpressionError(f"`{name}` means nothing here", span) from None

    return run


def _field(expr: Field) -> Evaluation:
    target, name = _compile(expr.target), expr.name
    return lambda env: env.field(target(env), name)


def _index(expr: Index) -> Evaluation:
    target, index, span = _compile(expr.target), _compile(expr.index), expr.span

    def run(env: Environment) -> object:
        obj, number = target(env), index(env)
        found = env.index(obj, number)
        if found is not NotImplemented:
            return found
        try:
            return arithmetic.element(_plain(obj, env), _plain(number, env))
        except Failed as failed:
            raise ExpressionError(str(failed), span) from None

    return run


def _call(expr: Call) -> Evaluation:
    name, span, args = expr.name, expr.span, tuple(_compile(a) for a in expr.args)
    builtin = name in FUNCTIONS

    def run(env: Environment) -> object:
        values = tuple(a(env) for a in args)
        if not builtin:
            found = env.call(name, values)
            if found is NotImplemented:
                raise ExpressionError(f"there is no function `{name}`", span)
            return found
        try:
            return arithmetic.call(name, tuple(_plain(v, env) for v in values))
        except Failed as failed:
            gone = (a.name for a, v in zip(expr.args, values, strict=True) if v is None and isinstance(a, Name))
            raise ExpressionError(_without(name, next(gone, "")) or str(failed), span) from None

    return run


def _without(function: str, operand: str) -> str:
    """Why a function has no result where an optional input is not there; "" if that is not the reason."""
    known = f"ask `absent({operand})` before, or take `opt({operand}, ...)`"
    return operand and f"`{operand}` is absent here, and `{function}({operand})` needs it: {known}"


def _unary(expr: Unary) -> Evaluation:
    operand, span = _compile(expr.operand), expr.span
    if expr.op == "not":
        return lambda env: not _truth(_plain(operand(env), env), span)

    def run(env: Environment) -> object:
        try:
            return arithmetic.negate(_plain(operand(env), env))
        except Failed as failed:
            raise ExpressionError(str(failed), span) from None

    return run


def _binary(expr: Binary) -> Evaluation:
    left, right, span, function = _compile(expr.left), _compile(expr.right), expr.span, arithmetic.BINARY[expr.op]

    def run(env: Environment) -> object:
        try:
            return function(_plain(left(env), env), _plain(right(env), env))
        except Failed as failed:
            raise ExpressionError(str(failed), span) from None

    return run


def _compare(expr: Compare) -> Evaluation:
    left, right, span, op = _compile(expr.left), _compile(expr.right), expr.span, expr.op
    quick = ORDERS[op]

    def run(env: Environment) -> object:
        a, b = left(env), right(env)
        if type(a) is type(b) and type(a) in SCALARS:
            return quick(a, b)
        try:
            return arithmetic.compare(op, _plain(a, env), _plain(b, env))
        except Failed as failed:
            raise ExpressionError(str(failed), span) from None

    return run


def _contains(expr: In) -> Evaluation:
    item, span, members = _compile(expr.item), expr.span, expr.members
    parts: tuple[Evaluation, ...]
    if isinstance(members, Range):
        parts = (_compile(members.low), _compile(members.high))
    else:
        parts = tuple(_compile(m) for m in (members.items if isinstance(members, SetOf) else (members,)))

    def run(env: Environment) -> object:
        value = _plain(item(env), env)
        found = [_plain(p(env), env) for p in parts]
        try:
            if isinstance(members, Range):
                return arithmetic.truth(arithmetic.compare("<=", found[0], value)) and arithmetic.truth(
                    arithmetic.compare("<=", value, found[1])
                )
            if not isinstance(members, SetOf):
                found = list(found[0]) if isinstance(found[0], tuple) or arithmetic.is_array(found[0]) else found
            return any(arithmetic.truth(arithmetic.compare("==", value, f)) for f in found)
        except Failed as failed:
            raise ExpressionError(str(failed), span) from None

    return run


def _boolean(expr: Boolean) -> Evaluation:
    operands = tuple((_compile(o), o.span) for o in expr.operands)
    decisive = expr.op == "or"

    def run(env: Environment) -> object:
        for operand, span in operands:
            value = operand(env)
            if (value if value is True or value is False else _truth(_plain(value, env), span)) is decisive:
                return decisive
        return not decisive

    return run


_COMPILERS: dict[type, Callable[[Any], Evaluation]] = {
    Number: _constant,
    Text: _constant,
    Truth: _constant,
    TypeName: _type_name,
    Name: _name,
    Field: _field,
    Index: _index,
    Call: _call,
    Unary: _unary,
    Binary: _binary,
    Compare: _compare,
    In: _contains,
    Boolean: _boolean,
}


# ---------------------------------------------------------------------------------------------- descriptions


def describe(expr: Expr, env: Environment) -> str:
    """Why a condition does not hold: the first operand of an ``and`` that fails, and the values of its terms."""
    if isinstance(expr, Boolean) and expr.op == "and":
        for operand in expr.operands:
            try:
                if evaluate(operand, env) is not True:
                    return describe(operand, env)
            except ExpressionError:
                return describe(operand, env)
    values: dict[str, str] = {}
    _terms(expr, env, values)
    values.pop(text(expr), None)
    details = ", ".join(f"{name} = {value}" for name, value in values.items())
    return f"`{text(expr)}` is false{': ' if details else ''}{details}"


def _terms(expr: Expr | Range | SetOf, env: Environment, found: dict[str, str]) -> None:
    """Collects the largest parts that a reader would look up in the model, with their values."""
    if isinstance(expr, Name | Field | Index | Call):
        try:
            value = evaluate(expr, env)
            plain = _plain(value, env)
        except UnknownValue:
            found[text(expr)] = "unknown"
            return
        except ExpressionError:
            plain = NotImplemented
        shown = _shown(plain)
        if shown is not None:
            found[text(expr)] = shown
        elif isinstance(expr, Call):
            for arg in expr.args:
                _terms(arg, env, found)
        return
    for part in _parts(expr):
        _terms(part, env, found)


def _parts(expr: Expr | Range | SetOf) -> tuple[Expr | Range | SetOf, ...]:
    if isinstance(expr, Binary | Compare):
        return expr.left, expr.right
    if isinstance(expr, Unary):
        return (expr.operand,)
    if isinstance(expr, In):
        return expr.item, expr.members
    if isinstance(expr, Range):
        return expr.low, expr.high
    if isinstance(expr, SetOf):
        return expr.items
    return expr.operands if isinstance(expr, Boolean) else ()


def _shown(value: Any) -> str | None:
    """A value in few words; None for what has no short form."""
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        return value if value.isidentifier() else repr(value)
    if isinstance(value, tuple):
        return "(" + ", ".join(_shown(v) or "?" for v in value[:8]) + (", ..." if len(value) > 8 else "") + ")"
    if arithmetic.is_array(value):
        return _shown(value.reshape(-1)[0].item()) if value.size == 1 else f"{value.size} numbers"
    return None
