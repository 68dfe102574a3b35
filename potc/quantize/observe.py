"""What calibration keeps of a tensor, and the float model that computes it.

A ``Statistic`` is merged exactly: sums are Python integers, so any split of the samples over processes and any order
gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from potc.graph.snapshot import outer_reads

UNIT = 149  # every finite float32 is a multiple of 2**-149
FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
REDUCTIONS = (("min", "ReduceMin"), ("max", "ReduceMax"), ("sum", "ReduceSum"))


@dataclass(frozen=True, slots=True)
class Statistic:
    """The extremes of one tensor over ``samples`` samples.

    ``min`` and ``max`` are over everything. ``sum_min``, ``sum_max`` and ``sum_abs_max`` add each sample's minimum,
    maximum and largest magnitude, as integers in units of 2**-149. Without samples ``min`` is inf and ``max`` -inf.
    """

    samples: int = 0
    min: float = math.inf
    max: float = -math.inf
    sum_min: int = 0
    sum_max: int = 0
    sum_abs_max: int = 0

    @staticmethod
    def of_sample(low: float, high: float) -> Statistic:
        """One sample whose values lie in [low, high], both finite float32. Raises ValueError for anything else."""
        low, high = low + 0.0, high + 0.0  # -0.0 would make the order of merging visible
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ValueError(f"not a finite range: {low} to {high}")
        return Statistic(1, low, high, _units(low), _units(high), _units(max(-low, high)))

    @property
    def mean_min(self) -> float:
        """Mean over samples of each sample's minimum, correctly rounded; 0.0 without samples."""
        return self._mean(self.sum_min)

    @property
    def mean_max(self) -> float:
        """Mean over samples of each sample's maximum, correctly rounded; 0.0 without samples."""
        return self._mean(self.sum_max)

    @property
    def mean_abs_max(self) -> float:
        """Mean over samples of each sample's largest magnitude, correctly rounded; 0.0 without samples."""
        return self._mean(self.sum_abs_max)

    def _mean(self, total: int) -> float:
        return total / (self.samples << UNIT) if self.samples else 0.0

    def to_json(self) -> dict[str, object]:
        """Plain values: floats as they are (Python writes them so that they read back equal), sums as hexadecimal
        text.
        """
        sums = {"sum_min": hex(self.sum_min), "sum_max": hex(self.sum_max), "sum_abs_max": hex(self.sum_abs_max)}
        if not self.samples:
            return {"samples": 0}
        return {"samples": self.samples, "min": self.min, "max": self.max, **sums}

    @staticmethod
    def from_json(value: Mapping[str, object]) -> Statistic:
        """The inverse of ``to_json``. Raises KeyError or ValueError for what it did not write."""
        samples = int(str(value["samples"]))
        if samples == 0:
            return Statistic()
        low, high = float(str(value["min"])), float(str(value["max"]))
        sums = (int(str(value[key]), 16) for key in ("sum_min", "sum_max", "sum_abs_max"))
        if samples < 0 or not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ValueError(f"not a statistic: {samples} samples in {low} to {high}")
        return Statistic(samples, low, high, *sums)


def _units(value: float) -> int:
    """A float32 in units of 2**-149: scaling by a power of two is exact in float64, and the result is whole."""
    return int(math.ldexp(value, UNIT))


def merge(a: Statistic, b: Statistic) -> Statistic:
    """The statistic of the samples of both. Associative and commutative to the bit; ``Statistic()`` is neutral."""
    return Statistic(
        a.samples + b.samples,
        min(a.min, b.min),
        max(a.max, b.max),
        a.sum_min + b.sum_min,
        a.sum_max + b.sum_max,
        a.sum_abs_max + b.sum_abs_max,
    )


# ---------------------------------------------------------------------------------------------- the observing model


def reductions(proto: onnx.ModelProto, tensors: Sequence[str]) -> tuple[str, ...]:
    """Names of the outputs that ``instrument`` adds: minimum, maximum and sum of each tensor in turn."""
    prefix = _free_prefix(proto)
    return tuple(f"{prefix}/{i}/{word}" for i in range(len(tensors)) for word, _ in REDUCTIONS)


@dataclass(frozen=True, slots=True)
class ChannelMean:
    """The mean of each channel of one tensor, over all positions of all samples; merged exactly.

    Each sample's means (float32, [C]) are split onto two fixed grids, 2**-20 and 2**-60, and added as 64-bit integers: what
    a sample adds does not depend on the others. Magnitudes above 2**42 count as 2**42. Without samples the sums are None.
    """

    samples: int = 0
    coarse: np.ndarray | None = None
    fine: np.ndarray | None = None

    @staticmethod
    def of_sample(means: np.ndarray) -> ChannelMean:
        """One sample. ``means``: finite float32, [C]."""
        values = np.clip(means.astype(np.float64), -(2.0**42), 2.0**42)
        coarse = np.rint(values * 2.0**20)
        fine = np.rint((values - coarse * 2.0**-20) * 2.0**60)
        return ChannelMean(1, coarse.astype(np.int64), fine.astype(np.int64))

    @property
    def mean(self) -> np.ndarray | None:
        """Float64, [C]; None without samples."""
        if self.coarse is None or self.fine is None:
            return None
        return (self.coarse * 2.0**-20 + self.fine * 2.0**-60) / self.samples


