"""Laws of the meet of number formats."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from potc.language.lattice import meet, meet_lists
from potc.language.program import Granularity, QType


@st.composite
def qtypes(draw: st.DrawFn) -> QType:
    signed = draw(st.booleans())
    granularity = draw(st.sampled_from(Granularity))
    axis = None if granularity is Granularity.PER_TENSOR else draw(st.sampled_from(["out", "in", 1]))
    symmetric = draw(st.booleans())
    low = draw(st.sampled_from([-128, -127, -64])) if signed else 0
    high = draw(st.sampled_from([127, 63])) if signed else draw(st.sampled_from([255, 127]))
    return QType(
        storage="i8" if signed else "u8",
        low=low,
        high=high,
        symmetric=symmetric,
        granularity=granularity,
        axis=axis,
        block=32 if granularity is Granularity.PER_BLOCK else None,
        power_of_two=draw(st.booleans()),
        scale=draw(st.sampled_from([None, 0.5])),
        zero_point=draw(st.sampled_from([None, 0])) if symmetric else draw(st.sampled_from([None, 0, 128])),
    )


@given(qtypes())
def test_idempotent(a: QType) -> None:
    assert meet(a, a) == a


@given(qtypes(), qtypes())
def test_commutative(a: QType, b: QType) -> None:
    assert meet(a, b) == meet(b, a)


@settings(max_examples=1000)
@given(qtypes(), qtypes(), qtypes())
def test_associative(a: QType, b: QType, c: QType) -> None:
    left = meet(a, b)
    right = meet(b, c)
    assert (left and meet(left, c)) == (right and meet(a, right))


@given(qtypes(), qtypes())
def test_never_allows_what_one_forbids(a: QType, b: QType) -> None:
    both = meet(a, b)
    if both is not None:
        for one in (a, b):
            assert both.low >= one.low and both.high <= one.high
            assert both.symmetric or not one.symmetric
            assert one.scale is None or both.scale == one.scale
            assert one.zero_point is None or both.zero_point == one.zero_point


@given(st.lists(qtypes(), max_size=4), st.lists(qtypes(), max_size=4))
def test_lists_meet_commutes(a: list[QType], b: list[QType]) -> None:
    assert meet_lists(tuple(a), tuple(b)) == meet_lists(tuple(b), tuple(a))


@given(st.lists(qtypes(), min_size=1, max_size=4, unique=True))
def test_a_list_with_itself_keeps_its_first_choice(a: list[QType]) -> None:
    assert meet_lists(tuple(a), tuple(a))[0] == a[0]
