"""The observing model sees what it should."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper, parser, shape_inference

from potc.quantize.observe import REDUCTIONS, Averaged, expose, instrument, mean_outputs, reductions, value_outputs

GRAPH = """g (float[N, 4] x, double[2] d, float16[2] h) => (float[N, 4] y, float[1, 1] z)
<float[1, 4] w = {1, 2, 3, -4}> {
  a = Add(x, w)
  y = Relu(a)
  z = ReduceMax<keepdims = 1>(y)
}"""


def model(opset: int = 17):
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {GRAPH}')


def run(serialized: bytes, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(serialized, options, providers=["CPUExecutionProvider"]).run(names, feed)


def feed(rows: int, value: float = 0.5) -> dict[str, np.ndarray]:
    x = np.full((rows, 4), value, np.float32)
    return {"x": x, "d": np.array([1e300, -1]), "h": np.array([2, -2], np.float16)}


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_inputs_initializers_and_every_float_type_are_observed(opset: int) -> None:
    tensors = ["x", "w", "a", "y", "d", "h"]
    proto = model(opset)
    found = np.array(run(instrument(proto, tensors), list(reductions(proto, tensors)), feed(3))).reshape(-1, 3)
    assert found[:4, :2].tolist() == [[0.5, 0.5], [-4, 3], [-3.5, 3.5], [0, 3.5]]
    assert found[4, 0] == -1
    assert np.isinf(found[4, 1])
    assert found[5].tolist() == [-2, 2, 0]


def test_fetched_tensors_are_returned_whole() -> None:
    proto = model()
    fetched = run(instrument(proto, [], (), ["d", "a"]), list(value_outputs(proto, 2)), feed(1))
    assert [values.dtype for values in fetched] == [np.float32, np.float32]
    assert np.isinf(fetched[0][0])
    assert fetched[1].tolist() == [[1.5, 2.5, 3.5, -3.5]]


def test_a_tensor_without_elements_has_an_empty_range() -> None:
    proto = model()
    low, high, total = run(instrument(proto, ["a"]), list(reductions(proto, ["a"])), feed(0))
    assert (low, high, total) == (np.inf, -np.inf, 0)


@pytest.mark.parametrize("position", range(12))
def test_the_sum_tells_of_nan_anywhere(position: int) -> None:
    proto, values = model(), feed(3)
    values["x"].reshape(-1)[position] = np.nan
    assert np.isnan(run(instrument(proto, ["a"]), list(reductions(proto, ["a"])), values)[2])


def test_expose_returns_the_values() -> None:
    serialized, name = expose(model(), "h")
    assert run(serialized, [name], feed(1))[0].tolist() == [2, -2]


def test_names_of_the_model_are_not_taken_again() -> None:
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] observed) { observed = Relu(x) }'
    )
    assert (
        run(instrument(proto, ["observed"]), list(reductions(proto, ["observed"])), {"x": np.ones(2, np.float32)})[1]
        == 1
    )


@pytest.mark.parametrize("tensor", ["nothing", "i"])
def test_only_float_tensors_of_the_main_graph(tensor: str) -> None:
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (int64[2] i) => (int64[2] o) { o = Identity(i) }'
    )
    with pytest.raises(ValueError, match=tensor):
        instrument(proto, [tensor])


PICTURES = """g (float[N, 3, 4, 4] x, float[8, 3, 3, 3] w) => (float[N, 8, 2, 2] y) {
  a = Conv(x, w)
  y = Relu(a)
}"""


def pictures() -> onnx.ModelProto:
    proto = shape_inference.infer_shapes(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {PICTURES}'))
    weights = np.random.default_rng(0).normal(size=(8, 3, 3, 3)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    del proto.graph.input[1]
    proto.graph.value_info.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8, 2, 2]))
    return proto


def observed(proto: onnx.ModelProto, tensors: list[str], rectified: list[str], x: np.ndarray) -> np.ndarray:
    places = reductions(proto, tensors, rectified)
    found = np.zeros((len(tensors), len(REDUCTIONS)))
    results = run(instrument(proto, tensors, rectified=rectified), list(places), {"x": x})
    for place, value in zip(places.values(), results, strict=True):
        found[place] = value
    return found


@pytest.mark.parametrize("samples", [0, 1, 3])
def test_rectified_pictures_have_the_same_maximum_and_no_minimum(samples: int) -> None:
    proto = pictures()
    x = np.random.default_rng(1).normal(size=(samples, 3, 4, 4)).astype(np.float32)
    plain = observed(proto, ["a", "y"], [], x)
    pooled = observed(proto, ["a", "y"], ["y"], x)
    assert pooled[0].tolist() == plain[0].tolist()
    assert pooled[1, :2].tolist() == [0, plain[1, 1]]
    assert pooled[1, 2] == pytest.approx(plain[1, 2] / 4, rel=1e-5)  # means of 2 x 2 positions


def test_the_sum_of_means_tells_of_nan_anywhere() -> None:
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1, 8, 2, 2] x) => (float[1, 8, 2, 2] y)'
        "<float[1, 8, 2, 2] b = {" + ", ".join(["0"] * 32) + "}> { a = Add(x, b)  y = Add(a, b) }"
    )
    proto.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, 8, 2, 2]))
    for value in (np.nan, np.inf):
        for position in range(32):
            x = np.ones((1, 8, 2, 2), np.float32)
            x.reshape(-1)[position] = value
            assert not np.isfinite(observed(proto, ["a"], ["a"], x)[0, 2])


LAID = """g (float[N, 3, 4, 4] x) => (float[N, 8, 2, 2] y) {
  a = Conv <strides = [1, 1]> (x, w)  b = Relu(a)  c = Abs(x)  d = Add(a, b)  y = Relu(d)
}"""


@pytest.mark.parametrize(("tensor", "pooled"), [("a", True), ("b", True), ("c", False), ("d", False), ("y", False)])
def test_means_are_pooled_where_the_layout_is_certain(tensor: str, pooled: bool) -> None:
    """What is made of several computed tensors lies as the last of them does: that hangs on where a graph is cut."""
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {LAID}')
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((8, 3, 3, 3), np.float32), "w"))
    proto = shape_inference.infer_shapes(proto)
    made = instrument(proto, [], [Averaged(tensor, 4, 1)])
    operators = [node.op_type for node in onnx.ModelProto.FromString(made).graph.node[len(proto.graph.node) :]]
    assert operators == (["GlobalAveragePool", "ReduceMean"] if pooled else ["Cast", "ReduceMean"])
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    proto.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
    wanted = run(proto.SerializeToString(), [tensor], {"x": x})[0].mean((0, 2, 3))
    np.testing.assert_allclose(run(made, list(mean_outputs(proto, 1)), {"x": x})[0], wanted, rtol=1e-5)
