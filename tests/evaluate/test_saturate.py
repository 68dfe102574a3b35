"""The simulated sums are those of the kernels that onnxruntime really runs, to the bit, and those of the definition.

Where this processor adds in 32 bits (VNNI) its kernels must equal the exact sums instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from potc.evaluate.saturate import Codes, Groups, Unfit, accumulate, groups_at_risk, groups_of
from potc.quantize.narrow import narrow
from potc.quantize.plan import Lanes


@dataclass(frozen=True)
class Layer:
    """``axis``: output channels of the weight; ``channel``: of the result; ``order``: how kernels pack the weight."""

    op: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    axis: int
    channel: int
    order: tuple[int, ...]
    attributes: tuple[tuple[str, object], ...] = ()

    @property
    def shared(self) -> bool:
        """Every output channel reads all input channels."""
        return dict(self.attributes).get("group", 1) == 1

    def groups(self, w: np.ndarray) -> tuple[Groups, ...]:
        return groups_of(Codes(w, 0), self.axis, self.lanes) if self.shared else ()

    @property
    def lanes(self) -> tuple[Lanes, ...]:
        return (Lanes("i16", 2, self.order), Lanes("i32", 1, self.order))


def session(nodes: list, inputs: dict[str, object], stored: dict[str, np.ndarray], optimize: bool) -> Callable:
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    run = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run
    return lambda **feed: np.asarray(run(None, feed)[0])


def multiply_of(layer: Layer) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    node = helper.make_node(layer.op, ["x", "w"], ["y"], **dict(layer.attributes))
    run = session([node], {"x": None, "w": None}, {}, optimize=False)
    return lambda x, w: run(x=x, w=w)


def kernel_codes(layer: Layer, x: Codes, w: np.ndarray, shift: int) -> np.ndarray:
    """What the integer kernel returns for scales of 1 and an output scale of 2**shift: int64 codes, -128 to 127."""
    dtype, channels = x.values.dtype, w.shape[layer.axis]
    stored = {"xs": np.float32(1), "xz": np.array(x.zero_point, dtype), "w": w, "ws": np.ones(channels, np.float32)}
    stored |= {"wz": np.zeros(channels, np.int8), "ys": np.float32(2.0**shift), "yz": np.array(x.lowest + 128, dtype)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wf"], axis=layer.axis),
        helper.make_node(layer.op, ["xf", "wf"], ["yf"], **dict(layer.attributes)),
        helper.make_node("QuantizeLinear", ["yf", "ys", "yz"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
    ]
    run = session(nodes, {"x": layer.x}, stored, optimize=True)
    return np.rint(run(x=x.centred) / 2.0**shift).astype(np.int64)


def agrees(layer: Layer, x: Codes, w: np.ndarray, lanes: tuple[Lanes, ...]) -> bool:
    found = accumulate(multiply_of(layer), x, Codes(w, 0), layer.axis, layer.channel, lanes, layer.groups(w))
    shift = max(0, math.ceil(math.log2(max(1, int(np.abs(found.sums).max())) / 120)))
    expected = np.clip(np.rint(found.sums / 2.0**shift), -128, 127)
    return bool(np.array_equal(kernel_codes(layer, x, w, shift), expected))


def _saturates() -> bool:
    layer = Layer("MatMul", (1, 2), (2, 1), 1, -1, (0,))
    x, w = Codes(np.full((1, 2), 255, np.uint8), 0), np.full((2, 1), 127, np.int8)
    return bool(kernel_codes(layer, x, w, 9)[0, 0] == 64)  # 32767 and not 64770


HOST_SATURATES = _saturates()


@st.composite
def convolutions(draw: st.DrawFn) -> Layer:
    rank = draw(st.integers(1, 3))
    group = draw(st.integers(1, 3))
    inner, outer = draw(st.integers(1, 9)), draw(st.integers(1, 5)) * group
    # One filter per channel is another kernel, which the rules describe as exact.
    inner += int(inner == 1 and outer == group)
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    pads = [draw(st.integers(0, k - 1)) for k in kernel]
    attributes: dict[str, object] = {"group": group, "pads": [*pads, *pads]}
    attributes["strides"] = [draw(st.integers(1, 2)) for _ in kernel]
    attributes["dilations"] = [draw(st.integers(1, 2)) for _ in kernel]
    size = tuple(5 if rank < 3 else 4 for _ in kernel)
    if any((k - 1) * d >= s + 2 * p for k, d, s, p in zip(kernel, attributes["dilations"], size, pads, strict=True)):
        attributes["dilations"] = [1] * rank
    batch = draw(st.integers(1, 2))
    order = (*range(2, rank + 2), 1)
    x, w = (batch, inner * group, *size), (outer, inner, *kernel)
    return Layer("Conv", x, w, 0, 1, order, tuple(attributes.items()))


@st.composite
def products(draw: st.DrawFn) -> Layer:
    rows, inner, outer = draw(st.integers(1, 6)), draw(st.integers(1, 70)), draw(st.integers(1, 40))
    kind = draw(st.sampled_from(["gemm", "transposed", "matmul", "stacked"]))
    if kind == "transposed":
        return Layer("Gemm", (rows, inner), (outer, inner), 0, 1, (1,), (("transB", 1),))
    if kind == "gemm":
        return Layer("Gemm", (rows, inner), (inner, outer), 1, 1, (0,))
    shape = (2, rows, inner) if kind == "stacked" else (rows, inner)
    return Layer("MatMul", shape, (inner, outer), 1, len(shape) - 1, (0,))


def codes(layer: Layer, seed: int, signed: bool) -> tuple[Codes, np.ndarray]:
    """Activations and weights of which many are near the ends of their ranges."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(np.int8 if signed else np.uint8)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    x = np.where(rng.random(layer.x) < 0.5, high, rng.integers(low, high, layer.x, endpoint=True)).astype(dtype)
    w = rng.integers(-128 if seed % 2 else -127, 127, layer.w, endpoint=True)
    w = np.where(rng.random(layer.w) < 0.6, rng.choice([-1, 1]) * rng.integers(60, 127, layer.w), w)
    return Codes(x, int(rng.integers(low, high, endpoint=True))), w.astype(np.int8)


