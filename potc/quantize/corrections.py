"""Which biases can take over what rounding shifts: those that kernels read, and those that they could read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from potc.language.program import QuantStatement
from potc.match.environment import MatchEnvironment, attributes
from potc.match.joint import Joint, Member
from potc.match.match import Binding, Bound
from potc.quantize.constants import LEFT_OUT, Offer, Placed, Stored, Unmet, agreed, choose_branch, offer
from potc.quantize.plan import Absent, ConstantQuantizer, Correction, Window
from potc.quantize.windows import window_of


def bias_corrections(stored: Stored) -> tuple[tuple[Correction, ...], tuple[Absent, ...]]:
    """In the order of the kernels."""
    corrections: list[Correction] = []
    absent: list[Absent] = []
    for joint, index in stored.kernels:
        corrections.extend(_corrections(joint, stored.placed, index, stored.constants))
        for port, offers in _absent(joint, stored.placed, index, stored.constants).items():
            entry = _left_out(joint, port, offers, len(absent), stored.placed)
            if entry is not None:
                absent.append(entry)
    return tuple(corrections), tuple(absent)


def _corrections(
    joint: Joint, placed: Placed, index: Mapping[tuple[int, int], int], found: Sequence[ConstantQuantizer]
) -> Iterator[Correction]:
    """For a bias whose scale is derived from one weight and one activation, where std.rules names the axes of both."""
    told: set[int] = set()
    for member in joint.members:
        if member.candidate is None:
            continue
        bindings = member.candidate.match.bindings
        places = {
            name: index[b.node, b.port]
            for name, b in bindings.items()
            if isinstance(b, Bound) and (b.node, b.port) in index
        }
        for statement in member.candidate.rule.quants:
            bias = places.get(statement.target)
            if bias is None or not found[bias].factors or bias in told:
                continue
            derived = _derived(statement, member, bindings, placed)
            correction = _correction(derived, bias, places, bindings, placed, found)
            if correction is not None:
                told.add(bias)
                yield correction


def _derived(
    statement: QuantStatement, member: Member, bindings: Mapping[str, Binding], placed: Placed
) -> tuple[str, ...]:
    """What the scale of the branch that holds is computed from."""
    if statement.choice.condition is None:
        return statement.choice.derived
    environment = MatchEnvironment(placed.snapshot, placed.scopes[id(member.program)], bindings, None)
    return choose_branch(statement.choice, environment).derived


def _correction(
    derived: tuple[str, ...],
    bias: int,
    places: Mapping[str, int],
    bindings: Mapping[str, Binding],
    placed: Placed,
    found: Sequence[ConstantQuantizer],
) -> Correction | None:
    snapshot = placed.snapshot
    weights = [n for n in derived if n in places and found[places[n]].role == "weight"]
    others = [bindings.get(n) for n in derived if n not in weights]
    weight = bindings.get(weights[0]) if len(weights) == 1 else None
    if len(others) != 1 or not isinstance(others[0], Bound) or not isinstance(weight, Bound):
        return None
    activation = others[0]
    shape, weight_shape = snapshot.shapes[activation.tensor], snapshot.shapes[weight.tensor]
    if shape is None or weight_shape is None:
        return None
    channel = placed.axis(activation, "channel", len(shape))
    summed = placed.axis(weight, "in", len(weight_shape))
    out = placed.axis(weight, "out", len(weight_shape))
    if channel is None or summed is None or out is None or len(shape) <= 1:
        return None
    name = snapshot.tensors[activation.tensor]
    window = _window(weight, weight_shape, {summed, out}, placed) if len(weight_shape) > 2 else None
    lengths = shape[2:] if window is not None else ()
    if None in weight_shape or (window is not None and (channel != 1 or len(shape) != len(weight_shape))):
        return None
    return Correction(
        bias,
        places[weights[0]],
        name,
        activation.port,
        len(shape),
        channel,
        summed,
        out,
        window,
        None if None in lengths or window is None else tuple(n for n in lengths if n is not None),
    )


def _window(weight: Bound, shape: Sequence[int | None], named: set[int], placed: Placed) -> Window | None:
    """How the weight's axes without a name are laid on the input, where std.rules says that they are."""
    snapshot = placed.snapshot
    kernel = tuple(n or 0 for axis, n in enumerate(shape) if axis not in named)
    key = (snapshot.ops[weight.node], snapshot.attribute_keys[weight.node], kernel)
    if key not in placed.windows:
        signature = next(iter(placed.scopes.values())).signatures.get(snapshot.ops[weight.node])
        slides = signature is not None and (signature.sliding or signature.spreading)
        spreads = signature is not None and signature.spreading
        placed.windows[key] = window_of(attributes(snapshot, weight.node), kernel, spreads) if slides else None
    return placed.windows[key]


