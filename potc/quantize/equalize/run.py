"""The pass: centre channels where the method does, find those that can be scaled, look at what they hold, choose scales, make
new constants, and see that nothing changed.

Channels behind a limit (of a clipping activation) keep their scale, since a limit is one number for all channels, and scaled
values would meet it elsewhere; or each gets a limit of its own, by a node that is added (``spread``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from potc.data.dataset import Dataset
from potc.data.kept import some
from potc.execute.float_runs import next_results, open_float
from potc.execute.session import run_each
from potc.graph.model import Model
from potc.graph.prepare import drop_dead, fold_constants, infer_shapes
from potc.graph.snapshot import Snapshot, take_snapshot
from potc.language.program import Signature
from potc.quantize.equalize.centre import Centred, centre
from potc.quantize.equalize.channels import Channels
from potc.quantize.equalize.contents import observe_contents
from potc.quantize.equalize.fold import fold, operator_of, spread
from potc.quantize.equalize.layers import Group, Network, build_network, wanted_contents
from potc.quantize.equalize.noise import expected
from potc.quantize.equalize.scales import find_scales
from potc.quantize.equalize.walk import find_channels
from potc.quantize.plan import Plan
from potc.quantize.tuning import EqualizeSettings

TOLERANCE = 1e-4  # of a norm: rounding of constants gives about 1e-6
COMPARED = 8  # samples
CENTRING = ("align", "best")  # methods that move means of channels as well
FLOAT_TYPES = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)


@dataclass(frozen=True, slots=True)
class Equalized:
    """Channels that were scaled together: by the nodes in front of them and behind.

    ``channels``: how many changed; ``smallest``, ``largest``: by what they were divided; ``noise``: what is expected of
    quantization now, as a share of what was before.
    """

    sources: tuple[str, ...]
    sinks: tuple[str, ...]
    channels: int
    smallest: float
    largest: float
    noise: float


@dataclass(frozen=True, slots=True)
class Equalization:
    """``model``: with the same results, the same nodes (and more where limits were spread), and constants that are easier to
    store; the given one where ``groups`` and ``centred`` are empty. ``difference``: of its results, the largest norm of a float
    output's change as a share of the output's norm. ``refused``: why nothing was changed although something was found; ""
    otherwise."""

    model: Model
    groups: tuple[Equalized, ...] = ()
    centred: tuple[Centred, ...] = ()
    difference: float = 0.0
    refused: str = ""


def equalize(
    model: Model,
    signatures: Mapping[str, Signature],
    plan: Plan,
    samples: Dataset,
    equalize_by: EqualizeSettings,
    preset: str,
    progress: Callable[[int, int], None],
) -> Equalization:
    """Equalizes a prepared model for what ``plan`` says will be stored. ``preset``: which of the allowed types are taken. Runs
    each sample once, with the methods of ``CENTRING`` twice, and a few of them twice more. Raises Rejected if onnxruntime can't."""
    new, moved = model, ()
    if equalize_by.method in CENTRING:
        new, moved = centre(model, signatures, plan, samples, preset, progress)
    scaled = _scaled(new, signatures, plan, samples, equalize_by, preset, progress)
    if scaled is None:
        return Equalization(model, refused="a scaled constant is not finite")
    new, told = scaled
    if not told and not moved:
        return Equalization(model)
    difference = compare(model, new, samples)
    if not difference <= TOLERANCE:
        refused = f"results would change by {difference:.2g} of their norm, more than rounding explains"
        return Equalization(model, difference=difference, refused=refused)
    return Equalization(new, told, moved, float(f"{difference:.2g}"))


def _scaled(
    model: Model,
    signatures: Mapping[str, Signature],
    plan: Plan,
    samples: Dataset,
    equalize_by: EqualizeSettings,
    preset: str,
    progress: Callable[[int, int], None],
) -> tuple[Model, tuple[Equalized, ...]] | None:
    """The model with scaled channels; the same one where none gain. None where a constant would not be finite."""
    least = operator_of(signatures, "least") if equalize_by.limits == "spread" else None
    snapshot, channels = _channels(model, signatures, samples, least is not None)
    if snapshot is None or channels is None:
        return model, ()
    kept = wanted_contents(snapshot, signatures, channels, plan)
    named = {snapshot.tensors[t]: (len(snapshot.shapes[t] or ()), axes) for t, axes in kept.items()}
    contents = observe_contents(model, named, samples, progress)
    network = build_network(snapshot, signatures, channels, contents, plan, preset)
    unasked = equalize_by.method == "auto"
    network = network.fine() if unasked else network
    scale = find_scales(network, "best" if unasked else equalize_by.method, exact=unasked)
    told = tuple(
        _told(network, group, scale, snapshot) for group in network.groups if (scale[group.channels] != 1).any()
    )
    if not told:
        return model, ()
    new = fold(model, snapshot, channels.touches, scale)
    if new is None:
        return None
    return new if least is None else spread(new, snapshot, channels.limits, scale, least), told


