"""Second moments of what each layer's weights multiply: E[x x^T], for rounding to second order.

A layer is linear in its weights. So with the rows of an identity matrix for weights it returns the very numbers that its
weights multiply, one column for each position, with its own strides, padding, dilations and groups: nothing here knows an
operator. Axes and roles come from the operator's signature.

Columns are rounded to 15 bits of a power of two before they are multiplied: then every sum is a whole number that float64
holds exactly, and does not depend on threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from potc.data.dataset import Dataset
from potc.data.kept import some
from potc.execute.float_runs import next_results, open_float
from potc.execute.session import InferenceSession, open_session, run_each
from potc.graph.model import Model
from potc.graph.snapshot import Snapshot, take_snapshot
from potc.language.program import Signature
from potc.match.environment import axis_of
from potc.quantize.observe import instrument, value_outputs
from potc.quantize.plan import ConstantQuantizer, Plan

SAMPLES = 32  # each is one more run of the float model
HELD_BACK = 4  # of so many samples one judges what the others make
COLUMNS = 256  # of each sample, evenly spread over its positions
LONGEST = (
    2304  # weights of one output channel: 3 x 3 of 256 channels. Matrices grow with the square, time with the cube
)
MEMORY = 1 << 26  # bytes of moments that are held at once; with more the samples are run again
BITS = 15


@dataclass(frozen=True, slots=True)
class Moments:
    """``gram``: float64 [G, K, K], the mean of x x^T of each group of output channels; K runs over the weights of one output
    channel, in the order of their axes. ``held``: the same of samples that were held back, or of all where there is only one.
    ``columns``: how many x both are made of. ``axis``: of the weights, the output channels."""

    gram: np.ndarray
    held: np.ndarray
    columns: int
    axis: int


@dataclass(frozen=True, slots=True)
class Layer:
    """A node with weights. ``tensor`` is what it multiplies; ``channel``, ``out``, ``summed`` and ``result`` are axes: the input
    channels of that, output and input channels of the weights, output channels of the result."""

    node: onnx.NodeProto
    tensor: str
    act: int
    weight: int
    channel: int
    out: int
    summed: int
    result: int
    shape: tuple[int, ...]

    @property
    def length(self) -> int:
        """Weights of one output channel."""
        return int(np.prod([n for a, n in enumerate(self.shape) if a != self.out], dtype=np.int64))


@dataclass(slots=True)
class SecondMoments:
    """By index of a constant in the plan; measured when they are asked for. ``outcome``: of all weights, "" or why not."""

    model: Model
    samples: Dataset
    layers: Mapping[tuple[str, int], tuple[Layer, ...]]
    keys: Mapping[int, tuple[str, int]]
    outcome: dict[int, str]
    _held: dict[tuple[str, int], Moments | None] = field(default_factory=dict["tuple[str, int]", "Moments | None"])

    def of(self, index: int) -> Moments | None:
        key = self.keys.get(index)
        if key is None:
            return None
        if key not in self._held:
            self._held = self._measured(self._together(key))
        if self._held[key] is None:
            self.outcome[index] = "what it multiplies is not finite, or not one number for each of its weights"
        return self._held[key]

    def _together(self, first: tuple[str, int]) -> dict[tuple[str, int], tuple[Layer, ...]]:
        """From ``first`` on, what fits into memory together."""
        taken, size = {first: self.layers[first]}, 0
        keys = list(self.layers)
        for key in keys[keys.index(first) :]:
            size += 2 * 8 * self.layers[key][0].length ** 2
            if size > MEMORY:
                break
            taken[key] = self.layers[key]
        return taken

    def _measured(self, taken: Mapping[tuple[str, int], tuple[Layer, ...]]) -> dict[tuple[str, int], Moments | None]:
        tensors = list(dict.fromkeys(layer.tensor for layers in taken.values() for layer in layers))
        serialized = instrument(self.model.proto, [], fetched=tensors)
        opset = list(self.model.proto.opset_import)
        outputs = list(value_outputs(self.model.proto, len(tensors)))
        session = open_float(serialized)
        sums = {key: _Sum(layers, opset) for key, layers in taken.items()}
        for number, (index, feed) in enumerate(some(self.samples, SAMPLES)):
            values = dict(zip(tensors, next_results(run_each(session, outputs, [feed], 1), index), strict=True))
            for found in sums.values():
                found.add(values, number % HELD_BACK == HELD_BACK - 1)
        return {key: sums.pop(key).moments() for key in taken}  # with each goes the session that showed its columns


def second_moments(model: Model, plan: Plan, signatures: Mapping[str, Signature], samples: Dataset) -> SecondMoments:
    """Of every constant that is the weight of a node whose signature names all axes. Nothing is run yet."""
    snapshot = take_snapshot(model.proto)
    nodes = {name: number for number, name in enumerate(snapshot.names)}
    layers: dict[tuple[str, int], tuple[Layer, ...]] = {}
    keys: dict[int, tuple[str, int]] = {}
    outcome: dict[int, str] = {}
    for index, constant in enumerate(plan.constants):
        if constant.role != "weight":
            continue
        layer = _layer(constant, nodes[constant.node], snapshot, signatures)
        if layer is None:
            outcome[index] = "its operator does not say what it multiplies"
        elif layer.length > LONGEST:
            outcome[index] = f"{layer.length} weights of one output channel are more than {LONGEST}"
        else:
            outcome[index] = ""
            keys[index] = (constant.tensor, layer.out)
            layers[keys[index]] = (*layers.get(keys[index], ()), layer)
    return SecondMoments(model, samples, layers, keys, outcome)


def _layer(
    constant: ConstantQuantizer, node: int, snapshot: Snapshot, signatures: Mapping[str, Signature]
) -> Layer | None:
    signature, weight = signatures.get(snapshot.ops[node]), constant.port
    shape = snapshot.shapes[snapshot.inputs[node][weight]]
    if signature is None or shape is None:
        return None
    acts = [i for i, port in enumerate(signature.inputs) if port.role == "act"]
    others = {port.role for port in signature.inputs} - {"act", "weight", "bias"}
    if len(acts) != 1 or others or len(signature.outputs) != 1:
        return None
    source, made = snapshot.inputs[node][acts[0]], snapshot.outputs[node][0]
    ranks = [len(found) if (found := snapshot.shapes[t]) is not None else 0 for t in (source, made)]
    places = (
        (acts[0], "channel", ranks[0]),
        (-1, "channel", ranks[1]),
        *((weight, r, len(shape)) for r in ("out", "in")),
    )
    axes = [axis_of(snapshot, signatures, node, port, role, rank) for port, role, rank in places]
    channel, result, out, summed = axes
    if channel is None or result is None or out is None or summed is None or None in shape:
        return None
    sizes = tuple(n or 0 for n in shape)
    tensor = snapshot.tensors[source]
    return Layer(snapshot.protos[node], tensor, acts[0], weight, channel, out, summed, result, sizes)


class Columns:
    """Shows what a layer's weights multiply: the layer itself, with an identity matrix for weights."""

    def __init__(self, layer: Layer, opset: list[onnx.OperatorSetIdProto]) -> None:
        self._layer, self._opset = layer, opset
        self._groups = 0
        self._session: InferenceSession | None = None

    def of(self, x: np.ndarray) -> np.ndarray | None:
        """Float32 [G, K, n]: at most ``COLUMNS`` columns, evenly spread; None where the layer is not what it seems."""
        layer = self._layer
        groups = x.shape[layer.channel] // max(1, layer.shape[layer.summed])
        if not groups or layer.shape[layer.out] % groups:
            return None
        if self._session is None or groups != self._groups:
            self._groups, self._session = groups, _identity(layer, groups, self._opset)
        made = np.asarray(self._session.run(None, {"x": x})[0])
        if made.shape[layer.result] != groups * layer.length:
            return None
        columns = np.moveaxis(made, layer.result, 0).reshape(groups, layer.length, -1)
        return columns[:, :, :: max(1, -(-columns.shape[2] // COLUMNS))]


def _identity(layer: Layer, groups: int, opset: list[onnx.OperatorSetIdProto]) -> InferenceSession:
    kept = [n for a, n in enumerate(layer.shape) if a != layer.out]
    rows = np.tile(np.eye(layer.length, dtype=np.float32), (groups, 1)).reshape(-1, *kept)
    weights = np.ascontiguousarray(np.moveaxis(rows, 0, layer.out))
    node = onnx.NodeProto()
    node.CopyFrom(layer.node)
    del node.input[:], node.output[:]
    node.input.extend("x" if i == layer.act else "w" for i in range(max(layer.act, layer.weight) + 1))
    node.output.append("y")
    graph = helper.make_graph(
        [node],
        "columns",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "w")],
    )
    return open_session(helper.make_model(graph, opset_imports=opset).SerializeToString(), optimize=False, threads=1)


class _Sum:
    """Moments of one weight, over all nodes that share it."""

    def __init__(self, layers: tuple[Layer, ...], opset: list[onnx.OperatorSetIdProto]) -> None:
        self._layers = [(layer, Columns(layer, opset)) for layer in layers]
        self._sums: dict[bool, np.ndarray] = {}
        self._counts = {False: 0, True: 0}
        self._failed = False

    def add(self, values: Mapping[str, np.ndarray], held: bool) -> None:
        for layer, columns in self._layers:
            found = columns.of(values[layer.tensor])
            if found is None or not np.isfinite(found).all():
                self._failed = True
            elif found.size and not self._failed:
                gram = gram_of(found)
                before = self._sums.setdefault(held, np.zeros_like(gram))
                self._failed = before.shape != gram.shape
                if not self._failed:
                    before += gram
                self._counts[held] += found.shape[2]

    def moments(self) -> Moments | None:
        """The sums become the means: in their place, since they are large."""
        means = [np.divide(total, self._counts[held], out=total) for held, total in sorted(self._sums.items())]
        self._sums.clear()
        if self._failed or not means or means[0].shape != means[-1].shape:
            return None
        return Moments(means[0], means[-1], sum(self._counts.values()), self._layers[0][0].out)


def gram_of(columns: np.ndarray) -> np.ndarray:
    """Float64 [G, K, K]: the sum of x x^T over ``columns``, float32 [G, K, n], finite, rounded to 15 bits of the largest."""
    exponent = int(np.frexp(np.abs(columns).max(initial=0.0))[1]) - BITS
    whole = np.rint(np.ldexp(columns.astype(np.float64), -exponent))
    return np.ldexp(whole @ whole.transpose(0, 2, 1), 2 * exponent)
