"""Weights alone in 4 or 8 bits: what is stored, what onnxruntime makes of it, and that no samples are needed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from potc.compiler import Compilation, Job, compile_model
from potc.evaluate.kernels import load
from potc.evaluate.measures import Sqnr
from potc.execute.session import open_session
from potc.quantize.tuning import RangeSettings, RoundingSettings, Tuning
from potc.report import report

# One block of a transformer: attention with one head, GELU, residual sums. 70 is no multiple of 32.
BLOCK = """<ir_version: 10, opset_import: ["": 21]>
g (float[1,5,70] x, float[70,70] wq, float[70,70] wk, float[70,70] wv, float[70,70] wo, float[70,130] w1, float[130,70] w2,
   float[130] b1, float[70] b2, float[70] gain) => (float[1,5,70] y) {
  n  = LayerNormalization (x, gain)
  q  = MatMul (n, wq)
  k  = MatMul (n, wk)
  v  = MatMul (n, wv)
  kt = Transpose <perm=[0,2,1]> (k)
  s  = MatMul (q, kt)
  p  = Softmax (s)
  a  = MatMul (p, v)
  o  = MatMul (a, wo)
  r  = Add (x, o)
  m  = MatMul (r, w1)
  h  = Add (m, b1)
  g  = Gelu (h)
  f  = MatMul (g, w2)
  fb = Add (f, b2)
  y  = Add (r, fb)
}"""
WEIGHTS = ("wq", "wk", "wv", "wo", "w1", "w2")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    proto = parser.parse_model(BLOCK)
    random = np.random.default_rng(0)
    for value in proto.graph.input[1:]:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        values = random.normal(size=shape) / np.sqrt(shape[0]) if len(shape) == 2 else np.ones(shape)
        proto.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), value.name))
    del proto.graph.input[1:]
    path = tmp_path_factory.mktemp("block") / "block.onnx"
    onnx.save(proto, path)
    return Job(str(path), "weight_only")


def sqnr(compilation: Compilation, optimize: bool) -> float:
    """Against the float model, as it is written or as onnxruntime runs it."""
    ratio, random = Sqnr(), np.random.default_rng(1)
    float_model = open_session(compilation.model.proto.SerializeToString(), optimize=False, threads=1)
    made = open_session(compilation.compiled, optimize=optimize, threads=1)
    for _ in range(4):
        x = random.normal(size=(1, 5, 70)).astype(np.float32)
        ratio.add(float_model.run(["y"], {"x": x})[0], made.run(["y"], {"x": x})[0])
    return ratio.db


@pytest.mark.parametrize(("device", "floor"), [("weight_only", 15), ("weight_only8", 40)])
def test_blocks_are_stored_and_onnxruntime_multiplies_by_them(job: Job, device: str, floor: float) -> None:
    found = compile_model(replace(job, device=device))
    assert {c.tensor for c in found.plan.constants} == set(WEIGHTS) and not found.plan.quantizers
    proto = onnx.load_from_string(found.compiled)
    scales = {t.name: tuple(t.dims) for t in proto.graph.initializer if t.name.endswith("/scale")}
    assert scales["wq/scale"] == (3, 70) and scales["w2/scale"] == (5, 70)
    loaded = load(found.compiled)
    assert loaded is not None
    fused = [node for node in loaded.graph.graph.node if node.op_type == "MatMulNBits"]
    levels = {a.i for node in fused for a in node.attribute if a.name == "accuracy_level"}
    assert len(fused) == len(WEIGHTS) and levels == {4}
    written = sqnr(found, optimize=False)
    assert written > floor and abs(sqnr(found, optimize=True) - written) < 3  # activations are rounded to 8 bits there
    assert found.share.covered_integer == 0  # activations stay in float


def test_the_preset_chooses_zero_points(job: Job) -> None:
    found = [compile_model(replace(job, tuning=Tuning(RangeSettings(p)))) for p in ("mixed", "accuracy")]
    assert [f.params.constants[0].qtype.storage for f in found] == ["i4", "u4"]


def test_nothing_is_measured_unless_rounding_asks_for_it(job: Job) -> None:
    plain, second = compile_model(job), compile_model(replace(job, tuning=Tuning(rounding=RoundingSettings("gptq"))))
    assert not plain.ranges.by_tensor and not report(plain).generated
    assert report(second).generated and set(second.params.second_order.values()) == {""}
    for codes, params in zip(second.params.codes, second.params.constants, strict=True):
        assert params.qtype.low <= codes.min() and codes.max() <= params.qtype.high
    assert sqnr(second, optimize=False) > sqnr(plain, optimize=False) - 0.5  # few samples of noise have nothing to tell
