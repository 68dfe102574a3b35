"""Narrowed weights on the kernels that onnxruntime really runs on this host.

Where the processor adds in 32 bits (VNNI) nothing saturates and the tests hold trivially: none asserts that saturation
happens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from potc.quantize.narrow import narrow, unsafe_groups
from potc.quantize.plan import Lanes

SCALE = np.float32(1 / 128)


@dataclass(frozen=True)
class Case:
    """One layer: its operator and attributes, input and weight shape, output axis and lane order of the weight."""

    op: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    axis: int
    order: tuple[int, ...]
    attributes: tuple[tuple[str, object], ...] = ()


CASES = {
    "conv 1x1": Case("Conv", (1, 16, 6, 6), (8, 16, 1, 1), 0, (2, 3, 1)),
    "conv 1x1, 7 channels": Case("Conv", (1, 7, 6, 6), (8, 7, 1, 1), 0, (2, 3, 1)),
    "conv 3x3": Case("Conv", (1, 8, 7, 7), (8, 8, 3, 3), 0, (2, 3, 1)),
    "conv 3x3, padded, 3 channels": Case("Conv", (1, 3, 9, 9), (6, 3, 3, 3), 0, (2, 3, 1), (("pads", [1, 1, 1, 1]),)),
    "conv 3x3, 5 channels": Case("Conv", (1, 5, 7, 7), (9, 5, 3, 3), 0, (2, 3, 1)),
    "conv 5x3, 6 channels, strided": Case("Conv", (1, 6, 9, 9), (4, 6, 5, 3), 0, (2, 3, 1), (("strides", [2, 2]),)),
    "conv 1d": Case("Conv", (1, 6, 20), (8, 6, 3), 0, (2, 1)),
    "grouped conv, 3 channels each": Case("Conv", (1, 6, 7, 7), (8, 3, 3, 3), 0, (2, 3, 1), (("group", 2),)),
    "grouped conv, 4 channels each": Case("Conv", (1, 8, 7, 7), (8, 4, 3, 3), 0, (2, 3, 1), (("group", 2),)),
    "gemm, transposed": Case("Gemm", (3, 22), (10, 22), 0, (1,), (("transB", 1),)),
    "gemm": Case("Gemm", (3, 21), (21, 10), 1, (0,)),
    "matmul": Case("MatMul", (2, 3, 26), (26, 12), 1, (0,)),
    "matmul, one row": Case("MatMul", (1, 27), (27, 12), 1, (0,)),
}


def qdq_model(case: Case, codes: np.ndarray, scale: np.ndarray, y: tuple[float, int], signed_x: bool) -> bytes:
    """Float in, float out, and the layer in float between two quantize/dequantize pairs, as potc writes it."""
    zero = np.array(-128 if signed_x else 0, np.int8 if signed_x else np.uint8)
    stored = {"xs": SCALE, "xz": zero, "w": codes, "ws": scale, "wz": np.zeros(scale.shape, np.int8)}
    stored |= {"ys": np.float32(y[0]), "yz": np.array(y[1], np.int8 if signed_x else np.uint8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wf"], axis=case.axis),
        helper.make_node(case.op, ["xf", "wf"], ["yf"], **dict(case.attributes)),
        helper.make_node("QuantizeLinear", ["yf", "ys", "yz"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, case.x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def run(model: bytes, x: np.ndarray, optimize: bool) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0], np.float64)


def difference(case: Case, codes: np.ndarray, scale: np.ndarray, x: np.ndarray) -> int:
    """Largest difference in output codes between the integer kernel and float arithmetic on the same codes."""
    summed = tuple(a for a in range(codes.ndim) if a != case.axis)
    largest = (np.abs(codes.astype(np.int64)).sum(axis=summed) * scale).max()
    step = 2 * float(largest) * float(SCALE)  # 255 codes from -largest to +largest, for activations up to 255 * SCALE
    signed = x.dtype == np.int8
    model = qdq_model(case, codes, scale, (step, 0 if signed else 128), signed)
    feed = ((x.astype(np.int64) - np.iinfo(x.dtype).min) * SCALE).astype(np.float32)
    return int(np.rint(np.abs(run(model, feed, True) - run(model, feed, False)).max() / step))


def inputs(case: Case, dtype: type) -> list[np.ndarray]:
    """All codes at the top, and random ones near both ends."""
    rng = np.random.default_rng(1)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    mixed = np.where(rng.random(case.x) < 0.5, high, rng.integers(low, high, case.x, endpoint=True))
    return [np.full(case.x, high, dtype), mixed.astype(dtype)]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_narrowed_weights_agree_with_float_arithmetic(case: Case, dtype: type) -> None:
    rng = np.random.default_rng(0)
    weights = np.where(rng.random(case.w) < 0.7, 1, -1) * rng.uniform(0.6, 1, case.w)
    lanes = Lanes("i16", 2, case.order)
    scale = np.full(case.w[case.axis], 1 / 127, np.float32)
    shape = [1] * weights.ndim
    shape[case.axis] = -1
    narrowed = narrow(weights, scale, case.axis, (lanes,), 255).scale
    codes = np.rint(weights / narrowed.astype(np.float64).reshape(shape)).astype(np.int8)
    assert unsafe_groups(codes, case.axis, lanes, 255) == 0
    for x in inputs(case, dtype):
        assert difference(case, codes, narrowed, x) <= 1


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_order_of_lanes_is_that_of_the_kernels(case: Case) -> None:
    """Pairs (127, 1) or (1, 127) in that order are just safe; paired in any other way, many would be (127, 127)."""
    length = int(np.prod([case.w[a] for a in case.order]))
    first = np.random.default_rng(2).random(length // 2 + 1) < 0.5
    row = np.where(np.stack([first, ~first], axis=1).reshape(-1)[:length], 127, 1)
    along = row.reshape([case.w[a] for a in case.order])
    codes = np.broadcast_to(along, (case.w[case.axis], *along.shape))
    codes = np.ascontiguousarray(codes.transpose(np.argsort([case.axis, *case.order]))).astype(np.int8)
    scale = np.full(case.w[case.axis], 1 / 127, np.float32)
    assert narrow(codes * (1 / 127), scale, case.axis, (Lanes("i16", 2, case.order),), 255).at_risk == 0
    for x in inputs(case, np.uint8):
        assert difference(case, codes, scale, x) <= 1
