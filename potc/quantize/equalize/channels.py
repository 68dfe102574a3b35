"""Which channels of which tensors can be scaled together without changing what the model returns.

Every channel of a tensor is a number; channels that must have the same scale become one. A scale can be moved into a
constant (a weight, its bias, an addend, a normalization's gain) or passes through (``homogeneous`` and ``multiplicative``
operators of std.rules). Channels that reach anything else, or a model input or output, are fixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from potc.graph.snapshot import OUTER, Snapshot
from potc.language.program import Signature
from potc.match.environment import axis_of
from potc.quantize.equalize.flow import Flows

Index = np.ndarray  # int64, of the tensor's rank, each dimension 1 or the tensor's: the channel that each element belongs to
HUGE = 3e38  # a limit beyond it limits nothing
LIMITS = ("lowest", "highest")


@dataclass(frozen=True, slots=True)
class Touch:
    """A constant that takes a scale: its elements are multiplied by ``scale[index] ** power``.

    ``power`` -1: what is read behind the constant becomes smaller by the scale; +1: it reads what became smaller.
    """

    node: int
    port: int
    tensor: int
    role: str
    power: int
    index: Index


@dataclass(frozen=True, slots=True)
class Limit:
    """A tensor whose values are cut off at ``bound``: its channels may be scaled only where no value comes near."""

    tensor: int
    index: Index
    highest: bool
    bound: float


@dataclass(frozen=True, slots=True)
class Channels:
    """What was found in one model. ``maps``: the channels of each tensor; ``fixed``: by channel, True where its scale is 1."""

    count: int
    maps: Mapping[int, Index]
    touches: tuple[Touch, ...]
    limits: tuple[Limit, ...]
    fixed: np.ndarray


def find_channels(snapshot: Snapshot, signatures: Mapping[str, Signature]) -> Channels:
    """Walks a snapshot whose float tensors have shapes of numbers; tensors without are not entered."""
    return _Walk(snapshot, signatures, Flows(snapshot)).run()


class _Walk:
    def __init__(self, snapshot: Snapshot, signatures: Mapping[str, Signature], flows: Flows) -> None:
        self.snapshot = snapshot
        self.signatures = signatures
        self.flows = flows
        self.parent: list[int] = []
        self.pinned: set[int] = set()
        self.maps: dict[int, Index] = {}
        self.touches: dict[tuple[int, int, int], Touch] = {}
        self.limits: dict[tuple[int, int], Limit] = {}
        self.carrier: dict[int, int] = {}  # of a product, the port whose scale its result has; -1: its constant's
        self.waiting: list[int] = []

    def run(self) -> Channels:
        snapshot = self.snapshot
        for node in range(len(snapshot.ops)):
            for port in self._products(node):
                self._seed(node, port)
        while self.waiting:
            self._visit(self.waiting.pop())
        return self._result()

    def _products(self, node: int) -> Iterator[int]:
        """Ports by which a node multiplies channels with a constant weight; -1 for its result."""
        signature = self.signatures.get(self.snapshot.ops[node])
        weight = _port_of(signature, "weight")
        if signature is None or weight is None or not self._is_constant(node, weight):
            return
        act = _port_of(signature, "act")
        if act is not None:
            yield act
        yield -1

    def _seed(self, node: int, port: int) -> None:
        tensor = self.snapshot.outputs[node][0] if port < 0 else self.snapshot.inputs[node][port]
        shape = self._shape(tensor)
        if shape is None or tensor in self.maps or self.snapshot.is_constant(tensor):
            return
        axis = axis_of(self.snapshot, self.signatures, node, port, "channel", len(shape))
        if axis is not None and shape[axis] > 1:
            self._assign(tensor, self._fresh(tuple(d if a == axis else 1 for a, d in enumerate(shape))))

    # ------------------------------------------------------------------------------------------ channels

    def _fresh(self, shape: tuple[int, ...]) -> Index:
        first = len(self.parent)
        count = int(np.prod(shape))
        self.parent.extend(range(first, first + count))
        return np.arange(first, first + count).reshape(shape)

    def _root(self, channel: int) -> int:
        parent = self.parent
        while parent[channel] != channel:
            parent[channel] = parent[parent[channel]]
            channel = parent[channel]
        return channel

    def _roots(self, index: Index) -> Index:
        flat = [self._root(int(c)) for c in index.ravel()]
        return np.array(flat, np.int64).reshape(index.shape)

    def _join(self, a: Index, b: Index) -> None:
        if a.shape == b.shape and (a == b).all():
            return
        for x, y in zip(*(m.ravel().tolist() for m in np.broadcast_arrays(a, b)), strict=True):
            one, two = self._root(x), self._root(y)
            if one != two:
                self.parent[max(one, two)] = min(one, two)

    def _pin(self, index: Index) -> None:
        self.pinned.update(index.ravel().tolist())

    def _assign(self, tensor: int, index: Index) -> None:
        """The channels of a tensor; where it has some already, both are the same."""
        known = self.maps.get(tensor)
        if known is not None:
            self._join(known, index)
            return
        self.maps[tensor] = index
        self.waiting.append(tensor)

    # ------------------------------------------------------------------------------------------ the walk

    def _visit(self, tensor: int) -> None:
        snapshot, index = self.snapshot, self.maps[tensor]
        if tensor in snapshot.graph_inputs or tensor in snapshot.graph_outputs or snapshot.dtypes[tensor] != "f32":
            self._pin(index)
        producer = snapshot.producer[tensor]
        if producer >= 0:
            self._enter(producer, -1 - snapshot.outputs[producer].index(tensor), index)
        for node, port in snapshot.consumers[tensor]:
            if port == OUTER:
                self._pin(index)
            else:
                self._enter(node, port, index)

    def _enter(self, node: int, port: int, index: Index) -> None:
        """One node, come upon by an input port or (-1 - k) by output k."""
        signature = self.signatures.get(self.snapshot.ops[node])
        role = _role(signature, port)
        if signature is None or role is None or (port >= 0 and role not in ("act", "weight")):
            self._pin(index)
            return
        weight = _port_of(signature, "weight")
        if weight is not None and self._is_constant(node, weight):
            self._product(node, port, weight, signature, index)
        elif signature.multiplicative:
            self._factor(node, port, signature, index)
        elif signature.homogeneous:
            self._homogeneous(node, signature)
        elif port < 0 and _port_of(signature, "scale") is not None:
            self._normalization(node, signature, index)
        else:
            self._pin(index)

    def _product(self, node: int, port: int, weight: int, signature: Signature, index: Index) -> None:
        """A layer with a constant weight: a scale of its result goes into rows and bias, one of its input into columns."""
        snapshot = self.snapshot
        shape = snapshot.shapes[snapshot.inputs[node][weight]] or ()
        axes = [axis_of(snapshot, self.signatures, node, weight, name, len(shape)) for name in ("out", "in")]
        channels = self._along(node, port, index)
        if None in axes or channels is None:
            self._pin(index)
            return
        out, into = int(axes[0] or 0), int(axes[1] or 0)
        own, other = (out, into) if port < 0 else (into, out)
        laid = _in_groups(channels, [int(d or 0) for d in shape], own, other)
        if laid is None:
            self._pin(index)
            return
        touches = [(weight, laid)]
        if port < 0:
            touches += list(self._addends(node, signature, channels))
        if any(array is None for _, array in touches):
            self._pin(index)
            return
        for place, array in touches:
            if array is not None:
                self._touch(node, place, 1 if port >= 0 else -1, array)

    def _addends(self, node: int, signature: Signature, channels: Index) -> Iterator[tuple[int, Index | None]]:
        """Biases and gains of a node with the channels of their elements; None for one that can't be scaled."""
        snapshot = self.snapshot
        for port, entry in enumerate(signature.inputs):
            if entry.role not in ("bias", "scale") or port >= len(snapshot.inputs[node]):
                continue
            tensor = snapshot.inputs[node][port]
            if tensor < 0:
                continue
            shape = self._shape(tensor)
            axis = None
            if shape is not None and snapshot.is_constant(tensor) and snapshot.is_float(tensor):
                for name in ("out", "channel"):
                    found = axis_of(snapshot, self.signatures, node, port, name, len(shape))
                    axis = found if axis is None else axis
            if shape is None or axis is None or shape[axis] != channels.size:
                yield port, None
                continue
            yield port, channels.reshape([-1 if a == axis else 1 for a in range(len(shape))])

    def _along(self, node: int, port: int, index: Index) -> Index | None:
        """[C]: the channels along the axis that a port calls so; what lies at other places of the tensor is the same."""
        axis = axis_of(self.snapshot, self.signatures, node, port, "channel", index.ndim)
        shape = self._shape(self.snapshot.outputs[node][-1 - port] if port < 0 else self._tensor(node, port))
        if axis is None or shape is None:
            return None
        first = self._joined(index, [a for a in range(index.ndim) if a != axis])
        return np.broadcast_to(first.ravel(), (shape[axis],))

    def _joined(self, index: Index, axes: Sequence[int]) -> Index:
        """With all channels along some axes made one."""
        first = index
        for axis in axes:
            first = first.take([0], axis)
        self._join(index, first)
        return first

    def _normalization(self, node: int, signature: Signature, index: Index) -> None:
        """The gain and the shift of a normalization take the scale of its result."""
        channels = self._along(node, -1, index)
        touches = [] if channels is None else list(self._addends(node, signature, channels))
        if channels is None or any(array is None for _, array in touches):
            self._pin(index)
            return
        for place, array in touches:
            if array is not None:
                self._touch(node, place, -1, array)

    def _homogeneous(self, node: int, signature: Signature) -> None:
        """All inputs and the result have one scale, channel by channel."""
        snapshot = self.snapshot
        outputs = [t for t in snapshot.outputs[node] if t >= 0]
        acts = [p for p in range(len(snapshot.inputs[node])) if _role(signature, p) == "act" and self._tensor(node, p) >= 0]
        if signature.elementwise:
            index = self._common(node, acts, outputs[0])
            if index is not None:
                self._fan_out(node, signature, acts, outputs[0], index)
            return
        self._moved(node, signature, acts, outputs)

    def _common(self, node: int, acts: Sequence[int], output: int) -> Index | None:
        """The channels of an elementwise node's result, from any of its tensors that has some."""
        rank = len(self._shape(output) or ())
        known = [self.maps[t] for t in (output, *(self._tensor(node, p) for p in acts)) if t in self.maps]
        if not known or self._shape(output) is None:
            self._pin_all(node)
            return None
        aligned = [m.reshape((1,) * (rank - m.ndim) + m.shape) for m in known]
        widest = max(aligned, key=lambda m: m.size)
        for other in aligned:
            self._join(widest, other)
        return widest

    def _fan_out(self, node: int, signature: Signature, acts: Sequence[int], output: int, index: Index) -> None:
        for port in acts:
            self._through(node, port, output, index, -1)
        self._assign(output, index)
        for port, entry in enumerate(signature.inputs):
            if entry.role in (*LIMITS, "value") and self._tensor(node, port) >= 0:
                self._limited(node, port, entry.role, acts, index)

    def _through(self, node: int, port: int, output: int, index: Index, power: int) -> None:
        """An input of an elementwise node has the channels of its result; a constant takes the scale."""
        tensor = self._tensor(node, port)
        shape = self._shape(tensor)
        if shape is None or len(shape) > index.ndim:
            self._pin(index)
            return
        lead = index.ndim - len(shape)
        narrow = [a for a in range(index.ndim) if index.shape[a] > 1 and (a < lead or shape[a - lead] == 1)]
        if self.snapshot.is_constant(tensor):
            if self._unscaled(tensor):
                return
            if narrow:
                self._pin(index)
            else:
                self._touch(node, port, power, index.reshape(index.shape[lead:]))
            return
        if narrow:  # one element meets several channels
            index = self._joined(index, narrow)
        self._assign(tensor, index.reshape(index.shape[lead:]))

    def _unscaled(self, tensor: int) -> bool:
        """True for numbers that a scale does not change: zeros and infinities."""
        value = self.snapshot.value(tensor)
        return value.dtype.kind == "f" and bool(((value == 0) | (np.abs(value) > HUGE)).all())

    def _limited(self, node: int, port: int, role: str, acts: Sequence[int], index: Index) -> None:
        tensor = self._tensor(node, port)
        if not self.snapshot.is_constant(tensor):
            self._pin(index)
        elif not self._unscaled(tensor):
            value = self.snapshot.value(tensor)
            if role in LIMITS and value.size == 1 and len(acts) == 1:
                source = self._tensor(node, acts[0])
                self.limits[node, port] = Limit(source, self.maps[source], role == LIMITS[1], float(value.reshape(())))
            else:
                self._pin(index)

    def _factor(self, node: int, port: int, signature: Signature, index: Index) -> None:
        """A product of tensors: its result has the scale of one of them."""
        if port < 0 and node not in self.carrier:
            self._choose(node, signature, index)
        elif port >= 0 and self.carrier.setdefault(node, port) != port:
            self._pin(index)
            return
        carrier = self.carrier[node]
        output = self.snapshot.outputs[node][0]
        if carrier < 0:
            const = -1 - carrier
            self._through(node, const, output, index, -1)
        elif signature.elementwise:
            aligned = self._common(node, [carrier], output)
            if aligned is not None:
                self._through(node, carrier, output, aligned, -1)
                self._assign(output, aligned)
        else:
            self._moved(node, signature, [carrier], [output])

    def _choose(self, node: int, signature: Signature, index: Index) -> None:
        """A constant that has a number for each channel takes the scale; else the largest operand."""
        ports = [p for p in range(len(self.snapshot.inputs[node])) if _role(signature, p) in ("act", "weight")]
        best = ports[0]
        for port in ports if signature.elementwise else ():
            shape = self._shape(self._tensor(node, port)) or ()
            lead = index.ndim - len(shape)
            full = lead >= 0 and all(
                index.shape[a] == 1 or (a >= lead and shape[a - lead] == index.shape[a]) for a in range(index.ndim)
            )
            if self._is_constant(node, port):
                if full:
                    self.carrier[node] = -1 - port
                    return
                best = ports[1] if port == best and len(ports) > 1 else best
            elif full and np.prod(shape) > np.prod(self._shape(self._tensor(node, best)) or (0,)):
                best = port
        if not signature.elementwise:
            best = _port_of(signature, "weight") or best
        self.carrier[node] = best

    # ------------------------------------------------------------------------------------------ movements

    def _moved(self, node: int, signature: Signature, ports: Sequence[int], outputs: Sequence[int]) -> None:
        """Channels go through a node that moves, selects or averages elements: where to, the node itself shows."""
        snapshot = self.snapshot
        for port, entry in enumerate(signature.inputs):
            filled = self._tensor(node, port) if entry.role == "value" else -1
            if filled >= 0 and not (snapshot.is_constant(filled) and self._unscaled(filled)):
                self._pin_all(node)
                return
        depth = self._depth(node, signature)
        flows = {
            (port, k): self.flows.of(node, port, k, depth)
            for port in ports
            for k, output in enumerate(snapshot.outputs[node])
            if output in outputs
        }
        if any(flow is None or not flow for flow in flows.values()) or any(self._is_constant(node, p) for p in ports):
            self._pin_all(node)
            return
        for port in ports:
            self._entering(node, port, {k: f for (p, k), f in flows.items() if p == port and f is not None})
        for k, output in enumerate(snapshot.outputs[node]):
            if output in outputs:
                self._leaving(node, k, output, {p: f for (p, j), f in flows.items() if j == k and f is not None})

    def _depth(self, node: int, signature: Signature) -> int | None:
        weight = _port_of(signature, "weight")
        if not signature.multiplicative or weight is None:
            return None
        shape = self._shape(self._tensor(node, weight)) or ()
        axis = axis_of(self.snapshot, self.signatures, node, weight, "in", len(shape))
        return None if axis is None else shape[axis]

    def _entering(self, node: int, port: int, flows: Mapping[int, tuple[np.ndarray | None, ...]]) -> None:
        """From what is known of outputs, the channels of an input; elements that no output holds get channels of their own."""
        snapshot = self.snapshot
        tensor = self._tensor(node, port)
        known = {k: self.maps[snapshot.outputs[node][k]] for k in flows if snapshot.outputs[node][k] in self.maps}
        shape = self._shape(tensor)
        if tensor in self.maps or not known or shape is None:
            return
        dims = tuple(1 if any(flow[a] is None for flow in flows.values()) else d for a, d in enumerate(shape))
        laid = np.full(dims, -1, np.int64)
        for k, index in known.items():
            whole = np.broadcast_to(self._roots(index), self._shape(snapshot.outputs[node][k]) or index.shape)
            places = [np.zeros(whole.shape, np.int64) if dims[a] == 1 else flow for a, flow in enumerate(flows[k])]
            at = tuple(np.asarray(place) for place in places)
            laid[at] = whole
            self._join(laid[at], whole)
        laid = _narrowed(laid)
        missing = laid < 0
        laid[missing] = self._fresh((int(missing.sum()),))
        self._assign(tensor, laid)

    def _leaving(
        self, node: int, k: int, output: int, flows: Mapping[int, tuple[np.ndarray | None, ...]]
    ) -> None:
        """The channels of an output, from those of its inputs."""
        shape = self._shape(output)
        if shape is None:
            self._pin_all(node)
            return
        whole = np.full(shape, -1, np.int64)
        mapped = {p: self.maps[self._tensor(node, p)] for p in flows if self._tensor(node, p) in self.maps}
        for port, index in mapped.items():
            own = np.ones(shape, bool)
            places: list[np.ndarray] = []
            # Elements that are summed or compared with each other have one scale.
            mixed = [a for a, flow in enumerate(flows[port]) if flow is None and index.shape[a] > 1]
            index = self._joined(index, mixed)
            for axis, flow in enumerate(flows[port]):
                if flow is not None:
                    own &= flow >= 0
                places.append(np.zeros(shape, np.int64) if flow is None or index.shape[axis] == 1 else flow)
            whole[own] = index[tuple(p[own] for p in places)]
        if (whole < 0).any():
            for port in flows:  # another input, not seen before: channels of its own along the same axes
                self._beside(node, port, mapped)
            if sum(self._tensor(node, port) in self.maps for port in flows) == len(mapped):
                self._pin_all(node)
            else:
                self._leaving(node, k, output, flows)
            return
        self._assign(output, _narrowed(self._roots(whole)))

    def _beside(self, node: int, port: int, mapped: Mapping[int, Index]) -> None:
        tensor = self._tensor(node, port)
        shape = self._shape(tensor)
        if port in mapped or shape is None:
            return
        wide = next(iter(mapped.values()))
        same = wide.ndim == len(shape)
        self._assign(tensor, self._fresh(tuple(d if same and wide.shape[a] > 1 else 1 for a, d in enumerate(shape))))

    # ------------------------------------------------------------------------------------------ small things

    def _touch(self, node: int, port: int, power: int, index: Index) -> None:
        known = self.touches.get((node, port, power))
        if known is not None:
            self._join(known.index, index)
            return
        role = _role(self.signatures.get(self.snapshot.ops[node]), port) or "act"
        self.touches[node, port, power] = Touch(node, port, self._tensor(node, port), role, power, index)

    def _pin_all(self, node: int) -> None:
        for tensor in (*self.snapshot.inputs[node], *self.snapshot.outputs[node]):
            if tensor in self.maps:
                self._pin(self.maps[tensor])

    def _tensor(self, node: int, port: int) -> int:
        inputs = self.snapshot.inputs[node]
        return inputs[port] if port < len(inputs) else -1

    def _is_constant(self, node: int, port: int) -> bool:
        tensor = self._tensor(node, port)
        return tensor >= 0 and self.snapshot.is_constant(tensor)

    def _shape(self, tensor: int) -> tuple[int, ...] | None:
        shape = self.snapshot.shapes[tensor] if tensor >= 0 else None
        return None if shape is None or None in shape else tuple(int(d or 0) for d in shape)

    def _result(self) -> Channels:
        roots = [self._root(c) for c in range(len(self.parent))]
        numbers = {root: k for k, root in enumerate(dict.fromkeys(roots))}
        table = np.array([numbers[r] for r in roots], np.int64)
        fixed = np.zeros(len(numbers), bool)
        fixed[table[sorted(self.pinned)]] = True
        return Channels(
            len(numbers),
            {t: table[m] for t, m in sorted(self.maps.items())},
            tuple(_renumbered(t, table) for _, t in sorted(self.touches.items(), key=lambda e: e[0])),
            tuple(Limit(e.tensor, table[e.index], e.highest, e.bound) for _, e in sorted(self.limits.items())),
            fixed,
        )


