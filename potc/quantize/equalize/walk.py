"""Which channels of which tensors can be scaled together without changing what the model returns.

A scale is moved into a constant (a weight, its bias, an addend, a normalization's gain) or passes through (``homogeneous``
and ``multiplicative`` operators of std.rules). Channels that reach anything else, or a model input or output, are fixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from potc.graph.snapshot import OUTER, Snapshot
from potc.language.program import Signature
from potc.match.environment import axis_of
from potc.quantize.equalize.channels import Channels, Found, Index, Limit, Touch, in_groups
from potc.quantize.equalize.flow import Flows
from potc.quantize.equalize.moves import Moves, shape_of

HUGE = 3e38  # a limit beyond it limits nothing
LIMITS = ("lowest", "highest")


def find_channels(snapshot: Snapshot, signatures: Mapping[str, Signature]) -> Channels:
    """Walks a snapshot whose float tensors have shapes of numbers; tensors without are not entered."""
    return _Walk(snapshot, signatures, Flows(snapshot)).run()


@dataclass(frozen=True, slots=True)
class _Walk:
    snapshot: Snapshot
    signatures: Mapping[str, Signature]
    flows: Flows
    found: Found = field(default_factory=Found)
    carrier: dict[int, int] = field(default_factory=dict[int, int])  # of a product, the port whose scale its result has

    def run(self) -> Channels:
        for node in range(len(self.snapshot.ops)):
            for port in self._products(node):
                self._seed(node, port)
        while self.found.waiting:
            self._visit(self.found.waiting.pop())
        return self.found.result()

    def _products(self, node: int) -> Iterator[int]:
        """Ports by which a node multiplies channels with a constant weight; -1 for its result."""
        signature = self.signatures.get(self.snapshot.ops[node])
        weight = port_of(signature, "weight")
        if weight is None or not self._is_constant(node, weight):
            return
        act = port_of(signature, "act")
        if act is not None:
            yield act
        yield -1

    def _seed(self, node: int, port: int) -> None:
        tensor = self.snapshot.outputs[node][0] if port < 0 else self.snapshot.inputs[node][port]
        shape = shape_of(self.snapshot, tensor)
        if shape is None or tensor in self.found.maps or self.snapshot.is_constant(tensor):
            return
        axis = axis_of(self.snapshot, self.signatures, node, port, "channel", len(shape))
        if axis is not None and shape[axis] > 1:
            self.found.assign(tensor, self.found.fresh(tuple(d if a == axis else 1 for a, d in enumerate(shape))))

    def _visit(self, tensor: int) -> None:
        snapshot, index = self.snapshot, self.found.maps[tensor]
        if tensor in snapshot.graph_inputs or tensor in snapshot.graph_outputs or snapshot.dtypes[tensor] != "f32":
            self.found.pin(index)
        producer = snapshot.producer[tensor]
        if producer >= 0:
            self._enter(producer, -1 - snapshot.outputs[producer].index(tensor), index)
        for node, port in snapshot.consumers[tensor]:
            if port == OUTER:
                self.found.pin(index)
            else:
                self._enter(node, port, index)

    def _enter(self, node: int, port: int, index: Index) -> None:
        """One node, come upon by an input port or (-1 - k) by output k."""
        signature = self.signatures.get(self.snapshot.ops[node])
        role = role_of(signature, port)
        if signature is None or role is None or (port >= 0 and role not in ("act", "weight")):
            self.found.pin(index)
            return
        weight = port_of(signature, "weight")
        if weight is not None and self._is_constant(node, weight):
            self._product(node, port, weight, signature, index)
        elif signature.multiplicative:
            self._factor(node, port, signature, index)
        elif signature.homogeneous:
            self._homogeneous(node, signature)
        elif port == -1 and port_of(signature, "scale") is not None:
            self._touch_all(node, -1, list(self._addends(node, signature, index)), index)
        else:
            self.found.pin(index)

    # ------------------------------------------------------------------------------------------ constants take scales

    def _product(self, node: int, port: int, weight: int, signature: Signature, index: Index) -> None:
        """A layer with a constant weight: a scale of its result goes into rows and bias, one of its input into columns."""
        snapshot = self.snapshot
        shape = snapshot.shapes[snapshot.inputs[node][weight]] or ()
        axes = [axis_of(snapshot, self.signatures, node, weight, name, len(shape)) for name in ("out", "in")]
        channels = self._along(node, port, index)
        if None in axes or channels is None:
            self.found.pin(index)
            return
        out, into = int(axes[0] or 0), int(axes[1] or 0)
        own, other = (out, into) if port < 0 else (into, out)
        touches = [(weight, in_groups(channels, [int(d or 0) for d in shape], own, other))]
        if port < 0:
            touches += self._addends(node, signature, index)
        self._touch_all(node, port, touches, index)

    def _touch_all(self, node: int, port: int, touches: Sequence[tuple[int, Index | None]], index: Index) -> None:
        """All constants take the scale, or the channels keep theirs where one can't, or there is none."""
        laid = [(place, array) for place, array in touches if array is not None]
        if not laid or len(laid) < len(touches):
            self.found.pin(index)
            return
        for place, array in laid:
            self._touch(node, place, 1 if port >= 0 else -1, array)

    def _addends(self, node: int, signature: Signature, index: Index) -> Iterator[tuple[int, Index | None]]:
        """Biases and gains of a node with the channels of their elements; None for one that can't be scaled."""
        snapshot, channels = self.snapshot, self._along(node, -1, index)
        for port, entry in enumerate(signature.inputs):
            if entry.role not in ("bias", "scale") or self._tensor(node, port) < 0:
                continue
            tensor = self._tensor(node, port)
            shape = shape_of(snapshot, tensor)
            axes: list[int | None] = [None]
            if shape is not None and snapshot.is_constant(tensor) and snapshot.is_float(tensor):
                named = (axis_of(snapshot, self.signatures, node, port, n, len(shape)) for n in ("out", "channel"))
                axes = [a for a in named if a is not None] or [None]
            axis = axes[0]
            if shape is None or axis is None or channels is None or shape[axis] != channels.size:
                yield port, None
            else:
                yield port, channels.reshape([-1 if a == axis else 1 for a in range(len(shape))])

    def _along(self, node: int, port: int, index: Index) -> Index | None:
        """[C]: the channels along the axis that a port calls so; what lies at other places of the tensor is the same."""
        axis = axis_of(self.snapshot, self.signatures, node, port, "channel", index.ndim)
        tensor = self.snapshot.outputs[node][-1 - port] if port < 0 else self._tensor(node, port)
        shape = shape_of(self.snapshot, tensor)
        if axis is None or shape is None:
            return None
        first = self.found.joined(index, [a for a in range(index.ndim) if a != axis])
        return np.broadcast_to(first.ravel(), (shape[axis],))

    def _touch(self, node: int, port: int, power: int, index: Index) -> None:
        role = role_of(self.signatures.get(self.snapshot.ops[node]), port) or "act"
        self.found.touch(Touch(node, port, self._tensor(node, port), role, power, index))

    # ------------------------------------------------------------------------------------------ scales pass through

    def _homogeneous(self, node: int, signature: Signature) -> None:
        """All inputs and the result have one scale, channel by channel."""
        ports = range(len(self.snapshot.inputs[node]))
        acts = [p for p in ports if role_of(signature, p) == "act" and self._tensor(node, p) >= 0]
        degree = self._degree(node, signature)
        if degree != 1:
            self._powered(node, acts, degree if signature.elementwise else None)
            return
        if not signature.elementwise:
            self._moved(node, signature, acts)
            return
        output = self.snapshot.outputs[node][0]
        index = self._common(node, acts, output)
        if index is None:
            return
        for port in acts:
            self._same(node, port, index)
        self.found.assign(output, index)
        for port, entry in enumerate(signature.inputs):
            if entry.role in (*LIMITS, "value") and self._tensor(node, port) >= 0:
                self._limited(node, port, entry.role, acts, index)

    def _degree(self, node: int, signature: Signature) -> Fraction | None:
        """What power of its inputs' scales the result has; None where that is not known."""
        if not isinstance(signature.degree, str):
            return Fraction(signature.degree)
        tensor = self._tensor(node, signature.ports[0].index(signature.degree))
        value = self.snapshot.value(tensor) if tensor >= 0 and self.snapshot.is_constant(tensor) else np.zeros(0)
        return Fraction(float(value.item())) if value.size == 1 and np.isfinite(value).all() and value.all() else None

    def _powered(self, node: int, acts: Sequence[int], degree: Fraction | None) -> None:
        """The result has scales that are powers of those of its only input."""
        output, tensors = self.snapshot.outputs[node][0], {self._tensor(node, port) for port in acts}
        tensor = tensors.pop()
        shape = shape_of(self.snapshot, tensor)
        if degree is None or tensors or self.snapshot.is_constant(tensor) or shape != shape_of(self.snapshot, output):
            self._pin_all(node)
        elif tensor in self.found.maps:
            self.found.assign(output, self.found.powers(self.found.maps[tensor], degree))
        elif output in self.found.maps:
            self.found.assign(tensor, self.found.powers(self.found.maps[output], 1 / degree))

    def _common(self, node: int, acts: Sequence[int], output: int) -> Index | None:
        """The channels of an elementwise node's result, from any of its tensors that has some."""
        shape, maps = shape_of(self.snapshot, output), self.found.maps
        known = [maps[t] for t in (output, *(self._tensor(node, p) for p in acts)) if t in maps]
        if not known or shape is None:
            self._pin_all(node)
            return None
        aligned = [m.reshape((1,) * (len(shape) - m.ndim) + m.shape) for m in known]
        widest = max(aligned, key=lambda m: m.size)
        for other in aligned:
            self.found.join(widest, other)
        return widest

    def _same(self, node: int, port: int, index: Index) -> None:
        """An input of an elementwise node has the channels of its result; a constant takes the scale."""
        tensor = self._tensor(node, port)
        shape = shape_of(self.snapshot, tensor)
        if shape is None or len(shape) > index.ndim:
            self.found.pin(index)
            return
        lead = index.ndim - len(shape)
        narrow = [a for a in range(index.ndim) if index.shape[a] > 1 and (a < lead or shape[a - lead] == 1)]
        if not self.snapshot.is_constant(tensor):
            # One element that meets several channels makes them one.
            index = self.found.joined(index, narrow) if narrow else index
            self.found.assign(tensor, index.reshape(index.shape[lead:]))
        elif not self._unscaled(tensor):
            if narrow or not self.snapshot.is_float(tensor):
                self.found.pin(index)
            else:
                self._touch(node, port, -1, index.reshape(index.shape[lead:]))

    def _unscaled(self, tensor: int) -> bool:
        """True for numbers that a scale does not change: zeros and infinities."""
        value = self.snapshot.value(tensor)
        return value.dtype.kind == "f" and bool(((value == 0) | (np.abs(value) > HUGE)).all())

    def _limited(self, node: int, port: int, role: str, acts: Sequence[int], index: Index) -> None:
        tensor = self._tensor(node, port)
        if not self.snapshot.is_constant(tensor):
            self.found.pin(index)
        elif not self._unscaled(tensor):
            value = self.snapshot.value(tensor)
            if role in LIMITS and value.size == 1 and len(acts) == 1:
                limit = Limit(node, port, index, role == LIMITS[1], float(value.reshape(())))
                self.found.limits[node, port] = limit
            else:
                self.found.pin(index)

    def _factor(self, node: int, port: int, signature: Signature, index: Index) -> None:
        """A product of tensors: its result has the scale of one of them, the others keep theirs; of a square, its square."""
        ports = range(len(self.snapshot.inputs[node]))
        factors = {(self._tensor(node, p), role_of(signature, p)) for p in ports}
        if signature.elementwise and len(ports) > 1 and len(factors) == 1:
            self._powered(node, ports, Fraction(len(ports)))
            return
        if port < 0 and node not in self.carrier:
            self.carrier[node] = self._choose(node, signature, index)
        elif port >= 0 and self.carrier.setdefault(node, port) != port:
            self.found.pin(index)
            return
        carrier, output = self.carrier[node], self.snapshot.outputs[node][0]
        if self._is_constant(node, carrier):
            self._same(node, carrier, index)
        elif signature.elementwise:
            aligned = self._common(node, [carrier], output)
            if aligned is not None:
                self._same(node, carrier, aligned)
                self.found.assign(output, aligned)
        else:
            self._moved(node, signature, [carrier])

    def _choose(self, node: int, signature: Signature, index: Index) -> int:
        """The port that takes the scale of a product: a constant with a number for each channel, else the largest operand."""
        ports = [p for p in range(len(self.snapshot.inputs[node])) if role_of(signature, p) in ("act", "weight")]
        if not signature.elementwise:
            weight = port_of(signature, "weight")
            return ports[0] if weight is None else weight
        full = [p for p in ports if self._is_full(self._tensor(node, p), index)]
        constant = [p for p in full if self._is_constant(node, p)]
        computed = [p for p in full if p not in constant] or [p for p in ports if not self._is_constant(node, p)]
        largest = sorted(computed, key=lambda p: -np.prod(shape_of(self.snapshot, self._tensor(node, p)) or (0,)))
        return [*constant, *largest, *ports][0]

    def _is_full(self, tensor: int, index: Index) -> bool:
        """True if a tensor that is broadcast to a result has an element of its own for each of its channels."""
        shape = shape_of(self.snapshot, tensor) or ()
        lead = index.ndim - len(shape)
        return lead >= 0 and all(
            index.shape[a] == 1 or (a >= lead and shape[a - lead] == index.shape[a]) for a in range(index.ndim)
        )

    def _moved(self, node: int, signature: Signature, ports: Sequence[int]) -> None:
        """Channels go through a node that moves, selects or averages elements: where to, the node itself shows."""
        for port, entry in enumerate(signature.inputs):
            filled = self._tensor(node, port) if entry.role == "value" else -1
            if filled >= 0 and not (self.snapshot.is_constant(filled) and self._unscaled(filled)):
                self._pin_all(node)
                return
        moves = Moves(self.snapshot, self.found, self.flows)
        constant = any(self._is_constant(node, p) for p in ports)
        if constant or not moves.through(node, ports, self._depth(node, signature)):
            self._pin_all(node)

    def _depth(self, node: int, signature: Signature) -> int | None:
        weight = port_of(signature, "weight")
        if not signature.multiplicative or weight is None:
            return None
        shape = shape_of(self.snapshot, self._tensor(node, weight)) or ()
        axis = axis_of(self.snapshot, self.signatures, node, weight, "in", len(shape))
        return None if axis is None else shape[axis]

    def _pin_all(self, node: int) -> None:
        for tensor in (*self.snapshot.inputs[node], *self.snapshot.outputs[node]):
            if tensor in self.found.maps:
                self.found.pin(self.found.maps[tensor])

    def _tensor(self, node: int, port: int) -> int:
        inputs = self.snapshot.inputs[node]
        return inputs[port] if port < len(inputs) else -1

    def _is_constant(self, node: int, port: int) -> bool:
        tensor = self._tensor(node, port)
        return tensor >= 0 and self.snapshot.is_constant(tensor)


def role_of(signature: Signature | None, port: int) -> str | None:
    """The role of an input, or (-1 - k) of output k; ports beyond those that are listed have the last one's."""
    if signature is None:
        return None
    ports = signature.inputs if port >= 0 else signature.outputs
    place = port if port >= 0 else -1 - port
    return ports[min(place, len(ports) - 1)].role if ports else None


def port_of(signature: Signature | None, role: str) -> int | None:
    """The first input with a role."""
    ports = () if signature is None else signature.inputs
    return next((k for k, port in enumerate(ports) if port.role == role), None)
