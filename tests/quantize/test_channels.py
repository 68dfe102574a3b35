"""Activations with a scale for each channel: where a device allows them, and what stops them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from potc.cli.main import main
from potc.compiler import Job, compile_model
from potc.quantize.tuning import Border, RangeSettings, Tuning

RULES = """potc 1
use std

device core {{
  opset ai.onnx 13 .. 25
  pass Transpose, Reshape
  rule depthwise {{
    match Conv[group == x.shape[1]](x: value, w: const, b: const?) as y
    quant x: {x}, w: i8[-127..127] sym per_channel(out), b: i32 sym per_channel(out) = scale(x) * scale(w),
          y: {y}
  }}
}}
"""
CHANNELS = "u8 asym per_channel(channel)"
SIZES = np.array([1, 10, 100, 1000], np.float32).reshape(4, 1, 1)
GENERATOR = np.random.default_rng(0)
SAMPLES = (GENERATOR.standard_normal((16, 1, 4, 8, 8)) * SIZES).astype(np.float32)
WEIGHTS = GENERATOR.standard_normal((4, 1, 3, 3)).astype(np.float32)
GRAPH = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 4, 8, 8] x) => (float[1, 4, 6, 6] y) <float[4, 1, 3, 3] w, float[4] b> { y = Conv<group = 4>(x, w, b) }"""


def write(folder: Path, graph: str = GRAPH, x: str = CHANNELS, y: str = "u8 asym", **weights: np.ndarray) -> Job:
    proto = parser.parse_model(graph)
    del proto.graph.value_info[:]
    weights = {"w": WEIGHTS, "b": np.arange(4, dtype=np.float32)} | weights
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.save(proto, folder / "m.onnx")
    (folder / "core.rules").write_text(RULES.format(x=x, y=y))
    np.savez(folder / "s.npz", x=SAMPLES)
    return Job(str(folder / "m.onnx"), str(folder / "core.rules"), str(folder / "s.npz"))


def test_each_channel_has_its_scale(tmp_path: Path) -> None:
    found = compile_model(write(tmp_path, y=CHANNELS))
    given = found.params.activations[0]
    assert (given.axis, given.scale.shape) == (1, (4,))
    lows, highs = SAMPLES.min(axis=(0, 1, 3, 4)), SAMPLES.max(axis=(0, 1, 3, 4))
    np.testing.assert_allclose(given.scale, (highs - lows) / 255, rtol=1e-5)
    proto = onnx.ModelProto.FromString(found.compiled)
    pairs = [n for n in proto.graph.node if n.op_type == "QuantizeLinear"]
    assert [[(a.name, a.i) for a in n.attribute] for n in pairs] == [[("axis", 1)], [("axis", 1)]]
    one = compile_model(write(tmp_path, x="u8 asym", y="u8 asym"))
    assert found.verification.sqnr["y"] > 37
    assert one.params.activations[0].axis is None


ESTIMATORS = {
    "default": (RangeSettings(estimator="default"), lambda x: x.max(axis=(0, 1, 3, 4))),
    "mse covers": (RangeSettings(estimator="mse"), lambda x: x.max(axis=(0, 1, 3, 4))),
    "mean of maxima": (
        RangeSettings(activation_max=Border("max", "mean")),
        lambda x: x.max(axis=(1, 3, 4)).mean(axis=0),
    ),
    "mean of quantiles": (
        RangeSettings(activation_max=Border("quantile", "mean", 0.1)),
        lambda x: np.quantile(x, 0.9, axis=(1, 3, 4)).mean(axis=0),
    ),
}


@pytest.mark.parametrize(("settings", "high"), ESTIMATORS.values(), ids=ESTIMATORS)
def test_estimators_work_channel_by_channel(settings: RangeSettings, high: object, tmp_path: Path) -> None:
    assert callable(high)
    job = write(tmp_path)
    given = compile_model(Job(job.model, job.rules, job.data, tuning=Tuning(settings))).params.activations[0]
    lows = SAMPLES.min(axis=(0, 1, 3, 4))
    np.testing.assert_allclose(given.scale, (high(SAMPLES) - lows) / 255, rtol=1e-4)


def test_scales_of_summed_channels_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    graph = GRAPH.replace("[4, 1, 3, 3]", "[8, 4, 3, 3]").replace("float[4] b", "float[8] b").replace("<group = 4>", "")
    weights = {"w": np.ones((8, 4, 3, 3), np.float32), "b": np.ones(8, np.float32)}
    job = write(tmp_path, graph.replace("1, 4, 6, 6", "1, 8, 6, 6"), **weights)
    rules = Path(job.rules)
    rules.write_text(rules.read_text().replace("[group == x.shape[1]]", ""))
    assert main(["compile", job.model, "--rules", job.rules, "--data", str(job.data), "-q"]) == 1
    assert "error[unsupported-type]: the scale of `b` is derived from 4 and 8 scales" in capfd.readouterr().err


def test_saved_ranges_hold_channels(tmp_path: Path) -> None:
    job = write(tmp_path)
    words = ["compile", job.model, "--rules", job.rules, "--data", str(job.data), "-q"]
    files = {n: str(tmp_path / n) for n in ("a.onnx", "b.onnx", "r.json")}
    assert main([*words, "-o", files["a.onnx"], "--save-ranges", files["r.json"]]) == 0
    assert main([*words, "-o", files["b.onnx"], "--ranges", files["r.json"]]) == 0
    assert Path(files["a.onnx"]).read_bytes() == Path(files["b.onnx"]).read_bytes()


def test_a_dead_channel_takes_the_range_of_all(tmp_path: Path) -> None:
    job = write(tmp_path)
    np.savez(str(job.data), x=SAMPLES * (SIZES != 10))
    scale = compile_model(job).params.activations[0].scale
    assert scale[1] >= scale.max() * 0.99


LEFT = {
    "an axis that is not there": (GRAPH, "u8 asym per_channel(7)", "no axis `7` of known length"),
    "blocks": (GRAPH, "i8 sym per_block(channel, 2)", "blocks"),
}


@pytest.mark.parametrize(("graph", "x", "reason"), LEFT.values(), ids=LEFT)
def test_what_has_no_such_scales_stays_float(graph: str, x: str, reason: str, tmp_path: Path) -> None:
    found = compile_model(write(tmp_path, graph, x))
    assert found.plan.kernels == ()
    assert reason in found.plan.left[-1].reasons[0].reason


def test_what_shares_its_scale_with_other_tensors_has_one(tmp_path: Path) -> None:
    transposed = GRAPH.replace("{ y =", "{ t = Transpose<perm = [0, 1, 3, 2]>(x) y =").replace(
        "(x, w, b) }", "(t, w, b) }"
    )
    found = compile_model(write(tmp_path, transposed))
    assert found.plan.quantizers[0].tensors == ("x", "t")
    assert [p.axis for p in found.params.activations] == [None, None]
