"""The float model that says what its tensors hold: reductions and values as further outputs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from potc.graph.names import free_prefix
from potc.quantize.plan import Correction, Window
from potc.quantize.windows import matrices

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
REDUCTIONS = (("min", "ReduceMin"), ("max", "ReduceMax"), ("sum", "ReduceSum"))
# What reduces channels first, in whatever layout onnxruntime keeps them: no copy in another layout is made.
POOLS = {"max": "GlobalMaxPool", "sum": "GlobalAveragePool"}


def reductions(
    proto: onnx.ModelProto, tensors: Sequence[str], rectified: Collection[str] = ()
) -> dict[str, tuple[int, int]]:
    """Names of the outputs that ``instrument`` adds: minimum, maximum and sum of each tensor in turn, without the minimum of
    ``rectified`` ones. With each the number of its tensor, and its own place in ``REDUCTIONS``."""
    prefix = free_prefix(proto, "observed")
    return {
        f"{prefix}/{i}/{word}": (i, place)
        for i, tensor in enumerate(tensors)
        for place, (word, _) in enumerate(REDUCTIONS)
        if place or tensor not in rectified
    }


@dataclass(frozen=True, slots=True)
class ChannelMean:
    """The mean of each channel of one tensor, over all positions of all samples; merged exactly.

    Each sample's means (float32, [C], or [C, taps] of what each tap of a kernel meets) are split onto two fixed grids, 2**-20
    and 2**-60, and added as 64-bit integers, 16 bytes a mean: what a sample adds does not depend on the others. Magnitudes
    above 2**42 count as 2**42. Without samples the sums are None.
    """

    samples: int = 0
    coarse: np.ndarray | None = None
    fine: np.ndarray | None = None

    @staticmethod
    def of_sample(means: np.ndarray) -> ChannelMean:
        """One sample. ``means``: finite numbers, [C] or [C, taps]."""
        values = np.clip(means.astype(np.float64), -(2.0**42), 2.0**42)
        coarse = np.rint(values * 2.0**20)
        fine = np.rint((values - coarse * 2.0**-20) * 2.0**60)
        return ChannelMean(1, coarse.astype(np.int64), fine.astype(np.int64))

    @property
    def mean(self) -> np.ndarray | None:
        """Float64, [C] or [C, taps]; None without samples."""
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


@dataclass(frozen=True, slots=True)
class Averaged:
    """A tensor whose channels are averaged: [C], or [C, taps] where ``window`` lies on its axes behind the channels, which have
    the ``lengths``. ``window`` None: over all axes but ``channel``."""

    tensor: str
    rank: int
    channel: int
    window: Window | None = None
    lengths: tuple[int, ...] = ()


def averaged_by(correction: Correction) -> Averaged:
    """What a correction must see averaged; its lengths are known, if it has a window."""
    return Averaged(correction.tensor, correction.rank, correction.channel, correction.window, correction.lengths or ())


def mean_outputs(proto: onnx.ModelProto, count: int) -> tuple[str, ...]:
    """Names of the outputs that ``instrument`` adds for channel means."""
    prefix = free_prefix(proto, "observed")
    return tuple(f"{prefix}/mean/{i}" for i in range(count))


def mean_graph(
    averaged: Iterable[tuple[str, Averaged]], opset: int
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes and initializers that make a float32 mean of the given name for each: see ``windows.py`` where one has a window."""
    nodes: list[onnx.NodeProto] = []
    stored: list[onnx.TensorProto] = []
    for name, wanted in averaged:
        source = f"{name}/float"
        nodes.append(helper.make_node("Cast", [wanted.tensor], [source], name=source, to=TensorProto.FLOAT))
        axes = [a for a in range(wanted.rank) if a != wanted.channel]
        if wanted.window is not None:
            axes = [0]
            turn = [0, 1, wanted.rank - 1, *range(2, wanted.rank - 1)]
            for step, matrix in enumerate(matrices(wanted.window, wanted.lengths)):
                product, turned, factor = (f"{name}/{step}/{word}" for word in ("product", "turned", "taps"))
                stored.append(numpy_helper.from_array(matrix, factor))
                nodes.append(helper.make_node("MatMul", [source, factor], [product], name=product))
                nodes.append(helper.make_node("Transpose", [product], [turned], name=turned, perm=turn))
                source = turned
        node, listed = reduction("ReduceMean", source, name, axes, opset, keepdims=0)
        nodes.append(node)
        stored.extend(listed)
    return nodes, stored


def reduction(
    operator: str, source: str, name: str, axes: Sequence[int], opset: int, keepdims: int
) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    """A node that reduces ``source`` to the tensor ``name``, and what must be stored for it: from opset 18 on axes are an input
    (of the operator for sums earlier, so it is none of these)."""
    if opset < 18:
        return helper.make_node(operator, [source], [name], name=name, axes=axes, keepdims=keepdims), []
    listed = helper.make_tensor(f"{name}/axes", TensorProto.INT64, [len(axes)], axes)
    return helper.make_node(operator, [source, listed.name], [name], name=name, keepdims=keepdims), [listed]


