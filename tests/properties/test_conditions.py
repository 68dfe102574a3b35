"""Laws of what is proved of conditions, against trying all values: no contradiction and no consequence is made up."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from potc.diagnostics.source import Source, Span
from potc.language.expression import Environment, ExpressionError, evaluate, text
from potc.language.satisfy import contradiction, entails, satisfiable
from potc.language.syntax import (
    Binary,
    Boolean,
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
    Unary,
)

AT = Span(Source("a", ""), 0, 0)
RANK = Field(Name("x", AT), "rank", AT)
SIZE = Index(Field(Name("x", AT), "shape", AT), Number(0, AT), AT)
ALPHA = Field(Name("y", AT), "alpha", AT)
MODE = Field(Name("y", AT), "mode", AT)
VALUES: dict[str, tuple[object, ...]] = {
    "x.rank": (None, 0, 1, 2, 3, 4, 5),
    "x.shape[0]": (None, 0, 1, 2, 3, 4, 6, 8),
    "y.alpha": (None, -1, 0, 0.5, 1, 2.5),
    "y.mode": (None, "a", "b", "c"),
}


class Model(Environment):
    """Values of terms; None: it has none, and asking is an error."""

    def __init__(self, values: dict[str, object]) -> None:
        self.values = values

    def lookup(self, name: str) -> object:
        return name

    def field(self, obj: object, name: str) -> object:
        return f"{obj}.shape" if name == "shape" else self._known(f"{obj}.{name}")

    def index(self, obj: object, index: object) -> object:
        return self._known(f"{obj}[{index}]")

    def _known(self, term: str) -> object:
        if self.values[term] is None:
            raise ExpressionError(f"{term} is unknown", None)
        return self.values[term]


def holds(expr: Expr, model: Model) -> bool:
    try:
        return evaluate(expr, model) is True
    except ExpressionError:
        return False


def models() -> Iterator[Model]:
    for values in product(*VALUES.values()):
        yield Model(dict(zip(VALUES, values, strict=True)))


MODELS = tuple(models())
numbers = st.sampled_from([RANK, SIZE, ALPHA])
constants = st.sampled_from([-1, 0, 0.5, 1, 2, 3, 4, 8]).map(lambda n: Number(n, AT))
orders = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
small = st.integers(0, 5).map(lambda n: Number(n, AT))
divided = st.builds(lambda m: Binary("%", SIZE, Number(m, AT), AT), st.sampled_from([2, 4]))
atoms = st.one_of(
    st.builds(lambda t, o, c: Compare(o, t, c, AT), st.one_of(numbers, divided), orders, constants),
    st.builds(lambda t, o, c: Compare(o, c, t, AT), numbers, orders, constants),
    st.builds(lambda a, o, b: Compare(o, a, b, AT), numbers, orders, numbers),
    st.builds(lambda t, a, b: In(t, Range(a, b, AT), AT), numbers, small, small),
    st.builds(lambda t, items: In(t, SetOf(tuple(items), AT), AT), numbers, st.lists(small, min_size=1, max_size=3)),
    st.builds(lambda o, m: Compare(o, MODE, Text(m, AT), AT), st.sampled_from(["==", "!="]), st.sampled_from("abc")),
    st.builds(lambda m: In(MODE, SetOf((Text(m, AT), Text("a", AT)), AT), AT), st.sampled_from("abc")),
)
conditions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.builds(lambda e: Unary("not", e, AT), inner),
        st.builds(
            lambda op, es: Boolean(op, tuple(es), AT),
            st.sampled_from(["and", "or"]),
            st.lists(inner, min_size=2, max_size=3),
        ),
    ),
    max_leaves=5,
)


@settings(max_examples=300)
@given(st.lists(conditions, min_size=1, max_size=4))
def test_what_excludes_itself_holds_nowhere(listed: list[Expr]) -> None:
    core = contradiction(tuple(listed))
    assert bool(core) is not satisfiable(listed)
    if core:
        told = [listed[k] for k in core]
        assert not any(all(holds(e, m) for e in told) for m in MODELS), [text(e) for e in told]
        for k in range(len(told)):
            assert satisfiable([*told[:k], *told[k + 1 :]])


@settings(max_examples=300)
@given(st.lists(conditions, min_size=1, max_size=3), conditions)
def test_what_follows_holds_wherever_the_rest_does(known: list[Expr], wanted: Expr) -> None:
    if entails(known, wanted):
        for model in MODELS:
            if all(holds(k, model) for k in known):
                assert holds(wanted, model), ([text(k) for k in known], text(wanted), model.values)


@given(conditions)
def test_a_condition_follows_from_itself(condition: Expr) -> None:
    assert entails([condition], condition)


def test_what_people_write_is_decided() -> None:
    """The two answers that a proof may give up on, where rules need them."""
    four, eight = (Compare("==", Binary("%", SIZE, Number(n, AT), AT), Number(0, AT), AT) for n in (4, 8))
    six = Compare("==", SIZE, Number(6, AT), AT)
    pictures = Compare("==", RANK, Number(4, AT), AT)
    some = In(RANK, Range(Number(3, AT), Number(5, AT), AT), AT)
    assert not satisfiable([four, six])
    assert entails([eight], four)
    assert not entails([four], eight)
    assert entails([pictures], some)
    assert not entails([some], pictures)
    either = Boolean("or", (pictures, eight), AT)
    assert entails([either], Boolean("or", (pictures, four), AT))
    assert not satisfiable([Compare("==", RANK, SIZE, AT), pictures, six])
    assert not satisfiable([Compare(">", RANK, Number(3, AT), AT), Compare("<", RANK, Number(4, AT), AT)])
