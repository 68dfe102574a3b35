"""Expressions as hypothesis makes them: every node, canonical where the parser is."""

from __future__ import annotations

from hypothesis import strategies as st

from potc.diagnostics.source import Source, Span
from potc.language import syntax as s

NOWHERE = Span(Source("", ""), 0, 0)


def expressions() -> st.SearchStrategy[s.Expr]:
    names = st.sampled_from(["x", "w", "vnni", "group", "_k"])
    leaves = st.one_of(
        st.integers(0, 10**6).map(lambda v: s.Number(v, NOWHERE)),
        st.floats(0, 1e30, allow_nan=False).map(lambda v: s.Number(v, NOWHERE)),
        st.text().map(lambda v: s.Text(v, NOWHERE)),
        st.booleans().map(lambda v: s.Truth(v, NOWHERE)),
        st.sampled_from(["f32", "u8"]).map(lambda v: s.TypeName(v, NOWHERE)),
        names.map(lambda v: s.Name(v, NOWHERE)),
    )

    def grow(inner: st.SearchStrategy[s.Expr]) -> st.SearchStrategy[s.Expr]:
        several = st.lists(inner, min_size=1, max_size=3).map(tuple)
        members = st.one_of(
            inner,
            several.map(lambda i: s.SetOf(i, NOWHERE)),
            st.tuples(inner, inner).map(lambda p: s.Range(*p, NOWHERE)),
        )
        return st.one_of(
            st.tuples(inner, names).map(lambda p: s.Field(*p, NOWHERE)),
            st.tuples(inner, inner).map(lambda p: s.Index(*p, NOWHERE)),
            st.tuples(names, several).map(lambda p: s.Call(*p, NOWHERE)),
            st.tuples(st.sampled_from(["-", "not"]), inner).map(lambda p: s.Unary(*p, NOWHERE)),
            st.tuples(st.sampled_from("+-*/%"), inner, inner).map(lambda p: s.Binary(*p, NOWHERE)),
            st.tuples(st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), inner, inner).map(
                lambda p: s.Compare(*p, NOWHERE)
            ),
            st.tuples(inner, members).map(lambda p: s.In(*p, NOWHERE)),
            st.tuples(st.sampled_from(["and", "or"]), inner, inner).map(boolean),
        )

    return st.recursive(leaves, grow, max_leaves=12)


def boolean(parts: tuple[str, s.Expr, s.Expr]) -> s.Expr:
    op, *sides = parts
    flat: list[s.Expr] = []
    for side in sides:
        flat.extend(side.operands if isinstance(side, s.Boolean) and side.op == op else (side,))
    return s.Boolean(op, tuple(flat), NOWHERE)
