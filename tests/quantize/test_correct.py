"""Fast bias correction: the formula against running the layer, means merged exactly, and the plan that asks for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from potc.compiler import Job, compile_model
from potc.execute.session import open_session
from potc.quantize.channel_means import ChannelMean, MeanSums, merge_means
from potc.quantize.correct import mean_output
from potc.quantize.observe import Averaged, mean_graph
from potc.quantize.params import dequantize
from potc.quantize.plan import Window
from potc.quantize.tuning import BiasSettings, Tuning
from potc.quantize.windows import tap_means, window_of


def run_layer(op: str, x: np.ndarray, w: np.ndarray, **attributes: object) -> np.ndarray:
    node = helper.make_node(op, ["x", "w"], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return open_session(model.SerializeToString(), optimize=False, threads=1).run(None, {"x": x})[0]


@st.composite
def layers(draw: st.DrawFn) -> tuple[str, np.ndarray, np.ndarray, dict[str, object]]:
    """A convolution of any geometry, or one that spreads, with its input and weights: float32."""
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))

    def each(low: int, high: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))

    group, inputs, outputs = (draw(st.integers(1, 3)) for _ in range(3))
    kernel = each(1, 3)
    attributes: dict[str, object] = {"group": group, "strides": each(1, 3), "dilations": each(1, 2)}
    padding = draw(st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    spreads = draw(st.booleans())
    if padding != "NOTSET":
        attributes["auto_pad"] = padding
        if not spreads:
            attributes["dilations"] = [1] * rank  # onnxruntime pads dilated kernels as if they were not
    else:
        attributes["pads"] = each(0, 2) + each(0, 2)
    sizes = each(6, 9)
    generator = np.random.default_rng(draw(st.integers(0, 1000)))
    x = generator.uniform(0, 3, (draw(st.integers(1, 2)), group * inputs, *sizes)).astype(np.float32)
    if spreads:
        return (
            "ConvTranspose",
            x,
            generator.normal(size=(group * inputs, outputs, *kernel)).astype(np.float32),
            attributes,
        )
    return "Conv", x, generator.normal(size=(group * outputs, inputs, *kernel)).astype(np.float32), attributes


@given(layers())
@settings(deadline=None, max_examples=200)
def test_the_mean_of_a_layer_is_that_of_its_outputs(
    layer: tuple[str, np.ndarray, np.ndarray, dict[str, object]],
) -> None:
    op, x, w, attributes = layer
    y = run_layer(op, x, w, **attributes)
    assume(y.size)
    spreads = op == "ConvTranspose"
    window = window_of(attributes, w.shape[2:], spreads)
    rest = (0, *range(2, x.ndim))
    mean = x.mean(rest, dtype=np.float64) if window is None else tap_means(x, window)
    found = mean_output(w, int(spreads), int(not spreads), mean, y.shape[1])
    assert found is not None
    np.testing.assert_allclose(found, y.mean(rest, dtype=np.float64), rtol=1e-4, atol=1e-4)


def mean_inside(x: np.ndarray, window: Window | None, pictures: dict[str, int]) -> tuple[np.ndarray, set[str]]:
    """What a graph returns as the mean of x, and its operators."""
    averaged = Averaged("x", x.ndim, 1, window, x.shape[2:] if window else ())
    nodes, stored = mean_graph([("mean", averaged)], 13, pictures)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_empty_tensor_value_info("mean")], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    found = open_session(model.SerializeToString(), optimize=True, threads=1).run(None, {"x": x})[0]
    return found.reshape(x.shape[1], -1), {node.op_type for node in nodes}


@given(layers(), st.booleans())
@settings(deadline=None, max_examples=150)
def test_what_taps_meet_is_the_same_inside_of_a_graph(
    layer: tuple[str, np.ndarray, np.ndarray, dict[str, object]], known: bool
) -> None:
    op, x, w, attributes = layer
    window = window_of(attributes, w.shape[2:], op == "ConvTranspose")
    pictures = {"x": x.shape[1]} if known and x.ndim == 4 else {}
    found, _ = mean_inside(x, window, pictures)
    others = (0, *range(2, x.ndim))
    wanted = x.mean(others, dtype=np.float64)[:, None] if window is None else tap_means(x, window)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("attributes", "kernel", "size", "operators"),
    [
        ({}, (1, 1), 8, {"GlobalAveragePool"}),
        ({"strides": [2, 2]}, (1, 1), 8, {"Conv"}),  # a result more would fit in
        ({"pads": [1, 1, 1, 1]}, (3, 3), 8, {"Conv"}),
        ({"dilations": [9, 1]}, (2, 2), 8, {"MatMul", "Transpose"}),  # nothing is met
    ],
)
def test_means_of_pictures_are_taken_in_their_own_layout(
    attributes: dict[str, object], kernel: tuple[int, ...], size: int, operators: set[str]
) -> None:
    x = np.random.default_rng(0).uniform(0, 3, (1, 16, size, size)).astype(np.float32)
    _, made = mean_inside(x, window_of(attributes, kernel, False), {"x": 16})
    assert made == {*operators, "ReduceMean"}


@pytest.mark.parametrize("more", [{"output_padding": [1, 0]}, {"output_shape": [11, 12]}])
@pytest.mark.parametrize("padding", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
def test_results_that_are_spread_to_a_given_size(more: dict[str, object], padding: str) -> None:
    generator = np.random.default_rng(0)
    x = generator.uniform(0, 3, (1, 2, 5, 6)).astype(np.float32)
    w = generator.normal(size=(2, 3, 3, 3)).astype(np.float32)
    attributes = {"strides": [2, 2], "auto_pad": padding, **more}
    window = window_of(attributes, (3, 3), True)
    assert window is not None
    y = run_layer("ConvTranspose", x, w, **attributes)
    found = mean_output(w, 1, 0, tap_means(x, window), 3)
    assert found is not None
    np.testing.assert_allclose(found, y.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_the_mean_of_a_matrix_product_is_exact_both_ways_round() -> None:
    generator = np.random.default_rng(0)
    w, x = generator.normal(size=(5, 3)), generator.normal(1, 1, size=(20, 5))
    for found in (mean_output(w, 1, 0, x.mean(0), 3), mean_output(w.T, 0, 1, x.mean(0), 3)):
        assert found is not None
        np.testing.assert_allclose(found, (x @ w).mean(0), rtol=1e-12)


@pytest.mark.parametrize(("channels", "taps"), [(0, 1), (3, 1), (5, 1), (4, 2)])
def test_shapes_that_do_not_fit_are_left_alone(channels: int, taps: int) -> None:
    assert mean_output(np.ones((6, 4, 1, 1)), 0, 1, np.ones((channels, taps)), 6) is None


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


@given(st.lists(st.tuples(MEANS, MEANS), min_size=1, max_size=4), st.sets(st.integers(0, 3)))
def test_a_row_of_sums_holds_the_mean_of_each_tensor(
    samples: list[tuple[np.ndarray, np.ndarray]], empty: set[int]
) -> None:
    row, wanted = MeanSums(3), [ChannelMean()] * 3
    for number, (a, b) in enumerate(samples):
        tensors = [a, np.stack([b, a, a, b], 1).reshape(3, 2, 2), b]
        if number in empty:
            tensors[1] = np.where(np.arange(12).reshape(3, 2, 2) == 5, np.float32("nan"), tensors[1])
        row.add(tensors)
        for index, means in enumerate(tensors):
            if np.isfinite(means).all():
                flat = means.reshape(3, -1) if means.ndim > 1 else means
                wanted[index] = merge_means(wanted[index], ChannelMean.of_sample(flat))
    for found, one in zip(row.means(), wanted, strict=True):
        assert found.samples == one.samples
        np.testing.assert_array_equal(found.coarse, one.coarse)
        np.testing.assert_array_equal(found.fine, one.fine)


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


def one_layer(folder: Path, line: str, weights: dict[str, np.ndarray], shape: list[int | str]) -> tuple[str, str]:
    """A model of one layer on 8 channels of different means, without a bias, and 12 samples of it."""
    generator = np.random.default_rng(5)
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[{", ".join(map(str, shape))}] x) => (float y) {{ {line} }}"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items())
    channels = 8 if "group=8" in line else 6
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["?", channels, *["?"] * (len(shape) - 2)])
    proto.graph.output[0].CopyFrom(result)
    for number, node in enumerate(proto.graph.node):
        node.name = f"node{number}"
    onnx.save(proto, folder / "model.onnx")
    sizes = [n if isinstance(n, int) else 9 for n in shape]
    x = generator.uniform(0, 3, (12, *sizes[1:])) + np.arange(8).reshape(-1, *[1] * (len(sizes) - 2))
    np.savez(folder / "data.npz", x=x.astype(np.float32))
    return str(folder / "model.onnx"), str(folder / "data.npz")


DENSE = np.random.default_rng(1).normal(size=(6, 8, 3, 3))
LAYERS = {
    "padded": ("y = Conv <pads=[2,1,2,1], strides=[2,2]> (x, w)", {"w": DENSE}, ["N", 8, 9, 9]),
    "of unknown size": ("y = Conv <pads=[1,1,1,1]> (x, w)", {"w": DENSE}, ["N", 8, "H", "W"]),
    "depthwise": ("y = Conv <pads=[1,1,1,1], group=8> (x, w)", {"w": DENSE.reshape(-1, 1, 3, 3)[:8]}, ["N", 8, 9, 9]),
    "in groups": ("y = Conv <pads=[1,1,1,1], group=2> (x, w)", {"w": DENSE[:, :4]}, ["N", 8, 9, 9]),
    "product": ("y = Gemm (x, w)", {"w": DENSE[:, :, 0, 0].T}, ["N", 8]),
    "transposed": ("y = Gemm <transB=1> (x, w)", {"w": DENSE[:, :, 0, 0]}, ["N", 8]),
    "scaled": ("y = Gemm <transB=1, alpha=0.5, beta=3.0> (x, w)", {"w": DENSE[:, :, 0, 0]}, ["N", 8]),
}


@pytest.mark.parametrize(
    ("device", "kind"), [*(("cpu", kind) for kind in LAYERS), ("gna3", "padded"), ("gna", "product")]
)
def test_a_layer_without_a_bias_gets_one_that_keeps_its_mean(tmp_path: Path, device: str, kind: str) -> None:
    line, weights, shape = LAYERS[kind]
    model, data = one_layer(tmp_path, line, weights, shape)
    rules = "cpu" if device == "cpu" else "gna"
    compiled = compile_model(Job(model, rules, data, device=device, tuning=Tuning(bias=BiasSettings("fast"))))
    assert [c.tensor for c in compiled.plan.constants] == ["w", "node0/bias"] or kind == "scaled"
    assert not compiled.plan.absent and len(compiled.plan.corrections) == 1
    # Only the weights' rounding: what the float layer makes of the samples with weights and bias as they are stored.
    index = compiled.plan.corrections[0]
    w, b = (dequantize(compiled.params.codes[i], compiled.params.constants[i]) for i in (index.weight, index.bias))
    proto = onnx.ModelProto()
    proto.CopyFrom(compiled.prepared.proto)
    stored = {compiled.plan.constants[index.weight].tensor: w, compiled.plan.constants[index.bias].tensor: b}
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(stored.get(tensor.name, numpy_helper.to_array(tensor)), tensor.name))
    with np.load(data) as file:
        feeds = [{"x": x[None]} for x in file["x"]]
    exact, rounded = (
        np.concatenate([open_session(m.SerializeToString(), optimize=False, threads=1).run(None, f)[0] for f in feeds])
        for m in (compiled.prepared.proto, proto)
    )
    others = (0, *range(2, exact.ndim))
    step = compiled.params.constants[index.bias].scale.max()
    assert np.abs((exact - rounded).mean(others)).max() < 0.5 * step + 1e-4
    assert np.abs((exact - rounded).mean()) < 0.5 * step + 1e-4


def test_no_bias_is_added_where_none_is_corrected(tmp_path: Path) -> None:
    line, weights, shape = LAYERS["padded"]
    model, data = one_layer(tmp_path, line, weights, shape)
    compiled = compile_model(Job(model, "cpu", data, tuning=Tuning(bias=BiasSettings("none"))))
    assert [c.tensor for c in compiled.plan.constants] == ["w"] and len(compiled.plan.absent) == 1
    assert not any(t.name.startswith("node0/bias") for t in compiled.prepared.proto.graph.initializer)
