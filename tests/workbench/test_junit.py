"""JUnit XML parses, and counts what there is."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from potc.workbench.junit import junit
from potc.workbench.run_tests import run_tests

RULES = """potc 1
device d { opset ai.onnx 13 .. 25   rule relu { match Relu(x) as y   quant x, y: u8 } }
test "good <&> \\"quoted\\"" { graph { (f32[1] x) => (f32[1] y) y = Relu(x) } expect rule d.relu covers y }
test "bad ]]> \x07" { graph { (f32[1] x) => (f32[1] y) y = Relu(x) } expect float y expect x: none }
test "broken" { graph { nothing } }
"""


def test_junit(tmp_path: Path) -> None:
    for name in ("a.rules", "b.rules"):
        (tmp_path / name).write_text(RULES)
    runs = [run_tests(str(tmp_path / name)) for name in ("a.rules", "b.rules")]
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
