"""The float model that says what its tensors hold: reductions and values as further outputs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from potc.graph.names import free_prefix
from potc.quantize.plan import Correction, Window
from potc.quantize.windows import matrices, strip

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
    averaged: Iterable[tuple[str, Averaged]], opset: int, pictures: Mapping[str, int], cast: bool = True
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes and initializers that make a float32 mean of the given name for each: see ``windows.py`` where one has a window.

    ``pictures``: float32 tensors of [N, C, H, W] that certainly have elements, with their C; what takes their means works in
    onnxruntime's own layout of them (docs/decisions/0053-observing-rectified-tensors.md). ``cast``: others may hold other floats.
    """
    nodes: list[onnx.NodeProto] = []
    stored: list[onnx.TensorProto] = []
    for name, wanted in averaged:
        source, axes = wanted.tensor, [a for a in range(wanted.rank) if a != wanted.channel]
        channels = pictures.get(source, 0) if wanted.channel == 1 else 0
        if cast and not channels:
            source = f"{name}/float"
            nodes.append(helper.make_node("Cast", [wanted.tensor], [source], name=source, to=TensorProto.FLOAT))
        if wanted.window is not None:
            axes = [0]
            by_strips = _by_strips(wanted.window, wanted.lengths, source, name, channels) if channels else None
            more, kept, source = by_strips or _by_matrices(wanted.window, wanted.lengths, source, name)
            nodes += more
            stored += kept
        elif channels:
            nodes.append(helper.make_node(POOLS["sum"], [source], [f"{name}/channels"], name=f"{name}/channels"))
            source = f"{name}/channels"
        node, listed = reduction("ReduceMean", source, name, axes, opset, keepdims=0)
        nodes.append(node)
        stored.extend(listed)
    return nodes, stored


_Taps = tuple[list[onnx.NodeProto], list[onnx.TensorProto], str]  # and the tensor [N, C, taps...] that they make


def _by_matrices(window: Window, lengths: Sequence[int], source: str, name: str) -> _Taps:
    nodes: list[onnx.NodeProto] = []
    stored: list[onnx.TensorProto] = []
    rank = 2 + len(lengths)
    turn = [0, 1, rank - 1, *range(2, rank - 1)]
    for step, matrix in enumerate(matrices(window, lengths)):
        product, turned, factor = (f"{name}/{step}/{word}" for word in ("product", "turned", "taps"))
        stored.append(numpy_helper.from_array(matrix, factor))
        nodes.append(helper.make_node("MatMul", [source, factor], [product], name=product))
        nodes.append(helper.make_node("Transpose", [product], [turned], name=turned, perm=turn))
        source = turned
    return nodes, stored, source


def _by_strips(window: Window, lengths: Sequence[int], source: str, name: str, channels: int) -> _Taps | None:
    """None where an axis has no strip."""
    nodes: list[onnx.NodeProto] = []
    stored: list[onnx.TensorProto] = []
    for axis in (1, 0):  # what lies together first
        found = strip(window, axis, lengths[axis])
        if found is None:
            return None
        along, weights = f"{name}/{axis}", f"{name}/{axis}/weights"
        shape = _across(axis, len(found.weights))
        values = np.broadcast_to(found.weights.reshape(shape), (channels, 1, *shape))
        stored.append(numpy_helper.from_array(np.ascontiguousarray(values), weights))
        strides, dilations = _across(axis, found.stride), _across(axis, found.dilation)
        pads = [n for pad in found.pads for n in _across(axis, pad, 0)]
        node = helper.make_node("Conv", [source, weights], [along], name=along, group=channels)
        for word, numbers in (("strides", strides), ("dilations", dilations), ("pads", pads)):
            node.attribute.append(helper.make_attribute(word, numbers))
        nodes.append(node)
        source = along
    return nodes, stored, source


def _across(axis: int, value: int, other: int = 1) -> list[int]:
    """Of height and width, ``value`` for one and ``other`` for the other one."""
    return [value, other] if axis == 0 else [other, value]


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
    pictures = _pictures(proto)
    pooled_first = pictures.keys() & set(rectified)
    for index, (tensor, dtype) in enumerate(_checked(proto, tensors)):
        source = tensor
        if dtype != TensorProto.FLOAT:
            source = f"{prefix}/{index}/float"
            nodes.append(helper.make_node("Cast", [tensor], [source], name=source, to=TensorProto.FLOAT))
        pooled = tensor in pooled_first
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
    more, stored = mean_graph(
        zip(mean_outputs(proto, len(means)), means, strict=True),
        opset,
        {n: pictures[n] for n in pictures.keys() & _of_layers(proto)},
    )
    nodes.extend(more)
    for name, tensor in zip(value_outputs(proto, len(fetched)), fetched, strict=True):
        nodes.append(helper.make_node("Cast", [tensor], [name], name=name, to=TensorProto.FLOAT))
    added = (*mean_outputs(proto, len(means)), *value_outputs(proto, len(fetched)))
    outputs.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in added)
    outputs.extend(_returned(proto, returned))
    return appended(proto, nodes, outputs, stored)


def _pictures(proto: onnx.ModelProto) -> dict[str, int]:
    """Computed float32 tensors of [N, C, H, W] whose channels certainly have elements, with C."""
    found: dict[str, int] = {}
    for value in (*proto.graph.value_info, *proto.graph.output):
        dims = value.type.tensor_type.shape.dim
        single = value.type.tensor_type.elem_type == TensorProto.FLOAT
        if single and len(dims) == 4 and all(d.dim_value > 0 for d in dims[1:]):
            found[value.name] = dims[1].dim_value
    return found


def _of_layers(proto: onnx.ModelProto) -> set[str]:
    """Tensors that a stored tensor of four axes and a single computed one make, and what is made of them alone: the layout in which
    onnxruntime keeps them does not hang on where else the graph is cut, so neither does the order in which they are added up."""
    stored = {t.name: len(t.dims) for t in proto.graph.initializer}
    found: set[str] = set()
    for node in proto.graph.node:
        computed = [name for name in node.input if name and name not in stored]
        if len(computed) == 1 and (computed[0] in found or any(stored.get(name) == 4 for name in node.input)):
            found.update(node.output)
    return found


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
