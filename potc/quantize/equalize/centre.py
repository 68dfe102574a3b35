"""Means of channels move: what a layer returns is centred about zero, and layers behind it make up for that.

(x - m) W + (b + m W) = x W + b: the bias of the layer in front loses m, and that of the layer behind gains what it makes of m. Then
all channels of a tensor share its range without an offset of their own (the ancestor's ActivationChannelAlignment, with m the
middle of what a channel holds). Only where nothing but such layers reads the tensor, and none of them fills in zeros: at a border
those would be worth as much as what they stand beside. And only where the accumulators have room for the new biases: with 16-bit
products, larger biases make weights coarser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper

from potc.data.dataset import Dataset
from potc.execute.aside import array_of
from potc.graph.model import Model
from potc.graph.names import fresh
from potc.graph.snapshot import Snapshot, outer_reads, take_snapshot
from potc.language.program import Signature
from potc.match.environment import axis_of
from potc.quantize.biases import with_biases
from potc.quantize.correct import mean_output
from potc.quantize.equalize.contents import Contents, observe_contents
from potc.quantize.equalize.layers import codes_of, taken
from potc.quantize.plan import Correction, Plan, Window

ROOM = 0.5  # of an accumulator, for a bias: the rest is for the products


@dataclass(frozen=True, slots=True)
class Centred:
    """Channels of one tensor that were moved: by the node that returns it and those that read it. ``largest``: the largest
    distance; ``share``: the largest extent of one channel, as a share of that of the tensor before."""

    source: str
    sinks: tuple[str, ...]
    channels: int
    largest: float
    share: float


@dataclass(frozen=True, slots=True)
class _Place:
    """A tensor that can be centred along ``channel``: ``front`` is the layer that returns it, ``behind`` are those that read it."""

    tensor: int
    channel: int
    front: Correction
    behind: tuple[Correction, ...]

    @property
    def layers(self) -> tuple[Correction, ...]:
        return (self.front, *self.behind)


def centre(
    model: Model,
    signatures: Mapping[str, Signature],
    plan: Plan,
    samples: Dataset,
    preset: str,
    progress: Callable[[int, int], None],
) -> tuple[Model, tuple[Centred, ...]]:
    """The same model where nothing can be centred. Layers without a bias that their kernel could take get one. ``preset``: which of
    the allowed types are taken. Runs each sample once. Raises Rejected if onnxruntime can't."""
    filled, filled_plan = with_biases(model, plan)
    snapshot = take_snapshot(filled.proto)
    places = tuple(_places(snapshot, signatures, filled_plan))
    if not places:
        return model, ()
    contents = observe_contents(filled, _wanted(snapshot, places), samples, progress)
    centring = _Centring(snapshot, filled_plan, contents, preset)
    told = tuple(made for place in places if (made := centring.move(place)) is not None)
    return (_shifted(filled, filled_plan, centring.shifts), told) if told else (model, ())


def _places(snapshot: Snapshot, signatures: Mapping[str, Signature], plan: Plan) -> Iterator[_Place]:
    nodes = {name: node for node, name in enumerate(snapshot.names)}
    behind: dict[tuple[int, int], Correction] = {}
    results: dict[int, Correction] = {}
    for correction in plan.corrections:
        reader = nodes.get(plan.constants[correction.weight].node)
        adder = nodes.get(plan.constants[correction.bias].node)
        if reader is not None and adder is not None:
            behind[reader, correction.port] = correction
            results[snapshot.outputs[adder][0]] = correction
    stored = {snapshot.tensor_ids[t] for q in plan.quantizers if not q.types[0].floating for t in q.observed}
    for tensor, front in results.items():
        found = [behind.get(place) for place in snapshot.consumers[tensor]]
        if tensor not in stored or tensor in snapshot.graph_outputs or not found:
            continue
        layers = tuple(c for c in found if c is not None and not _pads(c.window))
        channel = _channel(snapshot, signatures, snapshot.producer[tensor], tensor)
        if len(layers) == len(found) and {c.channel for c in layers} == {channel}:
            yield _Place(tensor, channel or 0, front, layers)


def _wanted(snapshot: Snapshot, places: Sequence[_Place]) -> dict[str, tuple[int, tuple[int, ...]]]:
    """As ``observe_contents`` takes it: the channels of what is centred, and extremes of what the layers in front read."""
    wanted = {p.front.tensor: (p.front.rank, ()) for p in places}
    return wanted | {snapshot.tensors[p.tensor]: (len(snapshot.shapes[p.tensor] or ()), (p.channel,)) for p in places}