def value_outputs(proto: onnx.ModelProto, count: int) -> tuple[str, ...]:
    """Names of the outputs that ``instrument`` adds for tensors that are fetched whole."""
    prefix = free_prefix(proto, "observed")
    return tuple(f"{prefix}/values/{i}" for i in range(count))


def instrument(
    proto: onnx.ModelProto,
    tensors: Sequence[str],
    means: Sequence[Averaged] = (),
    fetched: Sequence[str] = (),
    returned: Sequence[str] = (),
    rectified: Collection[str] = (),
) -> bytes:
    """``proto``, serialized, with three more float32 scalar outputs per tensor (see ``reductions``), one float32 output for
    each of ``means``, see ``mean_outputs``, and one of float32 for each tensor of ``fetched``: its values, see
    ``value_outputs``. Tensors of any type in ``returned`` become outputs under their own names.

    ``tensors`` are float tensors of the graph: model inputs and initializers too. Other float types are cast to
    float32 first, so a double beyond its range counts as infinite. The minimum and maximum of a tensor without elements
    are inf and -inf. Of a tensor that holds NaN they mean nothing, but then the sum is NaN, in every position; so it is
    there to be tested, not to be used. Of ``rectified`` tensors of [N, C, H, W] the sum is one of means. The model's own
    outputs stay: they cost nothing unless they are asked for.

    Raises ValueError for a name that the main graph does not define or that is no float tensor.
    """
    prefix = free_prefix(proto, "observed")
    nodes: list[onnx.NodeProto] = []
    outputs: list[onnx.ValueInfoProto] = []
    pictures = _pictures(proto).intersection(rectified)
    for index, (tensor, dtype) in enumerate(_checked(proto, tensors)):
        source = tensor
        if dtype != TensorProto.FLOAT:
            source = f"{prefix}/{index}/float"
            nodes.append(helper.make_node("Cast", [tensor], [source], name=source, to=TensorProto.FLOAT))
        pooled = tensor in pictures
        for word, reduction in REDUCTIONS[tensor in rectified :]:
            name = f"{prefix}/{index}/{word}"
            first = source
            if pooled:
                first = f"{name}/channels"
                nodes.append(helper.make_node(POOLS[word], [source], [first], name=first))
            # Without axes every opset reduces all of them.
            nodes.append(helper.make_node(reduction, [first], [name], name=name, keepdims=0))
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))
    opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0)
    more, stored = mean_graph(zip(mean_outputs(proto, len(means)), means, strict=True), opset)
    nodes.extend(more)
    for name, tensor in zip(value_outputs(proto, len(fetched)), fetched, strict=True):
        nodes.append(helper.make_node("Cast", [tensor], [name], name=name, to=TensorProto.FLOAT))
    added = (*mean_outputs(proto, len(means)), *value_outputs(proto, len(fetched)))
    outputs.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in added)
    outputs.extend(_returned(proto, returned))
    return appended(proto, nodes, outputs, stored)


def _pictures(proto: onnx.ModelProto) -> set[str]:
    """Computed float32 tensors of [N, C, H, W] whose channels certainly have elements."""
    return {
        value.name
        for value in proto.graph.value_info
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
        and len(dims := value.type.tensor_type.shape.dim) == 4
        and all(d.dim_value > 0 for d in dims[1:])
    }


def _returned(proto: onnx.ModelProto, tensors: Sequence[str]) -> Iterator[onnx.ValueInfoProto]:
    """An output for each tensor that the model does not return already."""
    known = {o.name for o in proto.graph.output}
    told = {v.name: v for v in proto.graph.value_info}
    for name in tensors:
        if name not in known:
            yield told.get(name) or helper.make_empty_tensor_value_info(name)


def expose(proto: onnx.ModelProto, tensor: str) -> tuple[bytes, str]:
    """``proto``, serialized, with ``tensor`` as one more float32 output, and that output's name. Raises like
    ``instrument``.
    """
    _checked(proto, [tensor])
    name = f"{free_prefix(proto, 'observed')}/values"
    node = helper.make_node("Cast", [tensor], [name], name=name, to=TensorProto.FLOAT)
    return appended(proto, [node], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]), name


def appended(
    proto: onnx.ModelProto,
    nodes: Iterable[onnx.NodeProto],
    outputs: Iterable[onnx.ValueInfoProto],
    stored: Iterable[onnx.TensorProto] = (),
) -> bytes:
    """Serialized messages that follow each other are read as one, lists joined: so the weights are not copied twice."""
    more = onnx.ModelProto()
    more.graph.node.extend(nodes)
    more.graph.output.extend(outputs)
    more.graph.initializer.extend(stored)
    return proto.SerializeToString() + more.SerializeToString()


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
