"""Bias correction in sequence: each layer's mean error is measured with everything before it quantized, and taken back.

By output channel, the mean over positions and samples of what a layer returns in the quantized model is brought to what it is in
the float model (Nagel et al., "Data-Free Quantization through Weight Equalization and Bias Correction", 2019, section 4.2;
"A White Paper on Neural Network Quantization", 2021, section 3.3.2). That is what the layer adds itself and what reaches it of the
errors of layers before it, so layers take their turn, those first that no other layer precedes; layers side by side go together.

Means are matched behind the function f that follows a layer (``behind.py``). With E the mean in the quantized model minus that in
the float model, both of f, and S the mean slope of f in the quantized model, E / S is taken off the bias: one step of Newton's
method. Means in front of f are those of positions that count and of others that do not; matched there, the ones that count are
moved by errors of the others (docs/decisions/0050-bias-correction-in-sequence.md).

Samples are few: of a mean error m with the standard error s over samples, m * max(0, 1 - s^2 / m^2) is taken back, the positive
part of the estimator of James and Stein ("Estimation with Quadratic Loss", 1961) for one mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from potc.data.dataset import Dataset
from potc.data.kept import Sample, some, spread
from potc.execute.session import run_each
from potc.graph.model import Model
from potc.graph.names import free_prefix
from potc.graph.snapshot import Snapshot, take_snapshot
from potc.language.program import Signature
from potc.match.environment import axis_of
from potc.quantize.behind import Behind, behind, constants_of, looking
from potc.quantize.observe import Averaged
from potc.quantize.params import Params, dequantize, quantize
from potc.quantize.plan import ConstantQuantizer, Plan
from potc.quantize.ranges import Looked
from potc.quantize.stages import Given, Stage, open_stage, stages

SAMPLES = 64  # each runs about twice in float arithmetic between the quantizers, and once more in float
MEMORY = 1 << 24  # bytes of samples between two stages; what does not fit is left out from there on
STEP = 2.0**-8  # of the largest mean behind f: slopes are taken over twice that
PASSES = 2.0**-10  # share of the largest slope: a channel that passes less of a shift is left alone


@dataclass(frozen=True, slots=True)
class _Layer:
    """A node with a bias that is corrected: ``bias`` is its index in the plan, ``port`` where the node reads it. The result is
    called ``tensor`` in the float model; it has ``rank`` axes, and the bias lies along ``channel``."""

    node: str
    bias: int
    port: int
    tensor: str
    rank: int
    channel: int
    behind: Behind


def corrected_in_sequence(
    prepared: Model,
    plan: Plan,
    params: Params,
    lowered: onnx.ModelProto,
    signatures: Mapping[str, Signature],
    chosen: Sequence[Sample],
    looked: Looked,
) -> Params:
    """``params`` with other codes of the biases that ``plan.corrections`` speaks of, and ``shifts`` that say by how much.

    ``prepared`` is the float model, ``lowered`` the quantized one with ``params``; ``chosen``: samples, see ``chosen_of``;
    ``looked``: what the float model returned of them, see ``looked_at``. Layers of nested graphs, those that compute in another
    float type, and those behind sequences of tensors keep what they have. Raises Rejected where a sample can't be run.
    """
    layers = {layer.node: layer for layer in _layers(plan, prepared, signatures)}
    if not layers:
        return params
    wanted = {
        name: np.array([looked[index][layer.behind.result] for index, _ in chosen], np.float64)
        for name, layer in layers.items()
    }
    codes, shifts, reasons = list(params.codes), dict(params.shifts), list(params.constant_reasons)
    walk = _Walk(prepared.proto, lowered, layers, [dict(feed) for _, feed in chosen])
    for stage in stages(lowered, layers):
        if not walk.holds(stage):
            break
        given: dict[str, Given] = {}
        for name in (*stage.settled, *stage.layers):
            index = layers[name].bias
            given[name] = Given(layers[name].port, dequantize(codes[index], params.constants[index]))
        steps = {name: STEP * float(np.nanmax(np.abs(wanted[name]), initial=0.0)) for name in stage.layers}
        for name, seen in walk.run(stage, given, steps).items():
            index = layers[name].bias
            error = believed(seen.errors(wanted[name][: walk.left]))
            constant = params.constants[index]
            before = dequantize(codes[index], constant).astype(np.float64)
            codes[index] = quantize(before - error.reshape(before.shape), constant)
            shifts[index] = shifts.get(index, np.zeros(before.shape)) - error.reshape(before.shape)
            reasons[index] = f"{reasons[index].split('; corrected')[0]}; corrected in sequence"
    return replace(params, codes=tuple(codes), constant_reasons=tuple(reasons), shifts=shifts)


def any_start_spread(items: list[Sample]) -> list[Sample]:
    """Evenly spread items in another order: each start of it is spread about evenly as well (van der Corput, 1935)."""
    bits = max(len(items) - 1, 1).bit_length()
    return [items[i] for i in sorted(range(len(items)), key=lambda i: f"{i:0{bits}b}"[::-1])]


def fitting(feed: Mapping[str, np.ndarray]) -> int:
    """How many samples like this one are held at once: as many as take ``MEMORY``."""
    size = sum(np.asarray(value).nbytes for value in feed.values())
    return max(1, min(SAMPLES, MEMORY // max(size, 1)))


def chosen_of(samples: Dataset) -> list[Sample]:
    """Those that the correction runs: as many as fit, by the size of the first; each start of them is spread."""
    return any_start_spread(list(some(samples, _count(samples))))


def chosen_indices(samples: Dataset) -> frozenset[int]:
    """The indices of ``chosen_of``, of which only the first is read."""
    return spread(len(samples), _count(samples))


def _count(samples: Dataset) -> int:
    return fitting(next((feed for _, feed in some(samples, 1)), {}))


def looked_at(plan: Plan, prepared: Model, signatures: Mapping[str, Signature]) -> tuple[Averaged, ...]:
    """What the float model must tell of each chosen sample: by channel, the mean of what lies behind f."""
    snapshot = take_snapshot(prepared.proto)
    nodes = {name: number for number, name in enumerate(snapshot.names)}
    found: list[Averaged] = []
    for index in dict.fromkeys(c.bias for c in plan.corrections):
        name = plan.constants[index].node
        result = _result(nodes[name], snapshot, signatures) if name in nodes else None
        if result is not None:
            found.append(Averaged(result.behind.result, result.rank, result.channel))
    return tuple(dict.fromkeys(found))


def believed(errors: np.ndarray) -> np.ndarray:
    """[C]: the mean of [samples, C], less where it may be chance; 0 where it is no number."""
    mean = errors.mean(axis=0)
    mean = np.where(np.isfinite(mean), mean, 0.0)
    if len(errors) < 2:
        return mean
    square = np.square(mean)
    chance = np.nan_to_num(errors.var(axis=0, ddof=1) / len(errors))
    return mean * np.clip(1 - np.divide(chance, square, out=np.ones_like(square), where=square > 0), 0, 1)


# ---------------------------------------------------------------------------------------------- layers


def _layers(plan: Plan, prepared: Model, signatures: Mapping[str, Signature]) -> list[_Layer]:
    snapshot = take_snapshot(prepared.proto)
    nodes = {name: number for number, name in enumerate(snapshot.names)}
    found: list[_Layer] = []
    for index in dict.fromkeys(c.bias for c in plan.corrections):
        constant = plan.constants[index]
        if constant.node in nodes:
            layer = _layer(index, constant, nodes[constant.node], snapshot, signatures)
            if layer is not None:
                found.append(layer)
    return found


@dataclass(frozen=True, slots=True)
class _Result:
    rank: int
    channel: int
    channels: int | None
    behind: Behind


def _layer(
    index: int, constant: ConstantQuantizer, node: int, snapshot: Snapshot, signatures: Mapping[str, Signature]
) -> _Layer | None:
    result, of_bias = _result(node, snapshot, signatures), snapshot.shapes[snapshot.inputs[node][constant.port]]
    if result is None or of_bias is None or None in of_bias:
        return None
    if result.channels != int(np.prod([n or 0 for n in of_bias])):
        return None
    tensor = snapshot.tensors[snapshot.outputs[node][0]]
    return _Layer(constant.node, index, constant.port, tensor, result.rank, result.channel, result.behind)


def _result(node: int, snapshot: Snapshot, signatures: Mapping[str, Signature]) -> _Result | None:
    result = snapshot.outputs[node][0]
    shape = snapshot.shapes[result]
    if shape is None or snapshot.dtypes[result] != "f32":
        return None
    channel = axis_of(snapshot, signatures, node, -1, "channel", len(shape))
    if channel is None and signatures[snapshot.ops[node]].elementwise:  # an addend lies along the last axis
        channel = len(shape) - 1
    if channel is None:
        return None
    return _Result(len(shape), channel, shape[channel], behind(snapshot, signatures, result))


# ---------------------------------------------------------------------------------------------- samples


@dataclass(frozen=True, slots=True)
class _Seen:
    """Of a layer in the quantized model, by sample: [samples, C] means of f, and where it is a function, of f with its argument
    moved up and down by ``step``."""

    means: np.ndarray
    moved: tuple[np.ndarray, ...]
    step: float

    def errors(self, wanted: np.ndarray) -> np.ndarray:
        """By how much the layer's results are too large in front of f."""
        error = self.means - wanted
        if not self.moved:
            return error
        if not self.step:  # f returns 0 throughout
            return np.zeros_like(error)
        up, down = (moved.mean(axis=0) for moved in self.moved)
        slope = (up - down) / (2 * self.step)
        passes = np.abs(slope) > PASSES * np.nanmax(np.abs(slope), initial=0.0)
        return np.divide(error, slope, out=np.zeros_like(error), where=np.broadcast_to(passes, error.shape))


