"""How one tensor of a quantized model is stored, and whether a rule allows that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from potc.language.lattice import Ranked, interchanged, listed, ranked, spell
from potc.language.program import Granularity, QType

CLOSE = 1e-5  # relative difference of two scales that one tool computed in two ways


@dataclass(frozen=True, eq=False, slots=True)
class Stored:
    """Integers that stand for real numbers: scale * (code - zero point).

    ``scale``: float64, a scalar array, [C] along ``axis``, or blocks of ``block`` along it. ``zero_point``: int64 of the same
    shape. ``codes``: of a constant, else None. ``place``: the node that says so.
    """

    storage: str
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int | None
    block: int
    codes: np.ndarray | None
    place: str

    @property
    def is_per_tensor(self) -> bool:
        return self.scale.size == 1

    def same_as(self, other: Stored) -> bool:
        """Equal storage and numbers; codes are not compared."""
        return (
            self.storage == other.storage
            and self.scale.size == other.scale.size
            and bool(np.allclose(self.scale.ravel(), other.scale.ravel(), rtol=CLOSE, atol=0))
            and bool(np.array_equal(self.zero_point.ravel(), other.zero_point.ravel()))
        )

    def words(self) -> str:
        """The format in the spelling of rules, as narrow as the numbers are."""
        zeros = np.unique(self.zero_point)
        if len(zeros) == 1 and zeros[0] == 0:
            zero = "sym"
        else:
            shown = ", ".join(map(str, zeros[:3])) + (", ..." if len(zeros) > 3 else "")
            zero = f"asym, zero point {shown}"
        where = "per_tensor" if self.is_per_tensor else f"per_channel({self.axis})"
        if self.block:
            where = f"per_block({self.axis}, {self.block})"
        return f"{self.storage} {where} {zero}"


def why_not_allowed(
    found: Stored, types: Sequence[QType], interchange: frozenset[str], axes: Mapping[QType, int | None]
) -> str:
    """Empty if one of the types allows it; else what is found and what is wanted. ``axes``: number of each type's axis."""
    candidates: Ranked = interchanged(ranked(tuple(types)), interchange)
    problems = [_problem(found, t, axes.get(t, axes.get(_origin(t, types), found.axis))) for t in listed(candidates)]
    if None in problems:
        return ""
    wanted = " | ".join(map(spell, types))
    nearest = min((p for p in problems if p is not None), default=(0, ""))[1]
    return f"stored as {found.words()}, allowed is {wanted}" + (f": {nearest}" if nearest else "")


def _origin(t: QType, types: Sequence[QType]) -> QType:
    """The listed type that a type of another storage was made from; its axis is the same."""
    return next((u for u in types if u.axis == t.axis and u.granularity is t.granularity), t)


def _problem(found: Stored, t: QType, axis: int | None) -> tuple[int, str] | None:
    """None, or how far off (smaller is nearer) and what does not fit."""
    if found.storage != t.storage:
        return 4, ""
    if not found.is_per_tensor:
        if t.granularity is Granularity.PER_TENSOR:
            return 3, f"{found.scale.size} scales where one is allowed"
        if found.axis != axis:
            return 3, f"scales along axis {found.axis}, not {axis}"
        if found.block and t.granularity is not Granularity.PER_BLOCK:
            return 3, f"blocks of {found.block}"
        if found.block and t.block and found.block % t.block:
            return 3, f"blocks of {found.block}, not {t.block}"
    zero = 0 if t.symmetric else t.zero_point
    if zero is not None and np.any(found.zero_point != zero):
        wrong = found.zero_point.ravel()[np.flatnonzero(found.zero_point.ravel() != zero)[0]]
        return 2, f"zero point {wrong}, not {zero}"
    if t.scale is not None and not np.allclose(found.scale, t.scale, rtol=CLOSE, atol=0):
        return 1, f"scale {float(found.scale.ravel()[0]):.6g}, not {t.scale:.6g}"
    if t.power_of_two and np.any(np.frexp(found.scale)[0] != 0.5):
        return 1, f"scale {float(found.scale.ravel()[0]):.6g} is no power of two"
    if found.codes is not None and found.codes.size:
        low, high = int(found.codes.min()), int(found.codes.max())
        if low < t.low or high > t.high:
            return 1, f"codes reach {low if low < t.low else high}, outside of {t.low} .. {t.high}"
    return None