def _absent(
    joint: Joint, placed: Placed, index: Mapping[tuple[int, int], int], found: Sequence[ConstantQuantizer]
) -> dict[tuple[int, int], list[tuple[Offer, Correction]]]:
    """By input port of a bias that all parts would take and the model leaves out: what they would make of it."""
    kernels = [m for m in joint.members if m.candidate is not None]
    offers: dict[tuple[int, int], list[tuple[Offer, Correction]]] = {}
    for member in kernels:
        assert member.candidate is not None
        bindings = member.candidate.match.bindings
        for statement in member.candidate.rule.quants:
            if bindings[statement.target] is not None or not placed.is_derived(statement):
                continue
            derived = _derived(statement, member, bindings, placed)
            places = {
                n: index[b.node, b.port]
                for n in derived
                if isinstance(b := bindings[n], Bound) and (b.node, b.port) in index
            }
            correction = _correction(derived, 0, places, bindings, placed, found)
            bound = _bias_port(placed, derived, places, bindings, found)
            if correction is None or bound is None:
                continue
            made = offer(joint, member, statement, bound, placed, index)
            if made is not None:
                offers.setdefault((bound.node, bound.port), []).append((made, correction))
    return {port: mine for port, mine in offers.items() if len(mine) == len(kernels)}


def _bias_port(
    placed: Placed,
    derived: tuple[str, ...],
    places: Mapping[str, int],
    bindings: Mapping[str, Binding],
    found: Sequence[ConstantQuantizer],
) -> Bound | None:
    """The empty input port with the role of a bias at the node that reads the weight."""
    snapshot = placed.snapshot
    for name in derived:
        weight = bindings[name]
        if name in places and found[places[name]].role == "weight" and isinstance(weight, Bound):
            signature = next(iter(placed.scopes.values())).signatures[snapshot.ops[weight.node]]
            given = snapshot.inputs[weight.node]
            for port, entry in enumerate(signature.inputs):
                if entry.role == "bias" and (port >= len(given) or given[port] < 0):
                    return Bound(LEFT_OUT, weight.node, port)
    return None


def _left_out(
    joint: Joint, port: tuple[int, int], offers: list[tuple[Offer, Correction]], index: int, placed: Placed
) -> Absent | None:
    """An absent bias in the formats that all parts offer for it; None where there are none, its length is not known,
    or the layer computes in another float type."""
    snapshot = placed.snapshot
    result = Bound(snapshot.outputs[port[0]][0], port[0], -1)
    shape = snapshot.shapes[result.tensor]
    channel = None if shape is None else placed.axis(result, "channel", len(shape))
    length = None if shape is None or channel is None else shape[channel]
    try:
        made = agreed(joint, [made for made, _ in offers])
    except Unmet:  # no format suits all parts: the kernel does without, as it did
        made = None
    if length is None or made is None or snapshot.dtypes[result.tensor] != "f32":
        return None
    return Absent(made, replace(offers[0][1], bias=index), length)
