"""Python functions as predicates: only of files that the command line names; what they see, and what they may answer."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.parser
import pytest

from potc.cli.main import main
from potc.compiler import Job, compile_model
from potc.diagnostics.diagnostic import Rejected
from potc.language.check import check_file
from potc.language.resolve import load_rules

RULES = """potc 1
use std
extern pred wanted(t, n) from "{origin}"
device d {{
  opset ai.onnx 13 .. 25
  rule product {{
    match MatMul(x: value, w: const) as y
    require wanted(w, w.shape[0]) else "not wanted"
    quant x, y: u8 asym, w: i8 sym
  }}
}}
"""
MODEL = """<ir_version: 9, opset_import: ["" : 17]>
g (float[1,2] x) => (float[1,2] y) <float[2,2] w = {1.0, 2.0, 3.0, 4.0}> { y = MatMul (x, w) }"""


def write(folder: Path, body: str, origin: str = "ext:wanted") -> tuple[str, str, str]:
    """A model, a rule file, and the Python file that it names."""
    onnx.save(onnx.parser.parse_model(MODEL), folder / "model.onnx")
    (folder / "d.rules").write_text(RULES.format(origin=origin))
    (folder / "ext.py").write_text(f"def wanted(t, n):\n    {body}\n")
    return str(folder / "model.onnx"), str(folder / "d.rules"), str(folder / "ext.py")


def codes(rejected: pytest.ExceptionInfo[Rejected]) -> list[str]:
    return [d.code for d in rejected.value.diagnostics]


def test_nothing_runs_that_was_not_named(tmp_path: Path) -> None:
    _, rules, ext = write(tmp_path, "raise SystemExit(3)")
    (tmp_path / "ext.py").write_text("raise SystemExit(3)")
    assert check_file(rules).diagnostics == ()  # checks never run it
    assert load_rules(rules, externs=None).externs == ()
    with pytest.raises(Rejected) as wrong:
        load_rules(rules)
    assert codes(wrong) == ["extern-not-allowed"]
    (told,) = wrong.value.diagnostics
    assert told.at is not None and told.at.line == 3
    assert told.help == "give `--extern ext.py` if you trust it"
    other = tmp_path / "other.py"
    other.write_text("")
    with pytest.raises(Rejected) as wrong:
        load_rules(rules, externs=[str(other)])
    assert codes(wrong) == ["extern-not-allowed"]
    with pytest.raises(Rejected) as wrong:
        load_rules(rules, externs=[ext])
    assert codes(wrong) == ["extern-failed"]


@pytest.mark.parametrize("origin", ["ext:wanted", "ext.py:wanted", "{folder}/ext:wanted", "{folder}.ext:wanted"])
def test_files_are_found_by_their_names(origin: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    _, rules, ext = write(folder, "return True", origin.format(folder="folder"))
    assert [e.name for e in load_rules(rules, externs=[ext]).externs] == ["wanted"]


def test_two_files_of_one_name_are_told_apart_or_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    _, rules, ext = write(tmp_path, "return True")
    _, _, other = write(tmp_path / "other", "return True")
    with pytest.raises(Rejected) as wrong:
        load_rules(rules, externs=[ext, other])
    assert codes(wrong) == ["extern-failed"]


@pytest.mark.parametrize("content", ["", "wanted = 3", "def wanted(:", "1 / 0", "raise KeyError"])
def test_files_without_the_function(content: str, tmp_path: Path) -> None:
    _, rules, ext = write(tmp_path, "")
    Path(ext).write_text(content)
    with pytest.raises(Rejected) as wrong:
        load_rules(rules, externs=[ext])
    assert codes(wrong) == ["extern-failed"]


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    _, rules, ext = write(tmp_path, "return True")
    first = load_rules(rules, externs=[ext])
    assert first == load_rules(rules, externs=[ext])
    moved = tmp_path / "moved"
    moved.mkdir()
    _, _, again = write(moved, "return True")
    assert load_rules(rules, externs=[again]).digest == first.digest
    _, _, changed = write(moved, "return False")
    assert load_rules(rules, externs=[changed]).digest != first.digest
    assert first.sources[-1] == ext


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return t.shape == (2, 2) and t.dtype == 'f32' and t.value.tolist() == [[1, 2], [3, 4]] and n == 2", ""),
        ("import numpy as np; return np.all(t.value > 0)", ""),
        ("print('said to people'); return True", ""),
        ("return n > 2", "not wanted"),
        ("return 1", "`wanted` answered int, wanted True or False"),
        ("return None", "`wanted` answered NoneType, wanted True or False"),
        ("return 1 / 0", "`wanted` failed: ZeroDivisionError: division by zero"),
        ("t.value[0] = 0; return True", "`wanted` failed: ValueError: assignment destination is read-only"),
        ("t.dtype = 'f16'; return True", "`wanted` failed: FrozenInstanceError: cannot assign to field 'dtype'"),
    ],
)
def test_answers(body: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, rules, ext = write(tmp_path, body)
    compilation = compile_model(Job(model, rules, externs=(ext,)))
    assert compilation.inputs == (model, *compilation.program.sources)
    assert ext in compilation.inputs
    assert capsys.readouterr().out == ""
    if not reason:
        assert [k.nodes for k in compilation.plan.kernels] == [("MatMul_0",)]
        return
    assert not compilation.plan.kernels
    assert reason in compilation.plan.left[0].reasons[0].reason


def test_the_command_line(tmp_path: Path) -> None:
    model, rules, ext = write(tmp_path, "return True")
    out, deps = str(tmp_path / "out.onnx"), tmp_path / "out.d"
    assert main(["compile", model, "--rules", rules, "-q", "-o", out]) == 1
    assert main(["compile", model, "--rules", rules, "-q", "-o", out, "--extern", str(tmp_path / "none.py")]) == 2
    assert main(["compile", model, "--rules", rules, "-q", "-o", ext, "--extern", ext]) == 2  # would be overwritten
    assert not Path(out).exists()
    assert main(["compile", model, "--rules", rules, "-q", "-o", out, "--extern", ext, "--depfile", str(deps)]) == 0
    assert ext in deps.read_text()
