"""Which constants are stored as integers: weights, derived biases, constant operands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from potc.graph.snapshot import Snapshot
from potc.language.program import Accumulator, Alternatives, Choice, Granularity, QType, QuantStatement
from potc.match.cover import Candidate
from potc.match.environment import MatchEnvironment, Scope, axis_of
from potc.match.match import Bound, is_true
from potc.quantize.plan import ConstantQuantizer, Correction, Lanes, Origin


class Unmet(Exception):
    """A kernel's wishes can't be met: it is given up, with the reason."""

    def __init__(self, candidate: Candidate, origin: Origin) -> None:
        super().__init__(origin.reason)
        self.candidate = candidate
        self.origin = origin


def constant_quantizers(
    taken: Iterable[Candidate], snapshot: Snapshot, scope: Scope, id_of: Mapping[int, int]
) -> tuple[tuple[ConstantQuantizer, ...], tuple[Correction, ...]]:
    """One per constant capture of every kernel; factors of derived scales come before what is derived from them.

    ``id_of``: quantizer id of each quantized activation. Raises Unmet where a format or a factor is missing.
    """
    found: list[ConstantQuantizer] = []
    corrections: list[Correction] = []
    for candidate in taken:
        index: dict[str, int] = {}
        for statement in sorted(candidate.rule.quants, key=lambda q: bool(q.derived)):
            binding = candidate.match.bindings.get(statement.target)
            for bound in binding if isinstance(binding, tuple) else (binding,):
                if bound is not None and snapshot.is_constant(bound.tensor):
                    made = _constant(candidate, statement, bound, snapshot, scope, id_of, index)
                    if made is not None:
                        index[statement.target] = len(found)
                        found.append(made)
            if statement.target in index and statement.derived:
                corrections.extend(_correction(candidate, statement, snapshot, scope, index, found))
    return tuple(found), tuple(corrections)


def _correction(
    candidate: Candidate,
    statement: QuantStatement,
    snapshot: Snapshot,
    scope: Scope,
    index: Mapping[str, int],
    found: list[ConstantQuantizer],
) -> Iterator[Correction]:
    """For a bias whose scale is derived from one weight and one activation, where std.rules names the axes of both."""
    weights = [n for n in statement.derived if n in index and found[index[n]].role == "weight"]
    others = [candidate.match.bindings.get(n) for n in statement.derived if n not in weights]
    weight = candidate.match.bindings.get(weights[0]) if len(weights) == 1 else None
    if len(others) != 1 or not isinstance(others[0], Bound) or not isinstance(weight, Bound):
        return
    activation = others[0]
    shape, weight_shape = snapshot.shapes[activation.tensor], snapshot.shapes[weight.tensor]
    if shape is None or weight_shape is None:
        return
    signatures = scope.signatures
    channel = axis_of(snapshot, signatures, activation.node, activation.port, "channel", len(shape))
    summed = axis_of(snapshot, signatures, weight.node, weight.port, "in", len(weight_shape))
    if channel is not None and summed is not None and len(shape) > 1:
        name = snapshot.tensors[activation.tensor]
        yield Correction(index[statement.target], index[weights[0]], name, len(shape), channel, summed)


def _constant(
    candidate: Candidate,
    statement: QuantStatement,
    bound: Bound,
    snapshot: Snapshot,
    scope: Scope,
    id_of: Mapping[int, int],
    index: Mapping[str, int],
) -> ConstantQuantizer | None:
    rule = candidate.rule
    environment = MatchEnvironment(snapshot, scope, candidate.match.bindings, None)
    allowed = choose_alternatives(statement.choice, environment).types
    if not allowed:
        return None
    place = statement.span.place
    name = snapshot.tensors[bound.tensor]
    if not snapshot.is_float(bound.tensor):
        raise Unmet(candidate, Origin(rule.qualified, place, f"`{name}` already holds {snapshot.dtypes[bound.tensor]}"))
    rank = len(snapshot.shapes[bound.tensor] or ())
    axes = {t: _axis(t, bound, snapshot, scope, rank) for t in allowed}
    types = tuple(t for t in allowed if t.granularity is Granularity.PER_TENSOR or axes[t] is not None)
    if not types:
        raise Unmet(
            candidate, Origin(rule.qualified, place, f"`{name}` has no axis `{allowed[0].axis}` for its scales")
        )
    signature = scope.signatures.get(snapshot.ops[bound.node])
    role = signature.inputs[bound.port].role if signature is not None and bound.port < len(signature.inputs) else "act"
    origin = Origin(
        rule.qualified, place, f"`{statement.target}` of the kernel at {snapshot.names[candidate.match.nodes[0]]}"
    )
    return ConstantQuantizer(
        tensor=name,
        node=snapshot.names[bound.node],
        port=bound.port,
        types=types,
        axis=axes[types[0]],
        role=role,
        factors=_factors(candidate, statement, id_of, index),
        lanes=_all_lanes(rule.accumulators, bound, snapshot, scope, rank) if role == "weight" else (),
        origins=(origin,),
    )


def choose_alternatives(choice: Choice, environment: MatchEnvironment) -> Alternatives:
    """The first alternatives whose ``when`` is true; no types at all where none is."""
    current: Choice | None = choice
    while current is not None:
        if current.condition is None or is_true(current.condition, environment):
            return current.alternatives
        current = current.otherwise
    return Alternatives((), True, choice.alternatives.span)


def _axis(qtype: QType, bound: Bound, snapshot: Snapshot, scope: Scope, rank: int) -> int | None:
    if qtype.granularity is Granularity.PER_TENSOR or qtype.axis is None:
        return None
    if isinstance(qtype.axis, int):
        return qtype.axis % rank if -rank <= qtype.axis < rank else None
    return axis_of(snapshot, scope.signatures, bound.node, bound.port, qtype.axis, rank)


def _factors(
    candidate: Candidate, statement: QuantStatement, id_of: Mapping[int, int], index: Mapping[str, int]
) -> tuple[tuple[str, int], ...]:
    factors: list[tuple[str, int]] = []
    for name in statement.derived:
        binding = candidate.match.bindings.get(name)
        if name in index:
            factors.append(("constant", index[name]))
        elif isinstance(binding, Bound) and binding.tensor in id_of:
            factors.append(("activation", id_of[binding.tensor]))
        else:
            reason = f"the scale of `{statement.target}` is derived from `{name}`, which is not quantized"
            raise Unmet(candidate, Origin(candidate.rule.qualified, statement.span.place, reason))
    return tuple(factors)


def _all_lanes(
    accumulators: tuple[Accumulator, ...], bound: Bound, snapshot: Snapshot, scope: Scope, rank: int
) -> tuple[Lanes, ...]:
    """In an order of their own: that of the ``accum`` statements in the file means nothing."""
    found = (_lanes(a, bound, snapshot, scope, rank) for a in accumulators)
    return tuple(sorted(found, key=lambda lanes: (lanes.storage, lanes.lanes, lanes.order)))


def _lanes(accumulator: Accumulator, bound: Bound, snapshot: Snapshot, scope: Scope, rank: int) -> Lanes:
    """Axis roles of an ``accum`` statement as axis numbers; ``kernel`` is every axis that has no role."""
    named = {
        role: axis
        for role, axis in (
            (r, axis_of(snapshot, scope.signatures, bound.node, bound.port, r, rank)) for r in ("in", "out")
        )
        if axis is not None
    }
    order: list[int] = []
    for role in accumulator.along:
        if role == "kernel":
            order.extend(axis for axis in range(rank) if axis not in named.values())
        elif role in named:
            order.append(named[role])
    return Lanes(accumulator.storage, accumulator.lanes, tuple(order))