@settings(max_examples=120, deadline=None)
@given(layer=st.one_of(convolutions(), products()), seed=st.integers(0, 2**16), signed=st.booleans())
def test_kernels_return_what_is_simulated(layer: Layer, seed: int, signed: bool) -> None:
    x, w = codes(layer, seed, signed)
    assert agrees(layer, x, w, layer.lanes if HOST_SATURATES else ())


@st.composite
def depthwise(draw: st.DrawFn) -> Layer:
    """One filter per channel, of all channel counts around the widths of vector registers."""
    rank, channels = draw(st.integers(1, 2)), draw(st.integers(2, 40))
    kernel = tuple(draw(st.integers(1, 5)) for _ in range(rank))
    pads = [draw(st.integers(0, k - 1)) for k in kernel]
    attributes: dict[str, object] = {"group": channels, "pads": [*pads, *pads]}
    attributes["strides"] = [draw(st.integers(1, 2)) for _ in kernel]
    x = (draw(st.integers(1, 2)), channels, *(draw(st.integers(5, 9)) for _ in kernel))
    return Layer("Conv", x, (channels, 1, *kernel), 0, 1, (*range(2, rank + 2), 1), tuple(attributes.items()))


@settings(max_examples=60, deadline=None)
@given(layer=depthwise(), seed=st.integers(0, 2**16), signed=st.booleans())
def test_one_filter_per_channel_is_exact(layer: Layer, seed: int, signed: bool) -> None:
    x, w = codes(layer, seed, signed)
    assert agrees(layer, x, w, ())


