"""Which tensors can't hold a negative number, whatever the samples: what std.rules says of the operators that make them."""

from __future__ import annotations

from collections.abc import Mapping

from potc.graph.snapshot import Snapshot
from potc.language.program import Signature

LIMITS = ("lowest", "highest")  # roles of inputs that cut off


def never_negative(snapshot: Snapshot, signatures: Mapping[str, Signature], tensor: int) -> bool:
    """True if the operator calls its result ``rectified``, or cuts it off at a constant that is not below 0. The upper limit
    counts as well: where it lies below the lower one, it is the result."""
    node = snapshot.producer[tensor]
    signature = signatures.get(snapshot.ops[node]) if node >= 0 else None
    if signature is None:
        return False
    made = snapshot.outputs[node].index(tensor)
    if made < len(signature.outputs) and signature.outputs[made].role == "rectified":
        return True
    limits = {
        port.role: held
        for port, held in zip(signature.inputs, snapshot.inputs[node], strict=False)
        if port.role in LIMITS and held >= 0
    }
    return LIMITS[0] in limits and all(
        snapshot.is_constant(held) and bool((snapshot.value(held) >= 0).all()) for held in limits.values()
    )
