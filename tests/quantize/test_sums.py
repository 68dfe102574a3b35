"""Sums of 16-bit products fit into 32 bits, counted in integers; sums of 8-bit ones are not looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from potc.compiler import Compilation, Job, compile_model, weights
from potc.quantize.params import Params, quantize, solve_params
from potc.quantize.tuning import BiasSettings, RangeSettings, Tuning

RANDOM = np.random.default_rng(3)
X = RANDOM.random((12, 1, 64)).astype(np.float32)  # nothing cancels: sums become large
W = RANDOM.random((64, 4)).astype(np.float32)
B = RANDOM.standard_normal(4).astype(np.float32)
NODES = {
    "gemm": "y = Gemm(x, w, b)",
    "matmul": "t = MatMul(x, w) y = Add(t, b)",
    "without bias": "y = Gemm(x, w)",
}
PRECISE = Tuning(ranges=RangeSettings(preset="accuracy"), bias=BiasSettings("fast"))


def compiled(folder: Path, nodes: str, rules: str) -> Compilation:
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[1, 64] x) => (float[1, 4] y) <float[64, 4] w, float[4] b> {{ {nodes} }}'
    )
    model.graph.initializer.extend([numpy_helper.from_array(W, "w"), numpy_helper.from_array(B, "b")])
    onnx.save(model, folder / "m.onnx")
    np.savez(folder / "s.npz", x=X)
    return compile_model(Job(str(folder / "m.onnx"), rules, str(folder / "s.npz"), tuning=PRECISE))


def largest_sum(params: Params) -> int:
    """In integers of 64 bits, over all samples; a bias is the last constant."""
    x = quantize(X.reshape(12, 64), params.activations[0]).astype(np.int64)
    sums = x @ np.asarray(params.codes[0], np.int64) + np.asarray(params.codes[1], np.int64)
    return int(np.abs(sums).max())


@pytest.mark.parametrize("nodes", NODES.values(), ids=NODES)
def test_sums_fit_into_the_accumulator(nodes: str, tmp_path: Path) -> None:
    done = compiled(tmp_path, nodes, "gna")
    assert [c.sums != "" for c in done.plan.constants] == [False, True]
    assert 2**29 < largest_sum(done.params) < 2**31
    unwatched = replace(done.plan, constants=tuple(replace(c, sums="") for c in done.plan.constants))
    before = solve_params(unwatched, done.ranges, weights(done.prepared, unwatched), PRECISE)
    assert largest_sum(before) > 2**31  # as they would be
    assert "all sums fit" in done.params.constant_reasons[1]


def test_8_bit_products_are_not_watched(tmp_path: Path) -> None:
    done = compiled(tmp_path, NODES["gemm"], "cpu")
    assert done.plan.observed == done.plan.stored
    assert all(c.sums == "" for c in done.plan.constants)
