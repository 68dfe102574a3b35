"""What is asked for by --strict and --corpus only: tests, reasons, models in which rules match."""

from __future__ import annotations

from pathlib import Path

import onnx.parser
import pytest

from potc.cli.main import main
from potc.diagnostics.diagnostic import Diagnostic
from potc.language.check import check_file

DEVICE = """potc 1
use std
device npu {
  opset ai.onnx 13 .. 25
  qtype a8 = u8 asym per_tensor
  rule relu { match Relu(x) as y quant x, y: a8 }
  rule tanh { match Tanh(x) as y require x.rank == 4 quant x, y: a8 }
  rule pool { match any(MaxPool, AveragePool)(x) as y require x.rank == 4 else "pictures only" quant x, y: a8 }
  rule flat_pool { match MaxPool(x) as y require x.rank == 4 require y.ceil_mode == 1 else "rounds up" quant x, y: a8 }
  prefer flat_pool over pool
  float soft { match Softmax(x) }
  ## Too steep.
  float sigmoid { match Sigmoid(x) }
  float elu { match Elu(x) note "too steep" }
}
device small extends npu { remove rule tanh }
"""
TEST = """test "a test" for small {{
  graph {{ g (float[1,4,8,8] x) => (float[1,4,8,8] y) {{ {} }} }}
  {}
}}
"""


def said(tmp_path: Path, text: str, strict: bool = True) -> list[tuple[str, int]]:
    path = tmp_path / "npu.rules"
    path.write_text(text)
    return sorted((d.code, line(d)) for d in check_file(str(path), strict=strict).diagnostics)


def line(diagnostic: Diagnostic) -> int:
    assert diagnostic.at is not None
    return diagnostic.at.line


def test_nothing_is_asked_without_strict(tmp_path: Path) -> None:
    assert said(tmp_path, DEVICE, strict=False) == []
    assert said(tmp_path, DEVICE + TEST.format("y = Relu(x)", "expect x: u8 asym"), strict=False) == []


def test_reasons(tmp_path: Path) -> None:
    found = [line for code, line in said(tmp_path, DEVICE) if code == "missing-reason"]
    assert found == [7, 9, 10, 11]


def test_each_rule_is_told_once_unless_a_test_reaches_it(tmp_path: Path) -> None:
    untested = [line for code, line in said(tmp_path, DEVICE) if code == "untested-rule"]
    assert untested == [6, 7, 8, 9, 11, 13, 14]
    tests = TEST.format("y = Relu(x)", "expect x: u8 asym") + TEST.format(
        "t = Elu(x) y = AveragePool(t)", "expect float t"
    )
    untested = [line for code, line in said(tmp_path, DEVICE + tests) if code == "untested-rule"]
    assert untested == [7, 9, 11, 13]  # `small` has the inherited rules, MaxPool has no test


def test_a_test_of_a_device_without_the_rule_does_not_count(tmp_path: Path) -> None:
    tests = TEST.format("y = Tanh(x)", "expect float y")
    assert ("untested-rule", 7) in said(tmp_path, DEVICE + tests)
    assert ("untested-rule", 7) not in said(tmp_path, DEVICE + tests.replace("for small", "for npu"))
    assert ("untested-rule", 7) not in said(tmp_path, DEVICE + tests.replace("for small ", ""))
    named = TEST.format("y = com.vendor.Any(x)", "expect rule npu.tanh covers y").replace("for small", "for npu")
    assert ("untested-rule", 7) not in said(tmp_path, DEVICE + named)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "below"
    folder.mkdir(parents=True)
    graph = "g (float[1,4,8,8] x) => (float[1,4,8,8] y) { t = Relu(x) u = Softmax(t) y = Tanh(u) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {graph}')
    (folder / "a.onnx").write_bytes(model.SerializeToString())
    (folder / "remark.txt").write_text("no model")
    return tmp_path / "models"


def test_never_fired(tmp_path: Path, corpus: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "npu.rules").write_text(DEVICE)
    assert main(["check", str(tmp_path / "npu.rules"), "--corpus", str(corpus)]) == 0
    error = capfd.readouterr().err
    never = [
        name
        for name in ("relu", "tanh", "pool", "flat_pool", "soft", "sigmoid", "elu")
        if f"[never-fired]: `{name}`" in error
    ]
    assert never == ["pool", "flat_pool", "sigmoid", "elu"]
    assert "in none of 1 model" in error
    assert main(["check", str(tmp_path / "npu.rules"), "--corpus", str(corpus), "--deny-warnings"]) == 1
    assert main(["check", str(tmp_path / "npu.rules"), "-W", "error"]) == 0
    assert main(["check", str(tmp_path / "npu.rules"), "-W", "error", "--strict", "-q"]) == 1
    capfd.readouterr()


def test_a_corpus_without_models(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "npu.rules").write_text(DEVICE)
    assert main(["check", str(tmp_path / "npu.rules"), "--corpus", str(tmp_path)]) == 2
    assert "missing-file" in capfd.readouterr().err
