"""What two rule files say differently; comments, reasons and order say nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from potc.diagnostics.diagnostic import Rejected
from potc.workbench.diff_rules import RuleDifference, diff_rules, rule_diff_lines

RULES = """potc 1
use std
device npu {
  opset ai.onnx 13 .. 25
  feature wide: bool = false
  rule conv {
    match Conv(x, w: const) -> Relu? as y
    require w.rank == 4 else "only pictures"
    quant x, y: u8 asym | i8 sym, w: i8 sym
  }
  rule sum { match Add(a: value, b: value) as y quant a, b, y: u8 asym }
  rule product { match Mul(a: value, b: value) as y quant a, b, y: u8 asym }
  prefer conv over sum because "it is larger"
  pass MaxPool, Reshape
  accum i32 lanes 1 along (kernel, in)
}
device other { opset ai.onnx 13 .. 25 pass Reshape }
device both = npu & other
"""


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("old.rules").write_text(RULES)
    return "old.rules"


def changed(old: str, *pairs: tuple[str, str]) -> tuple[RuleDifference, ...]:
    text = RULES
    for before, after in pairs:
        assert before in text
        text = text.replace(before, after)
    Path("new.rules").write_text(text)
    there, back = diff_rules(old, "new.rules"), diff_rules("new.rules", old)
    swapped = {
        RuleDifference(d.device, d.statement, d.detail, d.b, d.a, d.place_b, d.place_a) for d in back.differences
    }
    assert swapped == set(there.differences)
    assert json.loads(there.to_json())["differences"] == [
        {k: getattr(d, k) for k in RuleDifference.__slots__} for d in there.differences
    ]
    return tuple(d for d in there.differences if d.device == "npu")


def test_what_says_nothing(old: str) -> None:
    assert changed(old, ("only pictures", "pictures only"), ("rule sum", "# a comment\n  rule sum")) == ()
    assert changed(old, ("it is larger", "we say so"), ("MaxPool, Reshape", "Reshape, MaxPool")) == ()
    lines = RULES.splitlines(keepends=True)
    swapped = "".join((*lines[:10], lines[11], lines[10], *lines[12:]))
    assert changed(old, (RULES, swapped)) == ()


@pytest.mark.parametrize(
    ("before", "after", "statement", "detail", "a", "b"),
    [
        ("u8 asym | i8 sym, w", "i8 sym | u8 asym, w", "rule npu.conv", "quant x", "u8 asym", "i8 sym"),
        ("w.rank == 4", "w.rank in 3 .. 4", "rule npu.conv", "require w.rank == 4", "stated", ""),
        ("-> Relu?", "-> Clip?", "rule npu.conv", "match", "Conv(x, w: const) -> Relu? as y", ""),
        ("false", "true", "feature", "wide", "false", "true"),
        ("MaxPool, Reshape", "Reshape", "pass", "MaxPool", "stated", ""),
        ("lanes 1", "lanes 2", "accum", "i32 lanes 1 along (kernel, in)", "stated", ""),
        ("13 .. 25\n  feature", "13 .. 21\n  feature", "opset", "", "13 .. 25", "13 .. 21"),
        ("rule product", "rule gate", "rule npu.product", "", "Mul(a: value, b: value) as y", ""),
    ],
)
def test_what_says_something(old: str, before: str, after: str, statement: str, detail: str, a: str, b: str) -> None:
    found = next(d for d in changed(old, (before, after)) if (d.statement, d.detail) == (statement, detail))
    assert found.a.startswith(a) and found.b.startswith(b)
    assert all(d.place_a.startswith("old.rules:") for d in (found,) if d.place_a)


def test_parts_of_a_meet_and_devices_of_one_file(old: str) -> None:
    Path("new.rules").write_text(RULES.replace("pass Reshape }", "pass MaxPool }").replace("device both", "device any"))
    lines = list(rule_diff_lines(diff_rules(old, "new.rules")))
    assert lines == [
        "A  old.rules",
        "B  new.rules",
        "device any",
        "  added  device any    meet of npu, other",
        "device both",
        "  removed  device both    meet of npu, other",
        "device other",
        "  added    pass MaxPool  new.rules:17",
        "  removed  pass Reshape  old.rules:17",
        "4 differences",
    ]
    Path("new.rules").write_text(RULES.replace("pass Reshape }", "pass MaxPool }"))
    both = [d.statement for d in diff_rules(old, "new.rules").differences if d.device == "both"]
    assert both == ["other: pass", "other: pass"]


def test_a_file_that_is_not_right(old: str) -> None:
    Path("new.rules").write_text("potc 1\ndevice npu {")
    with pytest.raises(Rejected):
        diff_rules(old, "new.rules")
