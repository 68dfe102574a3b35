"""Evaluation: values, the three ways to have none, and the words for a failed condition."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from expression_trees import expressions
from hypothesis import given, settings

from potc.diagnostics.source import Source
from potc.language import syntax
from potc.language.expression import Environment, ExpressionError, UnknownValue, compile_expression, describe, evaluate
from potc.language.parse import parse


class Tensor:
    """A stand-in for the matcher's tensors: a shape with unknown dimensions, perhaps numbers."""

    def __init__(self, shape: tuple[int | None, ...], numbers: object = None) -> None:
        self.shape = shape
        self.numbers = numbers


class Facts(Environment):
    def __init__(self, names: Mapping[str, object]) -> None:
        self.names = names

    def lookup(self, name: str) -> object:
        return self.names[name]

    def field(self, obj: object, name: str) -> object:
        if isinstance(obj, Tensor) and name == "shape":
            return obj
        if isinstance(obj, Tensor) and name == "rank":
            return len(obj.shape)
        raise ExpressionError(f"no `{name}`", None)

    def index(self, obj: object, index: object) -> object:
        if isinstance(obj, Tensor) and isinstance(index, int):
            if not -len(obj.shape) <= index < len(obj.shape):
                raise ExpressionError(f"no [{index}]", None)
            size = obj.shape[index]
            if size is None:
                raise UnknownValue(f"x.shape[{index}]")
            return size
        return NotImplemented

    def value(self, obj: object) -> object:
        return obj.numbers if isinstance(obj, Tensor) else obj

    def call(self, name: str, args: tuple[object, ...]) -> object:
        if name == "absent":
            return args[0] is None
        if name == "opt":
            return args[1] if args[0] is None else args[0]
        return NotImplemented


FACTS = Facts(
    {
        "x": Tensor((1, 256, None)),
        "c": Tensor((2,), np.array([3.0, 4.0])),
        "pads": Tensor((4,), np.array([0, 0, 1, 1])),
        "b": None,
        "group": 1,
        "mode": "constant",
        "vnni": False,
        "list": (1, 2, 3),
    }
)


def expr(text: str) -> syntax.Expr:
    predicate = parse(Source("x", f"pred p() = {text}")).items[0]
    assert isinstance(predicate, syntax.Predicate)
    return predicate.body


