"""The lattice of number formats: what two rules that share a tensor both allow."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, reduce

from potc.language.program import Granularity, QType, storage_limits


def _granularity(a: QType, b: QType) -> tuple[Granularity, str | int | None, int | None]:
    """The nearest common ancestor in the tree per_tensor > per_channel(axis) > per_block(axis, n)."""
    if (a.granularity, a.axis, a.block) == (b.granularity, b.axis, b.block):
        return a.granularity, a.axis, a.block
    if Granularity.PER_TENSOR in (a.granularity, b.granularity) or a.axis != b.axis:
        return Granularity.PER_TENSOR, None, None
    return Granularity.PER_CHANNEL, a.axis, None


def meet(a: QType, b: QType) -> QType | None:
    """The most expressive format that both allow; None if there is none.

    Commutative, associative and idempotent. Storage must agree; code ranges intersect; symmetric is below asymmetric,
    per-tensor below per-channel below per-block (scales along different axes meet in one per tensor); a fixed scale or zero
    point is below a free one, one zero point for all scales below several. It is exact: a quantizer is one of the result
    if and only if it is one of both.
    """
    if a.storage != b.storage:
        return None
    low, high = max(a.low, b.low), min(a.high, b.high)
    symmetric = a.symmetric or b.symmetric
    granularity, axis, block = _granularity(a, b)
    scales = {t.scale for t in (a, b) if t.scale is not None}
    zero_points = {t.zero_point for t in (a, b) if t.zero_point is not None}
    zeros = zero_points | ({0} if symmetric else set())
    if low >= high or len(scales) > 1 or len(zeros) > 1 or any(not low <= z <= high for z in zeros):
        return None
    return QType(
        storage=a.storage,
        low=low,
        high=high,
        symmetric=symmetric,
        granularity=granularity,
        axis=axis,
        block=block,
        power_of_two=a.power_of_two or b.power_of_two,
        scale=next(iter(scales), None),
        zero_point=next(iter(zero_points), None),
        shared_zero_point=(a.shared_zero_point or b.shared_zero_point)
        and not symmetric
        and granularity is not Granularity.PER_TENSOR
        and not zero_points,
    )


def allows(wide: QType, narrow: QType) -> bool:
    """True if every quantizer of the second format is one of the first as well."""
    return meet(wide, narrow) == narrow


# A list of formats says how fast each quantizer is: its place is that of the first entry that allows it. Two lists meet in
# the slower of both places, entry by entry; so the order of meeting never matters.
Ranked = tuple[tuple[QType, int], ...]


@lru_cache(maxsize=4096)
def ranked(types: tuple[QType, ...]) -> Ranked:
    """A list with its places, without entries that say nothing new."""
    return _essential({t: place for place, t in reversed(tuple(enumerate(types)))})


@lru_cache(maxsize=4096)
def meet_ranked(a: Ranked, b: Ranked) -> Ranked:
    """What both lists allow, each format at the worse of its two places. Commutative, associative and idempotent."""
    best: dict[QType, int] = {}
    for x, i in a:
        for y, j in b:
            both = meet(x, y)
            if both is not None:
                best[both] = min(best.get(both, max(i, j)), max(i, j))
    return _essential(best)


def _essential(best: dict[QType, int]) -> Ranked:
    """Sorted by place, then by spelling; a format that another one allows at no worse a place is left out."""
    kept = (
        (t, place)
        for t, place in best.items()
        if not any(u != t and other <= place and allows(u, t) for u, other in best.items())
    )
    return tuple(sorted(kept, key=lambda entry: (entry[1], spell(entry[0]))))


def interchanged(types: Ranked, storages: frozenset[str]) -> Ranked:
    """The list with the same values in other storages: where a loader may shift zero points, ``u8`` with zero point 128
    is ``i8`` with zero point 0. ``storages``: what a device's ``interchange`` names."""
    best = dict(types)
    for t, place in types:
        for twin in _twins(t, storages):
            best[twin] = min(best.get(twin, place), place)
    return _essential(best)


def _twins(t: QType, storages: frozenset[str]) -> tuple[QType, ...]:
    if t.storage not in storages:
        return ()
    other = ("u" if t.signed else "i") + t.storage[1:]
    if other not in storages:
        return ()
    shift = (1 << t.bits - 1) if t.signed else -(1 << t.bits - 1)
    zero = 0 if t.symmetric else t.zero_point
    moved = None if zero is None else zero + shift
    symmetric = moved == 0
    return (
        replace(
            t,
            storage=other,
            low=t.low + shift,
            high=t.high + shift,
            symmetric=symmetric,
            zero_point=None if symmetric else moved,
        ),
    )


def listed(types: Ranked) -> tuple[QType, ...]:
    """The formats alone, fastest first."""
    return tuple(t for t, _ in types)


def meet_lists(*lists: tuple[QType, ...]) -> tuple[QType, ...]:
    """All formats that all lists allow, each ranked by its worst place in any list; ties in canonical order."""
    first, *rest = map(ranked, lists)
    return listed(reduce(meet_ranked, rest, first))


def spell(qtype: QType) -> str:
    """A format as rules write it: ``i8[-127..127] sym per_channel(out)``."""
    full = storage_limits(qtype.storage)
    words = [qtype.storage if (qtype.low, qtype.high) == full else f"{qtype.storage}[{qtype.low}..{qtype.high}]"]
    words.append("sym" if qtype.symmetric else "asym")
    if qtype.granularity is Granularity.PER_TENSOR:
        words.append("per_tensor")
    elif qtype.granularity is Granularity.PER_CHANNEL:
        words.append("per_channel" if qtype.axis is None else f"per_channel({qtype.axis})")
    else:
        words.append(f"per_block({qtype.axis}, {qtype.block})")
    if qtype.shared_zero_point:
        words.append("shared_zero_point")
    if qtype.power_of_two:
        words.append("pow2")
    fixed = [
        f"{name} = {value:g}"
        for name, value in (("scale", qtype.scale), ("zero_point", qtype.zero_point))
        if value is not None
    ]
    if fixed:
        words.append(f"fixed({', '.join(fixed)})")
    return " ".join(words)