class _Walk:
    """Samples on their way through the stages. ``left``: how many are still under way."""

    def __init__(
        self,
        prepared: onnx.ModelProto,
        lowered: onnx.ModelProto,
        layers: Mapping[str, _Layer],
        samples: list[dict[str, Any]],
    ) -> None:
        self._prepared, self._lowered, self._layers, self._samples = prepared, lowered, layers, samples
        self._opset = next(o.version for o in lowered.opset_import if o.domain in ("", "ai.onnx"))
        self._results = {node.name: node.output[0] for node in lowered.graph.node if node.name in layers}
        self._prefix = free_prefix(lowered, "observed")

    @property
    def left(self) -> int:
        return len(self._samples)

    def holds(self, stage: Stage) -> bool:
        """True if all that the stage reads are tensors, in samples of any size."""
        return all(isinstance(self._samples[0].get(name), np.ndarray) for name in stage.reads)

    def run(self, stage: Stage, given: Mapping[str, Given], steps: Mapping[str, float]) -> dict[str, _Seen]:
        """Runs all samples through a stage, and tells what its layers return, by node. ``steps``: over which slopes are taken."""
        nodes: list[onnx.NodeProto] = []
        constants: dict[str, onnx.TensorProto] = {}
        outputs: dict[str, tuple[str, ...]] = {}
        for number, name in enumerate(stage.layers):
            layer, prefix = self._layers[name], f"{self._prefix}/{number}"
            target = Averaged(self._results[name], layer.rank, layer.channel)
            more, stored, outputs[name] = looking(
                self._prepared, layer.behind, layer.tensor, target, steps[name], prefix, self._opset
            )
            nodes += more
            constants.update((t.name, t) for t in (*stored, *constants_of(self._prepared, layer.behind)))
        flat = [output for names in outputs.values() for output in names]
        rows = self._rows(stage, given, (nodes, list(constants.values())), flat)
        columns = {name: np.array([row[i] for row in rows]) for i, name in enumerate(flat)}
        return {
            n: _Seen(columns[first], tuple(columns[m] for m in moved), steps[n])
            for n, (first, *moved) in outputs.items()
        }

    def _rows(
        self,
        stage: Stage,
        given: Mapping[str, Given],
        appended: tuple[list[onnx.NodeProto], list[onnx.TensorProto]],
        outputs: list[str],
    ) -> list[list[np.ndarray]]:
        """The outputs of each sample. What samples hold is then what later stages read, up to ``MEMORY``."""
        types = {name: np.asarray(self._samples[0][name]).dtype for name in stage.reads}
        session = open_stage(self._lowered, stage, types, given, appended, outputs)
        feeds = ({name: sample[name] for name in stage.reads} for sample in self._samples)
        rows: list[list[np.ndarray]] = []
        held = 0
        for sample, results in zip(self._samples, run_each(session, [*stage.kept, *outputs], feeds), strict=False):
            sample.update(zip(stage.kept, results, strict=False))
            for name in sample.keys() - stage.later:
                del sample[name]
            rows.append([np.asarray(r, np.float64) for r in results[len(stage.kept) :]])
            held += sum(np.asarray(value).nbytes for value in sample.values())
            if held > MEMORY:
                break
        del self._samples[len(rows) :]
        return rows
