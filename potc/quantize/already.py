"""What somebody quantized before: it stays as it is, and is told."""

from __future__ import annotations

from collections.abc import Iterator

from potc.graph.snapshot import Snapshot


def quantized_already(snapshot: Snapshot) -> dict[int, str]:
    """Nodes that no rule may touch, with the reason: the model's own quantizers, and what reads constants that are stored
    behind a DequantizeLinear. Quantizing those again would round them twice."""
    own = [n for op in ("QuantizeLinear", "DequantizeLinear") for n in snapshot.by_op.get(op, ())]
    found = dict.fromkeys(own, "is a quantizer of the model itself, and stays as it is")
    for node, constant in _readers(snapshot):
        found.setdefault(node, f"is quantized already (`{constant}` is stored as integers), and stays as it is")
    return dict(sorted(found.items()))


def _readers(snapshot: Snapshot) -> Iterator[tuple[int, str]]:
    for node in snapshot.by_op.get("DequantizeLinear", ()):
        if snapshot.is_constant(snapshot.inputs[node][0]):
            for tensor in snapshot.outputs[node]:
                yield from (
                    (reader, snapshot.tensors[tensor]) for reader, port in snapshot.consumers[tensor] if port >= 0
                )
