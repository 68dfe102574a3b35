"""Laws of the meet of number formats."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from potc.language.lattice import allows, interchanged, meet, meet_lists, meet_ranked, ranked
from potc.language.program import Granularity, QType


@st.composite
def qtypes(draw: st.DrawFn) -> QType:
    signed = draw(st.booleans())
    granularity = draw(st.sampled_from(Granularity))
    axis = None if granularity is Granularity.PER_TENSOR else draw(st.sampled_from(["out", "in", 1]))
    symmetric = draw(st.booleans())
    low = draw(st.sampled_from([-128, -127, -64])) if signed else 0
    high = draw(st.sampled_from([127, 63])) if signed else draw(st.sampled_from([255, 127]))
    zero_point = None if symmetric else draw(st.sampled_from([None, 5, low or high]))
    several = granularity is not Granularity.PER_TENSOR and not symmetric and zero_point is None
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
        zero_point=zero_point,
        shared_zero_point=several and draw(st.booleans()),
    )


def has_one_zero_point(t: QType) -> bool:
    return t.shared_zero_point or t.symmetric or t.zero_point is not None or t.granularity is Granularity.PER_TENSOR


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
            assert has_one_zero_point(both) or not has_one_zero_point(one)
            assert not (both.shared_zero_point and (both.symmetric or both.zero_point is not None))


LISTS = st.lists(qtypes(), max_size=4).map(tuple)


@given(LISTS, LISTS)
def test_lists_meet_commutes(a: tuple[QType, ...], b: tuple[QType, ...]) -> None:
    assert meet_ranked(ranked(a), ranked(b)) == meet_ranked(ranked(b), ranked(a))


@settings(max_examples=500)
@given(LISTS, LISTS, LISTS)
def test_lists_meet_associates(a: tuple[QType, ...], b: tuple[QType, ...], c: tuple[QType, ...]) -> None:
    x, y, z = ranked(a), ranked(b), ranked(c)
    assert meet_ranked(meet_ranked(x, y), z) == meet_ranked(x, meet_ranked(y, z))


@given(LISTS)
def test_lists_meet_is_idempotent(a: tuple[QType, ...]) -> None:
    assert meet_ranked(ranked(a), ranked(a)) == ranked(a)


@given(LISTS, LISTS)
def test_lists_meet_allows_only_what_both_allow(a: tuple[QType, ...], b: tuple[QType, ...]) -> None:
    for found in meet_lists(a, b):
        assert any(allows(t, found) for t in a)
        assert any(allows(t, found) for t in b)


@given(LISTS, qtypes())
def test_leaving_out_what_says_nothing_new_changes_no_place(a: tuple[QType, ...], t: QType) -> None:
    def place(entries: list[tuple[QType, int]]) -> int | None:
        return min((p for u, p in entries if allows(u, t)), default=None)

    assert place(list(ranked(a))) == place([(u, p) for p, u in enumerate(a)])


BOTH = frozenset({"i8", "u8"})


@given(LISTS)
def test_interchange_is_idempotent(a: tuple[QType, ...]) -> None:
    once = interchanged(ranked(a), BOTH)
    assert interchanged(once, BOTH) == once


@given(LISTS, LISTS)
def test_interchange_and_meet_commute(a: tuple[QType, ...], b: tuple[QType, ...]) -> None:
    x, y = interchanged(ranked(a), BOTH), interchanged(ranked(b), BOTH)
    assert interchanged(meet_ranked(x, y), BOTH) == meet_ranked(x, y)


def test_a_signed_type_is_an_unsigned_one_with_its_zero_point_moved() -> None:
    signed = QType("i8", -128, 127, symmetric=True)
    unsigned = QType("u8", 0, 255, symmetric=False, zero_point=128)
    assert set(interchanged(ranked((signed,)), BOTH)) == {(signed, 0), (unsigned, 0)}
    assert meet_ranked(interchanged(ranked((signed,)), BOTH), ranked((QType("u8", 0, 255, symmetric=False),))) == (
        (unsigned, 0),
    )
