"""The passes in order: find channels, look at what they hold, choose scales, make new constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from potc.data.dataset import Dataset
from potc.graph.model import Model
from potc.graph.prepare import drop_dead, fold_constants, infer_shapes
from potc.graph.snapshot import Snapshot, take_snapshot
from potc.language.program import Program, Signature
from potc.quantize.equalize.channels import Channels, find_channels
from potc.quantize.equalize.contents import Contents, observe_contents
from potc.quantize.equalize.fold import fold
from potc.quantize.equalize.layers import Group, Network, build_network, wanted_contents
from potc.quantize.equalize.noise import expected
from potc.quantize.equalize.scales import Bounds, find_scales
from potc.quantize.plan import Plan
from potc.quantize.tuning import EqualizeSettings

ROOM = 1.5  # how far beyond what was seen a value may go before a limit that was never reached cuts it off


@dataclass(frozen=True, slots=True)
class Equalized:
    """Channels that were scaled together: by what was in front of them and behind, in names of nodes.

    ``smallest`` and ``largest`` scale; ``noise``: expected noise after, as a share of that before.
    """

    sources: tuple[str, ...]
    sinks: tuple[str, ...]
    channels: int
    smallest: float
    largest: float
    noise: float


def equalize(
    model: Model,
    program: Program,
    plan: Plan,
    samples: Dataset,
    settings: EqualizeSettings,
    preset: str,
    progress: Callable[[int, int], None],
) -> tuple[Model, tuple[Equalized, ...]]:
    """A model with the same nodes and the same results whose constants are easier to store; the same one if nothing helps.

    ``plan`` says what will be stored how. Raises Rejected if onnxruntime can't run a sample.
    """
    if not settings.methods:
        return model, ()
    snapshot, channels = _channels(model, program.signatures, samples)
    if snapshot is None or channels is None:
        return model, ()
    kept = wanted_contents(snapshot, program.signatures, channels)
    named = {snapshot.tensors[t]: (len(snapshot.shapes[t] or ()), axes) for t, axes in kept.items()}
    contents = observe_contents(model, named, samples, progress)
    bounds = _bounds(channels, contents, snapshot, settings.limits)
    channels = _held(channels, bounds)
    network = build_network(snapshot, program.signatures, channels, contents, plan, preset)
    scale = find_scales(network, bounds, settings.methods, settings.exact)
    told = tuple(_told(network, group, scale, snapshot) for group in network.groups if (scale[group.channels] != 1).any())
    return fold(model, snapshot, channels.touches, scale), told


def _channels(
    model: Model, signatures: Mapping[str, Signature], samples: Dataset
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
    return first, found


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
        listed = [-1 if channels.fixed[c] else numbers.setdefault(c, len(numbers)) for c in touch.index.ravel().tolist()]
        look.append((snapshot.names[touch.node], touch.port, touch.power, listed))
    return look


def _bounds(channels: Channels, contents: Mapping[str, Contents], snapshot: Snapshot, limits: bool) -> Bounds:
    """Channels behind a limit keep their scale, or may be scaled as far as no value that was seen comes near it."""
    lowest, held = np.zeros(channels.count + 1), np.zeros(channels.count + 1, bool)
    for limit in channels.limits:
        seen = contents.get(snapshot.tensors[limit.tensor])
        index = limit.index.ravel()
        if not limits or seen is None or seen.low.shape != limit.index.shape or limit.bound * (1 if limit.highest else -1) <= 0:
            held[index] = True
            continue
        extreme = seen.high if limit.highest else seen.low
        needed = ROOM * np.maximum(extreme.ravel() / limit.bound, 0.0)
        held[index[needed >= 1]] = True
        np.maximum.at(lowest, index, needed)
    return Bounds(lowest, held)


def _held(channels: Channels, bounds: Bounds) -> Channels:
    fixed = channels.fixed | bounds.held[:-1]
    return Channels(channels.count, channels.maps, channels.touches, channels.limits, fixed)


def _told(network: Network, group: Group, scale: np.ndarray, snapshot: Snapshot) -> Equalized:
    own = scale[group.channels]
    noise = expected(network, group, scale)
    before = noise(np.ones(own.shape))
    sources = tuple(snapshot.names[network.layers[k].node] for k in group.sources)
    sinks = tuple(snapshot.names[network.layers[k].node] for k in group.sinks)
    share = noise(own) / before if before else 1.0
    return Equalized(sources, sinks, int((own != 1).sum()), float(own.min()), float(own.max()), share)
