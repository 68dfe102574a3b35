"""What figures of accuracy and speed depend on: the processor, and what onnxruntime's 8-bit kernels do on it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper


def machine() -> dict[str, Any]:
    """``vnni``: the processor has instructions that add products in 32 bits; ``saturates``: kernels were seen to saturate."""
    words = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    facts = dict(line.split(":", 1) for line in words.splitlines() if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    flags = set(facts.get("flags", "").split())
    return {
        "cpu": facts.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "avx2": "avx2" in flags,
        "vnni": bool(flags & {"avx_vnni", "avx512_vnni"}),
        "saturates": saturates(),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def described(facts: dict[str, Any]) -> str:
    """The processor in words, and whether its kernels saturate."""
    kind = f"{facts['cpu']}, {facts['cores']} cores, {'AVX2' if facts['avx2'] else 'no AVX2'}"
    if facts["saturates"]:
        kind += ", VNNI, which onnxruntime was kept from using" if facts["vnni"] else ", no VNNI"
        return f"{kind}: 8-bit kernels add pairs of products in 16 bits and can saturate"
    return f"{kind}{', VNNI' if facts['vnni'] else ''}: 8-bit kernels add in 32 bits and never saturate"


def saturates() -> bool:
    """255 * 127 + 255 * 127 on an 8-bit kernel: 64,770, or 32,767 where pairs are added in 16 bits."""
    stored = {"one": np.float32(1), "zero": np.uint8(0), "w": np.full((2, 1), 127, np.int8), "step": np.float32(512)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "one", "zero"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "one"], ["wf"]),
        helper.make_node("MatMul", ["xf", "wf"], ["yf"]),
        helper.make_node("QuantizeLinear", ["yf", "step", "zero"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "step", "zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "pair",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": np.full((1, 2), 255, np.float32)})
    return bool(np.asarray(found[0]).item() == 64 * 512)
