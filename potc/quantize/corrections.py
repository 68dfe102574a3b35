"""Which biases can take over what rounding shifts: those that kernels read, and those that they could read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from potc.graph.snapshot import Snapshot
from potc.language.program import QuantStatement
from potc.match.cover import Candidate
from potc.match.environment import MatchEnvironment, attributes
from potc.match.found import Binding, Bound
from potc.match.joint import Joint, Member
from potc.match.record import record
from potc.quantize.constants import LEFT_OUT, Layout, Offer, Placed, Stored, Unmet, agreed, choose_branch, offer
from potc.quantize.plan import Absent, ConstantQuantizer, Correction, Window
from potc.quantize.windows import window_of


def bias_corrections(stored: Stored) -> tuple[tuple[Correction, ...], tuple[Absent, ...]]:
    """In the order of the kernels."""
    corrections: list[Correction] = []
    absent: list[Absent] = []
    placed, found = stored.placed, stored.constants
    for joint, index in stored.kernels:
        kernels = [(m, m.candidate) for m in joint.members if m.candidate is not None]
        if not any(placed.split(candidate.rule)[1] for _, candidate in kernels):
            continue  # no scale is derived from others
        corrections.extend(_corrections(kernels, placed, index, found))
        for port, offers in _absent(joint, kernels, placed, index, found).items():
            entry = _left_out(joint, port, offers, len(absent), placed)
            if entry is not None:
                absent.append(entry)
    return tuple(corrections), tuple(absent)


_Kernels = Sequence[tuple[Member, Candidate]]
_Index = Mapping[tuple[int, int], int]  # input port -> index of the constant that it reads


@record
class _Product:
    """A weight, and the activation that it multiplies. ``constant``: index of the weight."""

    weight: Bound
    constant: int
    activation: Bound
    layout: Layout

    def correction(self, bias: int, snapshot: Snapshot) -> Correction:
        at, read = self.layout, self.activation
        name = snapshot.tensors[read.tensor]
        return Correction(
            bias, self.constant, name, read.port, at.rank, at.channel, at.summed, at.out, at.window, at.lengths
        )


def _corrections(
    kernels: _Kernels, placed: Placed, index: _Index, found: Sequence[ConstantQuantizer]
) -> Iterator[Correction]:
    """For a bias whose scale is derived from one weight and one activation, where std.rules names the axes of both."""
    told: set[int] = set()
    for member, candidate in kernels:
        bindings = candidate.match.bindings
        for statement in placed.split(candidate.rule)[1]:
            bias = _constant(bindings.get(statement.target), index)
            if bias is None or not found[bias].factors or bias in told:
                continue
            product = _product(_derived(statement, member, bindings, placed), bindings, placed, index, found)
            if product is not None:
                told.add(bias)
                yield product.correction(bias, placed.snapshot)


def _constant(binding: Binding, index: _Index) -> int | None:
    return index.get((binding.node, binding.port)) if isinstance(binding, Bound) else None


def _derived(
    statement: QuantStatement, member: Member, bindings: Mapping[str, Binding], placed: Placed
) -> tuple[str, ...]:
    """What the scale of the branch that holds is computed from."""
    if statement.choice.condition is None:
        return statement.choice.derived
    environment = MatchEnvironment(placed.snapshot, placed.scopes[id(member.program)], bindings, None)
    return choose_branch(statement.choice, environment).derived


def _product(
    derived: tuple[str, ...],
    bindings: Mapping[str, Binding],
    placed: Placed,
    index: _Index,
    found: Sequence[ConstantQuantizer],
) -> _Product | None:
    """The one weight and the one activation that a scale is derived from; None where they are others."""
    weights: list[tuple[Bound, int]] = []
    others: list[Binding] = []
    for name in derived:
        binding = bindings.get(name)
        constant = _constant(binding, index)
        if isinstance(binding, Bound) and constant is not None and found[constant].role == "weight":
            weights.append((binding, constant))
        else:
            others.append(binding)
    if len(weights) != 1 or len(others) != 1 or not isinstance(others[0], Bound):
        return None
    (weight, constant), activation = weights[0], others[0]
    layout = _layout(weight, activation, placed)
    return None if layout is None else _Product(weight, constant, activation, layout)


def _layout(weight: Bound, activation: Bound, placed: Placed) -> Layout | None:
    snapshot = placed.snapshot
    shape, weight_shape = snapshot.shapes[activation.tensor], snapshot.shapes[weight.tensor]
    if shape is None or weight_shape is None:
        return None
    key = (*_look(weight, snapshot), weight_shape, *_look(activation, snapshot), shape)
    if key not in placed.layouts:
        placed.layouts[key] = _lay(weight, weight_shape, activation, shape, placed)
    return placed.layouts[key]


def _look(bound: Bound, snapshot: Snapshot) -> tuple[str, bytes, int]:
    return snapshot.ops[bound.node], snapshot.attribute_keys[bound.node], bound.port


def _lay(
    weight: Bound,
    weight_shape: tuple[int | None, ...],
    activation: Bound,
    shape: tuple[int | None, ...],
    placed: Placed,
) -> Layout | None:
    channel = placed.axis(activation, "channel", len(shape))
    summed = placed.axis(weight, "in", len(weight_shape))
    out = placed.axis(weight, "out", len(weight_shape))
    if channel is None or summed is None or out is None or len(shape) <= 1:
        return None
    window = _window(weight, weight_shape, {summed, out}, placed) if len(weight_shape) > 2 else None
    lengths = shape[2:] if window is not None else ()
    if None in weight_shape or (window is not None and (channel != 1 or len(shape) != len(weight_shape))):
        return None
    known = None if None in lengths or window is None else tuple(n for n in lengths if n is not None)
    return Layout(len(shape), channel, summed, out, window, known)


def _window(weight: Bound, shape: Sequence[int | None], named: set[int], placed: Placed) -> Window | None:
    """How the weight's axes without a name are laid on the input, where std.rules says that they are."""
    snapshot = placed.snapshot
    kernel = tuple(n or 0 for axis, n in enumerate(shape) if axis not in named)
    signature = placed.signatures.get(snapshot.ops[weight.node])
    if signature is None or not (signature.sliding or signature.spreading):
        return None
    return window_of(attributes(snapshot, weight.node), kernel, signature.spreading)


