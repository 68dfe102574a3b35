"""The lattice of number formats: what two rules that share a tensor both allow."""

from __future__ import annotations

from functools import lru_cache

from potc.language.program import Granularity, QType


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
    point is below a free one.
    """
    if a.storage != b.storage:
        return None
    low, high = max(a.low, b.low), min(a.high, b.high)
    symmetric = a.symmetric or b.symmetric
    granularity, axis, block = _granularity(a, b)
    scales = {t.scale for t in (a, b)} - {None}
    zero_points = {t.zero_point for t in (a, b)} - {None}
    if low >= high or len(scales) > 1 or len(zero_points) > 1 or (symmetric and zero_points - {0}):
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
    )


@lru_cache(maxsize=1024)
def meet_lists(a: tuple[QType, ...], b: tuple[QType, ...]) -> tuple[QType, ...]:
    """All formats that both lists allow, each ranked by its worst place in either list; ties in canonical order."""
    best: dict[QType, tuple[int, int]] = {}
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            both = meet(x, y)
            if both is not None:
                place = (max(i, j), i + j)
                best[both] = min(best.get(both, place), place)
    return tuple(sorted(best, key=lambda t: (best[t], spell(t))))


def spell(qtype: QType) -> str:
    """A format as rules write it: ``i8[-127..127] sym per_channel(out)``."""
    signed = qtype.storage[0] == "i"
    bits = qtype.bits
    full = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    words = [qtype.storage if (qtype.low, qtype.high) == full else f"{qtype.storage}[{qtype.low}..{qtype.high}]"]
    words.append("sym" if qtype.symmetric else "asym")
    if qtype.granularity is Granularity.PER_TENSOR:
        words.append("per_tensor")
    elif qtype.granularity is Granularity.PER_CHANNEL:
        words.append("per_channel" if qtype.axis is None else f"per_channel({qtype.axis})")
    else:
        words.append(f"per_block({qtype.axis}, {qtype.block})")
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
