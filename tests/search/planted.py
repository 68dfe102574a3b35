"""Small networks in which it is known what 8 bits ruin: layers with one weight that dwarfs all others and does nothing.

That weight meets an input that is always 0, so the float model does not feel it; on a device with one scale for all weights of a
layer it leaves no codes for the others. All other layers bear 8 bits well.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

RULES = """potc 1
use std
device plain {
  opset ai.onnx 13 .. 25
  qtype a8 = u8 asym per_tensor
  qtype w8 = i8[-127..127] sym per_tensor
  rule gemm {
    match Gemm(x: value, w: const, b: const?) -> Relu? as y
    quant x: a8, w: w8, b: i32 sym per_tensor = scale(x) * scale(w), y: a8 | none
  }
}
"""
CLASSES, SAMPLES, CALIBRATION = 10, 200, 32
MAX_DROP = "0.3"


@dataclass(frozen=True)
class Planted:
    """``must``: names of the nodes of the layers that have to stay in float; labels are the float model's answers."""

    model: ModelProto
    inputs: np.ndarray
    calibration: np.ndarray
    must: frozenset[str]


def planted(seed: int) -> Planted:
    """Drawn by the seed: 6 to 14 layers, none to 4 of them planted."""
    random = np.random.default_rng(seed)
    depth, width = int(random.integers(6, 15)), int(random.integers(24, 49))
    bad = {int(i) for i in random.choice(depth, int(random.integers(0, 5)), replace=False)}
    sizes = [width] * depth + [CLASSES]
    weights = [random.standard_normal((a, b)) * np.sqrt(2 / a) for a, b in pairwise(sizes)]
    data = random.standard_normal((SAMPLES + CALIBRATION, width))
    silent = {layer: int(random.integers(width)) for layer in sorted(bad)}
    for layer, unit in silent.items():
        weights[layer][unit] = float(random.uniform(100, 1000)) * np.sqrt(2 / width)
    data[:, [unit for layer, unit in silent.items() if layer == 0]] = 0
    biases: list[np.ndarray] = []
    values = data
    for layer, w in enumerate(weights):
        sums = values @ w
        bias = -sums.mean(0)  # centred, so that deep networks still tell samples apart
        if layer + 1 in silent:  # the unit in front of a planted weight never fires
            bias[silent[layer + 1]] = -sums[:, silent[layer + 1]].max() - 1
        biases.append(bias)
        values = np.maximum(sums + bias, 0)
    nodes, stored, tensor = [], [], "x"
    must: set[str] = set()
    for layer, (w, b) in enumerate(zip(weights, biases, strict=True)):
        stored += [_tensor(w, f"w{layer}"), _tensor(b, f"b{layer}")]
        nodes.append(helper.make_node("Gemm", [tensor, f"w{layer}", f"b{layer}"], [f"t{layer}"], f"gemm{layer}"))
        tensor = f"t{layer}"
        must |= {f"gemm{layer}"} if layer in bad else set()
        if layer < depth - 1:
            nodes.append(helper.make_node("Relu", [tensor], [f"r{layer}"], f"relu{layer}"))
            tensor = f"r{layer}"
            must |= {f"relu{layer}"} if layer in bad else set()
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, width])
    y = helper.make_tensor_value_info(tensor, TensorProto.FLOAT, [1, CLASSES])
    graph = helper.make_graph(nodes, "planted", [x], [y], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    rows = data.astype(np.float32)
    return Planted(model, rows[:SAMPLES], rows[SAMPLES:], frozenset(must))


def _tensor(values: np.ndarray, name: str) -> TensorProto:
    return numpy_helper.from_array(values.astype(np.float32), name)
