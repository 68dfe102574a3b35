"""Files that no compile can accept, made on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, helper, numpy_helper


def write_bad_files(folder: Path, sample: Path) -> None:
    """All bad files that the transcripts name; ``sample`` is the folder of the digits."""
    model = (sample / "model.onnx").read_bytes()
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "truncated.onnx").write_bytes(model[: len(model) // 2])
    (folder / "text.onnx").write_text("This is no model.\n")
    onnx.save(_cyclic(), folder / "cyclic.onnx")
    onnx.save(_double(), folder / "double.onnx")
    silent = onnx.ModelProto.FromString(model)
    del silent.graph.output[:]
    onnx.save(silent, folder / "no_output.onnx")
    np.savez(folder / "beyond_float.npz", input=np.load(sample / "calib.npz")["input"][:2].astype(np.float64) + 1e300)
    onnx.save(_nan_weights(onnx.ModelProto.FromString(model)), folder / "nan_weights.onnx")
    pictures = np.load(sample / "calib.npz")["input"][:4]
    np.savez(folder / "wrong_names.npz", picture=pictures)
    np.savez(folder / "wrong_shape.npz", input=pictures[:, :, :14])
    broken = pictures.copy()
    broken[2, 0, 5, 5] = np.nan
    np.savez(folder / "nan_samples.npz", input=broken)
    np.savez(folder / "four.npz", input=pictures)
    (folder / "text.npz").write_text("These are no samples.\n")
    (folder / "old.onnx").write_bytes(b"what was here before")
    (folder / "folder.onnx").mkdir()


def _cyclic() -> onnx.ModelProto:
    shape = [1, 4]
    nodes = [helper.make_node("Add", ["x", "b"], ["a"], "first"), helper.make_node("Relu", ["a"], ["b"], "second")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("b", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, "cyclic", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _double() -> onnx.ModelProto:
    """onnxruntime has no such convolution."""
    text = '<ir_version: 8, opset_import: ["": 17]> g (double[1,1,4,4] x) => (double[1,1,1,1] y) {y = Conv(x, x)}'
    return onnx.parser.parse_model(text)


def _nan_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    weight = next(t for t in model.graph.initializer if len(t.dims) == 4)
    values = numpy_helper.to_array(weight).copy()
    values[0, 0, 0, 0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    return model
