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
from openvino.runtime import CompiledModel, Core

PRODUCTS = ("Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul")
INTEGERS = ("i8", "u8")


def about(compiled: CompiledModel) -> dict[str, object]:
    executed = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    products = [info for info in executed if info["layerType"].astype(str) in PRODUCTS]
    integer = sum(info["runtimePrecision"].astype(str) in INTEGERS for info in products)
    inputs = [
        (port.get_any_name(), [d.get_length() if d.is_static else -1 for d in port.get_partial_shape()])
        for port in compiled.inputs
    ]
    outputs = [sorted(port.get_names()) for port in compiled.outputs]
    return {"inputs": inputs, "outputs": outputs, "integer": integer, "products": len(products)}


def send(arrays: dict[str, np.ndarray]) -> None:
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    sys.stdout.buffer.write(len(packed.getvalue()).to_bytes(8, "little") + packed.getvalue())
    sys.stdout.buffer.flush()


def main() -> None:
    path, threads, optimize = sys.argv[1:]
    options = {"INFERENCE_NUM_THREADS": int(threads), "INFERENCE_PRECISION_HINT": "f32"}
    if optimize == "off":
        options["LP_TRANSFORMS_MODE"] = "NO"
    compiled = Core().compile_model(path, "CPU", options)
    send({"about": np.array(json.dumps(about(compiled)))})
    request = compiled.create_infer_request()
    while length := sys.stdin.buffer.read(8):
        with np.load(io.BytesIO(sys.stdin.buffer.read(int.from_bytes(length, "little")))) as file:
            results = request.infer({name: file[name] for name in file.files})
        send({str(i): results[port] for i, port in enumerate(compiled.outputs)})


if __name__ == "__main__":
    main()
