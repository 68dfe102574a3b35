"""A compiled model says which rule is behind what was added to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from potc import __version__
from potc.compiler import Job, compile_model
from potc.language.resolve import load_rules

RULES = """potc 1
use std

rewrite double {
  match Add(x, x) as y
  emit y = Mul(x, 2.0)
}

device npu {
  opset ai.onnx 13 .. 25
  rule conv {
    match Conv(x, w: const) -> Relu? as y
    quant x: u8 asym per_tensor,
          w: i8 sym per_tensor,
          y: u8 asym per_tensor
  }
  rule gate { match Mul(a: value, b: value) as y quant a, b, y: u8 asym per_tensor }
  pass MaxPool
}
"""
GRAPH = """<ir_version: 8, opset_import: ["" : 17], metadata_props: ["team": "vision"]>
g (float[1,2,8,8] x) => (float[1,2,4,4] y)
<float[2,2,1,1] w = {1, 2, 3, 4}> {
  i = Add (x, x)
  c = Conv (i, w)
  r = Relu (c)
  d = Conv (r, w)
  m = Mul (d, r)
  y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (m)
}
"""


def props(holder: Any) -> dict[str, str]:
    return {p.key: p.value for p in holder.metadata_props}


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> onnx.ModelProto:
    monkeypatch.chdir(tmp_path)
    Path("npu.rules").write_text(RULES)
    onnx.save(onnx.parser.parse_model(GRAPH), "model.onnx")
    return onnx.ModelProto.FromString(compile_model(Job("model.onnx", "npu.rules")).compiled)


def test_the_model_names_what_made_it(compiled: onnx.ModelProto) -> None:
    digest = load_rules("npu.rules").digest
    own = {"potc.version": __version__, "potc.device": "npu", "potc.rules.sha256": digest}
    assert props(compiled) == {"team": "vision", **own}
    assert compiled.ir_version == 8


def test_covered_nodes_name_their_kernel(compiled: onnx.ModelProto) -> None:
    nodes = {node.name: props(node) for node in compiled.graph.node}
    conv = {"potc.rule": "npu.conv", "potc.place": "npu.rules:11", "potc.kernel": "Conv_1"}
    assert nodes["Conv_1"] == nodes["Relu_2"] == conv
    assert nodes["Mul_4"] == {"potc.rule": "npu.gate", "potc.place": "npu.rules:17", "potc.kernel": "Mul_4"}
    assert nodes["MaxPool_5"] == {}
    assert nodes["Add_0"] == {"potc.rewrite": "double (npu.rules:4)"}


def test_inserted_nodes_name_who_asked(compiled: onnx.ModelProto) -> None:
    kinds = ("QuantizeLinear", "DequantizeLinear")
    inserted = [props(node) for node in compiled.graph.node if node.op_type in kinds]
    assert len(inserted) == 9
    assert {p["potc.tensor"]: (p["potc.rule"], p["potc.place"]) for p in inserted} == {
        "i": ("npu.conv", "npu.rules:13"),
        "w": ("npu.conv", "npu.rules:14"),
        "r": ("npu.conv; npu.conv; npu.gate", "npu.rules:15; npu.rules:13; npu.rules:17"),
        "d": ("npu.conv; npu.gate", "npu.rules:15; npu.rules:17"),
        "m": ("npu.gate", "npu.rules:17"),
    }


def test_changed_tensors_carry_it_too(compiled: onnx.ModelProto) -> None:
    values = {v.name: props(v) for v in compiled.graph.value_info}
    assert values["d"]["potc.place"] == "npu.rules:15; npu.rules:17"
    codes = next(t for t in compiled.graph.initializer if numpy_helper.to_array(t).dtype == np.int8 and t.dims)
    assert props(codes) == {"potc.rule": "npu.conv", "potc.place": "npu.rules:14"}


def test_folders_are_no_part_of_the_result(compiled: onnx.ModelProto, tmp_path: Path) -> None:
    (tmp_path / "a, b").mkdir()
    (tmp_path / "a, b" / "npu.rules").write_text(RULES)
    again = compile_model(Job("model.onnx", str(tmp_path / "a, b" / "npu.rules"))).compiled
    assert again == compiled.SerializeToString(deterministic=True)


def test_metadata_of_the_model_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = onnx.parser.parse_model(GRAPH)
    model.graph.node[2].metadata_props.add(key="exporter", value="e")
    model.graph.node[2].metadata_props.add(key="potc.rule", value="of an earlier compile")
    Path("npu.rules").write_text(RULES)
    onnx.save(model, "model.onnx")
    compiled = onnx.ModelProto.FromString(compile_model(Job("model.onnx", "npu.rules")).compiled)
    relu = next(node for node in compiled.graph.node if node.op_type == "Relu")
    assert list(props(relu)) == ["exporter", "potc.rule", "potc.place", "potc.kernel"]
    assert props(relu)["potc.rule"] == "npu.conv"