def merge_means(a: ChannelMean, b: ChannelMean) -> ChannelMean:
    """The means of the samples of both. Associative and commutative to the bit; ``ChannelMean()`` is neutral."""
    if a.coarse is None or a.fine is None:
        return b
    if b.coarse is None or b.fine is None:
        return a
    return ChannelMean(a.samples + b.samples, a.coarse + b.coarse, a.fine + b.fine)


def mean_outputs(proto: onnx.ModelProto, count: int) -> tuple[str, ...]:
    """Names of the outputs that ``instrument`` adds for channel means."""
    prefix = _free_prefix(proto)
    return tuple(f"{prefix}/mean/{i}" for i in range(count))


def _mean_nodes(proto: onnx.ModelProto, means: Sequence[tuple[str, int, int]]) -> Iterator[onnx.NodeProto]:
    """A float32 [C] mean per (tensor, rank, channel axis); the rank is at least 2."""
    opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0)
    for name, (tensor, rank, channel) in zip(mean_outputs(proto, len(means)), means, strict=True):
        axes = [a for a in range(rank) if a != channel]
        source = f"{name}/float"
        yield helper.make_node("Cast", [tensor], [source], name=source, to=TensorProto.FLOAT)
        if opset < 18:
            yield helper.make_node("ReduceMean", [source], [name], name=name, axes=axes, keepdims=0)
        else:
            listed = helper.make_tensor(f"{name}/axes", TensorProto.INT64, [len(axes)], axes)
            yield helper.make_node("Constant", [], [f"{name}/axes"], name=f"{name}/axes", value=listed)
            yield helper.make_node("ReduceMean", [source, f"{name}/axes"], [name], name=name, keepdims=0)


def instrument(proto: onnx.ModelProto, tensors: Sequence[str], means: Sequence[tuple[str, int, int]] = ()) -> bytes:
    """``proto``, serialized, with three more float32 scalar outputs per tensor (see ``reductions``), and one float32 [C]
    output for each of ``means``: (tensor, its rank, its channel axis), see ``mean_outputs``.

    ``tensors`` are float tensors of the main graph: model inputs and initializers too. Other float types are cast to
    float32 first, so a double beyond its range counts as infinite. The minimum and maximum of a tensor without elements
    are inf and -inf. Of a tensor that holds NaN they mean nothing, but then the sum is NaN, in every position; so it is
    there to be tested, not to be used. The model's own outputs stay: they cost nothing unless they are asked for.

    Raises ValueError for a name that the main graph does not define or that is no float tensor.
    """
    prefix = _free_prefix(proto)
    nodes: list[onnx.NodeProto] = []
    outputs: list[onnx.ValueInfoProto] = []
    for index, (tensor, dtype) in enumerate(_checked(proto, tensors)):
        source = tensor
        if dtype != TensorProto.FLOAT:
            source = f"{prefix}/{index}/float"
            nodes.append(helper.make_node("Cast", [tensor], [source], name=source, to=TensorProto.FLOAT))
        for word, reduction in REDUCTIONS:
            # Without axes every opset reduces all of them.
            name = f"{prefix}/{index}/{word}"
            nodes.append(helper.make_node(reduction, [source], [name], name=name, keepdims=0))
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))
    nodes.extend(_mean_nodes(proto, means))
    outputs.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in mean_outputs(proto, len(means)))
    return _appended(proto, nodes, outputs)


def expose(proto: onnx.ModelProto, tensor: str) -> tuple[bytes, str]:
    """``proto``, serialized, with ``tensor`` as one more float32 output, and that output's name. Raises like
    ``instrument``.
    """
    _checked(proto, [tensor])
    name = f"{_free_prefix(proto)}/values"
    node = helper.make_node("Cast", [tensor], [name], name=name, to=TensorProto.FLOAT)
    return _appended(proto, [node], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]), name


def _appended(proto: onnx.ModelProto, nodes: Iterable[onnx.NodeProto], outputs: Iterable[onnx.ValueInfoProto]) -> bytes:
    """Serialized messages that follow each other are read as one, lists joined: so the weights are not copied twice."""
    more = onnx.ModelProto()
    more.graph.node.extend(nodes)
    more.graph.output.extend(outputs)
    return proto.SerializeToString() + more.SerializeToString()


def _free_prefix(proto: onnx.ModelProto) -> str:
    graph = proto.graph
    names = {name for node in graph.node for name in (node.name, *node.output, *outer_reads(node))}
    names |= {i.name for i in graph.input} | {t.name for t in graph.initializer}
    prefix = "observed"
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    return prefix


def _checked(proto: onnx.ModelProto, tensors: Sequence[str]) -> list[tuple[str, int]]:
    """Each tensor with its element type, 0 where the model does not say."""
    graph = proto.graph
    dtypes = {name: 0 for node in graph.node for name in node.output}
    dtypes |= {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    dtypes |= {t.name: t.data_type for t in graph.initializer}
    for tensor in tensors:
        if tensor not in dtypes:
            raise ValueError(f"`{tensor}` is not a tensor of the main graph")
        if dtypes[tensor] and dtypes[tensor] not in FLOATS:
            raise ValueError(f"`{tensor}` holds {TensorProto.DataType.Name(dtypes[tensor])}, not floats")
    return [(tensor, dtypes[tensor]) for tensor in tensors]
