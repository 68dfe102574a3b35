"""Fast bias correction: the formula against running the layer, means merged exactly, and the plan that asks for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from potc.compiler import Job, compile_model
from potc.execute.session import open_session
from potc.quantize.correct import mean_shift
from potc.quantize.observe import ChannelMean, merge_means
from potc.quantize.tuning import BiasSettings, Tuning


def convolve(x: np.ndarray, w: np.ndarray, group: int) -> np.ndarray:
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=group)
    graph = helper.make_graph(
        [node],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return open_session(model.SerializeToString(), optimize=False, threads=1).run(None, {"x": x})[0]


@pytest.mark.parametrize(("inputs", "outputs", "group"), [(4, 6, 1), (4, 6, 2), (5, 5, 5), (3, 6, 3)])
def test_the_shift_of_a_convolution_without_padding_is_exact(inputs: int, outputs: int, group: int) -> None:
    generator = np.random.default_rng(0)
    w = generator.normal(size=(outputs, inputs // group, 1, 1)).astype(np.float32)
    x = generator.uniform(0, 3, (2, inputs, 7, 7)).astype(np.float32)
    shift = mean_shift(w, 0, 1, x.mean((0, 2, 3), dtype=np.float64))
    assert shift is not None
    np.testing.assert_allclose(shift, convolve(x, w, group).mean((0, 2, 3)), rtol=1e-4)


def test_the_shift_of_a_matrix_product_is_exact_both_ways_round() -> None:
    generator = np.random.default_rng(0)
    w, x = generator.normal(size=(5, 3)), generator.normal(1, 1, size=(20, 5))
    for shift in (mean_shift(w, 1, 0, x.mean(0)), mean_shift(w.T, 0, 1, x.mean(0))):
        np.testing.assert_allclose(shift, (x @ w).mean(0), rtol=1e-12)


@pytest.mark.parametrize("channels", [0, 3, 5])
def test_shapes_that_do_not_fit_are_left_alone(channels: int) -> None:
    assert mean_shift(np.ones((6, 4, 1, 1)), 0, 1, np.ones(channels)) is None


MEANS = hnp.arrays(np.float32, (3,), elements=st.floats(-1e6, 1e6, width=32))


@given(st.lists(MEANS, min_size=1, max_size=6), st.randoms())
def test_means_merge_exactly_in_any_order(samples: list[np.ndarray], random: object) -> None:
    parts = [ChannelMean.of_sample(s) for s in samples]
    forward = ChannelMean()
    for part in parts:
        forward = merge_means(forward, part)
    random.shuffle(parts)  # type: ignore[attr-defined]
    backward = ChannelMean()
    for part in parts:
        backward = merge_means(part, backward)
    assert forward.mean is not None and backward.mean is not None
    np.testing.assert_array_equal(forward.mean, backward.mean)
    exact = np.mean(np.array(samples, np.float64), axis=0)
    np.testing.assert_allclose(forward.mean, exact, rtol=1e-12, atol=1e-15)


def wide_layer(folder: Path, opset: int) -> str:
    """Inputs of very different means, so that rounding shifts the output; coarse weights, so that it shifts it by much."""
    generator = np.random.default_rng(3)
    w = generator.normal(size=(6, 8, 3, 3)).astype(np.float32)
    w[:, 0, 0, 0] = 30
    offset = np.linspace(0, 9, 8, dtype=np.float32).reshape(1, 8, 1, 1)
    nodes = [
        helper.make_node("Add", ["x", "offset"], ["a"], name="add"),
        helper.make_node("Conv", ["a", "w", "b"], ["y"], name="conv"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 9, 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6, 7, 7])],
        [numpy_helper.from_array(a, n) for a, n in ((w, "w"), (offset, "offset"), (np.zeros(6, np.float32), "b"))],
    )
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), path)
    return str(path)


@pytest.mark.parametrize("opset", [13, 18])
def test_correction_brings_the_output_nearer(tmp_path: Path, opset: int) -> None:
    model = wide_layer(tmp_path, opset)
    with_, without = (
        compile_model(Job(model, "cpu", tuning=Tuning(bias=BiasSettings(method)))) for method in ("fast", "none")
    )
    assert len(with_.plan.corrections) == 1
    assert "corrected" in with_.params.constant_reasons[with_.plan.corrections[0].bias]
    assert "corrected" not in without.params.constant_reasons[without.plan.corrections[0].bias]
    assert with_.verification.sqnr["y"] > without.verification.sqnr["y"] + 1