VALUES = [
    ("1 + 2 * 3 - 4 / 2", 5.0),
    ("-7 % 4", 1),
    ("2 - 1 - 1", 0),
    ("not vnni and group == 1", True),
    ("vnni or x.shape[1] == 256", True),
    ("x.rank in 3 .. 5", True),
    ("x.rank in {1, 2}", False),
    ("2 in list", True),
    ("f32 == f32", True),
    ('mode == "constant"', True),
    ("x.shape[-2]", 256),
    ("list[-1] + list[0]", 4),
    ("list + list", (2, 4, 6)),
    ("list * 2", (2, 4, 6)),
    ("list == concat(1, 2, 3)", True),
    ("len(list) == 3", True),
    ("sum(list)", 6),
    ("max(list, 7)", 7),
    ("min(c)", 3.0),
    ("sqrt(16) + abs(-1)", 5.0),
    ("floor(1.5) + ceil(1.5) + round(2.4)", 5),
    ("exp(0) + log(1)", 1.0),
    ("zeros(2)", (0, 0)),
    ("all(pads >= 0)", True),
    ("any(pads == 2)", False),
    ("all(opt(b, 0) == 0)", True),
    ("all(slice(pads, 0, 2) == 0)", True),
    ("absent(b)", True),
    ("opt(b, 0) + 1", 1),
    ("b == 0", False),
    ("true", True),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_values(text: str, value: object) -> None:
    assert evaluate(expr(text), FACTS) == value


def test_arrays() -> None:
    assert evaluate(expr("c / sqrt(c * c + 0)"), FACTS).tolist() == [1.0, 1.0]  # type: ignore[attr-defined]
    assert evaluate(expr("reshape(c, 2, 1)"), FACTS).shape == (2, 1)  # type: ignore[attr-defined]
    assert evaluate(expr("transpose(reshape(c, 2, 1))"), FACTS).shape == (1, 2)  # type: ignore[attr-defined]
    assert evaluate(expr("concat(slice(pads, 2, 4), list)"), FACTS).tolist() == [1, 1, 1, 2, 3]  # type: ignore[attr-defined]


FAILURES = [
    ("1 / 0", "division by zero"),
    ("c / 0", "division by zero"),
    ("1 % 0", "division by zero"),
    ("list[3]", "[3] is outside of a list of 3"),
    ("list[1.5]", "whole number"),
    ("slice(list, 2, 9)", "outside of a list of 3"),
    ("sqrt(-1)", "no value"),
    ("log(0)", "no value"),
    ("exp(100000)", "no value"),
    ("b + 1", "something absent is no number"),
    ('mode + "x"', "text is no number"),
    ("mode < 3", "don't go together"),
    ("nothing", "means nothing"),
    ("nothing(1)", "no function `nothing`"),
    ("x.colour", "no `colour`"),
    ("c == 3", "all(...) or any(...)"),
    ("list < 3", "all(...) or any(...)"),
    ("not c", "all(...) or any(...)"),
    ("mode and true", "neither true nor false"),
    ("c + pads", "broadcast"),
    ("list + concat(1, 2)", "one side has 3 elements"),
    ("reshape(c, 3)", "reshape"),
    ("zeros(100000000000)", "out of bounds"),
    ("max(zeros(0))", "neither a smallest"),
    ("len(3)", "no length"),
    ("len(b)", "`b` is absent here, and `len(b)` needs it: ask `absent(b)` before, or take `opt(b, ...)`"),
    ("sqrt()", "argument"),
]


@pytest.mark.parametrize(("text", "message"), FAILURES)
def test_failures_have_reasons(text: str, message: str) -> None:
    with pytest.raises(ExpressionError) as failed:
        evaluate(expr(text), FACTS)
    assert message in str(failed.value)


def test_unknown_dimensions_are_named() -> None:
    with pytest.raises(UnknownValue) as unknown:
        evaluate(expr("x.shape[2] == 3"), FACTS)
    assert str(unknown.value) == unknown.value.what == "x.shape[2]"
    assert evaluate(expr("x.rank == 4 and x.shape[2] == 3"), FACTS) is False


DESCRIPTIONS = [
    ("group == x.shape[0] + 1", "`group == x.shape[0] + 1` is false: group = 1, x.shape[0] = 1"),
    ("group == 1 and x.shape[1] % 3 == 0", "`x.shape[1] % 3 == 0` is false: x.shape[1] = 256"),
    ('mode == "edge"', '`mode == "edge"` is false: mode = constant'),
    ("absent(c)", "`absent(c)` is false"),
    ("not absent(b)", "`not absent(b)` is false: absent(b) = true"),
    ("x.rank in {1, 2}", "`x.rank in {1, 2}` is false: x.rank = 3"),
    ("vnni", "`vnni` is false"),
    ("all(pads == 0)", "`all(pads == 0)` is false"),
    ("x.shape[2] == 3", "`x.shape[2] == 3` is false: x.shape[2] = unknown"),
]


@pytest.mark.parametrize(("text", "words"), DESCRIPTIONS)
def test_descriptions(text: str, words: str) -> None:
    assert describe(expr(text), FACTS) == words


@given(expressions())
@settings(max_examples=300, deadline=None)
def test_any_expression_has_a_value_or_a_reason(tree: syntax.Expr) -> None:
    environment = Facts(
        {"x": Tensor((1, None)), "w": (1, 2), "vnni": True, "group": 3, "_k": np.array([1.0, math.inf])}
    )
    for run in (compile_expression(tree), lambda e: describe(tree, e)):
        try:
            run(environment)
        except ExpressionError as error:
            assert str(error)
