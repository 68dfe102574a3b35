"""Which constants are stored as integers: weights, derived biases, constant operands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce

from potc.graph.snapshot import Snapshot
from potc.language.lattice import Ranked, interchanged, listed, meet_ranked, ranked, spell
from potc.language.program import (
    Accumulator,
    Alternatives,
    Choice,
    Granularity,
    QType,
    QuantStatement,
    Rule,
    Signature,
)
from potc.match.cover import Candidate
from potc.match.environment import MatchEnvironment, Scope, axis_of
from potc.match.found import Bound
from potc.match.joint import Joint, Member
from potc.match.record import record
from potc.match.truth import is_true
from potc.quantize.plan import ConstantQuantizer, Lanes, Origin, Window

LEFT_OUT = -1  # in place of a tensor: the model leaves the input out

_Halves = tuple[tuple[QuantStatement, ...], tuple[QuantStatement, ...]]


class Unmet(Exception):
    """A kernel's wishes can't be met: it is given up, with the reason."""

    def __init__(self, joint: Joint, origin: Origin) -> None:
        super().__init__(origin.reason)
        self.joint = joint
        self.origin = origin


@dataclass(frozen=True, slots=True)
class Placed:
    """What is known while constants are placed. ``id_of``: quantizer id of each quantized activation; ``again``: of those
    readers that have one of their own."""

    snapshot: Snapshot
    scopes: Mapping[int, Scope]
    id_of: Mapping[int, int]
    again: Mapping[tuple[int, int], int]
    templates: dict[object, _Template | None] = field(default_factory=dict["object", "_Template | None"])
    channels: dict[object, int | None] = field(default_factory=dict["object", "int | None"])
    layouts: dict[object, Layout | None] = field(default_factory=dict["object", "Layout | None"])
    halves: dict[int, _Halves] = field(default_factory=dict[int, "_Halves"])

    @property
    def signatures(self) -> Mapping[str, Signature]:
        return next(iter(self.scopes.values())).signatures

    def split(self, rule: Rule) -> _Halves:
        """What a rule says of tensors with scales of their own, and of those whose scales are derived from others."""
        found = self.halves.get(id(rule))
        if found is None:
            plain = tuple(q for q in rule.quants if not q.derived)
            found = self.halves[id(rule)] = plain, tuple(q for q in rule.quants if q.derived)
        return found

    def axis(self, bound: Bound, role: str, rank: int) -> int | None:
        """The axis with a role, asked once for nodes of one operator with equal attributes."""
        snapshot, node = self.snapshot, bound.node
        key = (snapshot.ops[node], snapshot.attribute_keys[node], bound.port, role, rank)
        if key not in self.channels:
            self.channels[key] = axis_of(snapshot, self.signatures, node, bound.port, role, rank)
        return self.channels[key]

    def quantizer(self, bound: Bound) -> int | None:
        return self.again.get((bound.node, bound.port), self.id_of.get(bound.tensor))


@record
class Layout:
    """How a weight lies on what it multiplies: the same for all nodes of one operator with equal attributes and shapes. The
    fields are those of ``Correction``."""

    rank: int
    channel: int
    summed: int
    out: int
    window: Window | None
    lengths: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class _Template:
    """What a rule makes of a constant, but for which constant it is: the same for all nodes of one operator with equal
    attributes. ``rule`` and ``place``: who says so."""

    rule: str
    place: str
    types: tuple[QType, ...]
    order: Ranked
    axis: int | None
    axes: tuple[tuple[str | int, int], ...]
    role: str
    lanes: tuple[Lanes, ...]


@record
class Offer:
    """What one part would make of a constant. ``none``: float will do as well."""

    made: ConstantQuantizer
    types: Ranked
    none: bool


@dataclass(frozen=True, slots=True)
class Stored:
    """``constants`` of all kernels, and for each kernel which input port reads which of them."""

    placed: Placed
    constants: tuple[ConstantQuantizer, ...]
    kernels: tuple[tuple[Joint, Mapping[tuple[int, int], int]], ...]


def constant_quantizers(
    joints: Iterable[Joint],
    snapshot: Snapshot,
    scopes: Mapping[int, Scope],
    id_of: Mapping[int, int],
    again: Mapping[tuple[int, int], int],
) -> Stored:
    """One per constant capture of every kernel; factors of derived scales come before what is derived from them.

    ``scopes``: by id of the part's program. Raises Unmet where a format or a factor is missing, or parts don't agree.
    """
    placed = Placed(snapshot, scopes, id_of, again)
    found: list[ConstantQuantizer] = []
    taken: list[tuple[Joint, Mapping[tuple[int, int], int]]] = []
    for joint in joints:
        index: dict[tuple[int, int], int] = {}
        for half in (0, 1):
            for port, offers in _offers(joint, placed, half, index).items():
                made = agreed(joint, offers)
                if made is not None:
                    index[port] = len(found)
                    found.append(made)
        taken.append((joint, index))
    return Stored(placed, tuple(found), tuple(taken))


def _offers(
    joint: Joint,
    placed: Placed,
    half: int,
    index: Mapping[tuple[int, int], int],
) -> dict[tuple[int, int], list[Offer | None]]:
    """What each part would make of each constant, by input port; None: float will do. A part that has a kernel and does
    not speak of a constant offers no format. ``half``: of what a rule says, see ``Placed.split``."""
    offers: dict[tuple[int, int], list[Offer | None]] = {}
    kernels = [m for m in joint.members if m.candidate is not None]
    constants = placed.snapshot.initializers
    for count, member in enumerate(kernels):
        assert member.candidate is not None
        for statement in placed.split(member.candidate.rule)[half]:
            binding = member.candidate.match.bindings[statement.target]
            for bound in (binding,) if isinstance(binding, Bound) else binding or ():
                if bound.tensor in constants:
                    made = offer(joint, member, statement, bound, placed, index)
                    mine = offers.setdefault((bound.node, bound.port), [])
                    mine.extend([None] * (count - len(mine)))
                    mine.append(made)
    for mine in offers.values():
        mine.extend([None] * (len(kernels) - len(mine)))
    return offers


def agreed(joint: Joint, offers: list[Offer | None]) -> ConstantQuantizer | None:
    """The meet of what all parts make of one constant."""
    if len(offers) == 1:
        return None if offers[0] is None else offers[0].made
    told = [o for o in offers if o is not None]
    insisting = [o.made for o in told if not o.none]
    if len(told) < len(offers):
        if insisting:
            origin = insisting[0].origins[0]
            reason = f"`{insisting[0].tensor}` must be stored ({origin.place}), and another part takes it in float"
            raise Unmet(joint, Origin(origin.rule, origin.place, reason))
        return None
    types = reduce(meet_ranked, (o.types for o in told))
    made = [o.made for o in told]
    factors = {m.factors for m in made if m.factors}
    if not types or len(factors) > 1:
        if not insisting:
            return None
        origin = made[-1].origins[0]
        given = "; ".join(f"{m.origins[0].rule} allows {' | '.join(map(spell, m.types))}" for m in made)
        reason = f"no format of `{made[0].tensor}` suits all parts: {given}"
        raise Unmet(joint, Origin(origin.rule, origin.place, reason))
    lanes = {lane for m in made for lane in m.lanes}
    return replace(
        made[0],
        types=listed(types),
        axis=min((m.axis for m in made if m.axis is not None), default=None),
        axes=tuple(sorted({entry for m in made for entry in m.axes}, key=str)),
        factors=next(iter(factors), ()),
        lanes=tuple(sorted(lanes, key=lambda lane: (lane.storage, lane.lanes, lane.order))),
        origins=tuple(dict.fromkeys(origin for m in made for origin in m.origins)),
    )


def _free_name(snapshot: Snapshot, node: int) -> str:
    name = f"{snapshot.names[node]}/bias"
    while name in snapshot.tensor_ids:
        name += "_"
    return name


def offer(
    joint: Joint,
    member: Member,
    statement: QuantStatement,
    bound: Bound,
    placed: Placed,
    index: Mapping[tuple[int, int], int],
) -> Offer | None:
    candidate, snapshot, scope = member.candidate, placed.snapshot, placed.scopes[id(member.program)]
    assert candidate is not None
    rule = candidate.rule
    branch = statement.choice
    if branch.condition is not None:
        branch = choose_branch(branch, MatchEnvironment(snapshot, scope, candidate.match.bindings, None))
    allowed = branch.alternatives.types
    if not allowed:
        return None
    name = _free_name(snapshot, bound.node) if bound.tensor == LEFT_OUT else snapshot.tensors[bound.tensor]
    if bound.tensor != LEFT_OUT and not snapshot.is_float(bound.tensor):
        reason = f"`{name}` already holds {snapshot.dtypes[bound.tensor]}"
        raise Unmet(joint, Origin(rule.qualified, statement.span.place, reason))
    rank = 1 if bound.tensor == LEFT_OUT else len(snapshot.shapes[bound.tensor] or ())
    several = len(joint.members) > 1
    node = bound.node
    key = (id(branch), id(rule), snapshot.ops[node], snapshot.attribute_keys[node], bound.port, rank, several)
    if key not in placed.templates:
        placed.templates[key] = _template(member, statement, allowed, bound, snapshot, scope, rank, several)
    template = placed.templates[key]
    if template is None:
        reason = f"`{name}` has no axis `{allowed[0].axis}` for its scales"
        raise Unmet(joint, Origin(rule.qualified, statement.span.place, reason))
    words = f"`{statement.target}` of the kernel at {snapshot.names[candidate.match.nodes[0]]}"
    made = ConstantQuantizer(
        name,
        snapshot.names[node],
        bound.port,
        template.types,
        template.axis,
        template.role,
        _factors(joint, candidate, statement, branch.derived, placed, index) if branch.derived else (),
        template.lanes,
        (Origin(template.rule, template.place, words),),
        template.axes,
    )
    return Offer(made, template.order, branch.alternatives.none)


def _template(
    member: Member,
    statement: QuantStatement,
    allowed: tuple[QType, ...],
    bound: Bound,
    snapshot: Snapshot,
    scope: Scope,
    rank: int,
    several: bool,
) -> _Template | None:
    """None where the constant has none of the axes that the types name."""
    axes = {t: _axis(t, bound, snapshot, scope, rank) for t in allowed}
    types = tuple(t for t in allowed if t.granularity is Granularity.PER_TENSOR or axes[t] is not None)
    if not types or member.candidate is None:
        return None
    if several:  # one name for each axis, so that parts that call it differently agree
        types = tuple(replace(t, axis=axes[t]) if t.axis is not None else t for t in types)
        axes = {t: _axis(t, bound, snapshot, scope, rank) for t in types}
    order = ranked(types)
    if several:
        order = interchanged(order, member.program.interchange)
    signature = scope.signatures.get(snapshot.ops[bound.node])
    role = signature.inputs[bound.port].role if signature is not None and bound.port < len(signature.inputs) else "act"
    accumulators = member.candidate.rule.accumulators
    return _Template(
        rule=member.candidate.rule.qualified,
        place=statement.span.place,
        types=listed(order),
        order=order,
        axis=next((axes[t] for t in types if axes[t] is not None), None),
        axes=_several(types, axes),
        role=role,
        lanes=_all_lanes(accumulators, bound, snapshot, scope, rank) if role == "weight" else (),
    )


def choose_alternatives(choice: Choice, environment: MatchEnvironment) -> Alternatives:
    """The first alternatives whose ``when`` is true; no types at all where none is."""
    return choose_branch(choice, environment).alternatives


def choose_branch(choice: Choice, environment: MatchEnvironment) -> Choice:
    """The first branch whose ``when`` is true, with what its scale is derived from; one without types where none is."""
    current: Choice | None = choice
    while current is not None:
        if current.condition is None or is_true(current.condition, environment):
            return current
        current = current.otherwise
    return Choice(Alternatives((), True, choice.alternatives.span))


def _several(types: tuple[QType, ...], axes: Mapping[QType, int | None]) -> tuple[tuple[str | int, int], ...]:
    """What types call their axes, where those are not all one axis."""
    named = {(t.axis, number) for t in types if t.axis is not None and (number := axes[t]) is not None}
    return tuple(sorted(named, key=str)) if len({number for _, number in named}) > 1 else ()


def _axis(qtype: QType, bound: Bound, snapshot: Snapshot, scope: Scope, rank: int) -> int | None:
    if qtype.granularity is Granularity.PER_TENSOR or qtype.axis is None:
        return None
    if isinstance(qtype.axis, int):
        return qtype.axis % rank if -rank <= qtype.axis < rank else None
    return axis_of(snapshot, scope.signatures, bound.node, bound.port, qtype.axis, rank)


def _factors(
    joint: Joint,
    candidate: Candidate,
    statement: QuantStatement,
    derived: tuple[str, ...],
    placed: Placed,
    index: Mapping[tuple[int, int], int],
) -> tuple[tuple[str, int], ...]:
    factors: list[tuple[str, int]] = []
    for name in derived:
        binding = candidate.match.bindings.get(name)
        bound = binding if isinstance(binding, Bound) else None
        if bound is not None and (bound.node, bound.port) in index:
            factors.append(("constant", index[bound.node, bound.port]))
        elif bound is not None and (quantizer := placed.quantizer(bound)) is not None:
            factors.append(("activation", quantizer))
        else:
            reason = f"the scale of `{statement.target}` is derived from `{name}`, which is not quantized"
            raise Unmet(joint, Origin(candidate.rule.qualified, statement.span.place, reason))
    return tuple(factors)


def _all_lanes(
    accumulators: tuple[Accumulator, ...], bound: Bound, snapshot: Snapshot, scope: Scope, rank: int
) -> tuple[Lanes, ...]:
    """In an order of their own: that of the ``accum`` statements in the file means nothing."""
    found = (lanes_of(a, bound, snapshot, scope, rank) for a in accumulators)
    return tuple(sorted(found, key=lambda lanes: (lanes.storage, lanes.lanes, lanes.order)))


def lanes_of(accumulator: Accumulator, bound: Bound, snapshot: Snapshot, scope: Scope, rank: int) -> Lanes:
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
