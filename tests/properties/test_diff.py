"""Laws of comparing models: a model does not differ from itself, and swapping the models swaps the sides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from onnx import numpy_helper
from test_matching import models

from potc.compiler import Job, compile_model
from potc.diagnostics.diagnostic import Rejected
from potc.graph.read import read_model
from potc.quantize.tuning import RangeSettings, Tuning
from potc.workbench.diff_models import Diff, Difference, diff_views
from potc.workbench.diff_text import diff_lines
from potc.workbench.stored_view import view

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


def swapped(difference: Difference) -> Difference:
    d = difference
    return replace(d, a=d.b, b=d.a, rule_a=d.rule_b, rule_b=d.rule_a)


def obeys_laws(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
    first, second = view(a), view(b)
    assert diff_views(first, first) == diff_views(second, second) == ()
    there, back = diff_views(first, second), diff_views(second, first)
    assert set(there) == set(map(swapped, back))
    told = Diff("a", "b", ({}, {}), there)
    assert len(list(diff_lines(told, everything=True))) >= len(there) + 3
    assert sum(told.counts.values()) == len(there)
    assert told.to_json()


@settings(max_examples=60)
@given(a=models(), b=models())
def test_laws_of_float_models(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
    obeys_laws(a, b)
    weights = onnx.ModelProto.FromString(a.SerializeToString())
    for tensor in weights.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(numpy_helper.to_array(tensor) + 1), tensor.name))
    read = {name for node in a.graph.node for name in node.input}
    changed = {d.name for d in diff_views(view(a), view(weights))}
    assert changed == read & {t.name for t in a.graph.initializer}


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(proto=models())
def test_laws_of_compiled_models(proto: onnx.ModelProto, rules: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    proto.ir_version = 9
    onnx.save(proto, path)
    try:
        read_model(str(path))
    except Rejected:
        assume(False)  # shapes don't matter where patterns are matched, so some models are not valid
    a, b = (compiled(path, rules, preset) for preset in ("performance", "accuracy"))
    obeys_laws(a, b)
    obeys_laws(proto, a)