@settings(max_examples=80, deadline=None)
@given(layer=st.one_of(convolutions(), products()), seed=st.integers(0, 2**16), signed=st.booleans())
def test_narrowed_weights_return_the_exact_sums(layer: Layer, seed: int, signed: bool) -> None:
    """Codes that could saturate become weights, and those are narrowed: then no activations make any pair saturate, and the
    kernels of this host return the codes that exact sums give."""
    x, w = codes(layer, seed, signed)
    scale = np.ones(layer.w[layer.axis], np.float32)
    shape = [1] * w.ndim
    shape[layer.axis] = -1
    narrowed = narrow(w.astype(np.float32), scale, layer.axis, layer.lanes, 255).scale.astype(np.float64)
    safe = np.rint(w / narrowed.reshape(shape)).astype(np.int8)
    assert not groups_at_risk(safe, layer.axis, layer.lanes[0], 255).any()
    assert agrees(layer, x, safe, ())


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 3)),
    count=st.integers(2, 5),
    storage=st.sampled_from(["i12", "i14", "i16"]),
    seed=st.integers(0, 2**16),
    signed=st.booleans(),
)
def test_products_follow_the_definition(
    shape: tuple[int, int, int], count: int, storage: str, seed: int, signed: bool
) -> None:
    """Every group of products of unsigned activations, clamped on its own; then zero points are taken off."""
    rows, inner, outer = shape
    layer = Layer("MatMul", (rows, inner), (inner, outer), 1, 1, (0,))
    x, w = codes(layer, seed, signed)
    lanes = Lanes(storage, count, (0,))
    limit = 1 << (int(storage[1:]) - 1)
    shifted = x.values.astype(np.int64) - x.lowest
    expected, clamped = np.zeros((rows, outer), np.int64), 0
    for i, o, start in product(range(rows), range(outer), range(0, inner, count)):
        total = int((shifted[i, start : start + count] * w[start : start + count, o].astype(np.int64)).sum())
        expected[i, o] += min(max(total, -limit), limit - 1)
        clamped += not -limit <= total < limit
    expected -= (x.zero_point - x.lowest) * w.astype(np.int64).sum(0)
    found = accumulate(multiply_of(layer), x, Codes(w, 0), 1, 1, (lanes,))
    assert np.array_equal(found.sums, expected)
    assert found.saturated == clamped


@settings(max_examples=150, deadline=None)
@given(
    layer=st.one_of(convolutions(), products()).filter(lambda drawn: drawn.shared),
    count=st.integers(2, 5),
    storage=st.sampled_from(["i12", "i14", "i16"]),
    seed=st.integers(0, 2**16),
    signed=st.booleans(),
)
def test_two_ways_to_add_groups_agree(layer: Layer, count: int, storage: str, seed: int, signed: bool) -> None:
    """One run of the operator for each group, or groups from what weights are multiplied with: the same on any host."""
    x, w = codes(layer, seed, signed)
    lanes = (Lanes(storage, count, layer.order),)
    one, other = (
        accumulate(multiply_of(layer), x, Codes(w, 0), layer.axis, layer.channel, lanes, groups)
        for groups in ((), groups_of(Codes(w, 0), layer.axis, lanes))
    )
    assert np.array_equal(one.sums, other.sums)
    assert (one.saturated, one.largest) == (other.saturated, other.largest)


def test_long_sums_stay_exact() -> None:
    """5000 products of 255 and 127 are far beyond what float32 adds exactly."""
    layer = Layer("MatMul", (2, 5000), (5000, 3), 1, 1, (0,))
    rng = np.random.default_rng(0)
    x, w = rng.integers(200, 256, layer.x).astype(np.uint8), rng.integers(100, 128, layer.w).astype(np.int8)
    found = accumulate(multiply_of(layer), Codes(x, 3), Codes(w, 0), 1, 1, ())
    assert np.array_equal(found.sums, (x.astype(np.int64) - 3) @ w.astype(np.int64))


def test_zero_points_of_weights_are_taken_off() -> None:
    layer = Layer("MatMul", (2, 7), (7, 3), 1, 1, (0,))
    rng = np.random.default_rng(0)
    x, w = rng.integers(0, 256, layer.x).astype(np.uint8), rng.integers(0, 256, layer.w).astype(np.uint8)
    found = accumulate(multiply_of(layer), Codes(x, 9), Codes(w, 128), 1, 1, ())
    assert np.array_equal(found.sums, (x.astype(np.int64) - 9) @ (w.astype(np.int64) - 128))


def test_more_than_sums_and_too_many_groups_are_refused() -> None:
    layer = Layer("MatMul", (2, 8), (8, 3), 1, 1, (0,))
    x, w = codes(layer, 0, signed=False)
    with pytest.raises(Unfit, match="more than to add products"):
        accumulate(lambda a, b: multiply_of(layer)(a, b) / 3, x, Codes(w, 0), 1, 1, ())
    full = Codes(np.full(layer.w, 127, np.int8), 0)
    with pytest.raises(Unfit, match="4 groups"):
        accumulate(multiply_of(layer), Codes(np.full(layer.x, 255, np.uint8), 0), full, 1, 1, layer.lanes, runs=3)
    assert groups_at_risk(full.values, 1, layer.lanes[0], 255).all()
    assert not groups_at_risk(full.values, 1, layer.lanes[0], 100).any()
