"""The observing model sees what it should."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import parser

from potc.quantize.observe import expose, instrument, reductions, value_outputs

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