def _renumbered(touch: Touch, table: np.ndarray) -> Touch:
    return Touch(touch.node, touch.port, touch.tensor, touch.role, touch.power, table[touch.index])


def _role(signature: Signature | None, port: int) -> str | None:
    """The role of an input, or (-1 - k) of output k; ports beyond those that are listed have the last one's."""
    if signature is None:
        return None
    ports = signature.inputs if port >= 0 else signature.outputs
    place = port if port >= 0 else -1 - port
    return ports[min(place, len(ports) - 1)].role if ports else None


def _port_of(signature: Signature | None, role: str) -> int | None:
    """The first input with a role."""
    ports = () if signature is None else signature.inputs
    return next((k for k, port in enumerate(ports) if port.role == role), None)


def _in_groups(channels: Index, shape: Sequence[int], own: int, other: int) -> Index | None:
    """The channels of a weight's elements: ``own`` is the axis of the channels, ``other`` that of the other side's.

    Where there are more channels than the axis is long, the weight has groups: consecutive parts of the other axis belong
    to consecutive parts of the channels. None if the numbers don't fit.
    """
    size = shape[own]
    if size == 0 or channels.size % size:
        return None
    groups = channels.size // size
    if groups > 1 and shape[other] % groups:
        return None
    table = channels.reshape(groups, size)
    dims = [1] * len(shape)
    dims[own] = size
    if groups == 1:
        return table.reshape(dims)
    dims[other] = shape[other]
    by_other = np.repeat(table, shape[other] // groups, axis=0)  # [other, own]
    return (by_other if other < own else by_other.T).reshape(dims)


def _narrowed(whole: np.ndarray) -> Index:
    """With every axis along which nothing changes made 1 long."""
    for axis in range(whole.ndim):
        first = whole.take([0], axis)
        if whole.shape[axis] > 1 and (whole == first).all():
            whole = first
    return whole
