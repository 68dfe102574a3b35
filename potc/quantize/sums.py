"""Sums of wide products, which an accumulator may not hold: calibration has to see how large they get."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from potc.graph.snapshot import Snapshot
from potc.language.program import QType
from potc.quantize.plan import Absent, ConstantQuantizer, Quantizer

NARROW = 16  # bits of a product of two 8-bit numbers: 32 bits hold 32,768 of those, whatever they are


def with_sums(
    snapshot: Snapshot,
    quantizers: Sequence[Quantizer],
    constants: tuple[ConstantQuantizer, ...],
    absent: tuple[Absent, ...],
) -> tuple[tuple[ConstantQuantizer, ...], tuple[Absent, ...]]:
    """The same, where biases of wide products name the tensor that the whole sum is."""
    bits = [bits_of(q.types) for q in quantizers]
    if not any(b > NARROW // 2 for b in bits):
        return constants, absent
    of_constants = [bits_of(c.types) for c in constants]
    nodes = {name: node for node, name in enumerate(snapshot.names)}

    def named(bias: ConstantQuantizer) -> ConstantQuantizer:
        product = sum(bits[i] if kind == "activation" else of_constants[i] for kind, i in bias.factors)
        if product <= NARROW:
            return bias
        return replace(bias, sums=snapshot.tensors[snapshot.outputs[nodes[bias.node]][0]])

    found = tuple(named(c) if c.factors else c for c in constants)
    return found, tuple(replace(a, constant=named(a.constant)) for a in absent)


def bits_of(types: Iterable[QType]) -> int:
    """Of the widest of these types."""
    return max((t.bits for t in types), default=0)
