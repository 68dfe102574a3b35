"""Conditions, number formats and accumulators in plain English. Names of rule files stand between backquotes."""

from __future__ import annotations

from collections.abc import Iterable

from potc.language import syntax as s
from potc.language.lattice import spell
from potc.language.program import Accumulator, Granularity, QType
from potc.language.text import text

_FLOATS = {"f16": "float16", "f32": "float32", "f64": "float64", "bf16": "bfloat16"}
_COMPARISONS = {
    "==": "is",
    "!=": "is not",
    "<": "is below",
    "<=": "is at most",
    ">": "is above",
    ">=": "is at least",
}
_QUESTIONS = {
    "stored": ("is stored as integers", "is not stored as integers"),
    "absent": ("is absent", "is given"),
    "constant": ("is constant", "is not constant"),
    "graph_input": ("is an input of the model", "is no input of the model"),
    "graph_output": ("is an output of the model", "is no output of the model"),
}
_TENSOR = {"rank": "the rank", "size": "the number of elements", "dtype": "the type", "shape": "the shape"}


def code(value: str) -> str:
    """Marked as text of a rule file or model."""
    return f"`{value}`"


def listed(parts: Iterable[str], word: str = "and") -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *most, last = tuple(parts) or ("",)
    return f"{', '.join(most)} {word} {last}" if most else last


# ---------------------------------------------------------------------------------------------- conditions


def condition(expr: s.Expr) -> str:
    """A condition in words, where there are words for it, else as the rule file has it."""
    match expr:
        case s.Boolean(op, operands):
            inner = (f"({condition(o)})" if isinstance(o, s.Boolean) else condition(o) for o in operands)
            return f" {op} ".join(inner)
        case s.Compare("==", s.Binary("%", left, right), s.Number(0)):
            return f"{_value(left)} is a multiple of {_value(right)}"
        case s.Compare(op, left, right):
            return f"{_value(left)} {_COMPARISONS[op]} {_value(right)}"
        case s.In(item, s.Range(low, high)):
            return f"{_value(item)} is {_value(low)} to {_value(high)}"
        case s.In(item, s.SetOf(items)):
            return f"{_value(item)} is {listed(map(_value, items), 'or')}"
        case s.Call(name, (s.Name() as tensor,)) if name in _QUESTIONS:
            return f"{_value(tensor)} {_QUESTIONS[name][0]}"
        case s.Unary("not", s.Call(name, (s.Name() as tensor,))) if name in _QUESTIONS:
            return f"{_value(tensor)} {_QUESTIONS[name][1]}"
        case _:
            return code(text(expr))


def _value(expr: s.Expr) -> str:
    match expr:
        case s.Number() | s.Unary("-", s.Number()):
            return text(expr)
        case s.Text(word):
            return code(word) if word and "`" not in word else code(text(expr))
        case s.TypeName(name):
            return _FLOATS.get(name, name)
        case s.Call("users", (tensor,)):
            return f"the number of readers of {_value(tensor)}"
        case s.Index(s.Field(tensor, "shape"), index):
            return f"the size of axis {_value(index)} of {_value(tensor)}"
        case s.Field(s.Name() as tensor, name) if name in _TENSOR:
            return f"{_TENSOR[name]} of {_value(tensor)}"
        case _:
            return code(text(expr))


# ---------------------------------------------------------------------------------------------- number formats


def number_format(qtype: QType) -> str:
    """One format in words and numbers: storage, codes, zero point, how many scales."""
    sign = "float" if qtype.floating else "signed" if qtype.signed else "unsigned"
    span = "values" if qtype.floating else "codes"
    parts = [f"{qtype.bits}-bit {sign}, {span} {qtype.low:,} to {qtype.high:,}", _zero_point(qtype), granularity(qtype)]
    if qtype.shared_zero_point:
        parts.append("one zero point for all of them")
    if qtype.scale is not None:
        parts[-1] = f"scale fixed at {qtype.scale:g}"
    elif qtype.power_of_two:
        parts.append("scales are powers of two")
    return "; ".join(parts)


def _zero_point(qtype: QType) -> str:
    if qtype.zero_point is not None:
        return f"zero point {qtype.zero_point}"
    if not qtype.symmetric:
        return "any zero point"
    return "zero point 0" if qtype.low < 0 else "zero point 0, for values that are never negative"


def granularity(qtype: QType) -> str:
    """How many scales a tensor has."""
    axis = f"{qtype.axis} channel" if qtype.axis in ("out", "in") else _axis(qtype.axis)
    axis = {"out channel": "output channel", "in channel": "input channel"}.get(axis, axis)
    if qtype.granularity is Granularity.PER_TENSOR:
        return "one scale for the tensor"
    if qtype.granularity is Granularity.PER_CHANNEL:
        return f"one scale for each {axis}"
    return f"one scale for each {qtype.block} values along the {axis}s"


def _axis(axis: str | int | None) -> str:
    return "channel" if axis in (None, "channel") else f"position on axis {axis}"


def spelled(types: Iterable[QType], none: bool = False) -> str:
    """``u8 sym per_tensor`` or ..., as rule files write them, or float."""
    return " or ".join((*(code(spell(t)) for t in types), *(("float",) if none else ())))


def short(qtype: QType) -> str:
    """A format in a cell of a wide table: storage, sign of symmetry where it matters, granularity."""
    grain = {Granularity.PER_TENSOR: "", Granularity.PER_CHANNEL: "/channel", Granularity.PER_BLOCK: "/block"}
    return qtype.storage + grain[qtype.granularity]


# ---------------------------------------------------------------------------------------------- accumulators

_AXES = {"kernel": "kernel position", "in": "input channel", "out": "output channel"}


def accumulator(accum: Accumulator) -> str:
    """How products are added up."""
    bits = accum.storage[1:]
    sign = "signed" if accum.storage[0] == "i" else "unsigned"
    width = 1 << int(bits)
    low, high = (-width // 2, width // 2 - 1) if sign == "signed" else (0, width - 1)
    lanes = "Products are" if accum.lanes == 1 else f"{accum.lanes} neighbouring products at a time are"
    order = (
        f", in the order {listed((_AXES.get(a, a) for a in accum.along), 'then')} (slowest first)"
        if accum.along
        else ""
    )
    return f"{lanes} added in {bits} {sign} bits ({low:,} to {high:,}){order}."
