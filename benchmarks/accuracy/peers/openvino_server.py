"""Runs a model of OpenVINO for another process: reads requests from standard input, writes answers to standard output.

    python openvino_server.py MODEL.xml THREADS all|off

A message is its length (8 bytes, little endian) and an npz file of so many bytes. The first answer describes the model, as JSON
in an array ``about``: ``inputs`` (name, shape with -1 for any), ``outputs`` (all names of each), ``integer`` of ``products``
(convolutions and matrix products that run on integers, of all). Each request holds the inputs, its answer the outputs as ``0``,
``1``, ... ``off``: no integer kernels.
"""

from __future__ import annotations

import io
import json
import sys

import numpy as np
from openvino.runtime import CompiledModel, Core, Model

PRODUCTS = ("Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul")
INTEGERS = ("i8", "u8")


def about(compiled: CompiledModel, model: Model) -> dict[str, object]:
    executed = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    products = [info for info in executed if info["layerType"].astype(str) in PRODUCTS]
    integer = sum(info["runtimePrecision"].astype(str) in INTEGERS for info in products)
    inputs = [
        (port.get_any_name(), [d.get_length() if d.is_static else -1 for d in port.get_partial_shape()])
        for port in model.inputs
    ]
    outputs = [sorted(port.get_names()) for port in compiled.outputs]
    return {"inputs": inputs, "outputs": outputs, "integer": integer, "products": len(products)}


def send(arrays: dict[str, np.ndarray]) -> None:
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    sys.stdout.buffer.write(len(packed.getvalue()).to_bytes(8, "little") + packed.getvalue())
    sys.stdout.buffer.flush()


class Shaped:
    """A model that is compiled anew for each shape of inputs: with open shapes some integer kernels of OpenVINO 2023.3 compute
    something else."""

    def __init__(self, path: str, options: dict[str, object]) -> None:
        self._core, self._path, self._options = Core(), path, options
        self._compiled: dict[tuple[object, ...], CompiledModel] = {}

    def open(self) -> CompiledModel:
        """With a batch of 1, if nothing else is open, else as it is."""
        model = self._core.read_model(self._path)
        shapes = {port.get_any_name(): list(port.get_partial_shape()) for port in model.inputs}
        if all(dim.is_static for shape in shapes.values() for dim in shape[1:]):
            model.reshape({name: [1, *(dim.get_length() for dim in shape[1:])] for name, shape in shapes.items()})
        return self._core.compile_model(model, "CPU", self._options)

    def of(self, feed: dict[str, np.ndarray]) -> CompiledModel:
        key = tuple((name, array.shape) for name, array in feed.items())
        if key not in self._compiled:
            model = self._core.read_model(self._path)
            model.reshape({name: list(array.shape) for name, array in feed.items()})
            self._compiled[key] = self._core.compile_model(model, "CPU", self._options)
        return self._compiled[key]


def main() -> None:
    path, threads, optimize = sys.argv[1:]
    options = {"INFERENCE_NUM_THREADS": int(threads), "INFERENCE_PRECISION_HINT": "f32"}
    if optimize == "off":
        options["LP_TRANSFORMS_MODE"] = "NO"
    model = Shaped(path, options)
    send({"about": np.array(json.dumps(about(model.open(), Core().read_model(path))))})
    while length := sys.stdin.buffer.read(8):
        with np.load(io.BytesIO(sys.stdin.buffer.read(int.from_bytes(length, "little")))) as file:
            feed = {name: file[name] for name in file.files}
        compiled = model.of(feed)
        results = compiled.create_infer_request().infer(feed)
        send({str(i): results[port] for i, port in enumerate(compiled.outputs)})


if __name__ == "__main__":
    main()
