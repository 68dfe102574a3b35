"""What channels hold over the calibration samples: extremes and mean square of each, from one pass of the float model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from potc.data.dataset import Dataset
from potc.execute.float_runs import next_results, open_float
from potc.execute.session import run_each
from potc.graph.model import Model
from potc.graph.names import free_prefix
from potc.quantize.observe import appended, reduction

REDUCTIONS = ("ReduceMin", "ReduceMax", "ReduceSumSquare")


@dataclass(frozen=True, slots=True)
class Contents:
    """One tensor: float64 arrays of its rank, 1 long along the axes that were not kept. ``square``: the sum of squares over
    all other positions, averaged over samples."""

    low: np.ndarray
    high: np.ndarray
    square: np.ndarray


def observe_contents(
    model: Model,
    kept: Mapping[str, tuple[int, tuple[int, ...]]],
    samples: Dataset,
    progress: Callable[[int, int], None],
) -> Mapping[str, Contents]:
    """``kept``: by tensor, its rank and the axes along which channels differ. Memory does not grow with the samples.

    Raises Rejected if onnxruntime can't run a sample.
    """
    if not kept:
        return {}
    names = list(kept)
    serialized, outputs = _instrumented(model, [(name, *kept[name]) for name in names])
    session = open_float(serialized)
    found: dict[str, list[np.ndarray]] = {}
    total, results = len(samples), run_each(session, outputs, samples.feeds())
    for index in range(total):
        arrays = [np.asarray(r, np.float64) for r in next_results(results, index)]
        for k, name in enumerate(names):
            _add(found, name, arrays[3 * k : 3 * k + 3])
        progress(index + 1, total)
    return {name: Contents(low, high, square / total) for name, (low, high, square) in found.items()}


def _add(found: dict[str, list[np.ndarray]], name: str, seen: Sequence[np.ndarray]) -> None:
    """What is not finite counts as nothing here: calibration tells it with the sample's number."""
    low, high, square = (np.where(np.isfinite(a), a, 0.0) for a in seen)
    known = found.get(name)
    if known is None:
        found[name] = [low, high, square]
    elif known[0].shape == low.shape:
        found[name] = [np.minimum(known[0], low), np.maximum(known[1], high), known[2] + square]


def _instrumented(model: Model, kept: Iterable[tuple[str, int, tuple[int, ...]]]) -> tuple[bytes, list[str]]:
    prefix = free_prefix(model.proto, "channels")
    nodes: list[onnx.NodeProto] = []
    stored: list[onnx.TensorProto] = []
    outputs: list[str] = []
    for k, (tensor, rank, axes) in enumerate(kept):
        others = [a for a in range(rank) if a not in axes]
        for operator in REDUCTIONS:
            name = f"{prefix}/{k}/{operator}"
            node, listed = reduction(operator, tensor, name, others, model.opset, keepdims=1)
            nodes.append(node)
            stored.extend(listed)
            outputs.append(name)
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    return appended(model.proto, nodes, infos, stored), outputs
