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
from potc.quantize.plan_file import plan_from_json, plan_to_json
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


def compiled(
    folder: Path, nodes: str, rules: str, tuning: Tuning = PRECISE, w: np.ndarray = W, x: np.ndarray = X
) -> Compilation:
    length = len(w)
    model = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17]> g (float[1, {length}] x) => (float[1, 4] y)
        <float[{length}, 4] w, float[4] b> {{ {nodes} }}"""
    )
    model.graph.initializer.extend([numpy_helper.from_array(w, "w"), numpy_helper.from_array(B, "b")])
    onnx.save(model, folder / "m.onnx")
    np.savez(folder / "s.npz", x=x)
    return compile_model(Job(str(folder / "m.onnx"), rules, str(folder / "s.npz"), tuning=tuning))


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
    unwatched = replace(done.plan, constants=tuple(replace(c, sums="") for c in done.plan.constants), products=())
    before = solve_params(unwatched, done.ranges, weights(done.prepared, unwatched), PRECISE)
    assert largest_sum(before) > 2**31  # as they would be
    assert "all sums fit" in done.params.constant_reasons[1]


def largest_product(params: Params, x: np.ndarray, second: np.ndarray) -> int:
    """In integers of 64 bits, over all samples, without a bias."""
    codes = quantize(x, params.activations[0]).astype(np.int64)
    return int(np.abs(codes @ second.astype(np.int64)).max())


@pytest.mark.parametrize("nodes", ["y = MatMul(x, w)", "t = MatMul(x, w) y = Sigmoid(t)", "y = Gemm(x, w)"])
@pytest.mark.parametrize("preset", ["accuracy", "performance"])
def test_sums_without_a_bias_fit(nodes: str, preset: str, tmp_path: Path) -> None:
    tuning = Tuning(ranges=RangeSettings(preset=preset), bias=BiasSettings("none"))
    done = compiled(tmp_path, nodes, "gna", tuning)
    assert [p.factors for p in done.plan.products] == [(("activation", 0), ("constant", 0))]
    assert len(done.plan.constants) == 1
    found = largest_product(done.params, X.reshape(12, 64), np.asarray(done.params.codes[0]))
    unwatched = replace(done.plan, products=())
    before = solve_params(unwatched, done.ranges, weights(done.prepared, unwatched), tuning)
    if preset == "accuracy":
        assert 2**29 < found < 2**31 < largest_product(before, X.reshape(12, 64), np.asarray(before.codes[0]))
        assert "so that all sums fit" in done.params.constant_reasons[0]
    else:  # 24 bits: sums of so few products fit as they are
        assert found == largest_product(before, X.reshape(12, 64), np.asarray(before.codes[0])) < 2**31


def test_very_long_sums_of_8_bit_weights_fit(tmp_path: Path) -> None:
    many = np.ones((1 << 11, 4), np.float32)
    many[1:, 1:] = 0
    x = np.full((3, 1, 1 << 11), 0.9, np.float32) + np.arange(3, dtype=np.float32).reshape(3, 1, 1) / 64
    tuning = Tuning(bias=BiasSettings("none"))
    done = compiled(tmp_path, "y = MatMul(x, w)", "gna", tuning, many, x)
    codes = np.asarray(done.params.codes[0])
    assert largest_product(done.params, x.reshape(3, -1), codes) < 2**31
    unwatched = replace(done.plan, products=())
    before = solve_params(unwatched, done.ranges, weights(done.prepared, unwatched), tuning)
    assert largest_product(before, x.reshape(3, -1), np.asarray(before.codes[0])) > 2**31
    assert codes.shape == many.shape


def test_products_of_computed_tensors_fit(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[1, 64] x, float[64, 4] w) => (float[1, 4] y) { y = MatMul(x, w) }'
    onnx.save(parser.parse_model(text), tmp_path / "m.onnx")
    seconds = np.stack([W * (1 + k / 99) for k in range(12)])
    np.savez(tmp_path / "s.npz", x=X, w=seconds)
    done = compile_model(Job(str(tmp_path / "m.onnx"), "gna", str(tmp_path / "s.npz"), tuning=PRECISE))
    assert [p.factors for p in done.plan.products] == [(("activation", 0), ("activation", 1))]
    unwatched = replace(done.plan, products=())
    before = solve_params(unwatched, done.ranges, {}, PRECISE)

    def largest(params: Params) -> int:
        return max(
            largest_product(params, a, quantize(b, params.activations[1])) for a, b in zip(X, seconds, strict=True)
        )

    assert 2**29 < largest(done.params) < 2**31 < largest(before)
    for reason in done.params.activation_reasons[:2]:
        assert "all sums of products fit" in reason
    assert plan_from_json(plan_to_json(done.plan)) == done.plan


def test_8_bit_products_are_not_watched(tmp_path: Path) -> None:
    done = compiled(tmp_path, NODES["gemm"], "cpu")
    assert done.plan.observed == done.plan.stored
    assert done.plan.products == ()
    assert all(c.sums == "" for c in done.plan.constants)
