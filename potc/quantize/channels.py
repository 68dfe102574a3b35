"""Along which axis the scales of a computed tensor lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from potc.graph.snapshot import Snapshot
from potc.language.lattice import Ranked
from potc.language.program import Granularity, QType, Signature
from potc.match.environment import axis_of
from potc.match.found import Bound


def one_scale(types: Ranked) -> Ranked:
    """The formats with one scale for the whole tensor: a format with a scale for each channel allows equal ones."""
    found: dict[QType, int] = {}
    for qtype, place in types:
        found.setdefault(replace(qtype, granularity=Granularity.PER_TENSOR, axis=None, block=None), place)
    return tuple(found.items())


def on_axes(types: Ranked, bound: Bound, snapshot: Snapshot, signatures: Mapping[str, Signature]) -> Ranked:
    """The formats with their axes as numbers from 0. Left out are those with blocks, and those whose axis the tensor does not
    have, or has in a length that the model does not state.
    """
    if all(t.granularity is Granularity.PER_TENSOR for t, _ in types):
        return types
    found: dict[QType, int] = {}
    for qtype, place in types:
        on_axis = _on_axis(qtype, bound, snapshot, signatures)
        if on_axis is not None:
            found.setdefault(on_axis, place)
    return tuple(found.items())


def _on_axis(qtype: QType, bound: Bound, snapshot: Snapshot, signatures: Mapping[str, Signature]) -> QType | None:
    shape = snapshot.shapes[bound.tensor]
    if qtype.granularity is Granularity.PER_TENSOR:
        return qtype
    if qtype.granularity is not Granularity.PER_CHANNEL or qtype.axis is None or shape is None:
        return None
    rank = len(shape)
    if isinstance(qtype.axis, int):
        axis = qtype.axis % rank if -rank <= qtype.axis < rank else None
    else:
        axis = axis_of(snapshot, signatures, bound.node, bound.port, qtype.axis, rank)
    if axis is None or not isinstance(shape[axis], int):
        return None
    return replace(qtype, axis=axis)