def compare(model: Model, other: Model, samples: Dataset) -> float:
    """The largest norm of a float output's change over a few samples, as a share of the output's norm; NaN where one is not
    finite and the other is. Raises Rejected if onnxruntime can't run ``model``."""
    chosen = list(some(samples, COMPARED))
    runs: list[list[list[np.ndarray]]] = []
    for proto in (model.proto, other.proto):
        names = [o.name for o in proto.graph.output if o.type.tensor_type.elem_type in FLOAT_TYPES]
        found = run_each(open_float(proto.SerializeToString()), names, (feed for _, feed in chosen))
        results = [next_results(found, index) for index, _ in chosen]
        runs.append([[np.asarray(a, np.float64) for a in arrays] for arrays in results])
    worst = 0.0
    for before, after in zip(*map(_stacked, runs), strict=True):
        finite = np.isfinite(before)
        if not (finite == np.isfinite(after)).all():
            return float("nan")
        norm = float(np.linalg.norm(before[finite]))
        change = float(np.linalg.norm(after[finite] - before[finite]))
        worst = max(worst, change / norm if norm else (0.0 if change == 0 else float("inf")))
    return worst


def _stacked(results: list[list[np.ndarray]]) -> list[np.ndarray]:
    """By output, the numbers of all samples in one row."""
    return [np.concatenate([a.ravel() for a in arrays]) for arrays in zip(*results, strict=True)]


def _channels(
    model: Model, signatures: Mapping[str, Signature], samples: Dataset, limits: bool
) -> tuple[Snapshot | None, Channels | None]:
    """Found in the model with the shapes of the first sample, and again with those that may change made larger."""
    feed = next(iter(samples.feeds()), None)
    if feed is None:
        return None, None
    first = take_snapshot(_shaped(model, {n: a.shape for n, a in feed.items()}).proto)
    found = find_channels(first, signatures)
    larger = _larger(model, feed)
    if larger is not None:
        other = take_snapshot(_shaped(model, larger).proto)
        if _look(first, found) != _look(other, find_channels(other, signatures)):
            return None, None
    return first, _held(first, found, {t.name for t in model.proto.graph.initializer}, limits)


def _shaped(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> Model:
    """With inputs of fixed shapes, and what follows from them."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for value in proto.graph.input:
        if value.name in shapes:
            del value.type.tensor_type.shape.dim[:]
            for size in shapes[value.name]:
                value.type.tensor_type.shape.dim.add().dim_value = size
    return drop_dead(fold_constants(infer_shapes(model.with_proto(proto))))


def _larger(model: Model, feed: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]] | None:
    """Twice the size in every dimension that the model leaves open; None where there is none."""
    shapes: dict[str, tuple[int, ...]] = {}
    differs = False
    for value in model.inputs:
        dims = value.type.tensor_type.shape.dim
        size = feed[value.name].shape
        told = [d.HasField("dim_value") for d in dims] if len(dims) == len(size) else [True] * len(size)
        shapes[value.name] = tuple(n if known else 2 * n for n, known in zip(size, told, strict=True))
        differs = differs or not all(told)
    return shapes if differs else None


def _look(snapshot: Snapshot, channels: Channels) -> list[tuple[str, int, int, list[int]]]:
    """Touched constants by name with their channels, numbered in the order of appearance; -1: fixed."""
    numbers: dict[int, int] = {}
    look: list[tuple[str, int, int, list[int]]] = []
    for touch in sorted(channels.touches, key=lambda t: (snapshot.names[t.node], t.port, t.power)):
        listed = [
            -1 if channels.fixed[c] else numbers.setdefault(c, len(numbers)) for c in touch.index.ravel().tolist()
        ]
        look.append((snapshot.names[touch.node], touch.port, touch.power, listed))
    return look


def _held(snapshot: Snapshot, channels: Channels, stored: set[str], limits: bool) -> Channels:
    """With channels fixed that meet a limit that can't be spread, or a constant that only fixed shapes made one."""
    kept = [e.index for e in channels.limits if not (limits and e.highest)]
    return channels.held((*kept, *(t.index for t in channels.touches if snapshot.tensors[t.tensor] not in stored)))


def _told(network: Network, group: Group, scale: np.ndarray, snapshot: Snapshot) -> Equalized:
    own = scale[group.channels]
    noise = expected(network, group, scale)
    before, after = noise(np.ones(own.shape)), noise(own)
    sources = tuple(snapshot.names[network.layers[k].node] for k in group.sources)
    sinks = tuple(snapshot.names[network.layers[k].node] for k in group.sinks)
    numbers = (float(f"{x:.4g}") for x in (own.min(), own.max(), after / before if before else 1.0))
    return Equalized(sources, sinks, int((own != 1).sum()), *numbers)