@dataclass(frozen=True, slots=True)
class _Centring:
    """``shifts``: by index of a bias, what is added to it so far."""

    snapshot: Snapshot
    plan: Plan
    contents: Mapping[str, Contents]
    preset: str
    shifts: dict[int, np.ndarray] = field(default_factory=dict[int, np.ndarray])

    def move(self, place: _Place) -> Centred | None:
        """Centres one tensor; None where it is centred, or its biases would not fit."""
        seen = self.contents[self.snapshot.tensors[place.tensor]]
        low, high = seen.low.ravel(), seen.high.ravel()
        middle, spans = (low + high) / 2, high - low
        made = [change for layer in place.behind if (change := self._made_of(layer, middle)) is not None]
        changes = [-middle, *made]
        if not middle.any() or len(made) < len(place.behind):
            return None
        extents = [_extent(self.contents[place.front.tensor]), *(float(spans.max()) for _ in made)]
        if not all(self._fits(*told) for told in zip(place.layers, changes, extents, strict=True)):
            return None
        for layer, change in zip(place.layers, changes, strict=True):
            self.shifts[layer.bias] = self.shifts.get(layer.bias, 0.0) + change
        sinks = tuple(self.plan.constants[layer.weight].node for layer in place.behind)
        numbers = (float(f"{x:.4g}") for x in (np.abs(middle).max(), spans.max() / _extent(seen)))
        return Centred(self.plan.constants[place.front.bias].node, sinks, int((middle != 0).sum()), *numbers)

    def _value(self, constant: int) -> np.ndarray:
        return self.snapshot.value(self.snapshot.tensor_ids[self.plan.constants[constant].tensor])

    def _made_of(self, layer: Correction, middle: np.ndarray) -> np.ndarray | None:
        """[output channels]: what a layer makes of a number for each input channel; None where shapes do not fit."""
        weights = self._value(layer.weight)
        taps = weights.size // max(weights.shape[layer.out] * weights.shape[layer.summed], 1)
        mean = np.repeat(middle[:, None], taps, axis=1)
        return mean_output(weights, layer.out, layer.summed, mean, self._value(layer.bias).size)

    def _fits(self, layer: Correction, change: np.ndarray, extent: float) -> bool:
        """True if a bias does not grow, or its codes stay within ``ROOM``; its scale is that of the weight, one for all channels
        at least, times that of what the layer reads, whose values extend over ``extent``."""
        before = self._value(layer.bias).astype(np.float64).ravel()
        if before.size != change.size:
            return False
        bias, weight = (self.plan.constants[c] for c in (layer.bias, layer.weight))
        types = next((q.types for q in self.plan.quantizers if layer.tensor in q.tensors), None)
        if types is None:
            return False
        activation = codes_of(types[0] if self.preset == "performance" else types[-1])
        steps = codes_of(taken(weight.types, self.preset))
        if not activation or not steps:
            return False
        step = extent / activation * 2 * float(np.abs(self._value(layer.weight)).max()) / steps
        most = ROOM * taken(bias.types, self.preset).high * step
        after = np.abs(before + self.shifts.get(layer.bias, 0.0) + change)
        return bool((after <= np.maximum(np.abs(before), most)).all())


def _extent(seen: Contents) -> float:
    return max(float(seen.high.max()), 0.0) - min(float(seen.low.min()), 0.0)


def _pads(window: Window | None) -> bool:
    """True if not every result of a layer is a sum over all of its kernel."""
    return window is not None and (window.spreads or any(window.pads) or window.auto_pad not in ("NOTSET", "VALID"))


def _channel(snapshot: Snapshot, signatures: Mapping[str, Signature], node: int, tensor: int) -> int | None:
    """The axis along which the bias of a node lies in its result."""
    shape = snapshot.shapes[tensor]
    if shape is None or snapshot.dtypes[tensor] != "f32":
        return None
    channel = axis_of(snapshot, signatures, node, -1, "channel", len(shape))
    elementwise = signatures[snapshot.ops[node]].elementwise  # an addend lies along the last axis
    return len(shape) - 1 if channel is None and elementwise else channel


def _shifted(model: Model, plan: Plan, shifts: Mapping[int, np.ndarray]) -> Model:
    """With other biases, each under a name of its own: others may read the old one."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    graph = proto.graph
    stored = {t.name: t for t in graph.initializer}
    taken = {n for node in graph.node for n in (*node.input, *node.output, *outer_reads(node))} | set(stored)
    nodes = {node.name: node for node in graph.node}
    for index, shift in shifts.items():
        constant = plan.constants[index]
        old = array_of(stored[constant.tensor])
        new = (old.astype(np.float64) + shift.reshape(old.shape)).astype(old.dtype)
        name = fresh(f"{constant.tensor}/centred", taken)
        graph.initializer.append(numpy_helper.from_array(new, name))
        nodes[constant.node].input[constant.port] = name
    return model.with_proto(proto)
