"""Between which ends the numbers of a tensor lie, whatever the samples: what std.rules says of the operators that make them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from potc.graph.snapshot import Snapshot
from potc.language.program import Signature


def ends_of(
    snapshot: Snapshot, signatures: Mapping[str, Signature], tensors: Iterable[str]
) -> tuple[float, float] | None:
    """The ends of all that these tensors can hold together; None where one of them is made by an operator that has none."""
    found: list[tuple[float, float]] = []
    for name in tensors:
        tensor = snapshot.tensor_ids[name]
        node = snapshot.producer[tensor]
        signature = signatures.get(snapshot.ops[node]) if node >= 0 else None
        place = snapshot.outputs[node].index(tensor) if node >= 0 else 0
        within = signature.outputs[place].within if signature is not None and place < len(signature.outputs) else None
        if within is None:
            return None
        found.append(within)
    return min(low for low, _ in found), max(high for _, high in found)
