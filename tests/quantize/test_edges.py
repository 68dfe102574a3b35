"""Whole compiles of one small model with numbers at the edges: what becomes of them, and what is told."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from potc.cli.main import main

GRAPH = (
    """g ({0}[1, 4, 6, 6] x) => ({0}[1, 8, 4, 4] y) <{0}[8, 4, 3, 3] w, {0}[8] b> {{ c = Conv(x, w, b) y = Relu(c) }}"""
)
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((8, 1, 4, 6, 6)).astype(np.float32)
W = (RANDOM.standard_normal((8, 4, 3, 3)) * 0.2).astype(np.float32)
B = np.zeros(8, np.float32)
HALF = np.where(np.arange(8) < 4, 1, 0).reshape(8, 1, 1, 1).astype(np.float32)
LAST = np.where(np.arange(8) < 7, 1, 1e-39).reshape(8, 1, 1, 1).astype(np.float32)


def compiled(
    folder: Path, x: np.ndarray, w: np.ndarray, b: np.ndarray, dtype: str = "float", rules: str = "cpu"
) -> int:
    proto = parser.parse_model('<ir_version: 8, opset_import: ["" : 17]>' + GRAPH.format(dtype))
    del proto.graph.value_info[:]
    proto.graph.initializer.extend([numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")])
    onnx.save(proto, folder / "m.onnx")
    np.savez(folder / "s.npz", x=x)
    data = ["--data", str(folder / "s.npz"), "-o", str(folder / "o.onnx")]
    return main(["compile", str(folder / "m.onnx"), "--rules", rules, *data])


# name: (samples, weights, bias, exit code, what is told)
EDGES = {
    "as usual": (X, W, B, 0, ""),
    "dead output channels": (X, W * HALF, B, 0, ""),
    "a channel of denormals": (X, W * LAST, B, 0, ""),
    "weights of zeros": (X, W * 0, B, 0, "`y` never changed"),
    "a constant output": (X, W * 0, B + 1, 0, "is the same for all samples"),
    "a result that never leaves 0": (X, W * 1e-3, B - 5, 0, "`y` never changed"),
    "inputs of zeros": (X * 0, W, B + 1, 0, "all 8 samples are equal"),
    "inputs far from 0": (100 + np.abs(X) / 9, W, B, 0, ""),
    "negative inputs": (-100 - np.abs(X), W, B, 0, ""),
    "large numbers": (X * 1e30, W * 1e-3, B, 0, ""),
    "one huge sample": (np.concatenate([X, X[:1] * 1e30]), W, B, 1, "one sample alone makes the range"),
    "one large sample": (np.concatenate([X, X[:1] * 9]), W, B, 0, "one sample alone makes the range"),
    "bias above everything": (X, W, B + 1e6, 0, ""),
    "denormal weights": (X, W * 1e-39, B, 1, "range-too-small"),
    "denormal inputs": (X * 1e-39, W, B, 1, "range-too-small"),
    "inputs whose scale would vanish": (X * 1e-20, W * 1e20, B, 1, "range-too-small"),
    "tiny weights beside a bias": (X, W * 1e-39, B + 1, 0, "is the same for all samples"),
    "results beyond float32": (np.clip(X, -3, 3) * np.float32(1e38), W * 100, B, 1, "non-finite-data"),
    "inputs up to the end of float32": (np.sign(X) * np.float32(3.4e38), W * 1e-3, B, 0, ""),
    "a sample of NaN": (np.concatenate([X, X[:1] * np.nan]), W, B, 1, "sample 8 of `x`"),
    "a sample with infinity": (np.concatenate([X, np.where(X[:1] > 2, np.inf, X[:1])]), W, B, 1, "holds infinity"),
}


@pytest.mark.parametrize("rules", ["cpu", "gna", "xint8"])
@pytest.mark.parametrize(("x", "w", "b", "status", "told"), EDGES.values(), ids=EDGES)
def test_edges(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray,
    status: int,
    told: str,
    rules: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    found = compiled(tmp_path, x, w, b, rules=rules)
    err = capfd.readouterr().err
    assert (found, told in err) == (status, True), err
    assert ("warning" in err) is (status == 0 and told != "")
    assert (tmp_path / "o.onnx").exists() is (status == 0)


def test_float16_stays_as_it_is_and_is_told_why(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert compiled(tmp_path, *(a.astype(np.float16) for a in (X, W, B)), dtype="float16") == 0
    assert "x.dtype == f32` is false: x.dtype = f16" in capfd.readouterr().err
    proto = onnx.load(tmp_path / "o.onnx")
    assert [n.op_type for n in proto.graph.node] == ["Conv", "Relu"]


@pytest.mark.parametrize(("word", "dtype"), [("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)])
def test_half_weights_of_a_float32_model_are_quantized(
    word: str, dtype: type, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    proto = parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
      g (float[1, 4, 6, 6] x) => (float[1, 8, 4, 4] y) <{word}[8, 4, 3, 3] h> {{ w = Cast<to = 1>(h) y = Conv(x, w) }}""")
    del proto.graph.value_info[:]
    proto.graph.initializer.append(numpy_helper.from_array(W.astype(dtype), "h"))
    onnx.save(proto, tmp_path / "m.onnx")
    np.savez(tmp_path / "s.npz", x=X)
    words = ["--rules", "cpu", "--data", str(tmp_path / "s.npz"), "-o", str(tmp_path / "o.onnx")]
    assert main(["compile", str(tmp_path / "m.onnx"), *words]) == 0
    assert "1 of 1 nodes with weights" in capfd.readouterr().err