def _absent(
    joint: Joint, kernels: _Kernels, placed: Placed, index: _Index, found: Sequence[ConstantQuantizer]
) -> dict[tuple[int, int], list[tuple[Offer, _Product]]]:
    """By input port of a bias that all parts would take and the model leaves out: what they would make of it."""
    offers: dict[tuple[int, int], list[tuple[Offer, _Product]]] = {}
    for member, candidate in kernels:
        bindings = candidate.match.bindings
        for statement in placed.split(candidate.rule)[1]:
            if bindings[statement.target] is not None:
                continue
            product = _product(_derived(statement, member, bindings, placed), bindings, placed, index, found)
            port = None if product is None else _bias_port(product.weight.node, placed)
            if product is None or port is None:
                continue
            node = product.weight.node
            made = offer(joint, member, statement, Bound(LEFT_OUT, node, port), placed, index)
            if made is not None:
                offers.setdefault((node, port), []).append((made, product))
    return {port: mine for port, mine in offers.items() if len(mine) == len(kernels)}


def _bias_port(node: int, placed: Placed) -> int | None:
    """The empty input port with the role of a bias, if the node has one."""
    snapshot = placed.snapshot
    given = snapshot.inputs[node]
    for port, entry in enumerate(placed.signatures[snapshot.ops[node]].inputs):
        if entry.role == "bias" and (port >= len(given) or given[port] < 0):
            return port
    return None


def _left_out(
    joint: Joint, port: tuple[int, int], offers: Sequence[tuple[Offer, _Product]], index: int, placed: Placed
) -> Absent | None:
    """An absent bias in the formats that all parts offer for it; None where there are none, its length is not known,
    or the layer computes in another float type."""
    snapshot, node = placed.snapshot, port[0]
    result = snapshot.outputs[node][0]
    shape = snapshot.shapes[result]
    channel = None if shape is None else placed.axis(Bound(result, node, -1), "channel", len(shape))
    length = None if shape is None or channel is None else shape[channel]
    if length is None or snapshot.dtypes[result] != "f32":
        return None
    try:
        made = agreed(joint, [made for made, _ in offers])
    except Unmet:  # no format suits all parts: the kernel does without, as it did
        made = None
    return None if made is None else Absent(made, offers[0][1].correction(index, snapshot), length)
