"""What equalization sees of a model: layers as matrices, stored tensors, biases, and the channels that belong together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from potc.graph.snapshot import Snapshot
from potc.language.program import Granularity, QType, Signature
from potc.match.environment import axis_of
from potc.quantize.equalize.channels import Channels, Index, Touch
from potc.quantize.equalize.contents import Contents
from potc.quantize.plan import Plan

FINE = (1 << 16) - 2  # steps of a type of 16 bits
ACCUMULATOR = (1 << 31) - 1  # the largest code of the sums that plans name


@dataclass(frozen=True, slots=True)
class Sums:
    """What an accumulator must hold. ``largest``: the largest magnitude of each row's sums; ``codes``: the largest code of the
    accumulator; ``stored``: the number of the tensor that is multiplied, or -1 where no channel of it is scaled; then
    ``step`` is its step."""

    largest: np.ndarray
    codes: int
    stored: int
    step: float


@dataclass(frozen=True, slots=True)
class Layer:
    """A constant weight as a matrix [output channels, input channels of one group], kernel positions folded.

    ``largest``: magnitudes; ``square``: sums of squares over ``kernel`` positions. ``out``, ``into``: the channels of the
    elements, broadcast to the matrix; the last channel of all (scale 1) where nothing is scaled. ``power``: mean squares of
    what the columns are multiplied with. ``step``: codes from the smallest to the largest value, 0 where it stays float;
    ``per_row``: scales per output channel. ``sums``: where they limit the steps of the weight.
    """

    node: int
    largest: np.ndarray
    square: np.ndarray
    kernel: int
    out: Index
    into: Index
    power: np.ndarray
    step: int
    per_row: bool
    sums: Sums | None

    @property
    def by_row(self) -> bool:
        """True if each row has one output channel (else the layer has groups of them)."""
        return self.out.strides[1] == 0 or self.out.shape[1] == 1

    @property
    def by_column(self) -> bool:
        """True if each column has one input channel (else the layer has groups of them)."""
        return self.into.strides[0] == 0 or self.into.shape[0] == 1


@dataclass(frozen=True, slots=True)
class Stored:
    """Tensors behind one quantizer: the channels of all, with their extremes and mean squares. ``centred``: symmetric."""

    channels: Index
    low: np.ndarray
    high: np.ndarray
    power: np.ndarray
    step: int
    centred: bool


@dataclass(frozen=True, slots=True)
class Addend:
    """A bias that is stored with a scale of its own."""

    channels: Index
    values: np.ndarray
    step: int


@dataclass(frozen=True, slots=True)
class Group:
    """Free channels whose scales are chosen together: ``channels`` sorted; layers by number."""

    channels: np.ndarray
    sources: tuple[int, ...]
    sinks: tuple[int, ...]
    gained: bool  # a normalization's gain or another constant is scaled as well
    anchored: bool  # channels of fixed scale are stored together with these: one factor for all is not free
    stored: tuple[int, ...]
    addends: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Network:
    """All of it. Channel ``count`` is one more, whose scale is always 1. ``base``, ``power``: see ``Channels``."""

    count: int
    layers: tuple[Layer, ...]
    stored: tuple[Stored, ...]
    addends: tuple[Addend, ...]
    groups: tuple[Group, ...]
    base: Index
    power: np.ndarray

    def fine(self) -> Network:
        """Without groups that touch anything but weights of 16 bits with one scale, and tensors of as many bits."""
        kept = (g for g in self.groups if all(_fine(self.layers[k]) for k in (*g.sources, *g.sinks)))
        groups = (g for g in kept if all(self.stored[k].step >= FINE for k in g.stored))
        return replace(self, groups=tuple(groups))

    def spread(self, scale: np.ndarray) -> np.ndarray:
        """``scale`` [channels + 1], with what follows from the scales of bases."""
        scale[:-1] = scale[self.base] ** self.power
        return scale


def wanted_contents(
    snapshot: Snapshot, signatures: Mapping[str, Signature], channels: Channels, plan: Plan
) -> dict[int, tuple[int, ...]]:
    """By tensor, the axes along which its contents are asked for: all tensors with channels, all inputs of layers, and sums
    that must fit."""
    axes = {t: tuple(a for a, d in enumerate(m.shape) if d > 1) for t, m in channels.maps.items()}
    for touch in channels.touches:
        act = _act(snapshot, signatures, touch.node) if touch.role == "weight" else None
        if act is not None and act[0] not in axes and not snapshot.is_constant(act[0]):
            axes[act[0]] = (act[1],)
    for name, node in summed(plan).values():
        tensor = snapshot.tensor_ids.get(name, -1)
        result = next((n for n, known in enumerate(snapshot.names) if known == node), -1)
        rank = len(snapshot.shapes[tensor] or ()) if tensor >= 0 else 0
        axis = axis_of(snapshot, signatures, result, -1, "channel", rank) if rank and result >= 0 else None
        if axis is not None:
            axes.setdefault(tensor, (axis,))
    return {t: kept for t, kept in sorted(axes.items()) if len(kept) < len(snapshot.shapes[t] or ())}


def summed(plan: Plan) -> dict[tuple[str, int], tuple[str, str]]:
    """By node and port of a weight: the tensor of its sums, if an accumulator must hold them, and the node that starts them."""
    found: dict[tuple[str, int], tuple[str, str]] = {}
    for bias in (*plan.constants, *(a.constant for a in plan.absent)):
        for kind, index in bias.factors if bias.sums else ():
            if kind == "constant":
                weight = plan.constants[index]
                found[weight.node, weight.port] = bias.sums, weight.node
    for product in plan.products:
        for kind, index in product.factors:
            if kind == "constant":
                weight = plan.constants[index]
                found.setdefault((weight.node, weight.port), (product.sums, weight.node))
    return found


def _act(snapshot: Snapshot, signatures: Mapping[str, Signature], node: int) -> tuple[int, int] | None:
    """The tensor that a layer multiplies, and its channel axis."""
    signature = signatures[snapshot.ops[node]]
    port = next((k for k, p in enumerate(signature.inputs) if p.role == "act"), None)
    if port is None:
        return None
    tensor = snapshot.inputs[node][port]
    axis = axis_of(snapshot, signatures, node, port, "channel", len(snapshot.shapes[tensor] or ()))
    return None if axis is None else (tensor, axis)


def build_network(
    snapshot: Snapshot,
    signatures: Mapping[str, Signature],
    channels: Channels,
    contents: Mapping[str, Contents],
    plan: Plan,
    preset: str,
) -> Network:
    """``plan``: made of the same nodes and tensors, by name."""
    builder = _Builder(snapshot, signatures, channels, contents, plan, preset)
    stored = tuple(builder.stored())
    layers = tuple(builder.layers(stored))
    addends = tuple(builder.addends())
    groups = tuple(_groups(channels, layers, stored, addends))
    return Network(channels.count, layers, stored, addends, groups, channels.base, channels.power)


@dataclass(frozen=True, slots=True)
class _Builder:
    snapshot: Snapshot
    signatures: Mapping[str, Signature]
    found: Channels
    contents: Mapping[str, Contents]
    plan: Plan
    preset: str

    def layers(self, stored: Sequence[Stored]) -> Iterator[Layer]:
        touched: dict[int, dict[int, Touch]] = {}
        for touch in self.found.touches:
            if touch.role == "weight":
                touched.setdefault(touch.node, {})[touch.power] = touch
        formats = {(c.node, c.port): c for c in self.plan.constants}
        for node, by_power in sorted(touched.items()):
            touch = next(iter(by_power.values()))
            values = self.snapshot.value(touch.tensor).astype(np.float64)
            axes = [axis_of(self.snapshot, self.signatures, node, touch.port, n, values.ndim) for n in ("out", "in")]
            out, into = int(axes[0] or 0), int(axes[1] or 0)
            matrix = (values.shape[out], values.shape[into])
            rows = self._laid(by_power.get(-1), out, into, matrix)
            columns = self._laid(by_power.get(1), out, into, matrix)
            constant = formats.get((self.snapshot.names[node], touch.port))
            qtype = taken(constant.types, self.preset) if constant is not None else None
            axis = constant.axis_of(qtype) if constant is not None and qtype is not None else None
            flat = np.moveaxis(values, (out, into), (0, 1)).reshape(*matrix, -1)
            yield Layer(
                node,
                np.abs(flat).max(axis=2, initial=0.0),
                np.square(flat).sum(axis=2),
                max(flat.shape[2], 1),
                rows,
                columns,
                np.broadcast_to(self._power(node, columns, matrix), matrix),
                codes_of(qtype),
                axis == out,
                self._sums(node, touch.port, matrix[0], stored),
            )

    def _sums(self, node: int, port: int, rows: int, stored: Sequence[Stored]) -> Sums | None:
        """None where no accumulator is watched, or its rows can't be told apart."""
        name, _ = summed(self.plan).get((self.snapshot.names[node], port), ("", ""))
        act = _act(self.snapshot, self.signatures, node)
        seen = self._seen(self.snapshot.tensor_ids[name]) if name in self.snapshot.tensor_ids else None
        quantizer = None if act is None else self._quantizer(act[0])
        if act is None or seen is None or quantizer is None or seen[0].size != rows:
            return None
        largest = np.maximum(-seen[0], seen[1]).ravel()
        index = self.found.maps.get(act[0])
        if index is not None:
            number = next((k for k, s in enumerate(stored) if np.isin(index, s.channels).all()), -1)
            return Sums(largest, ACCUMULATOR, number, 0.0) if number >= 0 else None
        held = self._seen(act[0])
        span = 0.0 if held is None else 2 * max(float(-held[0].min()), float(held[1].max()))
        return Sums(largest, ACCUMULATOR, -1, span / codes_of(quantizer)) if span else None

    def _quantizer(self, tensor: int) -> QType | None:
        name = self.snapshot.tensors[tensor]
        found = next((q for q in self.plan.quantizers if name in q.tensors), None)
        return None if found is None or found.types[0].floating else found.types[-1]

    def _laid(self, touch: Touch | None, out: int, into: int, matrix: tuple[int, int]) -> Index:
        if touch is None:
            return np.broadcast_to(np.array(self.found.count), matrix)
        laid = np.moveaxis(touch.index, (out, into), (0, 1))
        return np.broadcast_to(laid.reshape(laid.shape[0], laid.shape[1]), matrix)

    def _power(self, node: int, columns: Index, matrix: tuple[int, int]) -> np.ndarray:
        """Mean squares of the inputs: of the scaled channels, or of all alike where they can't be told apart."""
        act = _act(self.snapshot, self.signatures, node)
        seen = self._seen(act[0]) if act is not None else None
        if act is None or seen is None:
            return np.ones((1, 1))
        index = self.found.maps.get(act[0])
        if index is not None and (columns < self.found.count).all():
            table = np.ones(self.found.count + 1)
            table[index.ravel()] = seen[2].ravel()
            return table[columns]
        flat = seen[2].ravel()
        return flat[None, :] if flat.size == matrix[1] else np.full((1, 1), flat.mean())

    def _seen(self, tensor: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Extremes and mean squares of the channels of a tensor."""
        known = self.contents.get(self.snapshot.tensors[tensor])
        shape = self.snapshot.shapes[tensor]
        if known is None or shape is None:
            return None
        index = self.found.maps.get(tensor)
        if index is not None and index.shape != known.low.shape:
            return None
        positions = np.prod([float(d or 1) for d in shape]) / known.low.size
        return known.low, known.high, known.square / positions

    def stored(self) -> Iterator[Stored]:
        for quantizer in self.plan.quantizers:
            ids = [self.snapshot.tensor_ids[t] for t in quantizer.observed if t in self.snapshot.tensor_ids]
            told = [(self.found.maps[t], s) for t in ids if t in self.found.maps and (s := self._seen(t)) is not None]
            if told and not quantizer.types[0].floating:
                whole = [[np.broadcast_to(part, m.shape).ravel() for part in (m, *s)] for m, s in told]
                index, low, high, power = (np.concatenate(parts) for parts in zip(*whole, strict=True))
                qtype = quantizer.types[0] if self.preset == "performance" else quantizer.types[-1]
                yield Stored(index, low, high, power, codes_of(qtype), qtype.symmetric and qtype.signed)

    def addends(self) -> Iterator[Addend]:
        formats = {(c.node, c.port): c for c in self.plan.constants}
        for touch in self.found.touches:
            constant = formats.get((self.snapshot.names[touch.node], touch.port))
            if touch.role != "weight" and constant is not None and not constant.factors:
                values = self.snapshot.value(touch.tensor).astype(np.float64)
                index = np.broadcast_to(touch.index, values.shape).ravel()
                yield Addend(index, np.abs(values).ravel(), codes_of(taken(constant.types, self.preset)))


def _fine(layer: Layer) -> bool:
    return not layer.step or (layer.step >= FINE and not layer.per_row)


def fine_weights(plan: Plan, preset: str) -> bool:
    """True if some weight has 16 bits, and one scale for all of them."""
    weights = (taken(c.types, preset) for c in plan.constants if c.role == "weight")
    return any(codes_of(t) >= FINE and t.granularity is Granularity.PER_TENSOR for t in weights)


def taken(types: Sequence[QType], preset: str) -> QType:
    return types[-1] if preset == "accuracy" else types[0]


def codes_of(qtype: QType | None) -> int:
    """Steps from the lowest to the highest code; 0 for float."""
    return 0 if qtype is None or qtype.floating else qtype.high - qtype.low


def _groups(
    found: Channels, layers: Sequence[Layer], stored: Sequence[Stored], addends: Sequence[Addend]
) -> Iterator[Group]:
    """Free channels that meet in a constant or a tensor; only groups that come out of something and go into a layer."""
    parent = list(range(found.count))

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    derived = (np.array(pair) for pair in enumerate(found.base.tolist()))
    for index in (*found.maps.values(), *(t.index for t in found.touches), *derived):
        free = np.unique(index[~found.fixed[index]]).tolist()
        for one, two in pairwise(free):
            a, b = root(one), root(two)
            parent[max(a, b)] = min(a, b)
    members: dict[int, list[int]] = {}
    for channel in np.flatnonzero(~found.fixed).tolist():
        members.setdefault(root(channel), []).append(channel)
    for _, listed in sorted(members.items()):
        inside = np.zeros(found.count + 1, bool)
        inside[listed] = True
        own = [c for c in listed if found.base[c] == c]
        group = Group(
            np.array(own),
            tuple(k for k, layer in enumerate(layers) if inside[layer.out].any()),
            tuple(k for k, layer in enumerate(layers) if inside[layer.into].any()),
            any(t.power < 0 and t.role in ("scale", "act") and inside[t.index].any() for t in found.touches),
            any(
                inside[i].any() and not inside[i].all()
                for i in (*found.maps.values(), *(t.index for t in found.touches))
            ),
            tuple(k for k, tensor in enumerate(stored) if inside[tensor.channels].any()),
            tuple(k for k, addend in enumerate(addends) if inside[addend.channels].any()),
        )
        if group.sinks and (group.sources or group.gained) and len(own) > 1:
            yield group
