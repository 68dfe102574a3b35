"""Canonical source text of expressions: one spelling, and only parentheses that are needed or help readers.

What was equal parses to the same tree.
"""

from __future__ import annotations

from decimal import Decimal

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

_OR, _AND, _NOT, _COMPARE, _SUM, _PRODUCT, _UNARY, _POSTFIX = range(8)
_BINARY = {"+": _SUM, "-": _SUM, "*": _PRODUCT, "/": _PRODUCT, "%": _PRODUCT}


def text(expr: Expr | Range | SetOf) -> str:
    """The expression as `potc fmt` writes it."""
    return _text(expr, _OR)


def quoted(value: str) -> str:
    """Text between double quotes, escaped."""
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t")):
        value = value.replace(plain, escaped)
    return f'"{value}"'


def number(value: float) -> str:
    """The shortest spelling; small numbers as powers of ten where that is shorter."""
    plain = repr(value)
    mantissa, _, exponent = f"{Decimal(plain).normalize():e}".partition("e")
    power = f"{mantissa}e{int(exponent)}"
    return power if 0 < abs(value) < 0.01 and (len(power) < len(plain) or "e" in plain) else plain


def operands(expr: Boolean) -> list[str]:
    """What `and` or `or` joins. `and` binds stronger than `or`, which readers should not have to know."""
    return [_text(o, _NOT) for o in expr.operands]


def _text(expr: Expr | Range | SetOf, level: int) -> str:
    written, own = _written(expr)
    return f"({written})" if own < level else written


def _written(expr: Expr | Range | SetOf) -> tuple[str, int]:
    """The text, and how strongly its outermost operator binds."""
    match expr:
        case Number(value):
            return number(value), _POSTFIX
        case Text(value):
            return quoted(value), _POSTFIX
        case Truth(value):
            return "true" if value else "false", _POSTFIX
        case TypeName(name) | Name(name):
            return name, _POSTFIX
        case Field(target, name):
            return f"{_text(target, _POSTFIX)}.{name}", _POSTFIX
        case Index(target, index):
            return f"{_text(target, _POSTFIX)}[{text(index)}]", _POSTFIX
        case Call(name, args):
            return f"{name}({', '.join(text(a) for a in args)})", _POSTFIX
        case Unary("-", operand):
            return f"-{_text(operand, _UNARY)}", _UNARY
        case Unary(_, operand):
            return f"not {_text(operand, _NOT)}", _NOT
        case Binary("/", Number(), Number()):  # a literal fraction
            return f"{text(expr.left)}/{text(expr.right)}", _PRODUCT
        case Binary(op, left, right):
            own = _BINARY[op]
            return f"{_text(left, own)} {op} {_text(right, own + 1)}", own
        case Compare(op, left, right):
            return f"{_text(left, _SUM)} {op} {_text(right, _SUM)}", _COMPARE
        case In(item, members):
            return f"{_text(item, _SUM)} in {_text(members, _SUM)}", _COMPARE
        case Range(low, high):
            return f"{_text(low, _SUM)} .. {_text(high, _SUM)}", _POSTFIX
        case SetOf(items):
            return f"{{{', '.join(text(i) for i in items)}}}", _POSTFIX
        case Boolean(op, _):
            return f" {op} ".join(operands(expr)), _OR if op == "or" else _AND
