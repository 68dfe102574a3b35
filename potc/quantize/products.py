"""Sums of wide products that no bias is part of: of a layer without one, of two computed tensors. An accumulator must hold them
as well."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from potc.match.found import Bound
from potc.match.joint import Joint
from potc.quantize.constants import Placed, Stored
from potc.quantize.plan import ConstantQuantizer, Product, Quantizer
from potc.quantize.sums import NARROW, bits_of

_Index = Mapping[tuple[int, int], int]  # input port -> index of the constant that it reads


def products(
    stored: Stored, quantizers: Sequence[Quantizer], constants: Sequence[ConstantQuantizer]
) -> tuple[Product, ...]:
    """In the order of the kernels. ``constants``: those of ``stored``; a weight whose sums a bias watches needs no more."""
    watched = {factor for c in constants for factor in c.factors if c.sums}
    found = _Products(stored.placed, [bits_of(q.types) for q in quantizers], [bits_of(c.types) for c in constants])
    made = (product for joint, index in stored.kernels for product in found.of(joint, index))
    return tuple(p for p in made if not watched.intersection(f for f in p.factors if f[0] == "constant"))


@dataclass(frozen=True, slots=True)
class _Products:
    """``activations``, ``constants``: the most bits that each may have."""

    placed: Placed
    activations: Sequence[int]
    constants: Sequence[int]

    def of(self, joint: Joint, index: _Index) -> Iterator[Product]:
        """Of the nodes that std.rules says to multiply an ``act`` by a ``weight``, whose kernel states what sums are held in."""
        snapshot = self.placed.snapshot
        rules = [m.candidate.rule for m in joint.members if m.candidate is not None]
        held = [int(a.storage[1:]) - 1 for rule in rules for a in rule.accumulators if a.lanes == 1]
        for node in joint.nodes if held else ():
            factors = tuple(self._factors(node, index))
            if len(factors) != 2 or self._bits(factors) <= NARROW:
                continue
            result = snapshot.outputs[node][0]
            rank = len(snapshot.shapes[result] or ())
            if self.placed.axis(Bound(result, node, -1), "channel", rank) is not None:
                yield Product(factors, snapshot.tensors[result], (1 << min(held)) - 1)

    def _factors(self, node: int, index: _Index) -> Iterator[tuple[str, int]]:
        snapshot = self.placed.snapshot
        signature = self.placed.signatures.get(snapshot.ops[node])
        for port, entry in enumerate(signature.inputs if signature is not None else ()):
            tensor = snapshot.inputs[node][port] if port < len(snapshot.inputs[node]) else -1
            if entry.role not in ("act", "weight") or tensor < 0:
                continue
            quantizer = self.placed.quantizer(Bound(tensor, node, port))
            if (node, port) in index:
                yield "constant", index[node, port]
            elif quantizer is not None and tensor not in snapshot.initializers:
                yield "activation", quantizer

    def _bits(self, factors: Sequence[tuple[str, int]]) -> int:
        return sum(self.activations[i] if kind == "activation" else self.constants[i] for kind, i in factors)
