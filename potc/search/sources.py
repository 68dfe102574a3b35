"""Where noise enters a plan, and which kernels must be given up so that it does not.

A source is a quantizer (a tensor, or several that share a scale, stored as integers) or the constants of one kernel. The
constants of a kernel are gone once the kernel runs in float. A tensor is stored for as long as somebody makes or reads it as
integers: the kernels that touch it must be given up together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from potc.evaluate.saturate import TOP, groups_at_risk
from potc.evaluate.simulate import BYTE
from potc.graph.snapshot import Snapshot
from potc.quantize.params import Params
from potc.quantize.plan import Plan
from potc.search.variant import is_raisable, tensor_key, weights_key


@dataclass(frozen=True, slots=True)
class NoiseSource:
    """``cure``: indices of the kernels to give up. ``quantizer``: its id, None for ``constants`` (indices into the plan).
    ``raisable``: the rules allow a more precise type; ``raised``: the keys that ``Variant.raised`` wants for it."""

    key: str
    cure: frozenset[int]
    quantizer: int | None
    constants: tuple[int, ...]
    raisable: bool
    raised: frozenset[str]


def kernels_of(plan: Plan) -> tuple[int, ...]:
    """Indices of the kernels that compute something: what merely passes values on follows its neighbours."""
    return tuple(i for i, k in enumerate(plan.kernels) if k.rule != f"{plan.device}.pass")


Touching = Mapping[str, tuple[str, ...]]  # by tensor, names of the nodes that make it and read it


def touching(snapshots: Iterable[Snapshot]) -> Touching:
    """Of all graphs of a model; names are unique in it."""
    found: dict[str, tuple[str, ...]] = {}
    for snapshot in snapshots:
        for tensor, name in enumerate(snapshot.tensors):
            maker = snapshot.producer[tensor]
            nodes = [n for n, _ in snapshot.consumers[tensor]] + ([maker] if maker >= 0 else [])
            found[name] = (*found.get(name, ()), *(snapshot.names[n] for n in nodes))
    return found


def noise_sources(plan: Plan, nodes: Touching) -> tuple[NoiseSource, ...]:
    """In plan order, those that giving up kernels can cure."""
    owner = {name: i for i in kernels_of(plan) for name in plan.kernels[i].nodes}
    found = (*_stored(plan, nodes, owner), *_constants(plan, owner))
    return tuple(source for source in found if source.cure)


def _stored(plan: Plan, nodes: Touching, owner: Mapping[str, int]) -> Iterator[NoiseSource]:
    for quantizer in plan.quantizers:
        mine = [i for i in plan.insertions if i.quantizer == quantizer.id]
        cure: set[int] = set()
        for insertion in mine:
            consumers = insertion.consumers
            names = nodes[insertion.tensor] if consumers is None else [name for name, _ in consumers]
            cure.update(owner[name] for name in names if name in owner)
        if mine:
            keys = frozenset(map(tensor_key, quantizer.tensors))
            raisable = is_raisable(quantizer.types)
            yield NoiseSource(tensor_key(mine[0].tensor), frozenset(cure), quantizer.id, (), raisable, keys)


def _constants(plan: Plan, owner: Mapping[str, int]) -> Iterator[NoiseSource]:
    by_kernel: dict[int, list[int]] = {}
    for index, constant in enumerate(plan.constants):
        if constant.node in owner:
            by_kernel.setdefault(owner[constant.node], []).append(index)
    for kernel, indices in by_kernel.items():
        free = [plan.constants[i] for i in indices if not plan.constants[i].factors]
        keys = frozenset(weights_key(c.node) for c in free)
        raisable = any(is_raisable(c.types) for c in free)
        first = plan.constants[indices[0]].node
        yield NoiseSource(weights_key(first), frozenset((kernel,)), None, tuple(indices), raisable, keys)


def _saturates(plan: Plan, params: Params, index: int) -> bool:
    codes = params.codes[index]
    lanes = [lane for lane in plan.constants[index].lanes if lane.lanes > 1 and codes.dtype in BYTE]
    return any(groups_at_risk(codes, None, lane, TOP).any() for lane in lanes)


def reading(snapshots: Iterable[Snapshot]) -> Mapping[str, frozenset[str]]:
    """By node, names of the tensors that it reads."""
    return {
        name: frozenset(s.tensors[t] for t in s.inputs[node] if t >= 0)
        for s in snapshots
        for node, name in enumerate(s.names)
    }


def only(
    plan: Plan, params: Params, source: NoiseSource, reads: Mapping[str, frozenset[str]] = MappingProxyType({})
) -> tuple[Plan, Params]:
    """The plan that stores nothing but one source: what its noise alone does is seen in that model.

    Constants whose sums can saturate come with what they are multiplied with, by ``reads``: only then do these saturate."""
    operands = frozenset[str]().union(
        *(reads[plan.constants[i].node] for i in source.constants if _saturates(plan, params, i))
    )
    insertions = tuple(i for i in plan.insertions if i.quantizer == source.quantizer or i.tensor in operands)
    constants = tuple(replace(plan.constants[i], factors=()) for i in source.constants)
    restricted = replace(plan, insertions=insertions, constants=constants, corrections=())
    kept = replace(
        params,
        constants=tuple(params.constants[i] for i in source.constants),
        codes=tuple(params.codes[i] for i in source.constants),
        constant_reasons=tuple(params.constant_reasons[i] for i in source.constants),
    )
    return restricted, kept
