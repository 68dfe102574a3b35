"""Number formats of POT and NNCF as number formats of rules."""

from __future__ import annotations

from collections.abc import Iterator

from potc.language.program import Granularity, QType, storage_limits
from potc.workbench.pot_json import NumberFormat


def qtypes(form: NumberFormat, role: str, axis: int | str | None) -> Iterator[QType]:
    """The formats that POT makes of an entry, by the tables of its documentation and code ("Hardware configs", levels).

    Symmetric activations without levels have no sign where no value has one, and a sign else; symmetric weights have one
    code less below zero than their bits hold.
    """
    several = form.per_channel and role == "weights"
    grain, along = (Granularity.PER_CHANNEL, axis) if several else (Granularity.PER_TENSOR, None)
    shared = form.shared_zero_point and several and not form.symmetric
    signed = storage_limits(f"i{form.bits}")

    def made(storage: str, limits: tuple[int, int], symmetric: bool) -> QType:
        return QType(storage, *limits, symmetric, grain, along, shared_zero_point=shared)

    if form.symmetric:
        if role != "weights" and form.levels is None:
            yield made(f"u{form.bits}", storage_limits(f"u{form.bits}"), True)
        limits = form.levels or signed
        narrow = form.narrow if form.narrow is not None else role == "weights" and form.levels is None
        yield made(f"i{form.bits}", (max(limits[0], signed[0] + 1) if narrow else limits[0], limits[1]), True)
    elif form.levels is not None and form.levels[0] < 0:
        yield made(f"i{form.bits}", form.levels, False)
    else:
        yield made(f"u{form.bits}", form.levels or storage_limits(f"u{form.bits}"), False)
