"""Integer inputs and outputs: the same results to the bit, the numbers in the metadata, and what can not be had is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import potc
from potc.compiler import Compilation, Job, compile_model
from potc.diagnostics.diagnostic import Rejected
from potc.execute.session import open_session
from potc.graph.read import read_model
from potc.legal.judge import judge
from potc.quantize.borders import Border, borders_of, with_float_borders

RULES = """potc 1
use std
device d {
  opset ai.onnx 13 .. 25
  graph input: INPUT
  rule mul { match MatMul(x, w: const) -> Relu? as y   quant x: INPUT, y: u8 asym, w: i8 sym }
  rule add { match Add(x, z) as y   quant x, z, y: u8 asym }
}
"""
# y is read inside as well; h is an output that a kernel stores, s is one that none does.
MODEL = """g (float[N,4] x, int64[1] k) => (float[N,4] y, float[N,4] h, float[N,4] s, int64[1] j) {
  a = MatMul (x, w) y = Relu (a) h = MatMul (y, v) s = Sin (h) j = Identity (k)
}"""


def compiled(folder: Path, io: dict[str, str], stored: str = "u8 asym") -> Compilation:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {MODEL}')
    draw = np.random.default_rng(1)
    for name in ("w", "v"):
        proto.graph.initializer.append(numpy_helper.from_array(draw.normal(size=(4, 4)).astype(np.float32), name))
    onnx.save(proto, folder / "model.onnx")
    (folder / "d.rules").write_text(RULES.replace("INPUT", stored))
    np.savez(folder / "data.npz", x=draw.normal(size=(8, 4)).astype(np.float32), k=np.arange(8)[:, None])
    return compile_model(Job(str(folder / "model.onnx"), str(folder / "d.rules"), str(folder / "data.npz"), io=io))


def types(model: bytes) -> dict[str, str]:
    session = open_session(model, optimize=True, threads=1)
    return {value.name: value.type for value in (*session.get_inputs(), *session.get_outputs())}


def test_codes_go_in_and_come_out(tmp_path: Path) -> None:
    done = compiled(tmp_path, {"": "u8", "s": "float"})
    assert done.verification.ok
    assert "borders" in {check.name for check in done.verification.checks}
    assert types(done.output) == {
        "x": "tensor(uint8)",
        "k": "tensor(int64)",
        "y": "tensor(uint8)",
        "h": "tensor(uint8)",
        "s": "tensor(float)",
        "j": "tensor(int64)",
    }
    borders = {border.tensor: border for border in done.borders}
    values = np.random.default_rng(2).normal(size=(3, 4)).astype(np.float32) * 2
    more = {"k": np.array([5])}
    names = ["y", "h", "s", "j"]
    floats = open_session(done.compiled, optimize=False, threads=1).run(names, {"x": values, **more})
    codes = open_session(done.output, optimize=False, threads=1).run(names, {"x": borders["x"].codes(values), **more})
    for name, a, b in zip(names, floats, codes, strict=True):
        found = borders[name].values(np.asarray(b)) if name in borders else b
        assert np.array_equal(np.asarray(a), np.asarray(found)), name


def test_the_numbers_stand_in_the_metadata(tmp_path: Path) -> None:
    done = compiled(tmp_path, {"x": "u8"})
    proto = onnx.ModelProto.FromString(done.output)
    props = {p.key: p.value for p in proto.metadata_props}
    (border,) = done.borders
    assert json.loads(props["potc.input.x"]) == {
        "storage": "u8",
        "scale": border.scale,
        "zero_point": border.zero_point,
    }
    assert borders_of(proto) == done.borders
    assert not any(n.op_type == "QuantizeLinear" and "x" in n.input for n in proto.graph.node)
    assert types(done.output)["y"] == "tensor(float)"


def test_the_device_still_takes_the_model(tmp_path: Path) -> None:
    done = compiled(tmp_path, {"": "u8", "s": "float"})
    (tmp_path / "out.onnx").write_bytes(done.output)
    (verdict,) = judge(read_model(str(tmp_path / "out.onnx")), done.program)
    assert not verdict.violations
    restored = with_float_borders(onnx.ModelProto.FromString(done.output))
    onnx.checker.check_model(restored, full_check=True)
    assert types(restored.SerializeToString()) == types(done.compiled)


@pytest.mark.parametrize(
    ("io", "stored", "code", "words"),
    [
        ({"x": "i8"}, "u8 asym", "float-border", "the device stores it as u8"),
        ({"x": "u8"}, "i8 asym", "float-border", "the device stores it as i8"),
        ({"": "u8"}, "u8 asym", "float-border", "the output `s` can't be u8: no kernel stores it"),
        ({"k": "u8"}, "u8 asym", "float-border", "the input `k` can't be u8"),
        ({"z": "u8"}, "u8 asym", "unknown-tensor", "no input or output `z`"),
    ],
)
def test_what_can_not_be_had_is_told(io: dict[str, str], stored: str, code: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(Rejected) as caught:
        compiled(tmp_path, io, stored)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == code
    assert words in diagnostic.message


def test_signed_codes(tmp_path: Path) -> None:
    done = compiled(tmp_path, {"x": "i8"}, "i8 asym")
    assert types(done.output)["x"] == "tensor(int8)"
    assert done.verification.ok


def test_codes_round_half_to_even_and_are_clamped() -> None:
    border = Border("input", "x", "u8", 0.5, 3)
    assert border.codes(np.array([0.25, 0.75, -9, 999], np.float32)).tolist() == [3, 5, 0, 255]
    assert border.values(np.array([0, 3, 255], np.uint8)).tolist() == [-1.5, 0, 126]


DIGITS = Path(__file__).parents[2] / "samples" / "digits"
RECIPE = str(DIGITS / "recipe.toml")


def test_models_with_integer_borders_are_scored_like_those_with_float_ones() -> None:
    words = {"rules": "cpu", "data": str(DIGITS / "calib.npz"), "samples": 4, "preset": "fast"}
    plain, integer = (potc.compile(DIGITS / "model.onnx", **words, io=io) for io in ("", {"input": "u8"}))
    assert [b.tensor for b in integer.compilation.borders] == ["input"]
    more = {"data": str(DIGITS / "test.npz"), "preprocess": RECIPE, "samples": 50, "metric": ["top1", "sqnr"]}
    first, second = (potc.evaluate(DIGITS / "model.onnx", made, **more).models[1] for made in (plain, integer))
    assert [(m.metric, m.value) for m in first.metrics] == [(m.metric, m.value) for m in second.metrics]
    scores = potc.evaluate(integer, plain, **more)
    assert [m.value for m in scores.models[1].metrics if m.metric == "sqnr"] == [300.0], "they are equal"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("potc.input.x", "no JSON"),
        ("potc.input.x", "[]"),
        ("potc.input.x", '{"storage": "u8", "scale": 0.1}'),
        ("potc.input.x", '{"storage": "u4", "scale": 0.1, "zero_point": 0}'),
        ("potc.input.x", '{"storage": "u8", "scale": NaN, "zero_point": 0}'),
        ("potc.input.x", '{"storage": "u8", "scale": 0.1, "zero_point": 300}'),
        ("potc.input.x", '{"storage": "u8", "scale": 0.1, "zero_point": 1e400}'),
        ("potc.input.x", "[" * 100_000),
        ("potc.input.x", '{"storage": "u8", "scale": 0.1, "zero_point": 0}'),
        ("potc.output.nowhere", '{"storage": "u8", "scale": 0.1, "zero_point": 0}'),
    ],
)
def test_metadata_that_lies_is_told(key: str, value: str) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[1] x) => (float[1] y) { y = Relu(x) }'
    )
    model.metadata_props.add(key=key, value=value)
    with pytest.raises(Rejected, match="invalid-model"):
        with_float_borders(model)
