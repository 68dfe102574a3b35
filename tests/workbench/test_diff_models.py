"""What differs between models is told, once, with the side that it is on; models of other tools are read as well."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.parser
import pytest

from potc.compiler import Job, compile_model
from potc.quantize.tuning import RangeSettings, Tuning
from potc.workbench.diff_models import diff_models, diff_views
from potc.workbench.diff_text import diff_lines
from potc.workbench.stored_view import view

FLOAT = """
g (float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2,2,1,1] w = {1, 2, 3, 4}> {
  c = Conv (x, w)
  y = Relu (c)
}
"""
# As other tools write it: raw tensors keep their names, nodes have none, nothing says which rule asked.
FOREIGN = """
g (float[1,2,4,4] x) => (float[1,2,4,4] y)
<float xs = {0.5}, uint8 xz = {0}, int8[2,2,1,1] w_quantized = {1, 2, 3, 4}, float[2] ws = {1, 1}, int8[2] wz = {0, 0}> {
  x_QuantizeLinear_Output = QuantizeLinear (x, xs, xz)
  x_DequantizeLinear_Output = DequantizeLinear (x_QuantizeLinear_Output, xs, xz)
  w_DequantizeLinear_Output = DequantizeLinear <axis = 0> (w_quantized, ws, wz)
  c = Conv (x_DequantizeLinear_Output, w_DequantizeLinear_Output)
  y = Relu (c)
}
"""


def parsed(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17]>{text}')


def found(a: onnx.ModelProto, b: onnx.ModelProto) -> list[tuple[str, str, str, str]]:
    return [(d.kind, d.name, d.a, d.b) for d in diff_views(view(a), view(b))]


def test_a_float_model_and_one_of_another_tool() -> None:
    assert found(parsed(FLOAT), parsed(FOREIGN)) == [
        ("stored", "w", "float", "i8 per_channel(0)"),
        ("stored", "x", "float", "u8 per_tensor"),
    ]


def test_scales_types_and_codes() -> None:
    changed = parsed(FOREIGN.replace("xs = {0.5}", "xs = {0.75}").replace("{1, 2, 3, 4}", "{1, 2, 3, 5}"))
    assert found(parsed(FOREIGN), changed) == [
        ("scale", "x", "scale 0.5", "scale 0.75"),
        ("weight", "w", "1 of 4 codes differ", "1 of 4 codes differ"),
    ]
    assert [d.ratio for d in diff_views(view(parsed(FOREIGN)), view(changed))] == [1.5, None]
    signed = parsed(FOREIGN.replace("uint8 xz", "int8 xz"))
    assert found(parsed(FOREIGN), signed) == [("type", "x", "u8 per_tensor", "i8 per_tensor")]
    shifted = parsed(FOREIGN.replace("xz = {0}", "xz = {3}"))
    assert found(parsed(FOREIGN), shifted) == [("scale", "x", "scale 0.5", "scale 0.5, zero point 3")]


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ("Relu (c)", "Tanh (c)", ("node", "y", "Relu", "Tanh")),
        ("Relu (c)", "Relu (x)", ("node", "y", "Relu reads `c` at 0", "Relu reads `x` at 0")),
        (
            "Conv (x, w)",
            "Conv <group = 2> (x, w)",
            ("node", "c", "Conv, group is not given", "Conv, group differs"),
        ),
        ("{1, 2, 3, 4}", "{1, 2, 3, 5}", ("weight", "w", "1 of 4 values differ", "1 of 4 values differ")),
        ("1,2,4,4] x", "N,2,4,4] x", ("interface", "input x", "f32 [1, 2, 4, 4]", "f32 [N, 2, 4, 4]")),
    ],
)
def test_everything_else_that_a_model_computes_with(old: str, new: str, difference: tuple[str, ...]) -> None:
    assert old in FLOAT
    assert found(parsed(FLOAT), parsed(FLOAT.replace(old, new))) == [difference]


def test_attributes_that_are_left_out_have_their_defaults() -> None:
    spelled = parsed(FLOAT.replace("Conv (x, w)", 'Conv <group = 1, auto_pad = "NOTSET"> (x, w)'))
    assert found(parsed(FLOAT), spelled) == []


def test_a_reader_in_float() -> None:
    partly = FOREIGN.replace("y = Relu (c)", "r = Relu (x_DequantizeLinear_Output)\n  y = Add (c, r)")
    mixed = partly.replace("Relu (x_DequantizeLinear_Output)", "Relu (x)")
    assert found(parsed(partly), parsed(mixed)) == [("readers", "x", "none", "r[0]")]


RULES = """potc 1
use std
device npu {
  opset ai.onnx 13 .. 25
  rule conv { match Conv(x, w: const) -> Relu? as y quant x, y: u8 asym, w: i8 sym per_channel(out) }
  rule add { match Add(a: value, b: value) as y quant a, b, y: u8 asym }
  rule product { match MatMul(x: value, w: const) as y quant x: u8 asym, w: i8 sym, y: u8 asym | none }
  pass Clip
}
"""


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("diff") / "npu.rules"
    path.write_text(RULES)
    return path


def compiled(model: Path, rules: Path, preset: str) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(
        compile_model(Job(str(model), str(rules), tuning=Tuning(RangeSettings(preset)), samples=2)).compiled
    )


def test_groups_are_those_of_the_rules(rules: Path, tmp_path: Path) -> None:
    onnx.save(parsed(FLOAT), tmp_path / "a.onnx")
    onnx.save(compiled(tmp_path / "a.onnx", rules, "mixed"), tmp_path / "b.onnx")
    lines = list(diff_lines(diff_models(str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx"))))
    assert lines[2:] == [
        "npu.conv (npu.rules:5)",
        "  stored  w  float -> i8 per_channel(0)",
        "  stored  x  float -> u8 per_tensor",
        "  stored  y  float -> u8 per_tensor",
        "3 tensors quantized in B only",
    ]


def test_other_kernels(rules: Path, tmp_path: Path) -> None:
    onnx.save(parsed(FLOAT), tmp_path / "model.onnx")
    smaller = tmp_path / "npu.rules"
    smaller.write_text(RULES.replace("-> Relu? as y", "as y"))
    a, b = (compiled(tmp_path / "model.onnx", r, "mixed") for r in (rules, smaller))
    kinds = [(d.kind, d.name, d.a, d.b) for d in diff_views(view(a), view(b)) if d.kind == "kernel"]
    assert kinds == [("kernel", "y", "npu.conv at Conv_0", "float")]
