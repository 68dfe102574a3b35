"""JUnit XML parses, and counts what there is."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from potc.workbench.junit import junit
from potc.workbench.run_tests import run_tests
from potc.workbench.test_report import report_on

RULES = """potc 1
device d { opset ai.onnx 13 .. 25   rule relu { match Relu(x) as y   quant x, y: u8 } }
test "good <&> \\"quoted\\"" { graph { (f32[1] x) => (f32[1] y) y = Relu(x) } expect rule d.relu covers y }
test "bad ]]> \x07" { graph { (f32[1] x) => (f32[1] y) y = Relu(x) } expect float y expect x: none }
test "broken" { graph { nothing } }
"""


def test_junit(tmp_path: Path) -> None:
    for name in ("a.rules", "b.rules"):
        (tmp_path / name).write_text(RULES)
    runs = [report_on(run_tests(str(tmp_path / name)), False, False) for name in ("a.rules", "b.rules")]
    data = junit(runs)
    assert junit(runs) == data
    root = ElementTree.fromstring(data)
    assert root.attrib == {"name": "potc test", "tests": "6", "failures": "2", "errors": "2"}
    suites = list(root)
    assert [s.get("name") for s in suites] == [str(tmp_path / "a.rules"), str(tmp_path / "b.rules")]
    for suite in suites:
        assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
        good, bad, broken = list(suite)
        assert (good.get("name"), good.get("classname"), good.get("line")) == ('good <&> "quoted"', "d", "3")
        assert len(good) == 0
        assert bad.get("name") == "bad ]]> ?"
        failure = bad.find("failure")
        assert failure is not None
        assert failure.get("type") == "failed-expectation"
        assert (failure.text or "").count("error[failed-expectation]") == 2
        error = broken.find("error")
        assert error is not None
        assert error.get("type") == "invalid-test"


def test_no_tests() -> None:
    assert ElementTree.fromstring(junit([])).get("tests") == "0"


WRONG = """potc 1
use std
rewrite twice { match Identity(x) as i -> Relu(prev) as y   emit y = Tanh(x) }
rewrite right { match Identity(x) as i -> Relu(prev) as y   emit y = Relu(x) }
"""


def test_rewrites_are_cases(tmp_path: Path) -> None:
    (tmp_path / "a.rules").write_text(WRONG)
    root = ElementTree.fromstring(junit([report_on(run_tests(str(tmp_path / "a.rules")), True, False)]))
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("2", "1", "0")
    twice, right = root.iter("testcase")
    assert (twice.get("classname"), twice.get("name"), right.get("name")) == ("rewrite", "twice", "right")
    failure = twice.find("failure")
    assert failure is not None
    assert failure.get("type") == "wrong-rewrite"
    assert right.find("failure") is None
