"""One zero point for many scales, scales per block, 8-bit floats: every value is covered, errors are half a step."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper

from potc.execute.session import open_session
from potc.language.program import LARGEST_FLOAT, Granularity, QType, storage_limits
from potc.quantize.blocks import block_limits, spread
from potc.quantize.numbers import QuantParams
from potc.quantize.params import dequantize, quantize
from potc.quantize.scale import FLOATS, range_params, storage_dtype

numbers = st.floats(-1e3, 1e3, width=32)
matrices = arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=3, max_side=7), elements=numbers)


def asymmetric(storage: str, **changes: object) -> QType:
    low, high = storage_limits(storage)
    return QType(storage, low, high, False, Granularity.PER_CHANNEL, 0, shared_zero_point=True, **changes)  # type: ignore[arg-type]


@given(values=matrices, storage=st.sampled_from(["u8", "i8", "u4", "u16"]))
def test_one_zero_point_covers_all_channels(values: np.ndarray, storage: str) -> None:
    rows = values.reshape(len(values), -1)
    scale, zero_point = range_params(
        rows.min(1).astype(np.float64), rows.max(1).astype(np.float64), asymmetric(storage)
    )
    assert len(set(zero_point.tolist())) == 1
    params = QuantParams(asymmetric(storage), scale, zero_point, 0)
    steps = scale.astype(np.float64).reshape(-1, *[1] * (values.ndim - 1))
    error = np.abs(dequantize(quantize(values, params), params).astype(np.float64) - values)
    assert (error <= steps * 0.500001 + np.abs(values) * 1e-6).all()
    assert (dequantize(quantize(np.zeros_like(values), params), params) == 0).all()


def test_the_shared_zero_point_is_the_mean() -> None:
    low, high = np.array([-1.0, -2.0, -3.0]), np.array([3.0, 2.0, 1.0])  # alone: 64, 128 and 191
    scale, zero_point = range_params(low, high, asymmetric("u8"))
    assert zero_point.tolist() == [128, 128, 128]
    assert scale.tolist() == pytest.approx([3 / 127, 2 / 127, 3 / 127])


def test_a_channel_without_negative_values_keeps_its_codes() -> None:
    _, zero_point = range_params(np.zeros(3), np.ones(3), asymmetric("u8"))
    assert zero_point.tolist() == [0, 0, 0]


def test_one_outlier_can_not_take_the_room_of_the_others() -> None:
    scale, zero_point = range_params(np.array([-1.0, -1.0, -1.0]), np.array([0.0, 0.0, 1e-3]), asymmetric("u8"))
    assert zero_point[0] == 254  # not 255: the last channel has values above 0
    assert np.isfinite(scale).all()


@given(values=matrices, axis=st.integers(0, 1), block=st.integers(1, 8))
def test_blocks_are_runs_along_one_axis(values: np.ndarray, axis: int, block: int) -> None:
    low, high = block_limits(values, axis, block)
    assert low.shape[axis] == -(-values.shape[axis] // block)
    moved = np.moveaxis(values, axis, 0)
    for start in range(0, values.shape[axis], block):
        run = moved[start : start + block]
        assert (np.moveaxis(low, axis, 0)[start // block] == run.min(0)).all()
        assert (np.moveaxis(high, axis, 0)[start // block] == run.max(0)).all()
    each = spread(low, axis, block, values.shape[axis])
    assert each.shape == values.shape
    assert (each <= values).all()


@given(values=matrices, storage=st.sampled_from(["i8", "u4"]), block=st.integers(1, 8))
def test_errors_of_blocks_are_half_a_step(values: np.ndarray, storage: str, block: int) -> None:
    limits = storage_limits(storage)
    qtype = QType(storage, *limits, storage[0] == "i", Granularity.PER_BLOCK, 0, block)
    scale, zero_point = range_params(*block_limits(values, 0, block), qtype)
    params = QuantParams(qtype, scale, zero_point, 0, block)
    error = np.abs(dequantize(quantize(values, params), params).astype(np.float64) - values)
    steps = spread(scale.astype(np.float64), 0, block, len(values))
    assert (error <= steps * 0.500001 + np.abs(values) * 1e-6).all()


@pytest.mark.parametrize("storage", LARGEST_FLOAT)
def test_floats_are_rounded_as_onnxruntime_rounds_them(storage: str) -> None:
    largest = LARGEST_FLOAT[storage]
    qtype = QType(storage, -largest, largest, True)
    values = np.random.default_rng(3).normal(0, 2, 4000).astype(np.float32)
    scale, zero_point = range_params(np.float64(values.min()), np.float64(values.max()), qtype)
    assert float(scale) * largest == pytest.approx(float(np.abs(values).max()))
    params = QuantParams(qtype, scale, zero_point, None)
    ours = dequantize(quantize(values, params), params)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, values.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, values.shape)],
        [numpy_helper.from_array(scale, "s"), numpy_helper.from_array(np.zeros((), storage_dtype(storage)), "z")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    assert model.graph.initializer[1].data_type == FLOATS[storage]
    onnx.checker.check_model(model, full_check=True)
    theirs = open_session(model.SerializeToString(), optimize=False).run(["y"], {"x": values})[0]
    assert (
        np.isclose(ours, theirs, rtol=1e-6, atol=0).mean() > 0.999
    )  # a quotient at the middle of two codes may differ
    assert np.abs(ours - theirs).max() <= np.abs(values).max() / 8
