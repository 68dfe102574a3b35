"""Where stored values are met in the float model behind a quantized one, as one device looks at it."""

from __future__ import annotations

from dataclasses import dataclass

from potc.graph.snapshot import Snapshot
from potc.language.program import Program
from potc.legal.forms import Annotated
from potc.legal.stored import Stored
from potc.match.environment import Scope
from potc.match.found import Bound

Site = tuple[str, int, int]  # ("read" | "constant", node, port) or ("made", tensor, -1)


@dataclass(frozen=True, slots=True)
class Sites:
    """The notes of ``forms.Annotated`` by the numbers of a snapshot. ``scope``: a tensor is stored if the model says so."""

    snapshot: Snapshot
    program: Program
    scope: Scope
    made: dict[int, Stored]
    read: dict[tuple[int, int], Stored]
    constants: dict[tuple[int, int], Stored]
    names: dict[str, str]

    @staticmethod
    def of(annotated: Annotated, snapshot: Snapshot, program: Program) -> Sites:
        ids = snapshot.tensor_ids
        nodes = {name: n for n, name in enumerate(snapshot.names)}
        made = {ids[t]: s for t, s in annotated.made.items() if t in ids}
        read = {(nodes[n], p): s for (n, p), s in annotated.read.items() if n in nodes}
        constants = {(nodes[n], p): s for (n, p), s in annotated.constants.items() if n in nodes}
        scope = Scope.of(program, made.__contains__)
        return Sites(snapshot, program, scope, made, read, constants, dict(annotated.names))

    def of_bound(self, bound: Bound) -> Site:
        if bound.port < 0:
            return ("made", bound.tensor, -1)
        return ("constant" if self.snapshot.is_constant(bound.tensor) else "read", bound.node, bound.port)

    def at(self, site: Site) -> Stored | None:
        kind, first, port = site
        if kind == "made":
            return self.made.get(first)
        return (self.constants if kind == "constant" else self.read).get((first, port))

    def anyhow(self, tensor: int) -> Stored | None:
        """How a tensor is stored for anybody at all."""
        reads = (self.read[r] for r in self.snapshot.consumers[tensor] if r in self.read)
        return self.made.get(tensor) or next(reads, None)

    def all(self) -> list[Site]:
        """Stored values that need a reason: each constant, and each tensor, wherever it is read."""
        return [
            *(("constant", n, p) for n, p in sorted(self.constants)),
            *(("read", n, p) for n, p in sorted(self.read)),
        ]

    def name(self, tensor: int) -> str:
        """What people call a tensor."""
        name = self.snapshot.tensors[tensor]
        return self.names.get(name, name)

    def maker(self, tensor: int) -> str | None:
        """The name of the node that makes a tensor."""
        maker = self.snapshot.producer[tensor]
        return self.snapshot.names[maker] if maker >= 0 else None
